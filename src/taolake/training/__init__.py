"""Training: each job runs in a child process and writes a folder. No Spark here.

`job` says what to train, `launch` runs it; the other files hold one algorithm each and load torch only in the child.
"""

"""What is watched in production, as plain arithmetic: sequential tests, drift, how answers look, when to start.

Lists in, numbers and decisions out. No Spark, no torch, and no table: `taolake.stages` brings the rows.
"""

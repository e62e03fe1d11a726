"""The gateway before vLLM's OpenAI server: logs, splits and limits, and otherwise lets pass.

`app` is the ASGI application, `wire` what the HTTP server underneath must do, `split` and `limits` who gets what,
`spool` what makes a logged row safe before its answer ends, `drain` the process that carries it into its table,
`children` the processes, `server` all of it together. Not here: which models are served (`taolake.stages.served`).
"""

# Databricks notebook source
# MAGIC %md
# MAGIC ## Monitor
# MAGIC
# MAGIC What production answers look like, per window and model version: quality by scorers that need no engine, drift
# MAGIC of prompts and answers, speed, cost, feedback. Only windows that changed are measured. Rules of the project file
# MAGIC alarm.

# COMMAND ----------

from taolake import lake, notebook
from taolake.stages import monitor

round_ = notebook.begin(spark, dbutils)

# COMMAND ----------

outcome = monitor.monitor(round_)
print(outcome.detail)

# COMMAND ----------

display(round_.lake.read(lake.MONITORS).where("alert <> ''").orderBy("window_start", ascending=False))

# COMMAND ----------

notebook.finish(dbutils, "monitor", outcome)

# Databricks notebook source
# MAGIC %md
# MAGIC ## Collect
# MAGIC
# MAGIC Logs of production, whatever their shape, become `inference_log` and `feedback`, with personal data replaced. It
# MAGIC reads what came since last time: the endpoint's own table, what `taolake serve` wrote, and the logs that the
# MAGIC project file names.

# COMMAND ----------

from taolake import lake, notebook
from taolake.stages import collect

round_ = notebook.begin(spark, dbutils)

# COMMAND ----------

outcome = collect.collect(round_)
print(outcome.detail)

# COMMAND ----------

display(round_.lake.read(lake.INFERENCE_LOG).orderBy("logged_at", ascending=False).limit(20))

# COMMAND ----------

notebook.finish(dbutils, "collect", outcome)

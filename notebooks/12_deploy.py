# Databricks notebook source
# MAGIC %md
# MAGIC ## 12. Deploy
# MAGIC
# MAGIC The version this round registered goes behind the endpoint: first a few percent of the requests, then, when it
# MAGIC answers, all of them. What it replaces stays known as `previous`, for `taolake deploy --rollback`. Stopped
# MAGIC at any point and run again, it goes on from what the workspace says.

# COMMAND ----------

from taolake import databricks, notebook
from taolake.stages import deploy

round_ = notebook.begin(spark, dbutils)

# COMMAND ----------

outcome = deploy.deploy(round_, databricks.client)
print(outcome.detail)

# COMMAND ----------

notebook.finish(dbutils, "deploy", outcome)

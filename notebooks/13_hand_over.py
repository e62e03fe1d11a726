# Databricks notebook source
# MAGIC %md
# MAGIC ## Hand training over
# MAGIC
# MAGIC Writes the round's training job into the work folder, for a machine without Spark: the node of an AI Runtime
# MAGIC task (`variants/train_on_ai_runtime.yml`). The task `train`, which comes after it, finds the result and records
# MAGIC it.

# COMMAND ----------

from taolake import notebook
from taolake.stages import train

round_ = notebook.begin(spark, dbutils)

# COMMAND ----------

outcome = train.hand_over(round_)
print(outcome.detail)

# COMMAND ----------

notebook.finish(dbutils, "hand_over", outcome)

# Databricks notebook source
# MAGIC %md
# MAGIC ## Smoke
# MAGIC
# MAGIC All stages of a small project in one go, on a fake engine: does this workspace let a round run?

# COMMAND ----------

from taolake import databricks, notebook, stages

round_ = notebook.begin(spark, dbutils)

# COMMAND ----------

databricks.govern(round_.lake, round_.project)
stages.prepare(round_.project)
for stage, outcome, _ in stages.run_all(round_):
    print(stage.name, outcome.rows, outcome.detail)

# COMMAND ----------

notebook.finish(dbutils, "smoke", outcome)

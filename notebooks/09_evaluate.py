# Databricks notebook source
# MAGIC %md
# MAGIC ## 9. Evaluate
# MAGIC
# MAGIC Base and tuned model answer the holdout, greedy and sampled, and every prompt gets its measurements. This is
# MAGIC the only stage that reads labels; without any, a scorer that had no part in the reward decides.

# COMMAND ----------

dbutils.widgets.text("config", "conf/demo.yml", "Project file")
dbutils.widgets.text("round", "1", "Round")
dbutils.widgets.text("catalog", "", "Catalog (empty: as in the file)")
dbutils.widgets.text("schema", "", "Schema (empty: as in the file)")

# COMMAND ----------

from taolake import lake, notebook, stages

config, number = dbutils.widgets.get("config"), dbutils.widgets.get("round")
catalog, schema = dbutils.widgets.get("catalog"), dbutils.widgets.get("schema")
round_ = notebook.open_round(spark, config, number, catalog, schema)

# COMMAND ----------

outcome, ran = stages.run(round_, "evaluate")
print("done" if ran else "was done before", outcome.detail)

# COMMAND ----------

# MAGIC %md
# MAGIC Look at the same `prompt_id` for both models: everything is paired by prompt, and so are the intervals made
# MAGIC from it.

# COMMAND ----------

display(round_.lake.read(lake.EVALUATIONS))

# COMMAND ----------

notebook.finish(dbutils, "evaluate", outcome)

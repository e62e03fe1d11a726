# Databricks notebook source
# MAGIC %md
# MAGIC ## 7. Select
# MAGIC
# MAGIC Rewards become exactly the rows the trainer sees. `imitate` rows are drawn as a random best-of-k would draw
# MAGIC them, never the top answer alone; `regress` rows are all complete stream-A candidates with their advantage.

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

outcome, ran = stages.run(round_, "select")
print("done" if ran else "was done before", outcome.detail)

# COMMAND ----------

# MAGIC %md
# MAGIC Look at a few `imitate` texts of one prompt: this is what the model will be told to say.

# COMMAND ----------

display(round_.lake.read(lake.SELECTIONS))

# COMMAND ----------

notebook.finish(dbutils, "select", outcome)

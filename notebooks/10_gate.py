# Databricks notebook source
# MAGIC %md
# MAGIC ## 10. Gate
# MAGIC
# MAGIC Better, and nothing got worse? The lower end of the paired gain's interval must be above the limit, and no
# MAGIC guard (answer length, cut-off answers) may trip. The verdict is a row of `rounds`.

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

outcome, ran = stages.run(round_, "gate")
print("done" if ran else "was done before", outcome.detail)

# COMMAND ----------

# MAGIC %md
# MAGIC Look at `reason` in `detail` when `promoted` is false: it names the limit that was missed.

# COMMAND ----------

display(round_.lake.read(lake.ROUNDS).where("stage = 'gate'"))

# COMMAND ----------

notebook.finish(dbutils, "gate", outcome)

# Databricks notebook source
# MAGIC %md
# MAGIC ## 8. Train
# MAGIC
# MAGIC The selection goes into the weights, by the algorithm the project file names, in a process of its own. A
# MAGIC killed run resumes at its last checkpoint; the result is a policy whose id is the hash of its bytes.

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

outcome, ran = stages.run(round_, "train")
print("done" if ran else "was done before", outcome.detail)

# COMMAND ----------

# MAGIC %md
# MAGIC Look at the `metrics` in `detail`: the loss should fall, and a divergence of more than about one nat a
# MAGIC sequence is an alarm.

# COMMAND ----------

display(round_.lake.read(lake.ROUNDS).where("stage = 'train'"))

# COMMAND ----------

notebook.finish(dbutils, "train", outcome)

# Databricks notebook source
# MAGIC %md
# MAGIC ## 11. Register
# MAGIC
# MAGIC The merged model, the adapter and the lineage go into MLflow. The version is loaded back and has to answer a
# MAGIC prompt before it gets an alias: `challenger` always, `champion` when the gate promoted it.

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

outcome, ran = stages.run(round_, "register")
print("done" if ran else "was done before", outcome.detail)

# COMMAND ----------

# MAGIC %md
# MAGIC Look at `version` and `alias` in `detail`; the tags of the version name the table versions it was made from.

# COMMAND ----------

display(round_.lake.read(lake.ROUNDS).where("stage = 'register'"))

# COMMAND ----------

notebook.finish(dbutils, "register", outcome)

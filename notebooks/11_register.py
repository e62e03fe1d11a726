# Databricks notebook source
# MAGIC %md
# MAGIC ## 11. Register
# MAGIC
# MAGIC The merged model, the adapter and the lineage go into MLflow. The version is loaded back and has to answer a
# MAGIC prompt before it gets an alias: `challenger` always, `champion` when the gate promoted it.

# COMMAND ----------

from taolake import lake, notebook, stages

round_ = notebook.begin(spark, dbutils)

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

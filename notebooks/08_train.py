# Databricks notebook source
# MAGIC %md
# MAGIC ## 8. Train
# MAGIC
# MAGIC The selection goes into the weights, by the algorithm the project file names, in a process of its own. A
# MAGIC killed run resumes at its last checkpoint; the result is a policy whose id is the hash of its bytes.

# COMMAND ----------

from taolake import lake, notebook, stages

round_ = notebook.begin(spark, dbutils)

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

# Databricks notebook source
# MAGIC %md
# MAGIC ## 7. Select
# MAGIC
# MAGIC Rewards become exactly the rows the trainer sees. `imitate` rows are drawn as a random best-of-k would draw
# MAGIC them, never the top answer alone; `regress` rows are all complete stream-A candidates with their advantage.

# COMMAND ----------

from taolake import lake, notebook, stages

round_ = notebook.begin(spark, dbutils)

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

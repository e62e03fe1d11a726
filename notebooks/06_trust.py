# Databricks notebook source
# MAGIC %md
# MAGIC ## 6. Trust
# MAGIC
# MAGIC Does the reward deserve to train a model? It is held against people's choices on prompts that no reward model
# MAGIC trained on. Below the limits of the project file this stage fails, and says which number and what to collect.

# COMMAND ----------

from taolake import lake, notebook, stages

round_ = notebook.begin(spark, dbutils)

# COMMAND ----------

outcome, ran = stages.run(round_, "trust")
print("done" if ran else "was done before", outcome.detail)

# COMMAND ----------

# MAGIC %md
# MAGIC The numbers, with intervals, are in the detail of the stage's row; `taolake trust` draws them.

# COMMAND ----------

display(round_.lake.read(lake.ROUNDS).where("stage = 'trust'"))

# COMMAND ----------

notebook.finish(dbutils, "trust", outcome)

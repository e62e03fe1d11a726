# Databricks notebook source
# MAGIC %md
# MAGIC ## 5. Reward
# MAGIC
# MAGIC The scores of a candidate become one number from 0 to 1. A prompt whose candidates cannot be told apart
# MAGIC abstains: it trains nothing, and it is counted.

# COMMAND ----------

from taolake import lake, notebook, stages

round_ = notebook.begin(spark, dbutils)

# COMMAND ----------

outcome, ran = stages.run(round_, "reward")
print("done" if ran else "was done before", outcome.detail)

# COMMAND ----------

# MAGIC %md
# MAGIC Look at `reason`: many `no_spread` mean that the scorers see no difference, many `too_few` that answers are
# MAGIC missing.

# COMMAND ----------

display(round_.lake.read(lake.REWARDS))

# COMMAND ----------

notebook.finish(dbutils, "reward", outcome)

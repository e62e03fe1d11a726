# Databricks notebook source
# MAGIC %md
# MAGIC ## 9. Evaluate
# MAGIC
# MAGIC Base and tuned model answer the holdout, greedy and sampled, and every prompt gets its measurements. This is
# MAGIC the only stage that reads labels; without any, a scorer that had no part in the reward decides.

# COMMAND ----------

from taolake import lake, notebook, stages

round_ = notebook.begin(spark, dbutils)

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

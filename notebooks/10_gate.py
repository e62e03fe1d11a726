# Databricks notebook source
# MAGIC %md
# MAGIC ## 10. Gate
# MAGIC
# MAGIC Better, and nothing got worse? The lower end of the paired gain's interval must be above the limit, and no
# MAGIC guard (answer length, cut-off answers) may trip. The verdict is a row of `rounds`.

# COMMAND ----------

from taolake import lake, notebook, stages

round_ = notebook.begin(spark, dbutils)

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

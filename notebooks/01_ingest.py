# Databricks notebook source
# MAGIC %md
# MAGIC ## 1. Ingest
# MAGIC
# MAGIC Logged requests become prompts, each once, with the number of times it was seen. A line that cannot be used
# MAGIC goes to `quarantine` with its reason: in = kept + folded + quarantined, or the stage fails.

# COMMAND ----------

from taolake import databricks, lake, notebook, stages

round_ = notebook.begin(spark, dbutils)

# COMMAND ----------

databricks.govern(round_.lake, round_.project)
stages.prepare(round_.project)
outcome, ran = stages.run(round_, "ingest")
print("done" if ran else "was done before", outcome.detail)

# COMMAND ----------

# MAGIC %md
# MAGIC Look at `split`: a prompt's own hash puts it into `train` or `holdout`, so new data never moves an old prompt.
# MAGIC In `quarantine`, a reason that repeats names a fault of the log, not of a line.

# COMMAND ----------

display(round_.lake.read(lake.PROMPTS))
display(round_.lake.read(lake.QUARANTINE))

# COMMAND ----------

notebook.finish(dbutils, "ingest", outcome)

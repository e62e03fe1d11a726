# Databricks notebook source
# MAGIC %md
# MAGIC ## 1. Ingest
# MAGIC
# MAGIC Logged requests become prompts, each once, with the number of times it was seen. A line that cannot be used
# MAGIC goes to `quarantine` with its reason: in = kept + folded + quarantined, or the stage fails.

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

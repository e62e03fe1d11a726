# Databricks notebook source
# MAGIC %md
# MAGIC ## 2. Generate
# MAGIC
# MAGIC Every training prompt gets N candidates, shared among the strategies of the project file; the holdout gets one
# MAGIC greedy answer and a few samples. One engine runs per device, and a killed run goes on with the cells that are
# MAGIC missing.

# COMMAND ----------

from taolake import lake, notebook, stages

round_ = notebook.begin(spark, dbutils)

# COMMAND ----------

outcome, ran = stages.run(round_, "generate")
print("done" if ran else "was done before", outcome.detail)

# COMMAND ----------

# MAGIC %md
# MAGIC Look at `stream`: A is the bare prompt at temperature 1, B explores, G is greedy. `raw` is what the model
# MAGIC wrote, `text` the answer taken out of it; where `text` is null, nothing could be taken out.

# COMMAND ----------

display(round_.lake.read(lake.CANDIDATES))

# COMMAND ----------

notebook.finish(dbutils, "generate", outcome)

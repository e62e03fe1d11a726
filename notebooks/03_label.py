# Databricks notebook source
# MAGIC %md
# MAGIC ## 3. Label
# MAGIC
# MAGIC People's choices among candidates of the `review` prompts become preference pairs. Where the project names a
# MAGIC reviewer function it is asked; otherwise the choices come by import. No review prompt is ever trained on.

# COMMAND ----------

from taolake import lake, notebook, stages

round_ = notebook.begin(spark, dbutils)

# COMMAND ----------

outcome, ran = stages.run(round_, "label")
print("done" if ran else "was done before", outcome.detail)

# COMMAND ----------

# MAGIC %md
# MAGIC Look at how many pairs there are: a reward model needs a few hundred. `chosen` and `rejected` are candidate
# MAGIC ids.

# COMMAND ----------

display(round_.lake.read(lake.PREFERENCES))

# COMMAND ----------

notebook.finish(dbutils, "label", outcome)

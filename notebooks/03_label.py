# Databricks notebook source
# MAGIC %md
# MAGIC ## 3. Label
# MAGIC
# MAGIC People's choices among candidates of the `review` prompts become preference pairs. Where the project names a
# MAGIC reviewer function it is asked; otherwise the choices come by import. No review prompt is ever trained on.

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

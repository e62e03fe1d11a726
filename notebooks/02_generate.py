# Databricks notebook source
# MAGIC %md
# MAGIC ## 2. Generate
# MAGIC
# MAGIC Every training prompt gets N candidates, shared among the strategies of the project file; the holdout gets one
# MAGIC greedy answer and a few samples. One engine runs per device, and a killed run goes on with the cells that are
# MAGIC missing.

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

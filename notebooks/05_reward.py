# Databricks notebook source
# MAGIC %md
# MAGIC ## 5. Reward
# MAGIC
# MAGIC The scores of a candidate become one number from 0 to 1. A prompt whose candidates cannot be told apart
# MAGIC abstains: it trains nothing, and it is counted.

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

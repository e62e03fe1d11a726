# Databricks notebook source
# MAGIC %md
# MAGIC ## Canary
# MAGIC
# MAGIC A version that gets a part of the requests is promoted, rolled back or left as it is, by what its signals say.
# MAGIC The decision and its evidence are a row of `releases`; where no version waits for one, nothing is done.

# COMMAND ----------

from taolake import databricks, lake, notebook
from taolake.stages import canary

round_ = notebook.begin(spark, dbutils)

# COMMAND ----------

outcome = canary.canary(round_, databricks.client)
print(outcome.detail)

# COMMAND ----------

display(round_.lake.read(lake.RELEASES).orderBy("decided_at", ascending=False))

# COMMAND ----------

notebook.finish(dbutils, "canary", outcome)

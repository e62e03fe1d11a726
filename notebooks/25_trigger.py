# Databricks notebook source
# MAGIC %md
# MAGIC ## Trigger
# MAGIC
# MAGIC Is it time for another round? It is when enough prompts came in that no earlier round had, and enough of them
# MAGIC are unlike those. The number of the next round goes to the task that runs it.

# COMMAND ----------

from taolake import lake, notebook
from taolake.stages import trigger

round_ = notebook.begin(spark, dbutils)

# COMMAND ----------

outcome = trigger.trigger(round_)
print(outcome.detail["says"])
dbutils.jobs.taskValues.set(key="next_round", value=str(outcome.detail["next_round"]))

# COMMAND ----------

display(round_.lake.read(lake.ROUNDS).where("stage = 'gate'").orderBy("round"))

# COMMAND ----------

notebook.finish(dbutils, "trigger", outcome)

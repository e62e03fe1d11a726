# Databricks notebook source
# MAGIC %md
# MAGIC ## Bring answers in
# MAGIC
# MAGIC What people chose becomes rows of `preferences`. If any are new, the round starts over at score the next time it
# MAGIC runs.

# COMMAND ----------

from pathlib import Path

from taolake import lake, notebook, stages
from taolake.stages import ask

round_ = notebook.begin(spark, dbutils)
annotator = notebook.widget(dbutils, "annotator", "anonymous", "Who answered (the file says it)")
answers = notebook.widget(dbutils, "answers", "", "File of answers")

# COMMAND ----------

outcome = ask.import_answers(round_, Path(answers))
print(outcome, stages.reopen(round_, "score") if outcome.rows else "nothing new")

# COMMAND ----------

display(round_.lake.read(lake.PREFERENCES))

# COMMAND ----------

notebook.finish(dbutils, "answers", outcome)

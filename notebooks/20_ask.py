# Databricks notebook source
# MAGIC %md
# MAGIC ## Ask people
# MAGIC
# MAGIC Writes a page with the questions whose answers teach most. Download it from the work folder, answer in any
# MAGIC browser, put the file it gives you back into a volume, and run the job again with `answers` set to it.

# COMMAND ----------

from taolake import notebook
from taolake.stages.round import Outcome

round_ = notebook.begin(spark, dbutils)
annotator = notebook.widget(dbutils, "annotator", "anonymous", "Who will answer")
answers = notebook.widget(dbutils, "answers", "", "File of answers (not used here)")

# COMMAND ----------

from pathlib import Path

from taolake.report import ask

page = Path(round_.project.work) / f"ask-{annotator}.html"
outcome = Outcome(ask.export(round_, 50, 4, page, annotator), 0, {"page": str(page)})
print(outcome)

# COMMAND ----------

notebook.finish(dbutils, "ask", outcome)

# Databricks notebook source
# MAGIC %md
# MAGIC ## 4. Score
# MAGIC
# MAGIC Every scorer says one word on every candidate: verifiers on the text or the executed answer, agreement inside
# MAGIC a prompt's own candidates, and the reward model, which is trained here from the preferences.

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

outcome, ran = stages.run(round_, "score")
print("done" if ran else "was done before", outcome.detail)

# COMMAND ----------

# MAGIC %md
# MAGIC Look at `status` before `value`: a scorer that could not tell gives null, never zero. `answer_key` says what
# MAGIC an answer means, so that equal answers in different words are counted together.

# COMMAND ----------

display(round_.lake.read(lake.SCORES))

# COMMAND ----------

notebook.finish(dbutils, "score", outcome)

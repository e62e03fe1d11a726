# Databricks notebook source
# MAGIC %md
# MAGIC ## 4. Score
# MAGIC
# MAGIC Every scorer says one word on every candidate: verifiers on the text or the executed answer, agreement inside
# MAGIC a prompt's own candidates, and the reward model, which is trained here from the preferences.

# COMMAND ----------

from taolake import lake, notebook, stages

round_ = notebook.begin(spark, dbutils)

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

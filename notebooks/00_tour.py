# Databricks notebook source
# MAGIC %md
# MAGIC ## A tour of a round
# MAGIC
# MAGIC Run this after a round (`taolake demo`, or the notebooks 01 to 10). It only reads: every figure is made from
# MAGIC the tables, and shows what one step put into them.

# COMMAND ----------

from taolake import notebook
from taolake.report import tour

round_ = notebook.begin(spark, dbutils)

# COMMAND ----------

# MAGIC %md
# MAGIC ### What came in, and what was refused
# MAGIC
# MAGIC Left, the prompts of each split. Right, the reasons in `quarantine`, most frequent first, without the refused
# MAGIC text.

# COMMAND ----------

display(tour.prompts(round_))

# COMMAND ----------

# MAGIC %md
# MAGIC ### One prompt, all its answers
# MAGIC
# MAGIC The candidates of the prompt that the scorers tell apart best: the answer, each scorer's word (a reward
# MAGIC model's is a logit), and the reward.

# COMMAND ----------

display(tour.candidates(round_))

# COMMAND ----------

# MAGIC %md
# MAGIC ### What the answers are worth
# MAGIC
# MAGIC Rewards of the base's candidates. A model that is always right or always wrong would show a single bar, and
# MAGIC teach nothing.

# COMMAND ----------

display(tour.rewards(round_))

# COMMAND ----------

# MAGIC %md
# MAGIC ### What the trainer saw
# MAGIC
# MAGIC Rows of the selection by kind, and the advantages the regression works with.

# COMMAND ----------

display(tour.selection(round_))

# COMMAND ----------

# MAGIC %md
# MAGIC ### Did it go into the weights?
# MAGIC
# MAGIC The chance that at least one of k answers is right, before and after. Tuning should lift the left end towards
# MAGIC the right end of the base's curve: one answer as good as the best of many.

# COMMAND ----------

display(tour.passes(round_))

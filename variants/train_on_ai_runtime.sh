#!/bin/bash
# What the node of an AI Runtime task runs; its two variables are set in train_on_ai_runtime.yml.
set -euo pipefail
python -m pip install --quiet --no-deps --require-hashes -r "$TAOLAKE_FILES/requirements/databricks.txt"
PYTHONPATH="$TAOLAKE_FILES/src" exec python -m taolake.training.elsewhere "$TAOLAKE_WORK"

"""One notebook task of a job, in a process of its own: python -m tests.bundle.task NOTEBOOK PARAMETERS OUT

PARAMETERS is JSON; OUT gets the task values and the exit value. The session is a fresh one, as the task would find it.
"""

import json
import sys
from pathlib import Path

from taolake.session import local_session
from tests.notebook import run_notebook


def main(name: str, params: str, out: str) -> None:
    spark = local_session("local[2]")
    try:
        dbutils = run_notebook(name, spark, json.loads(params))
    finally:
        spark.stop()
    Path(out).write_text(json.dumps({"values": dbutils.values, "exited": dbutils.exited}))


if __name__ == "__main__":
    main(*sys.argv[1:])

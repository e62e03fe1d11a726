"""The command line with one fault: the n-th commit of candidates lands, and its answer is lost.

python -m tests.faults.lost_answer N stage generate CONFIG
"""

import sys
from typing import Any

from taolake import lake
from taolake.cli import main


def lose(number: int) -> None:
    """Let commit `number`, from 1, raise after it has landed."""
    commit, seen = lake.Lake.append_once, 0

    def append_once(self: lake.Lake, table: lake.Table, rows: Any, chunk: str) -> None:
        nonlocal seen
        commit(self, table, rows, chunk)
        seen += table is lake.CANDIDATES
        if seen == number:
            seen += 1
            raise ConnectionError("the answer to a commit was lost")

    lake.Lake.append_once = append_once  # type: ignore[method-assign]


if __name__ == "__main__":
    lose(int(sys.argv.pop(1)))
    main()

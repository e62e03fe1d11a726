"""The processes in which the arms of the throughput benchmarks live; each stays, and runs what it is told.

Arms take turns on one machine, so one that waits must not work: `Arm.cpu_seconds` lets a benchmark check that. What an
arm does is in `_served`.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from _work import FOLDER, make_model

MARK = "RESULT "


class Arm:
    """A process that answers one command at a time; `cold` is the seconds from its start to its first answers."""

    def __init__(self, name: str) -> None:
        self.name = name
        make_model(FOLDER / "model")
        here = str(Path(__file__).parent)
        given = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1" if name == "workers" else "0"}
        given["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"  # else `workers` would leave a core of two unused
        given["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        started = time.monotonic()
        with (FOLDER / f"{name}.log").open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"import _served; _served.serve({name!r})"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | given,
            )  # fmt: skip
        self._result()
        self.cold = time.monotonic() - started

    def run(self, workload: str, prompts: int, naive: bool = False) -> Any:
        """Answer the first prompts of a workload: seconds, tokens, and the rows as a fresh read finds them."""
        assert self._process.stdin is not None
        command = {"workload": workload, "prompts": prompts, "naive": naive}
        print(json.dumps(command), file=self._process.stdin, flush=True)
        return self._result()

    def cpu_seconds(self) -> float:
        """What the arm and everything below it have worked so far."""
        import psutil

        total = 0.0
        me = psutil.Process(self._process.pid)
        for process in [me, *me.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):  # it ended between the listing and the look
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _result(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        raise RuntimeError(
            f"arm {self.name} ended; the end of its log:\n{(FOLDER / f'{self.name}.log').read_text()[-3000:]}"
        )

"""A million prompts by eight samples on the fake engine: how fast, how much memory, and what grows with the table?

Each size runs in a process of its own: prompts are written to a new lake, `generate.fill` makes all candidates, then a
resume is planned on the full table, and another for one sample more. The fake engine costs nothing, so what is
measured is everything around it. One executor, a process of its own: one of its tasks answers, the other commits.
Memory is the driver's, its JVM and the Python process beside it. Resident memory grows to what a JVM may have, since
garbage is collected when there is need; so its heap is the same at every size, and what is alive after a collection is
measured beside it, every ten seconds.

    python benchmarks/scale.py [--quick] [--json FILE]
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _form import Figure, run

SIZES = (10_000, 100_000, 1_000_000)
QUICK = (1_000, 4_000, 16_000)
SAMPLES = 8
CHUNK_ROWS = 40_000
MASTER = "local-cluster[1,2,2048]"
HEAP = "1g"
LIVE_S = 10.0
ENDS = 5  # commits at each end of a run that are compared
SEED = 7


def measure(quick: bool) -> Mapping[str, Figure]:
    """All sizes, then how the figures grow from one to the next."""
    return summary([arm(size, CHUNK_ROWS if not quick else 4_000) for size in (QUICK if quick else SIZES)])


def summary(arms: Sequence[Mapping[str, Any]]) -> Mapping[str, Figure]:
    """What the largest size took, and its growth over the smaller ones."""
    largest, before = arms[-1], arms[-2]
    return {
        "cells": largest["cells"],
        "rows_per_s": largest["cells"] / largest["fill_s"],
        "resume_s": largest["resume_s"],
        "resume_exponent": exponent(before, largest, "resume_s"),
        "extend_s": largest["extend_s"],
        "extend_exponent": exponent(before, largest, "extend_s"),
        "memory_ratio": largest["driver_peak_mib"] / before["driver_peak_mib"],
        "live_ratio": largest["driver_live_mib"] / before["driver_live_mib"],
        "python_memory_ratio": largest["python_peak_mib"] / before["python_peak_mib"],
        "commit_growth": largest["last_commits_s"] / largest["first_commits_s"],
        "sizes": {str(one["prompts"]): {k: v for k, v in one.items() if k != "prompts"} for one in arms},
    }


def exponent(small: Mapping[str, Any], large: Mapping[str, Any], name: str) -> float:
    """Growth of a time as a power of the number of cells: 1 is linear."""
    return math.log(large[name] / small[name]) / math.log(large["cells"] / small["cells"])


def arm(prompts: int, chunk_rows: int) -> dict[str, Any]:
    """One size in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "arm.json")
        command = [sys.executable, __file__, "--arm", str(prompts), "--chunk", str(chunk_rows), "--json", str(found)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        return dict(json.loads(found.read_text()))


def one_size(prompts: int, chunk_rows: int, folder: Path) -> dict[str, Any]:
    """Fill a new lake, then plan two resumes on it."""
    from taolake.lake import Lake
    from taolake.session import local_session
    from taolake.stages import generate, ledger
    from taolake.stages.answer import Cells
    from taolake.stages.commits import Desk
    from taolake.stages.round import Round

    project = shape(folder, chunk_rows)
    spark = local_session(MASTER, {"spark.driver.memory": HEAP}, log=folder / "spark.log")
    round_ = Round(Lake(spark, project.lake), project)
    write_prompts(round_, prompts)
    commits = timed_commits(Desk)
    figures: dict[str, Any] = {"prompts": prompts, "cells": prompts * SAMPLES}
    with Memory(spark) as memory:
        started = time.monotonic()
        made = generate.fill(round_, round_.base, [Cells("train", project.generate.plain, SAMPLES)])
        figures["fill_s"] = time.monotonic() - started
        for name, samples in (("resume_s", SAMPLES), ("extend_s", SAMPLES + 1)):
            started = time.monotonic()
            plan = ledger.plan(round_, round_.base, [Cells("train", project.generate.plain, samples)], folder / "plan")
            figures[name] = time.monotonic() - started
            assert plan.total == prompts * (samples - SAMPLES), f"got {plan.total} missing cells"
    assert made.rows == made.detail["candidates"] == prompts * SAMPLES, made
    figures |= {f"{name}_mib": size / 2**20 for name, size in memory.peaks.items()}
    figures |= {
        "first_commits_s": mean(commits[:ENDS]),
        "last_commits_s": mean(commits[-ENDS:]),
        "commits": len(commits),
    }
    spark.stop()
    return figures


def shape(folder: Path, chunk_rows: int) -> Any:
    """A project of nothing but generation."""
    from taolake.config import Project

    return Project.model_validate(
        {
            "name": "scale",
            "lake": str(folder / "lake"),
            "work": str(folder / "work"),
            "task": {"name": "scale"},
            "ingest": {"sources": [{"format": "jsonl", "path": "none"}]},
            "model": {"path": "no-model"},
            "engine": {"kind": "fake", "answers": ["select 1", "select 2", "dunno"], "width": 256},
            "generate": {"n": SAMPLES, "chunk_rows": chunk_rows, "strategies": [{"name": "plain", "share": 1}]},
            "scorers": [{"kind": "regex", "name": n, "pattern": p} for n, p in (("query", "select"), ("judge", "1"))],
            "reward": {"weights": {"query": 1.0}},
            "evaluate": {"judge": "judge"},
            "register": {"name": "scale"},
        }
    )


def write_prompts(round_: Any, prompts: int) -> None:
    """Questions of about 200 characters, straight into the table."""
    from taolake import lake

    columns = {
        "prompt_id": "md5(cast(id as string))",
        "task": "'scale'",
        "messages": "array(named_struct('role', 'user', 'content', concat('question ', id, repeat(' of many', 24))))",
        "split": "'train'",
        "seen": "1L",
        "source": "concat('log:', id)",
        "request_id": "cast(id as string)",
        "cluster": "md5(cast(id as string))",
        "tag": "cast(null as string)",
    }
    rows = round_.lake.spark.range(prompts).selectExpr(*(f"{value} AS {name}" for name, value in columns.items()))
    round_.lake.append_once(lake.PROMPTS, rows, "all")


def timed_commits(desk: Any) -> list[float]:
    """Seconds of every commit, in the order they end."""
    seconds: list[float] = []
    commit = desk.commit

    def timed(self: Any, chunk: Any) -> None:
        started = time.monotonic()
        commit(self, chunk)
        seconds.append(time.monotonic() - started)

    desk.commit = timed
    return seconds


class Memory:
    """Largest memory of the driver while inside, in bytes.

    Attributes:
        peaks: `driver_peak`, resident, of this process and its JVM; `python_peak`, of this process alone;
            `driver_live`, what the JVM's heap holds after a collection.
    """

    def __init__(self, spark: Any) -> None:
        self._heap = spark._jvm.java.lang.management.ManagementFactory.getMemoryMXBean()
        self.peaks = {"driver_peak": 0, "python_peak": 0, "driver_live": 0}

    def __enter__(self) -> "Memory":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        me = psutil.Process()
        jvm = next(child for child in me.children() if child.name() == "java")
        due = time.monotonic()
        while not self._stop.wait(0.25):
            mine = me.memory_info().rss
            self._seen(python_peak=mine, driver_peak=mine + jvm.memory_info().rss)
            if time.monotonic() >= due:
                self._heap.gc()
                self._seen(driver_live=self._heap.getHeapMemoryUsage().getUsed())
                due = time.monotonic() + LIVE_S

    def _seen(self, **sizes: int) -> None:
        self.peaks |= {name: max(self.peaks[name], size) for name, size in sizes.items()}


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


def main() -> None:
    """With `--arm`, one size; else the benchmark."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--arm", type=int)
    parser.add_argument("--chunk", type=int, default=CHUNK_ROWS)
    parser.add_argument("--json", type=Path)
    asked, _ = parser.parse_known_args()
    if asked.arm is None:
        targets = {
            "resume_s": ("<=", 60.0),
            "resume_exponent": ("<=", 1.1),
            "extend_exponent": ("<=", 1.1),
            "memory_ratio": ("<=", 1.2),
            "live_ratio": ("<=", 1.2),
            "commit_growth": ("<=", 1.5),
        }
        run("scale", measure, targets, [SEED])
    folder = Path(tempfile.mkdtemp(prefix="taolake-scale-"))
    try:
        figures = one_size(asked.arm, asked.chunk, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = json.dumps(figures, indent=1)
    print(text)
    if asked.json:
        asked.json.write_text(text)


if __name__ == "__main__":
    main()

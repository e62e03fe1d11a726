"""How fast the score stage verifies queries, whether its memory stays flat, and what it costs a reward model.

SQL: candidates with different texts (real questions' queries, a tenth of them broken) go through the score stage into
a committed table; memory is the largest resident size of Spark's Python workers and their children, for a quarter of
the rows and for all of them. Reward model: the same answers through the stage and through vLLM's pooling runner called
directly, each in a process of its own with a warm engine, in ABBA order; the values are held against Transformers'.
The stage's clock includes its plan and its commit: some seconds, however many answers. What is not shown: slow queries,
large databases, GPUs.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from _form import run

FOLDER = Path("build/bench/verifiers")
SEED = 7
PER_PROMPT = 16
ARMS = ("direct", "stage")


def measure(quick: bool) -> dict[str, Any]:
    """Queries, then the reward model."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = 20_000 if quick else 200_000
    small, large = (arm("sql", count, 0) for count in (rows // 4, rows))
    make_reward_model(FOLDER / "model")
    answers, pairs = (2_000, 1) if quick else (48_000, 3)
    rates: dict[str, list[float]] = {name: [] for name in ARMS}
    values: dict[str, list[float]] = {}
    for pair in range(pairs):
        for name in ARMS if pair % 2 == 0 else tuple(reversed(ARMS)):
            result = arm(name, answers, 200)
            rates[name].append(answers / result["seconds"])
            values[name] = result["values"]
    wanted = arm("transformers", answers, 200)["values"]
    ratios = [stage / direct for stage, direct in zip(rates["stage"], rates["direct"], strict=True)]
    return {
        "sql": {
            "rows": large["rows"],
            "rows_per_second": large["rows"] / large["seconds"],
            "seconds": large["seconds"],
            "wrong_values": large["wrong"] + small["wrong"],
            "worker_mib_quarter": small["worker_mib"],
            "worker_mib": large["worker_mib"],
            "memory_growth": large["worker_mib"] / small["worker_mib"],
        },
        "reward_model": {
            "answers": answers,
            "answers_per_second": {name: statistics.median(found) for name, found in rates.items()},
            "ratio": statistics.median(ratios),
            "ratio_low": min(ratios),
            "ratio_high": max(ratios),
            "compared": len(wanted),
            "largest_difference": max(
                abs(mine - other) for name in ARMS for mine, other in zip(values[name], wanted, strict=True)
            ),
        },
    }


def arm(name: str, rows: int, compared: int) -> Any:
    """One part in a process of its own, so that no session and no engine of another is left."""
    out = FOLDER / "result.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--arm", name, "--rows", str(rows), "--compared", str(compared)]
    with (FOLDER / f"{name}.log").open("w") as log:
        subprocess.run([*command, "--json", str(out)], check=True, stderr=log)
    result = json.loads(out.read_text())
    print(f"{name:12} {rows} rows in {result.get('seconds', 0.0):.1f} s", file=sys.stderr)
    return result


def project(name: str) -> Any:
    """One query scorer, one reward model; what else a project must have is never used."""
    from taolake.config import Project

    shape = {
        "name": "verifiers",
        "seed": SEED,
        "lake": str(FOLDER / name),
        "work": str(FOLDER / "work"),
        "task": {"name": "speed"},
        "ingest": {"sources": [{"format": "jsonl", "path": "none", "split": "train"}]},
        "model": {"path": str(FOLDER / "model"), "dtype": "float32", "max_model_len": 512, "max_tokens": 128},
        "engine": {"kind": "vllm", "max_num_seqs": 128, "memory_gb": 1},
        "generate": {"strategies": [{"name": "plain", "share": 1}]},
        "scorers": [
            {"kind": "sql", "name": "runs", "database": str(FOLDER / "shop.db")},
            {"kind": "reward_model", "name": "preferred"},
            {"kind": "regex", "name": "judge", "pattern": "."},
        ],
        "reward": {"weights": {"runs": 1}},
        "evaluate": {"judge": "judge", "samples": 2},
        "register": {"name": "none"},
    }
    return Project.model_validate(shape)


def queries(rows: int) -> list[tuple[str, str, bool]]:
    """(question, query, does it run): the shop's own questions, every text different, every tenth misspelt."""
    from taolake.demo.questions import logged_questions

    asked = logged_questions(SEED)
    made = []
    for i in range(rows):
        question, broken = asked[(i // PER_PROMPT) % len(asked)], i % 10 == 9
        sql = question.sql.replace("select", "selct", 1) if broken else question.sql
        made.append((f"{question.text} ({i // PER_PROMPT})", f"{sql} /* {i} */", not broken))
    return made


def filled(spark: Any, name: str, rows: int) -> Any:
    """A round on a new lake that holds so many candidates."""
    import pandas as pd

    from taolake import lake
    from taolake.lake import Lake
    from taolake.stages.round import Round

    shape = project(name)
    shutil.rmtree(shape.lake, ignore_errors=True)
    round_ = Round(Lake(spark, shape.lake), shape)
    asked = pd.DataFrame(queries(rows), columns=["question", "text", "ok"])
    asked["i"] = range(rows)
    source = spark.createDataFrame(asked)
    blank = {"array<int>": "array()", "string": "''", "int": "0", "bigint": "0L", "double": "0d"}
    given = {
        "candidate_id": "format_string('%08d', i)",
        "prompt_id": f"format_string('%08d', i div {PER_PROMPT})",
        "policy": f"'{round_.base.id}'",
        "strategy": "'plain'",
        "sample": f"cast(i % {PER_PROMPT} as int)",
        "stream": "'A'",
        "text": "text",
        "status": "'ok'",
    }
    columns = [(f.name, given.get(f.name, blank[f.dataType.simpleString()])) for f in lake.CANDIDATES.schema()]
    round_.lake.append_once(lake.CANDIDATES, source.selectExpr(*(f"{e} as {c}" for c, e in columns)), "all")
    firsts = source.where(f"i % {PER_PROMPT} = 0")
    turns = "array(named_struct('role', 'user', 'content', question))"
    prompts = firsts.selectExpr(
        f"{given['prompt_id']} as prompt_id", "'speed' as task", f"{turns} as messages", "'train' as split",
        "1L as seen", "'' as source", "'' as request_id",
        f"{given['prompt_id']} as cluster", "cast(null as string) as tag",
    )  # fmt: skip
    round_.lake.append_once(lake.PROMPTS, prompts, "all")
    return round_


def sql(rows: int, _: int) -> dict[str, Any]:
    """The query scorer through the stage; the clock runs from the call to the commit."""
    from taolake import lake
    from taolake.demo.database import build_database
    from taolake.session import local_session
    from taolake.stages import score

    (FOLDER / "model").mkdir(parents=True, exist_ok=True)
    build_database(FOLDER / "shop.db")
    spark = local_session()
    warm = filled(spark, "warm", 2_000)
    only = next(s for s in warm.project.scorers if s.name == "runs")
    score._pure(warm, warm.base, only, "1")
    round_ = filled(spark, "lake", rows)
    with Workers() as workers:
        started = time.monotonic()
        score._pure(round_, round_.base, only, "1")
        seconds = time.monotonic() - started
    wrong = round_.lake.read(lake.SCORES).where(
        "value is null or value != if(cast(candidate_id as int) % 10 = 9, 0.0, 1.0)"
    )
    found = {"rows": round_.lake.read(lake.SCORES).count(), "wrong": wrong.count()}
    spark.stop()
    return {"seconds": seconds, "worker_mib": workers.peak / 2**20, **found}


class Workers:
    """Largest resident memory of the processes below the JVM, which are Spark's Python workers and their children."""

    def __enter__(self) -> "Workers":
        self.peak, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        while not self._stop.wait(0.2):
            with contextlib.suppress(psutil.Error):  # a process ended while it was looked at
                below = [p for p in psutil.Process().children(recursive=True) if p.name() != "java"]
                self.peak = max(self.peak, sum(p.memory_info().rss for p in below))


def make_reward_model(folder: Path) -> None:
    """A reward model of 1M parameters with random weights, as the trainer writes it."""
    if (folder / "reward.json").exists():
        return
    import _work
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from taolake.training.reward_input import Reading

    shutil.rmtree(folder, ignore_errors=True)
    _work.make_model(folder)
    torch.manual_seed(SEED)
    shape = LlamaConfig.from_pretrained(folder, num_labels=1, initializer_range=0.1)
    LlamaForSequenceClassification(shape).save_pretrained(folder)
    Reading("", 512).write(folder)


def stage(rows: int, compared: int) -> dict[str, Any]:
    """The reward model through the stage, its engine loaded before the clock starts."""
    from taolake import lake
    from taolake.session import local_session
    from taolake.stages import reward_model

    spark, folder = local_session(), str(FOLDER / "model")
    for name, part in (("warm", 256), ("lake", rows)):
        round_ = filled(spark, name, part)
        spec = next(s for s in round_.project.scorers if s.name == "preferred")
        started = time.monotonic()
        reward_model.fill(round_, round_.base, spec, "1", folder)
        seconds = time.monotonic() - started
    given = round_.lake.read(lake.SCORES).orderBy("candidate_id").select("value").collect()
    spark.stop()
    assert len(given) == rows
    return {"seconds": seconds, "values": [row["value"] for row in picked(given, compared)]}


def direct(rows: int, compared: int) -> dict[str, Any]:
    """vLLM's pooling runner over all answers at once; rendering counts, as it does in the stage."""
    from taolake.engines.vllm import RewardModel

    shape, folder = project("direct"), str(FOLDER / "model")
    model = RewardModel(shape.engine, shape.model, folder)
    dict(model.score((f"w{i}", tokens) for i, tokens in enumerate(inputs(256))))
    model._llm.reset_prefix_cache()
    from vllm import PoolingParams

    started = time.monotonic()
    asked = [{"prompt_token_ids": tokens} for tokens in inputs(rows)]
    outputs = model._llm.encode(asked, PoolingParams(use_activation=False), pooling_task="classify", use_tqdm=False)
    values = [float(output.outputs.data[0]) for output in outputs]
    return {"seconds": time.monotonic() - started, "values": picked(values, compared)}


def transformers(rows: int, compared: int) -> dict[str, Any]:
    """The values that count as right."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(FOLDER / "model", dtype=torch.float32).eval()
    with torch.no_grad():
        values = [float(model(torch.tensor([tokens])).logits[0, 0]) for tokens in picked(inputs(rows), compared)]
    return {"values": values}


def inputs(rows: int) -> list[list[int]]:
    """Token ids of every answer, read as the trained model says."""
    from taolake.training.reward_input import Reading, tokenizer_of

    folder = str(FOLDER / "model")
    reading, tokenizer = Reading.of(folder), tokenizer_of(folder)
    return [reading.ids(tokenizer, [{"role": "user", "content": asked}], text) for asked, text, _ in queries(rows)]


def picked(rows: list[Any], compared: int) -> list[Any]:
    """The same few of every arm's rows."""
    return random.Random(SEED).sample(rows, compared)


def main() -> None:
    """With `--arm`, one part; else the benchmark."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--arm", choices=("sql", "transformers", *ARMS))
    parser.add_argument("--rows", type=int)
    parser.add_argument("--compared", type=int)
    parser.add_argument("--json", type=Path)
    asked, _ = parser.parse_known_args()
    if asked.arm is None:
        targets = {
            "sql.memory_growth": ("<=", 1.2),
            "sql.wrong_values": ("==", 0.0),
            "reward_model.ratio": (">=", 0.9),
            "reward_model.largest_difference": ("<=", 1e-4),
        }
        run("verifiers", measure, targets, [SEED])
    parts = {"sql": sql, "stage": stage, "direct": direct, "transformers": transformers}
    asked.json.write_text(json.dumps(parts[asked.arm](asked.rows, asked.compared)))


if __name__ == "__main__":
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    main()

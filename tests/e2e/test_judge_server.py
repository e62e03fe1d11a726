"""A real OpenAI-compatible server as judge: vLLM's own, with a tiny model that babbles. Nothing may be lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pyspark.sql import SparkSession

from taolake import lake
from taolake.config import JudgeScorer
from taolake.demo import model
from taolake.scoring import judge as questions
from taolake.stages import judge
from tests.spark.test_judge import POLICY, filled

START_S = 240
ANSWERS = ["one", "two", "three", "four", "five", "six"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`vllm serve` on a port of its own, ended with all its children; the model learned to grade in JSON, badly."""
    folder = tmp_path_factory.mktemp("serve")
    pairs = [([{"role": "user", "content": f"grade {i % 9}"}], json.dumps({"score": i % 9})) for i in range(320)]
    model.fit(folder / "model", pairs, seed=3, log=lambda line: None)
    widen(folder / "model", 4096)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "model"),
        "--host", "127.0.0.1", "--port", str(port), "--served-model-name", "babbler", "--dtype", "float32",
        "--enforce-eager", "--max-model-len", "4096", "--max-num-seqs", "8", "--max-num-batched-tokens", "4096",
        "--no-enable-chunked-prefill",
    ]  # fmt: skip
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "NO_PROXY": "*",
    }
    log = (folder / "log.txt").open("wb")
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True, cwd=folder
    )
    try:
        wait_until_up(process, port, folder / "log.txt")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def widen(folder: Path, positions: int) -> None:
    """Let the model take questions as long as a judge's; what it makes of them does not matter here."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": positions}))


def wait_until_up(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise AssertionError(f"not up after {START_S} s:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "pointwise", "structured": False},
        {"mode": "pointwise", "structured": True},
        {"mode": "listwise", "structured": True},
        {"mode": "pairwise", "structured": True},
    ],
    ids=lambda settings: "-".join(str(value) for value in settings.values()),
)
def test_a_real_server_loses_nothing(
    spark: SparkSession, tmp_path: Path, server: str, settings: dict[str, Any]
) -> None:
    """Garbage is an explained error, and JSON forced by the server's grammar is a score; each answer is one row."""
    spark.sparkContext.environment["NO_PROXY"] = "*"
    engine = {"kind": "endpoint", "url": server, "model": "babbler", "concurrency": 4, "retries": 1, "timeout_s": 120}
    scorer = JudgeScorer.model_validate(
        {"kind": "judge", "name": "good", "judges": [engine], "rubric": "Right.", "max_tokens": 60} | settings
    )
    round_ = filled(spark, tmp_path, list(ANSWERS), [*ANSWERS[:2], None])
    version = questions.version(scorer, round_.project.task)
    rows, detail = judge.fill(round_, POLICY, scorer, version)
    assert rows == 9
    for row in (r for r in scores_of(round_) if r["text"] is not None):
        assert (row["value"] is None) == (row["status"] == "error")
        assert row["value"] is None or 0 <= row["value"] <= 1
        assert row["value"] is not None or json.loads(row["detail"])["error"]
    kept = round_.lake.read(lake.JUDGEMENTS).collect()
    assert len(kept) == detail["calls"] > 0
    assert {r["status"] for r in kept} == {"ok"}, [r["error"] for r in kept]
    assert all(r["prompt_tokens"] > 50 and 0 < r["tokens"] <= 60 for r in kept)
    again, detail = judge.fill(round_, POLICY, scorer, version)
    assert (again, detail["calls"]) == (0, 0)


def scores_of(round_: Any) -> list[dict[str, Any]]:
    """Score rows with the candidate's text; one for each candidate."""
    texts = {r["candidate_id"]: r["text"] for r in round_.lake.read(lake.CANDIDATES).collect()}
    rows = round_.lake.read(lake.SCORES).collect()
    assert sorted(r["candidate_id"] for r in rows) == sorted(texts)
    return [r.asDict() | {"text": texts[r["candidate_id"]]} for r in rows]

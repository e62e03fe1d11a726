"""Tokens per second of the generate stage beside peers that do the same: Ray Data LLM, and plain multiprocessing.

The same prompts, model, samples, seeds and engine settings. Peers get a virtual environment of their own, with the same
vLLM from this project's lock, and what helps them: prompts tokenised beforehand, in the best order, all cores. `cold`
runs from the start of the process to the written answers; `steady` starts, for a peer, when its loaded engine gets the
first request, and for the product when the stage is called, planning and commit included. Peers take turns with the
product. A peer that does not run here says why (`error`) and the next one counts. What is not shown: GPUs, several
machines, what a peer loses when a process dies.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _arms import Arm
from _form import run
from _work import FOLDER, MODEL_LEN, SEED, WORKLOADS, project, requests

HERE = Path(__file__).parent
PLACE = Path("build/bench/peers").resolve()
RAY = "ray[data]==2.60.0"
PEERS = {"ray_data_llm": "_peer_ray.py", "multiprocessing": "_peer_pool.py"}
WORKLOAD = "heavy"
PAIRS, LIMIT_S = 2, 900


def measure(quick: bool) -> dict[str, Any]:
    """Every peer in turns with the product."""
    prompts = WORKLOADS[WORKLOAD].prompts // (6 if quick else 1)
    python = environment()
    asked = write_requests(prompts)
    product: list[dict[str, float]] = []
    peers: dict[str, list[dict[str, float]]] = {name: [] for name in PEERS}
    errors: dict[str, str] = {}
    with Arm("spark") as arm:
        for pair in range(1 if quick else PAIRS):
            for name in ("product", *PEERS) if pair % 2 == 0 else (*reversed(PEERS), "product"):
                if name == "product":
                    product.append(steady(arm, prompts) | cold(prompts))
                elif name not in errors:
                    found = peer(python, name, asked)
                    if isinstance(found, str):
                        errors[name] = found
                    else:
                        peers[name].append(found)
    rates = {name: middle(found) for name, found in {"product": product, **peers}.items() if found}
    first = next((name for name in PEERS if name in rates), "none")
    ratios = {kind: rates["product"][kind] / rates[first][kind] for kind in ("cold", "steady") if first in rates}
    return {"tokens_per_second": rates, "compared_with": first, "ratio": ratios, "error": errors, "prompts": prompts}


def middle(found: list[dict[str, float]]) -> dict[str, float]:
    """Median tokens per second of each kind."""
    return {kind: statistics.median(each[kind] for each in found) for kind in ("cold", "steady")}


def environment() -> Path:
    """The peers' Python, made from this project's lock and Ray's newest tested release; kept between runs."""
    python = PLACE / "venv" / "bin" / "python"
    if (PLACE / "ready").exists():
        return python
    uv = str(Path(sys.executable).parent / "uv")
    lock = str(HERE.parent / "requirements" / "cpu.txt")
    into = [uv, "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(PLACE / "venv")], check=True)
    subprocess.run([*into, "--no-deps", "--require-hashes", "-r", lock], check=True)
    subprocess.run([*into, RAY], check=True)
    (PLACE / "ready").touch()
    return python


def write_requests(prompts: int) -> Path:
    """The product's own requests, rendered; and the settings its engine has on a CPU."""
    from _work import make_model
    from transformers import AutoTokenizer

    make_model(FOLDER / "model")
    tokenizer: Any = AutoTokenizer.from_pretrained(FOLDER / "model")

    def rendered(messages: Any) -> Any:
        turns = list(messages)
        return tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)

    rows = [
        {"key": r.key, "seed": r.seed, "max_tokens": r.sampling.max_tokens, "fixed": WORKLOADS[WORKLOAD].fixed,
         "prompt_token_ids": rendered(r.messages)}
        for r in requests(project(WORKLOADS[WORKLOAD], prompts))
    ]  # fmt: skip
    engine = {
        "dtype": "float32", "max_model_len": MODEL_LEN, "max_num_seqs": 128, "enforce_eager": True,
        "enable_chunked_prefill": False, "max_num_batched_tokens": 4096,
    }  # fmt: skip
    # vLLM leaves a core to others when its engine has a process of its own; on two cores that would be half of them.
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_NO_USAGE_STATS": "1"}
    settings |= {"OMP_NUM_THREADS": str(os.cpu_count()), "DO_NOT_TRACK": "1"}
    # How OpenMP's threads wait, which the package set when it was imported above, is worth as much to a peer.
    settings |= {name: os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ}
    path = PLACE / "requests.json"
    path.write_text(
        json.dumps({"model": str(FOLDER / "model"), "engine": engine, "environment": settings, "rows": rows})
    )
    return path


def peer(python: Path, name: str, asked: Path) -> dict[str, float] | str:
    """One peer over the requests; its rates, or why it did not run."""
    out, result = PLACE / "out", PLACE / "result.json"
    shutil.rmtree(out, ignore_errors=True)
    result.unlink(missing_ok=True)
    given = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"RAY_USAGE_STATS_ENABLED": "0"}
    with (PLACE / f"{name}.log").open("w") as log:
        command = [str(python), str(HERE / PEERS[name]), str(asked), str(out), str(result)]
        try:
            done = subprocess.run(command, stdout=log, stderr=log, env=given, timeout=LIMIT_S).returncode
        except subprocess.TimeoutExpired:
            done = -1
    if done or not result.exists():
        return f"exit {done}: " + (PLACE / f"{name}.log").read_text(errors="replace")[-1000:]
    seen, wanted = json.loads(result.read_text()), json.loads(asked.read_text())["rows"]
    if seen["written"] != len(wanted) or seen["rows"].keys() != {row["key"] for row in wanted}:
        return f"wrote {seen['written']} rows, wanted {len(wanted)}, each once"
    tokens = sum(len(row["token_ids"]) for row in seen["rows"].values())
    return report(name, tokens, seen["cold"], seen["steady"])


def steady(arm: Arm, prompts: int) -> dict[str, float]:
    """The product, its engine warm."""
    found = arm.run(WORKLOAD, prompts)
    tokens = sum(len(row["token_ids"]) for row in found["rows"].values())
    return {"steady": tokens / found["seconds"]}


def cold(prompts: int) -> dict[str, float]:
    """The product from nothing: Python, a JVM, the engine, the stage, the commit."""
    started = time.monotonic()
    with Arm("cold") as arm:
        found = arm.run(WORKLOAD, prompts)
        seconds = time.monotonic() - started - found["read_seconds"]
    tokens = sum(len(row["token_ids"]) for row in found["rows"].values())
    return {"cold": tokens / seconds}


def report(name: str, tokens: int, cold_s: float, steady_s: float) -> dict[str, float]:
    """Say what was seen, as rates."""
    print(f"{name:16} {tokens} tokens in {cold_s:.1f} s cold, {steady_s:.1f} s steady", file=sys.stderr)
    return {"cold": tokens / cold_s, "steady": tokens / steady_s}


if __name__ == "__main__":
    run("peers", measure, {"ratio.steady": (">=", 1.0), "ratio.cold": (">=", 1.0)}, [SEED])

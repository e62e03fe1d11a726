"""The gateway of `taolake serve`: what it adds to a stream, what a kill costs, what refusals and nonsense do to it.

Latency is paired in one run: the same streams go to the server bare and through the gateway, in blocks that alternate.
Two servers are asked. A stand-in streams at a fixed pace, since two cores cannot run 200 streams of a model, a gateway
and a client without measuring each other; vLLM itself, with a tiny model, streams as many as it carries there. `added`
is the difference of the quantiles, in milliseconds: of a request's first piece, of every word on its way (stand-in
alone: it stamps them), of the end, for which the log is synced.
"""

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import _load as load
import numpy as np
import yaml
from _form import Figure, run

ROOT = Path(__file__).parents[1]
KEY = "a-key-for-benchmarks"
STREAMS, WORDS, PACE_S, OVER_S = 200, 60, 0.1, 4.0
VLLM_STREAMS, VLLM_TOKENS = 4, 48
SEED = 7


def measure(quick: bool) -> dict[str, Figure]:
    """All parts, each with a gateway of its own."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of every write to who has gone: that is the point
    with tempfile.TemporaryDirectory(prefix="gateway-") as name:
        folder = Path(name)
        with standin(PACE_S, WORDS) as upstream:
            figures: dict[str, Figure] = {"stand_in": latency(folder / "a", upstream, 2 if quick else 4)}
        with standin(0.02, 10) as upstream:
            figures["kill"] = killed(folder / "b", upstream, 1 if quick else 3)
            figures["status"] = statuses(folder / "c", upstream)
            figures["fuzz"] = fuzzed(folder / "d", upstream, 2_000 if quick else 20_000)
        figures["vllm"] = real(folder / "e", 2 if quick else 8)
    return figures


def latency(folder: Path, upstream: int, blocks: int) -> dict[str, Figure]:
    """200 streams at once, bare and through the gateway."""
    import psutil

    asked = (blocks + 1) * STREAMS
    with gateway(folder, upstream) as served:
        found = paired(served.port, upstream, [{"model": "standin"}] * STREAMS, OVER_S, blocks)
        cpu_s = sum(psutil.Process(served.process.pid).cpu_times()[:2])
        missing = asked - wait_for(folder, asked)
    busy = {"words_per_s": STREAMS / PACE_S, "cpu_us_per_word": cpu_s * 1e6 / (asked * WORDS)}
    return {"streams": STREAMS, **busy, **found, "asked": asked, "not_logged": missing}


def real(folder: Path, blocks: int) -> dict[str, Figure]:
    """The same with vLLM's server and a tiny model, by as many streams as two cores carry."""
    with vllm(folder) as upstream, gateway(folder, upstream) as served:
        asked = [{"model": "standin", "max_tokens": VLLM_TOKENS, "ignore_eos": True}] * VLLM_STREAMS
        return {"streams": VLLM_STREAMS, **paired(served.port, upstream, asked, 0.5, blocks)}


def paired(through: int, bare: int, asked: Sequence[dict[str, Any]], over_s: float, blocks: int) -> dict[str, Figure]:
    """Blocks in the order a b b a ...; a first pair warms both up and is not counted."""
    heard: dict[str, list[load.Heard]] = {"bare": [], "gateway": []}
    order = [["bare", "gateway"], ["gateway", "bare"]]
    for block in range(blocks + 1):
        for arm in order[block % 2]:
            port, key = (bare, "") if arm == "bare" else (through, KEY)
            raws = [load.request(port, key, **body) for body in asked]
            got = asyncio.run(load.streams(port, raws, over_s))
            assert all(h.end for h in got), f"{sum(not h.end for h in got)} streams of {arm} did not end"
            heard[arm] += got if block else []
    figures: dict[str, Figure] = {}
    for name in ("first", "words", "end"):
        bare_ms, gateway_ms = (_ms(heard[arm], name) for arm in ("bare", "gateway"))
        if len(bare_ms):
            quantiles = {"p50": 50, "p99": 99}
            figures[name] = {
                "bare_ms": {q: float(np.percentile(bare_ms, p)) for q, p in quantiles.items()},
                "added_ms": {
                    q: float(np.percentile(gateway_ms, p) - np.percentile(bare_ms, p)) for q, p in quantiles.items()
                },
            }
    return figures


def _ms(heard: Sequence[load.Heard], name: str) -> "np.ndarray[Any, Any]":
    values = [v for h in heard for v in (h.words if name == "words" else [getattr(h, name)])]
    return np.array(values) * 1000


def killed(folder: Path, upstream: int, kills: int) -> dict[str, Figure]:
    """Kill `taolake serve` with -9 under load and start it again: what was acknowledged must be there, once."""
    acknowledged: set[str] = set()
    for _ in range(kills):
        with gateway(folder, upstream) as served:
            raw = load.request(served.port, KEY, model="standin")
            acknowledged |= asyncio.run(_until_killed(served, raw))
    with gateway(folder, upstream):
        pass  # starts, drains what was left, ends
    found = table(folder)
    return {
        "kills": kills,
        "acknowledged": len(acknowledged),
        "lost": len(acknowledged - set(found)),
        "twice": len(found) - len(set(found)),
        "rows": len(found),
    }


async def _until_killed(served: "Served", raw: bytes) -> set[str]:
    """Sixty callers that ask one request after the other, until a kill after four seconds."""
    seen: set[str] = set()
    stop = asyncio.Event()

    async def ask() -> None:
        while not stop.is_set():
            heard = await load.stream(served.port, raw)
            if heard.end:
                seen.add(heard.request)

    callers = [asyncio.create_task(ask()) for _ in range(60)]
    await asyncio.sleep(4)
    served.kill()
    stop.set()
    await asyncio.wait(callers, timeout=10)
    return seen


def statuses(folder: Path, upstream: int) -> dict[str, Figure]:
    """What each kind of bad request gets."""
    limits = {"max_request_kb": 4, "header_s": 1, "body_s": 1, "requests_per_minute": 30}
    with gateway(folder, upstream, **limits) as served:
        good = load.request(served.port, KEY, model="standin")
        head, _, _ = good.partition(b"\r\n\r\n")
        cases = {
            "malformed": (_with_body(good, b"{broken"), 400),
            "not_an_object": (_with_body(good, b"[]"), 400),
            "not_http": (b"\x16\x03\x01 nonsense\r\n\r\n", 400),
            "unauthorised": (load.request(served.port, "wrong", model="standin"), 401),
            "oversized": (load.request(served.port, KEY, "x" * 8000), 413),
            "slow_headers": (head[:40], 408),
            "slow_body": (head + b"\r\n\r\n{", 408),
            "feedback_unusable": (_with_body(good.replace(b"chat/completions", b"feedback"), b"{}"), 422),
            "good": (good, 200),
        }
        got = {name: asyncio.run(load.exchange(served.port, raw, 10)) for name, (raw, _) in cases.items()}
        flood = [asyncio.run(load.exchange(served.port, good, 10)) for _ in range(40)]
    wrong = [name for name, (_, status) in cases.items() if got[name] != status]
    return {**got, "too_many": flood[-1], "wrong": len(wrong) + (flood[-1] != 429)}


def _with_body(raw: bytes, body: bytes) -> bytes:
    head = raw.partition(b"\r\n\r\n")[0].split(b"content-length")[0]
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def fuzzed(folder: Path, upstream: int, requests: int) -> dict[str, Figure]:
    """Broken requests, sixty at a time; then it must answer a good one, and be the same process."""
    import psutil

    with gateway(folder, upstream, header_s=2, body_s=2) as served:
        process = psutil.Process(served.process.pid)
        assert asyncio.run(load.exchange(served.port, load.request(served.port, KEY, model="standin"), 10)) == 200
        before = process.memory_info().rss
        counted = asyncio.run(_fuzz(served.port, requests))
        up = served.process.poll() is None
        good = asyncio.run(load.exchange(served.port, load.request(served.port, KEY, model="standin"), 10))
        grown = (process.memory_info().rss - before) / 2**20
    server = sum(count for status, count in counted.items() if status in (500, 503))
    by = {str(status): count for status, count in sorted(counted.items())}
    return {"requests": requests, "up": int(up and good == 200), "own_errors": server, "grown_mib": grown, "status": by}


async def _fuzz(port: int, requests: int) -> dict[int, int]:
    rng, counted = random.Random(SEED), dict[int, int]()
    good = load.request(port, KEY, model="standin")
    waiting = [load.broken(rng, good) for _ in range(requests)]

    async def send() -> None:
        while waiting:
            status = await load.exchange(port, waiting.pop(), 8, half_close=True)
            counted[status] = counted.get(status, 0) + 1

    await asyncio.gather(*(send() for _ in range(60)))
    return counted


class Served:
    """`taolake serve` as a user runs it."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process, self.port = process, port

    def kill(self) -> None:
        """As `kill -9` does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def gateway(folder: Path, upstream: int, **settings: Any) -> Iterator[Served]:
    """Start it on the stand-in or on vLLM; ended by Ctrl-C, unless it was killed."""
    folder.mkdir(parents=True, exist_ok=True)
    project = yaml.safe_load((ROOT / "conf" / "smoke.yml").read_text(encoding="utf-8"))
    port = free_port()
    version = {"name": "standin", "model": f"http://127.0.0.1:{upstream}/v1"}
    named = {"port": port, "versions": [version], "drain_s": 1, **settings}
    project |= {"lake": str(folder / "lake"), "work": str(folder / "work"), "gateway": named}
    (folder / "project.yml").write_text(yaml.safe_dump(project), encoding="utf-8")
    command = [sys.executable, "-m", "taolake", "serve", str(folder / "project.yml")]
    environment = {**os.environ, "TAOLAKE_GATEWAY_KEYS": f"bench={KEY}"}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_until_up(process, port, folder / "log")
        yield Served(process, port)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            assert process.wait(120) == 0, (folder / "log").read_text()


@contextlib.contextmanager
def standin(pace_s: float, words: int) -> Iterator[int]:
    """The upstream that streams at a fixed pace; its port."""
    command = [sys.executable, str(ROOT / "tests" / "upstream.py"), "0", str(pace_s), str(words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def vllm(folder: Path) -> Iterator[int]:
    """vLLM's own server with a tiny model; its port."""
    from taolake.demo import model

    folder.mkdir(parents=True, exist_ok=True)
    turns = [([{"role": "user", "content": "hi"}], f"word {i % 9}") for i in range(64)]
    model.fit(folder / "model", turns, seed=SEED, log=lambda line: None)
    port = free_port()
    command = [
        sys.executable, "-m", "taolake.gateway.child", sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(folder / "model"), "--served-model-name", "standin", "--port", str(port), "--host", "127.0.0.1",
        "--dtype", "float32", "--enforce-eager", "--max-num-seqs", str(VLLM_STREAMS),
    ]  # fmt: skip
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ}
    with (folder / "vllm.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
    try:
        wait_until_up(process, port, folder / "vllm.log")
        yield port
    finally:
        process.terminate()
        process.wait(60)


def wait_until_up(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Until /health says so."""
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        with contextlib.suppress(OSError), straight.open(f"http://127.0.0.1:{port}/health", timeout=5):
            return
        time.sleep(0.2)
    raise AssertionError(f"not up:\n{log.read_text(errors='replace')[-3000:]}")


def free_port() -> int:
    """A port nobody has now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def table(folder: Path) -> list[str]:
    """Request ids in the table, as delta-rs reads it."""
    from deltalake import DeltaTable

    ids = DeltaTable(str(folder / "lake" / "payloads")).to_pyarrow_table(columns=["databricks_request_id"])
    return list(ids.column(0).to_pylist())


def wait_for(folder: Path, rows: int) -> int:
    """Rows of the table once the drain has caught up."""
    deadline, found = time.monotonic() + 60, 0
    while time.monotonic() < deadline and found < rows:
        time.sleep(1)
        with contextlib.suppress(Exception):  # not there yet
            found = len(table(folder))
    return found


if __name__ == "__main__":
    run(
        "gateway",
        measure,
        {
            "stand_in.first.added_ms.p50": ("<=", 5),
            "stand_in.first.added_ms.p99": ("<=", 25),
            "stand_in.words.added_ms.p50": ("<=", 5),
            "stand_in.words.added_ms.p99": ("<=", 25),
            "stand_in.not_logged": ("==", 0),
            "vllm.first.added_ms.p50": ("<=", 5),
            "vllm.first.added_ms.p99": ("<=", 25),
            "kill.acknowledged": (">", 100),
            "kill.lost": ("==", 0),
            "kill.twice": ("==", 0),
            "status.wrong": ("==", 0),
            "fuzz.up": ("==", 1),
            "fuzz.own_errors": ("==", 0),
        },
        seeds=[SEED],
    )

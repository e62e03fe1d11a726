"""The flywheel as a user turns it: `taolake serve` before vLLM, people who ask and react over HTTP, rounds, canaries.

Used by `test_real_turns.py` with a model of seconds, and by `benchmarks/flywheel.py` with the embedded example. Nothing
is faked but the people, whom a `World` plays.
"""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from databricks.sdk import WorkspaceClient
from pyspark.sql import SparkSession

from taolake import stages
from taolake.config import Project, load
from taolake.demo import model
from taolake.lake import Lake
from taolake.serving import release
from taolake.serving.local import routes_of
from taolake.serving.release import Waiting
from taolake.stages import base, canary, collect, deploy, register, registry
from taolake.stages.round import Round

START_S = 600
AT_ONCE = 16
BATCH = 40  # requests between two looks at the bad version
REFUSAL = "Sorry, I can't help with that."
QUIET = Waiting(sleep=lambda seconds: None)


@dataclass(frozen=True)
class World:
    """A project and its people.

    Attributes:
        file: the project file.
        asked: the questions of every turn.
        right: whether an answer to a question is right.
        better: the answer that somebody writes who edits.
    """

    file: Path
    asked: tuple[Sequence[str], ...]
    right: Callable[[str, str], bool]
    better: Callable[[str], str]


@dataclass
class Turn:
    """What one turn of the wheel did."""

    collected: list[dict[str, Any]] = field(default_factory=list)
    ingested: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, Any] = field(default_factory=dict)
    canary: dict[str, Any] = field(default_factory=dict)
    live: int = 0
    right: dict[str, tuple[int, int]] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)


def nobody() -> WorkspaceClient:
    raise AssertionError("no workspace is asked")


class Wheel:
    """A world, turned by one Spark session."""

    def __init__(self, spark: SparkSession, world: World, say: Callable[[str], None] = print) -> None:
        self.spark, self.world, self.say = spark, world, say
        self.project: Project = load(world.file)
        self._asked, self._began = 0, time.monotonic()

    def log(self, line: str) -> None:
        """One line, with the seconds since the wheel began to turn."""
        self.say(f"{time.monotonic() - self._began:6.0f} s  {line}")

    def round(self, number: int = 1) -> Round:
        """A round as the command line opens it."""
        return Round(Lake(self.spark, self.project.lake), base.project_of(self.project, number), number)

    @property
    def routes(self) -> dict[int, int]:
        """Percent of the requests by version."""
        import mlflow

        registry.connect(self.project)
        return routes_of(dict(mlflow.MlflowClient().get_registered_model(self.project.register_.name).tags))

    def release(self, version: int | None = None) -> None:
        """`taolake deploy`."""
        release.serve(deploy.place(self.project, self.project.lake, nobody, version), QUIET)

    def first(self) -> None:
        """`taolake deploy --first`, and the first people who ask."""
        stages.prepare(self.project)
        self.release(base.adopt(self.project))

    def turn(self, number: int, requests: int) -> Turn:
        """Collect, round, gate, release; a promoted version then answers half of the next requests until it is judged.

        Args:
            number: of the turn, from 1; what people ask in the canary is what the next turn learns from.
            requests: how many they ask.
        """
        made = Turn()
        if number == 1:
            with self.serving() as url:
                made.right = self.ask(url, self.world.asked[0], requests)
            made.collected.append(collect.collect(self.round()).detail)
            self.log(f"collected {made.collected[-1]}")
        base.begin(self.project, number)
        round_ = self.round(number)
        for stage, outcome, _ in stages.run_all(round_):
            self.log(f"round {number}: {stage.name}")
            made.ingested = outcome.detail if stage.name == "ingest" else made.ingested
        made.gate = round_.done("gate").detail
        self.log(f"gate: {made.gate['reason']}")
        if made.gate["promoted"]:
            self.release()
            with self.serving() as url:
                right = self.ask(url, self.world.asked[min(number, len(self.world.asked) - 1)], requests)
                made.right |= right
                made.canary = self.judged(made.collected)
                self.settled()
                made.after = {name: n for name, (_, n) in self.ask(url, self.world.asked[-1], BATCH).items()}
        made.live = max(self.routes, key=lambda version: self.routes[version])
        return made

    def planted(self, most: int) -> dict[str, Any]:
        """A version that refuses everything is put beside the live one; looked at every few requests.

        Args:
            most: requests after which it is given up.
        """
        registry.connect(self.project)
        folder = Path(self.project.work) / "refuses"
        pairs = [([{"role": "user", "content": q}], REFUSAL) for asked in self.world.asked for q in asked] * 8
        if not folder.exists():
            model.fit(folder, pairs[:2400], seed=5, log=lambda line: None)
        with registry.quiet():
            import mlflow

            with mlflow.start_run():
                version = int(register.log_model(self.project, folder))
        self.release(version)
        found: dict[str, Any] = {"version": version, "verdict": "hold", "asked": 0}
        with self.serving() as url:
            while found["verdict"] == "hold" and found["asked"] < most:
                self.ask(url, self.world.asked[-1], BATCH)
                found["asked"] += BATCH
                found |= self.judged([])
            self.settled()
            found["after"] = {name: n for name, (_, n) in self.ask(url, self.world.asked[-1], BATCH).items()}
        return found

    def judged(self, collected: list[dict[str, Any]]) -> dict[str, Any]:
        """`taolake collect` and `taolake canary`, again where a slow machine has not yet written all that was asked."""
        for _ in range(3):
            collected.append(collect.collect(self.round()).detail)
            found = canary.canary(self.round(), nobody, waiting=QUIET).detail
            self.log(f"canary: {found['verdict']} after {self._asked} requests in all: {found['says']}")
            if found["verdict"] != "hold":
                break
            time.sleep(2 * self.project.gateway.drain_s)
        return found

    def settled(self) -> None:
        """Wait until the gateway has seen who gets the requests now."""
        time.sleep(2 * self.project.gateway.routes_s + 1)

    def ask(self, url: str, questions: Sequence[str], count: int) -> dict[str, tuple[int, int]]:
        """So many requests, each of a person of its own who reacts; right answers and all, by version."""
        asked = random.Random(f"{self._asked}").choices(questions, k=count)
        first, self._asked = self._asked, self._asked + count
        found = asyncio.run(self._all(url, [(f"person-{first + i}", q) for i, q in enumerate(asked)]))
        right = Counter(version for version, ok in found if ok)
        by = {version: (right[version], n) for version, n in sorted(Counter(v for v, _ in found).items())}
        self.log(f"asked {count}: {by}")
        time.sleep(2 * self.project.gateway.drain_s)
        return by

    async def _all(self, url: str, asked: Sequence[tuple[str, str]]) -> list[tuple[str, bool]]:
        import openai

        slots = asyncio.Semaphore(AT_ONCE)
        async with (
            httpx.AsyncClient(base_url=url, trust_env=False, timeout=120) as http,
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=http) as client,
        ):

            async def one(user: str, question: str) -> tuple[str, bool]:
                async with slots:
                    return await self._one(client, http, user, question)

            return list(await asyncio.gather(*(one(*each) for each in asked)))

    async def _one(self, client: Any, http: httpx.AsyncClient, user: str, question: str) -> tuple[str, bool]:
        """Ask, read, and react: a thumb always; of the wrong answers every other one is mended."""
        raw = await client.chat.completions.with_raw_response.create(
            model=self.project.name,
            messages=[{"role": "user", "content": question}],
            user=user,
            temperature=0,
            max_tokens=self.project.model.max_tokens,
        )
        answer = raw.parse().choices[0].message.content or ""
        ok = self.world.right(question, answer)
        said = {"request_id": raw.headers["x-request-id"], "thumb": "up" if ok else "down"}
        if not ok and random.Random(user).random() < 0.5:
            said["edit"] = self.world.better(question)
        reply = await http.post("/v1/feedback", json={**said, "user": user})
        assert reply.status_code == 200, reply.text
        return raw.headers["x-taolake-version"], ok

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """`taolake serve` while inside; its URL."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        log = Path(self.project.work) / "serve.log"
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "NO_PROXY": "*", "OMP_WAIT_POLICY": "PASSIVE"}
        with log.open("ab") as out:
            command = [sys.executable, "-m", "taolake", "serve", str(self.world.file), "--port", str(port)]
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        url = f"http://127.0.0.1:{port}"
        try:
            _wait(process, url, log)
            self.log("serving")
            yield url
            process.send_signal(signal.SIGINT)
            assert process.wait(120) == 0, log.read_text()[-3000:]
        finally:
            if process.poll() is None:
                process.kill()


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", trust_env=False, timeout=5).status_code == 200:
                return
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


def write(file: Path, project: dict[str, Any]) -> Path:
    """A project file; what every world needs of the flywheel is added."""
    flywheel = {
        "serve": {"canary": 50, "promote": "signals"},
        "canary": {"margin": 0.1, "signals": ["answered", "feedback"]},
        "gateway": {"versions": [{"name": "live"}, {"name": "canary"}], "drain_s": 1, "routes_s": 1},
        "flywheel": {"base": "live"},
    }
    file.write_text(yaml.safe_dump({**flywheel, **project}))
    return file


def account(outcome: dict[str, Any]) -> tuple[int, int]:
    """Rows that went in, and rows that came out somewhere."""
    return outcome["in"], outcome["kept"] + outcome["folded"] + outcome["quarantined"]

"""Versions change while the gateway answers: loaded, promoted, rolled back; servers are children, with real HTTP."""

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from taolake.beside import every
from taolake.gateway import servers
from taolake.gateway.fleet import Fleet, Told
from taolake.gateway.servers import Model, Plan, Servers
from taolake.gateway.split import Upstream
from tests import upstream
from tests.gateways import Running, gateway
from tests.serving.test_gateway import HEADERS, body, lines, post

PACE_S, WORDS = 0.02, 10
USERS = [f"user-{i}" for i in range(16)]
ASKING = USERS[:4]


def plan(folder: Path, **versions: int) -> Plan:
    """Aliases of a registered model `m`."""
    models = tuple(Model(f"m/{number}", f"weights {number}", "tokenizer") for number in versions.values())
    served = tuple(Upstream(name, f"m/{n}", f"m/{n}", f"m/{n}", 1.0) for name, n in versions.items())
    return Plan("shop", str(folder / "lake"), folder, models, served)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins take the place of vLLM; version 9 cannot be loaded. The names of what was started."""
    names: list[str] = []

    def command(model: Model, port: int, arguments: Any) -> list[str]:
        names.append(model.name)
        if model.name == "m/9":
            return [sys.executable, "-c", "raise SystemExit('no such weights')"]
        return [sys.executable, upstream.__file__, *map(str, (port, PACE_S, WORDS))]

    monkeypatch.setattr(servers, "_command", command)
    return names


def dealt(running: Running) -> dict[str, str]:
    """Which version answers whom."""

    async def one(client: httpx.AsyncClient, user: str) -> str:
        reply = await client.post(f"{running.url}/v1/chat/completions", headers=HEADERS, json=body(user=user))
        assert reply.status_code == 200, reply.text
        said: str = reply.headers["x-taolake-version"]
        assert reply.json()["choices"][0]["message"]["content"].startswith(said), "it is what the server calls itself"
        return said

    async def all_() -> list[str]:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            return await asyncio.gather(*(one(client, user) for user in USERS))

    return dict(zip(USERS, asyncio.run(all_()), strict=True))


@contextlib.contextmanager
def asking(running: Running) -> Iterator[list[str]]:
    """People who ask all the time; what went wrong with an answer."""
    wrong, done, stop = list[str](), list[str](), threading.Event()

    def ask(user: str) -> None:
        with httpx.Client(trust_env=False, timeout=30, headers=HEADERS) as client:
            while not stop.is_set():
                try:
                    reply = client.post(f"{running.url}/v1/chat/completions", json=body(user=user, stream=True))
                    done.append(reply.text)
                    if reply.status_code != 200 or not reply.text.rstrip().endswith("[DONE]"):
                        wrong.append(f"{reply.status_code} {reply.text[-200:]}")
                except httpx.HTTPError as error:
                    wrong.append(repr(error))

    threads = [threading.Thread(target=ask, args=(user,), daemon=True) for user in ASKING]
    for thread in threads:
        thread.start()
    try:
        yield wrong
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert len(done) > 8


def stand_in(url: str) -> int:
    """The process behind a URL."""
    mine = [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    port = url.rpartition(":")[2].removesuffix("/v1")
    found: int
    (found,) = (child.pid for child in mine if child.cmdline()[1:3] == [upstream.__file__, port])
    return found


@contextlib.contextmanager
def held_up(url: str) -> Iterator[None]:
    """A server that is asked and says nothing, while inside."""
    process = psutil.Process(stand_in(url))
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_versions_come_and_go_while_people_ask(tmp_path: Path, started: list[str]) -> None:
    said: list[str] = []
    with (
        contextlib.closing(Servers(tmp_path, (), said.append)) as running_servers,
        gateway(tmp_path) as running,
    ):
        fleet = Fleet(plan(tmp_path, live=1), running_servers, said.append)

        def take(shares: Mapping[str, float], **versions: int) -> dict[str, str]:
            fleet.take(plan(tmp_path, **versions), shares, running.app)
            return dealt(running)

        def up() -> set[str]:
            return {model.name for model, _ in running_servers.unused(set())}

        assert set(take({"m/1": 100.0}, live=1).values()) == {"m/1"}
        with asking(running) as wrong:
            split = take({"m/1": 50.0, "m/2": 50.0}, live=1, canary=2)
            assert set(split.values()) == {"m/1", "m/2"}
            assert dealt(running) == split, "a caller stays"
            # The steps of a promotion: the shares first, then the alias `canary` goes, then `live` moves.
            assert set(take({"m/2": 100.0}, live=1).values()) == {"m/2"}
            assert up() == {"m/1", "m/2"} and started == ["m/1", "m/2"]
            assert set(take({"m/2": 100.0}, live=2).values()) == {"m/2"}
            assert up() == {"m/2"}, "and it was not started again under its new name"
            again = take({"m/2": 50.0, "m/3": 50.0}, live=2, canary=3)
            assert {u for u, v in again.items() if v == "m/3"} == {u for u, v in split.items() if v == "m/2"}
            held = [user for user, version in again.items() if version == "m/3"]
            url = next(url for model, url in running_servers.unused(set()) if model.name == "m/3")
            with held_up(url), ThreadPoolExecutor(1) as thread:  # rolled back in the middle of an answer
                late = thread.submit(post, running, json=body(user=held[-1], stream=True))
                wait_until(lambda: running.app.busy(url) == 1 + len(set(held) & set(ASKING)))
                fleet.take(plan(tmp_path, live=2), {"m/2": 100.0}, running.app)
                assert up() == {"m/2", "m/3"}
                psutil.Process(stand_in(url)).resume()
                assert late.result().text.rstrip().endswith("[DONE]")
                assert late.result().headers["x-taolake-version"] == "m/3"
            wait_until(lambda: not running.app.busy(url))
            assert set(dealt(running).values()) == {"m/2"}
            assert take({"m/2": 100.0}, live=2) and up() == {"m/2"}
        assert wrong == []
    assert started == ["m/1", "m/2", "m/3"]
    rows = [line for line in lines(running.spool) if line["requester"] in USERS]
    assert {line["status"] for line in rows} == {200}
    assert {(line["entity"], line["share"]) for line in rows} == {
        ("m/1", None), ("m/1", 0.5), ("m/2", 0.5), ("m/2", None), ("m/3", 0.5),
    }  # fmt: skip
    assert "versions: live is m/2, share 50, canary is m/3, share 50" in said


def test_a_version_that_does_not_load_leaves_all_as_it_is(tmp_path: Path, started: list[str]) -> None:
    said: list[str] = []
    with contextlib.closing(Servers(tmp_path, (), said.append)) as running_servers, gateway(tmp_path) as running:
        fleet = Fleet(plan(tmp_path, live=1), running_servers, said.append)
        told: list[Told] = [(plan(tmp_path, live=1, canary=9), {"m/1": 90.0, "m/9": 10.0})]
        look = fleet.follow(lambda: told[-1], running.app)
        look()
        look()
        assert set(dealt(running).values()) == {"m/1"}
        assert started == ["m/1", "m/9"], "not again and again"
        assert sum("stay as they are" in line and "no such weights" in line for line in said) == 1
        told.append((plan(tmp_path, live=1), {"m/1": 100.0}))
        look()
        told.append((plan(tmp_path, live=1, canary=9), {"m/1": 90.0, "m/9": 10.0}))
        look()
        assert started == ["m/1", "m/9", "m/9"], "another release is another try"


def test_a_server_that_dies_is_started_again(tmp_path: Path, started: list[str]) -> None:
    said: list[str] = []
    with contextlib.closing(Servers(tmp_path, (), said.append)) as running_servers, gateway(tmp_path) as running:
        one = plan(tmp_path, live=1)
        look = Fleet(one, running_servers, said.append).follow(lambda: (one, {}), running.app)
        look()
        assert set(dealt(running).values()) == {"m/1"}
        psutil.Process(stand_in(running.app.versions[0].url)).kill()
        wait_until(lambda: look() or "m/1: its server ended by itself" in said)
        assert set(dealt(running).values()) == {"m/1"} and started == ["m/1", "m/1"]


def test_new_shares_are_taken_while_it_runs(tmp_path: Path) -> None:
    """A rollback as the registry tells it: the challenger gets nobody any more, and what is not running is ignored."""
    with gateway(tmp_path) as running:
        said, shares = list[str](), [{"m/1": 0.0, "m/2": 100.0}]
        served = Plan("shop", "", tmp_path, (), tuple(running.app.versions))
        fleet = Fleet(served, Servers(tmp_path, (), said.append), said.append)
        look = fleet.follow(lambda: (served, shares[-1]), running.app)

        def asked() -> set[str]:
            return {post(running, json=body(user=f"u{i}")).json()["model"] for i in range(12)}

        assert asked() == {"champion", "challenger"}
        look()
        with every(0.05, look):
            assert asked() == {"challenger"}
            shares.append({"m/1": 90.0, "m/9": 10.0})
            wait_until(lambda: len(said) == 2)
            assert asked() == {"champion"}
            shares.append({"m/9": 100.0})
            time.sleep(0.3)
            assert asked() == {"champion"}
    assert said == [
        "versions: champion is m/1, share 0, challenger is m/2, share 100",
        "versions: champion is m/1, share 90, challenger is m/2, share 0",
    ]
    assert {line["share"] for line in lines(running.spool)} == {0.75, 0.25, None}


def test_a_registry_that_cannot_be_reached_changes_nothing(tmp_path: Path) -> None:
    def lost() -> Told:
        raise RuntimeError("no registry")

    said: list[str] = []
    with gateway(tmp_path) as running:
        before = running.app.versions
        fleet = Fleet(Plan("shop", "", tmp_path, (), before), Servers(tmp_path, (), said.append), said.append)
        look = fleet.follow(lost, running.app)
        look()
        look()
        assert running.app.versions == before
    assert said == ["versions stay as they are: RuntimeError: no registry"]


def test_nobody_waits_for_a_server_once_the_gateway_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(servers, "_command", lambda model, port, arguments: sleeps)
    with contextlib.closing(Servers(tmp_path, (), lambda line: None)) as made:
        threading.Timer(0.5, made.leave).start()
        with pytest.raises(RuntimeError, match="the gateway ends"):
            made.url(Model("m/1", "weights", "tokenizer"))

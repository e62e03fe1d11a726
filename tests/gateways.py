"""A gateway in a thread of the test, before a stand-in upstream; real HTTP between all of them."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taolake.config import Gateway
from taolake.gateway import server
from taolake.gateway.app import App
from taolake.gateway.limits import Keys
from taolake.gateway.split import Upstream as Version
from taolake.gateway.spool import Spool
from tests.upstream import Upstream

KEY = "a-key-for-the-tests"


@dataclass
class Running:
    """A gateway that answers; `upstream` knows what reached it."""

    url: str
    port: int
    upstream: Upstream
    spool: Path
    app: App


@contextlib.contextmanager
def gateway(
    folder: Path, pace_s: float = 0.0, words: int = 5, keyed: bool = True, **settings: Any
) -> Iterator[Running]:
    """Two versions, champion and challenger, of one upstream; ended, and the spool sealed, at the end."""
    shares = settings.pop("shares", (3.0, 1.0))
    named = Gateway.model_validate({"port": 0, "drain_s": 60, **settings})
    spool = Spool(folder / "spool", named.drain_s)
    ready, stop = threading.Event(), threading.Event()
    found: dict[str, Any] = {}

    async def live() -> None:
        upstream = Upstream(pace_s, words)
        behind = await upstream.start()
        base = f"http://127.0.0.1:{behind.sockets[0].getsockname()[1]}/v1"
        versions = [
            Version(name, base, name, f"m/{number}", share)
            for number, (name, share) in enumerate(zip(("champion", "challenger"), shares, strict=True), 1)
        ]
        app = App(named, "shop", versions, Keys({"team": KEY} if keyed else {}), spool)
        listening = socket.create_server(("127.0.0.1", 0))
        found["port"], found["upstream"] = listening.getsockname()[1], upstream
        made = server.http_server(app, named)
        found["app"] = app
        running = asyncio.ensure_future(made.serve(sockets=[listening]))
        ready.set()
        while not stop.is_set() and not running.done():
            await asyncio.sleep(0.02)
        made.should_exit = True
        await running
        behind.close()

    thread = threading.Thread(target=lambda: asyncio.run(live()), daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        where = f"http://127.0.0.1:{found['port']}"
        yield Running(where, found["port"], found["upstream"], folder / "spool", found["app"])
    finally:
        stop.set()
        thread.join(20)
        spool.close()
        assert not thread.is_alive()

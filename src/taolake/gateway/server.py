"""All of `taolake serve` but the choice of models: vLLM's servers, the gateway before them, the drain behind.

Everything it starts ends with it: on Ctrl-C in order, on a kill by watchers of their own (`child`, `drain`).
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING

from taolake.beside import every
from taolake.config import Gateway
from taolake.gateway import wire
from taolake.gateway.app import App
from taolake.gateway.fleet import Fleet, Told
from taolake.gateway.limits import Keys, read_keys
from taolake.gateway.servers import Plan, Say, Servers
from taolake.gateway.spool import Spool

if TYPE_CHECKING:
    import uvicorn

_BACKLOG = 2048
_LOOK_S = 2.0  # between two looks whether the drain lives


def keys_for(settings: Gateway) -> Keys:
    """Keys from the environment.

    Raises:
        ValueError: there are none and others than this machine can reach the gateway, or one is no good.
    """
    keys = Keys(read_keys(os.environ.get(settings.keys_env, "")))
    if not keys and not _only_here(settings.host):
        raise ValueError(
            f"gateway.host is {settings.host}, which others reach, and {settings.keys_env} holds no key: set it, or "
            "listen on 127.0.0.1"
        )
    return keys


def serve(plan: Plan, settings: Gateway, say: Say, told: Callable[[], Told] | None = None) -> None:
    """Start everything, answer until Ctrl-C or SIGTERM, end everything.

    Args:
        plan: what is served at first.
        settings: section `gateway` of the project file.
        say: is told where it listens, and what changes.
        told: what shall be served now, asked again every few seconds; None: the first plan, until the end.

    Raises:
        RuntimeError: a model does not start, or the spool has another writer.
        ValueError: as `keys_for`; or the port is taken.
    """
    keys = keys_for(settings)
    os.environ.pop(settings.keys_env, None)  # the children have no use for them
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: uvicorn passes both on when it has stopped
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        listening = stack.enter_context(contextlib.closing(_listen(settings)))
        spool = Spool(plan.work / "spool", settings.drain_s)
        stack.enter_context(draining(plan, settings.drain_s))
        stack.callback(spool.close)  # before the drain's last look
        servers = stack.enter_context(contextlib.closing(Servers(plan.work, plan.arguments, say)))
        fleet = Fleet(plan, servers, say)
        host, port = listening.getsockname()[:2]
        say(f"listening on http://{host}:{port}  (page at /, OpenAI's API at /v1; Ctrl-C ends it)")
        if not keys:
            say(f"no key is asked for: only this machine can reach it; {settings.keys_env} would hold keys")
        # A full collection looks at every object there is and would hold up every stream for as long.
        gc.freeze()
        gc.set_threshold(50_000, 50, 50)
        app = App(settings, plan.project, fleet.versions, keys, spool)
        look = fleet.follow(told or (lambda: (plan, {})), app)
        look()  # the first caller is dealt by the registry's shares
        stack.enter_context(every(settings.routes_s, look))
        stack.callback(servers.leave)  # or the end would wait for a model that is being loaded
        made = http_server(app, settings)
        with asyncio.Runner(loop_factory=made.config.get_loop_factory()) as runner:
            runner.run(made.serve(sockets=[listening]))
    say("stopped")


def http_server(app: App, settings: Gateway) -> "uvicorn.Server":
    """What answers on a socket until a signal comes; what is being answered then gets a moment to end."""
    import uvicorn

    config = uvicorn.Config(
        app,
        http=wire.protocol(settings.header_s),
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="critical",
        timeout_graceful_shutdown=5,
        backlog=_BACKLOG,
        server_header=False,
    )
    return uvicorn.Server(config)


def _listen(settings: Gateway) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((settings.host, settings.port))
    except OSError as error:
        made.close()
        raise ValueError(
            f"gateway.port {settings.port} on {settings.host} cannot be had ({error.strerror}); take another, or 0"
        ) from None
    return made


@contextlib.contextmanager
def draining(plan: Plan, every_s: float) -> Iterator[None]:
    """Have the spool carried into the tables, by a new process where one dies; at the end, to the last row."""
    drains = [_drain(plan, every_s)]

    def look() -> None:
        if drains[-1].poll() is not None:
            drains.append(_drain(plan, every_s))

    try:
        with every(_LOOK_S, look):
            yield
    finally:
        drains[-1].communicate()  # closes its standard input, which tells it to come to its end


def _drain(plan: Plan, every_s: float) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "taolake.gateway.drain", str(plan.work / "spool"), plan.location, str(every_s)]
    with (plan.work / "drain.log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log, start_new_session=True)


def _only_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

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
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from taolake.config import Gateway
from taolake.gateway import wire
from taolake.gateway.app import App
from taolake.gateway.limits import Keys, read_keys
from taolake.gateway.split import Upstream
from taolake.gateway.spool import Spool

if TYPE_CHECKING:
    import uvicorn

START_S = 900.0  # until a large model has been loaded
_BACKLOG = 2048
_LOOK_S = 2.0  # between two looks whether the drain lives
Say = Callable[[str], None]
Routes = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Model:
    """A server to start: weights, their tokenizer, and the adapters it serves beside them, by name."""

    name: str
    weights: str
    tokenizer: str
    adapters: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Plan:
    """What is served.

    Attributes:
        project: its name.
        location: folder of the lake.
        work: folder for the spool and the servers' logs.
        models: servers to start.
        versions: the versions; one whose url is a model's name is answered by that model's server.
        arguments: of every server to start.
    """

    project: str
    location: str
    work: Path
    models: tuple[Model, ...]
    versions: tuple[Upstream, ...]
    arguments: tuple[str, ...] = ()


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


def serve(plan: Plan, settings: Gateway, say: Say, routes: Routes | None = None) -> None:
    """Start everything, answer until Ctrl-C or SIGTERM, end everything.

    Args:
        plan: what is served.
        settings: section `gateway` of the project file.
        say: is told where it listens, and what changes.
        routes: shares by the log's names for the versions, asked again every few seconds; empty: the project file's.

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
        urls = {model.name: stack.enter_context(_running(plan, model, say)) for model in plan.models}
        upstreams = [
            Upstream(v.name, urls.get(v.url, v.url).rstrip("/"), v.model, v.entity, v.share) for v in plan.versions
        ]
        host, port = listening.getsockname()[:2]
        say(f"listening on http://{host}:{port}  (page at /, OpenAI's API at /v1; Ctrl-C ends it)")
        if not keys:
            say(f"no key is asked for: only this machine can reach it; {settings.keys_env} would hold keys")
        # A full collection looks at every object there is and would hold up every stream for as long.
        gc.freeze()
        gc.set_threshold(50_000, 50, 50)
        app = App(settings, plan.project, upstreams, keys, spool)
        if routes is not None:
            stack.enter_context(following(routes, settings.routes_s, app.route, say))
        made = http_server(app, settings)
        with asyncio.Runner(loop_factory=made.config.get_loop_factory()) as runner:
            runner.run(made.serve(sockets=[listening]))
    say("stopped")


@contextlib.contextmanager
def following(routes: Routes, every_s: float, route: Callable[[Mapping[str, float]], None], say: Say) -> Iterator[None]:
    """Hand shares on as they change, the first before this returns."""
    ended = threading.Event()

    def look(last: Mapping[str, float]) -> Mapping[str, float]:
        try:
            found = routes()
        except Exception as error:  # boundary: a registry that cannot be reached changes nothing
            say(f"shares stay as they are: {type(error).__name__}: {error}")
            return last
        if found and found != last:
            route(found)
            say("shares: " + ", ".join(f"{name} {share:g}" for name, share in sorted(found.items())))
        return found

    def watch(last: Mapping[str, float]) -> None:
        while not ended.wait(every_s):
            last = look(last)

    watcher = threading.Thread(target=watch, args=(look({}),), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


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
    ended, drains = threading.Event(), [_drain(plan, every_s)]

    def watch() -> None:
        while not ended.wait(_LOOK_S):
            if drains[-1].poll() is not None:
                drains.append(_drain(plan, every_s))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        drains[-1].communicate()  # closes its standard input, which tells it to come to its end


def _drain(plan: Plan, every_s: float) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "taolake.gateway.drain", str(plan.work / "spool"), plan.location, str(every_s)]
    with (plan.work / "drain.log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log, start_new_session=True)


@contextlib.contextmanager
def _running(plan: Plan, model: Model, say: Say) -> Iterator[str]:
    """A vLLM server of a model; its base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = plan.work / f"vllm-{model.name}.log"
    command = [sys.executable, "-m", "taolake.gateway.child", *_command(plan, model, port)]
    say(f"{model.name}: starting vLLM, which tells of itself in {path}")
    with path.open("wb") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=_environment(), start_new_session=True
        )
        try:
            started = time.monotonic()
            _wait(child, port, model.name, path)
            say(f"{model.name}: up after {time.monotonic() - started:.0f} s")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait()


def _command(plan: Plan, model: Model, port: int) -> list[str]:
    adapters = [f"{name}={folder}" for name, folder in model.adapters]
    lora = ["--enable-lora", "--lora-modules", *adapters] if adapters else []
    return [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model.weights,
        "--tokenizer", model.tokenizer, "--served-model-name", model.name, "--host", "127.0.0.1", "--port", str(port),
        *lora, *plan.arguments,
    ]  # fmt: skip


def _environment() -> dict[str, str]:
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return {**quiet, **os.environ}


def _wait(child: "subprocess.Popen[bytes]", port: int, name: str, log: Path) -> None:
    """Return when the server answers.

    Raises:
        RuntimeError: it ended, or was too slow.
    """
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_S
    while child.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), straight.open(f"http://127.0.0.1:{port}/health", timeout=5):
            return
        time.sleep(0.5)
    why = "ended" if child.poll() is not None else f"was not up after {START_S:.0f} s"
    raise RuntimeError(f"vLLM for {name!r} {why}:\n{log.read_text(errors='replace')[-1500:]}")


def _only_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

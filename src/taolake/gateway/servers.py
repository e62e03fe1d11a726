"""vLLM's servers behind the gateway: one a model, started when it is first wanted, ended alone or with all others.

Each is a child that ends when this process does, however that ends (`child`).
"""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from taolake.gateway.split import Upstream

START_S = 900.0  # until a large model has been loaded
Say = Callable[[str], None]


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


@dataclass(frozen=True)
class _Running:
    process: "subprocess.Popen[bytes]"
    url: str


class Servers:
    """The servers that run.

    Args:
        work: folder for their logs.
        arguments: of every server.
        say: is told of every start and end.
    """

    def __init__(self, work: Path, arguments: Sequence[str], say: Say) -> None:
        self._work, self._arguments, self._say = work, tuple(arguments), say
        self._running: dict[Model, _Running] = {}
        self._leaving = threading.Event()

    def url(self, model: Model) -> str:
        """Base URL of a model's server, which is started where there is none, or where it ended by itself.

        Raises:
            RuntimeError: it does not start, or all are about to end.
        """
        known = self._running.get(model)
        if known is not None and known.process.poll() is not None:
            _end(self._running.pop(model).process)
            self._say(f"{model.name}: its server ended by itself")
        if model not in self._running:
            self._running[model] = self._start(model)
        return self._running[model].url

    def unused(self, urls: set[str]) -> list[tuple[Model, str]]:
        """Servers, with their URLs, that are none of these."""
        return [(model, running.url) for model, running in self._running.items() if running.url not in urls]

    def end(self, model: Model) -> None:
        """End a server."""
        _end(self._running.pop(model).process)
        self._say(f"{model.name}: its server has ended")

    def leave(self) -> None:
        """Wait for no start any more; from any thread."""
        self._leaving.set()

    def close(self) -> None:
        """End them all."""
        for running in self._running.values():
            _end(running.process)
        self._running.clear()

    def _start(self, model: Model) -> _Running:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        path = self._work / f"vllm-{model.name.replace('/', '-')}.log"
        command = [sys.executable, "-m", "taolake.gateway.child", *_command(model, port, self._arguments)]
        self._say(f"{model.name}: starting vLLM, which tells of itself in {path}")
        started = time.monotonic()
        with path.open("wb") as log:
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
        try:
            self._wait(child, port, model.name, path)
        except BaseException:  # Ctrl-C too: nobody else knows of the child yet
            _end(child)
            raise
        self._say(f"{model.name}: up after {time.monotonic() - started:.0f} s")
        return _Running(child, f"http://127.0.0.1:{port}/v1")

    def _wait(self, child: "subprocess.Popen[bytes]", port: int, name: str, log: Path) -> None:
        """Return when the server answers.

        Raises:
            RuntimeError: it ended, was too slow, or nobody waits any more.
        """
        straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + START_S
        while child.poll() is None and time.monotonic() < deadline and not self._leaving.is_set():
            with contextlib.suppress(OSError), straight.open(f"http://127.0.0.1:{port}/health", timeout=5):
                return
            self._leaving.wait(0.2)
        if self._leaving.is_set():
            raise RuntimeError(f"vLLM for {name!r} is not waited for: the gateway ends")
        why = "ended" if child.poll() is not None else f"was not up after {START_S:.0f} s"
        raise RuntimeError(f"vLLM for {name!r} {why}:\n{log.read_text(errors='replace')[-1500:]}")


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.send_signal(signal.SIGTERM)
    child.communicate()  # closes its standard input too


def _command(model: Model, port: int, arguments: Sequence[str]) -> list[str]:
    adapters = [f"{name}={folder}" for name, folder in model.adapters]
    lora = ["--enable-lora", "--lora-modules", *adapters] if adapters else []
    return [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model.weights,
        "--tokenizer", model.tokenizer, "--served-model-name", model.name, "--host", "127.0.0.1", "--port", str(port),
        *lora, *arguments,
    ]  # fmt: skip

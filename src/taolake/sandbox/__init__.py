"""Child processes for what a model wrote: one that stays and answers, over pipes, until it passes a limit or dies.

`Child` is the parent's side: it starts a module of this package in an isolated interpreter (no environment, no user
site, cwd `/`), sends JSON with a length in front, waits no longer than asked, and kills. The other modules run in the
child and import the standard library alone, so that a killed one is back within a tenth of a second. Nothing is
pickled. What a child may do is limited by the child itself (`limits`) before it reads its first request.

Not a virtual machine: a child that finds a hole in SQLite, DuckDB or the kernel has the rights of this user.
"""

import json
import os
import select
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_START_S = 60.0  # a cold disk can take long to give DuckDB's library
_MAX_REPLY_BYTES = 128 << 20
_HEADER = struct.Struct(">I")
_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from taolake.sandbox.{module} import main; main(sys.argv[1])"


class Child:
    """A child that serves requests one at a time, until it is closed or one request is too much for it.

    Its life is the starting thread's: Linux kills it when that thread ends. Close it by `close`, or by forgetting it.
    """

    def __init__(self, module: str, options: dict[str, Any]) -> None:
        """Start `taolake.sandbox.<module>`; its first reply is kept as `hello`.

        Raises:
            TimeoutError, ChildProcessError: it did not come up.
        """
        self._process = subprocess.Popen(
            command(module, options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
            cwd="/",
            bufsize=0,
        )
        assert self._process.stdin and self._process.stdout
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._ready = select.poll()
        self._ready.register(self._from, select.POLLIN)
        self._read = bytearray()
        self.close = weakref.finalize(self, _stop, self._process, os.getpid())
        self.hello = self._reply(time.monotonic() + _START_S)

    @property
    def returncode(self) -> int | None:
        """How it ended: an exit status, minus the number of a signal, or None while it lives."""
        return self._process.poll()

    def ask(self, request: dict[str, Any], replies: int, timeout_s: float) -> Iterator[Any]:
        """Send one request and yield the replies to it as they come, each at most `timeout_s` after the one before.

        Raises:
            TimeoutError: no reply in time; the child was killed.
            ChildProcessError: the child ended instead of replying; `returncode` says how.
        """
        body = json.dumps(request).encode()
        left = memoryview(_HEADER.pack(len(body)) + body)
        try:
            while left:
                left = left[os.write(self._to, left) :]
        except BrokenPipeError:
            self._ended()
        for _ in range(replies):
            yield self._reply(time.monotonic() + timeout_s)

    def _reply(self, deadline: float) -> Any:
        size = _HEADER.unpack(self._take(_HEADER.size, deadline))[0]
        if size > _MAX_REPLY_BYTES:
            self.close()
            raise ChildProcessError(f"got a reply of {size} bytes, wanted at most {_MAX_REPLY_BYTES}")
        return json.loads(self._take(size, deadline))

    def _take(self, size: int, deadline: float) -> bytes:
        while len(self._read) < size:
            if not self._ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self.close()
                raise TimeoutError("the child process did not answer in time and was killed")
            chunk = os.read(self._from, 1 << 16)
            if not chunk:
                self._ended()
            self._read += chunk
        taken = bytes(self._read[:size])
        del self._read[:size]
        return taken

    def _ended(self) -> None:
        try:
            self._process.wait(1.0)  # its pipes close a moment before it can be waited for
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.close()
        raise ChildProcessError(f"the child process ended with status {self._process.returncode}")


def command(module: str, options: dict[str, Any]) -> list[str]:
    """How a module of this package is started: isolated, with the import paths of this process and nothing else."""
    paths = [str(Path(path).resolve()) for path in sys.path if path and Path(path).exists()]
    given = json.dumps({**options, "parent": os.getpid()})
    return [sys.executable, "-I", "-c", _BOOT.format(module=module), given, *paths]


def environment() -> dict[str, str]:
    """What a child may see of this process's environment: where the interpreter's own libraries are."""
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}


def _stop(process: "subprocess.Popen[bytes]", owner: int) -> None:
    """End a child that is ours; a fork of the owner has a copy of the object and must not touch its sibling."""
    if os.getpid() != owner:
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()

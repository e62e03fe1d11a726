"""Rows on their way to a table: in a file and synced before the answer ends, so that no kill can lose them.

Many answers end in the time of one sync, so a thread of its own writes and syncs what has come up meanwhile (group
commit). A segment that holds rows is sealed after a while by its new name; `drain` takes it from there. A line that a
kill has torn was never acknowledged. Not here: tables.
"""

import asyncio
import contextlib
import json
import os
import queue
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from taolake.engines.reaper import lock

OPEN, SEALED = ".open", ".sealed"
_LARGEST = 32 << 20  # bytes of a segment: what the drain holds in memory at once

_Waiting = tuple[bytes, asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class Spool:
    """One folder of segments, with one writer.

    Args:
        folder: made if it is not there; segments that a killed writer left behind are sealed.
        seal_s: age at which a segment that holds rows is sealed.

    Raises:
        RuntimeError: another process writes here.
    """

    def __init__(self, folder: Path, seal_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._seal_s = folder, seal_s
        self._lock = lock(folder / "writer.lock")
        if self._lock is None:
            raise RuntimeError(f"{folder} is written by another `taolake serve`; stop it, or take another work folder")
        for left in folder.glob(f"*{OPEN}"):
            left.rename(left.with_suffix(SEALED))
        self._name, self._number = uuid.uuid4().hex[:12], 0
        self._file: int | None = None
        self._since, self._size = 0.0, 0
        self._queue: queue.Queue[_Waiting | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    async def add(self, row: dict[str, Any]) -> None:
        """Return when the row is on the disk.

        Raises:
            OSError: it could not be written.
        """
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._queue.put((line, loop, done))
        await asyncio.shield(done)  # who goes away takes nobody's row with them

    def close(self) -> None:
        """Write what is waiting, seal, and let another writer in."""
        if self._lock is None:
            return
        self._queue.put(None)
        self._thread.join()
        os.close(self._lock)
        self._lock = None

    def _run(self) -> None:
        more = True
        while more:
            batch = self._wait()
            more = None not in batch
            rows = [item for item in batch if item is not None]
            if rows:
                self._commit(rows)
            if self._file is not None and (not more or self._due()):
                self._seal()

    def _wait(self) -> list[_Waiting | None]:
        """What has come up; nothing where the open segment is due."""
        limit = None if self._file is None else max(0.01, self._since + self._seal_s - time.monotonic())
        batch: list[_Waiting | None] = []
        with contextlib.suppress(queue.Empty):
            batch.append(self._queue.get(timeout=limit))
            while True:
                batch.append(self._queue.get_nowait())
        return batch

    def _commit(self, rows: list[_Waiting]) -> None:
        error: OSError | None = None
        try:
            self._write(b"".join(line for line, _, _ in rows))
        except OSError as failed:  # a full disk: the callers are told, and the next batch begins a new segment
            error = failed
            with contextlib.suppress(OSError):
                self._seal()
        for _, loop, done in rows:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(_settle, done, error)

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._file = os.open(self._path(), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL, 0o600)
            self._since, self._size = time.monotonic(), 0
            _sync_folder(self._folder)
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        os.fdatasync(self._file)
        self._size += len(data)

    def _due(self) -> bool:
        return time.monotonic() - self._since >= self._seal_s or self._size >= _LARGEST

    def _seal(self) -> None:
        path = self._path()
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._number += 1
        path.rename(path.with_suffix(SEALED))

    def _path(self) -> Path:
        return self._folder / f"{self._name}-{self._number:08d}{OPEN}"


def _settle(done: "asyncio.Future[None]", error: OSError | None) -> None:
    if done.done():  # the answer was given up meanwhile
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

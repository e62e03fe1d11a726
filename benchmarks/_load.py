"""What loads a gateway: streams over raw sockets that note when each piece came, and requests broken on purpose.

Not a client library: one request a connection, and of an answer only what is measured. A stand-in upstream stamps every
word with the time it left, which on one machine is the same clock.
"""

import asyncio
import contextlib
import json
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_SENT = re.compile(rb'"sent": ([0-9.]+)')
_ID = re.compile(rb"x-request-id: ([0-9a-f]+)", re.I)


@dataclass
class Heard:
    """One stream: seconds to its first piece, from each word's leaving to its coming, and to its end."""

    first: float | None = None
    words: list[float] = field(default_factory=list)
    end: float | None = None
    request: str = ""
    status: int = 0


class _Stream(asyncio.Protocol):
    def __init__(self, raw: bytes, done: "asyncio.Future[None]", heard: Heard) -> None:
        self._raw, self._done, self._heard, self._rest = raw, done, heard, b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._began = time.monotonic()
        transport.write(self._raw)

    def data_received(self, data: bytes) -> None:
        now, heard = time.monotonic(), self._heard
        data = self._rest + data
        if not heard.status and b"\r\n\r\n" in data:
            heard.status = int(data[9:12])
            found = _ID.search(data)
            heard.request = found[1].decode() if found else ""
        if heard.first is None and b"data: " in data:
            heard.first = now - self._began
        heard.words += [now - float(sent) for sent in _SENT.findall(data)]
        cut = data.rfind(b"\n") + 1
        self._rest = data[cut:] if heard.status else data
        if b"data: [DONE]" in data:
            heard.end = now - self._began
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)


def request(port: int, key: str = "", question: str = "hi", model: str = "smoke", **more: Any) -> bytes:
    """A streamed chat request as bytes."""
    turns = [{"role": "user", "content": question}]
    body = json.dumps({"model": model, "messages": turns, "stream": True, **more}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    auth = f"authorization: Bearer {key}\r\n" if key else ""
    return f"{head}{auth}content-length: {len(body)}\r\n\r\n".encode() + body


async def stream(port: int, raw: bytes, after_s: float = 0.0) -> Heard:
    """Send one request and listen until it ends."""
    await asyncio.sleep(after_s)
    heard, loop = Heard(), asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    with contextlib.suppress(ConnectionError, OSError):
        await loop.create_connection(lambda: _Stream(raw, done, heard), "127.0.0.1", port)
        await done
    return heard


async def streams(port: int, raws: Sequence[bytes], over_s: float) -> list[Heard]:
    """So many streams at once, begun evenly over a while."""
    waits = [over_s * number / len(raws) for number in range(len(raws))]
    return list(await asyncio.gather(*(stream(port, raw, wait) for raw, wait in zip(raws, waits, strict=True))))


async def exchange(port: int, raw: bytes, limit_s: float, half_close: bool = False) -> int:
    """Send bytes and read a status; 0 where the connection just ended."""
    with contextlib.suppress(ConnectionError, OSError, TimeoutError, ValueError, IndexError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(raw)
            if half_close:
                writer.write_eof()
            async with asyncio.timeout(limit_s):
                return int((await reader.readline()).split(b" ")[1])
        finally:
            writer.close()
    return 0


def broken(rng: random.Random, raw: bytes) -> bytes:
    """A request with something wrong in it: bytes changed, cut, doubled or moved, or a body that is odd JSON."""
    match rng.randrange(6):
        case 0:
            data = bytearray(raw)
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            return bytes(data)
        case 1:
            return raw[: rng.randrange(len(raw))]
        case 2:
            at = rng.randrange(len(raw))
            return raw[:at] + raw[max(0, at - 40) :]
        case 3:
            return rng.randbytes(rng.randint(1, 400))
        case 4:
            lines = raw.split(b"\r\n")
            rng.shuffle(lines)
            return b"\r\n".join(lines)
        case _:
            return _odd(rng, raw)


def _odd(rng: random.Random, raw: bytes) -> bytes:
    odd: list[Any] = [
        None, [], 7, "x", {"messages": None}, {"messages": 7, "model": "smoke"}, {"model": {"a": []}},
        {"model": "smoke"}, {"messages": [[]], "stream": "yes"}, {"metadata": 3, "user": {}},
        {"user": "\x00" * 300, "stream": True},
        {"messages": [{"role": "user", "content": "\ud800"}]}, {"stream": True, "messages": []}, {"x": "y" * 5000},
    ]  # fmt: skip
    body = json.dumps(rng.choice(odd)).encode()
    head = raw.partition(b"\r\n\r\n")[0]
    head = re.sub(rb"content-length: \d+", b"content-length: %d" % len(body), head)
    if rng.random() < 0.3:
        head = head.replace(
            b"/v1/chat/completions", rng.choice([b"/v1/feedback", b"/v1/embeddings", b"/%ff", b"//", b"*"])
        )
    return head + b"\r\n\r\n" + body

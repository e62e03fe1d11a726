"""One request on its way to a version and its answer on the way back, watched for what the log wants to know.

Bytes are passed on as they come. What ends an answer (the end of a body, `[DONE]` of a stream) is held until the log's
line is on the disk: whoever has seen the end can rely on the line.
"""

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from taolake.gateway.asked import Asked, Refused, Send
from taolake.gateway.rows import PAYLOAD
from taolake.gateway.split import Choice
from taolake.gateway.wire import error_body

if TYPE_CHECKING:
    import aiohttp

_DONE, _BETWEEN = (b"data: [DONE]", b"data:[DONE]"), (b"\n\n", b"\r\n\r\n")
GONE, BROKEN = 499, 502  # what the log says where the caller, or the version, went away in the middle


@dataclass
class Answer:
    """What came back so far."""

    started: float = field(default_factory=time.monotonic)
    time_us: int = field(default_factory=lambda: time.time_ns() // 1000)
    status: int = BROKEN
    first: float | None = None
    streamed: bool = False
    logged: bool = False
    parts: list[bytes] = field(default_factory=list)
    size: int = 0

    def keep(self, part: bytes, limit: int) -> None:
        """Remember what came, as far as the log takes it."""
        if self.first is None:
            self.first = time.monotonic()
        self.size += len(part)
        if self.size <= limit:
            self.parts.append(part)
        else:
            self.parts.clear()


async def post(session: "aiohttp.ClientSession", path: str, asked: Asked, choice: Choice) -> "aiohttp.ClientResponse":
    """Send a request to its version.

    Raises:
        aiohttp.ClientError: it cannot be reached.
    """
    import aiohttp

    upstream = choice.upstream
    same = asked.body.get("model") == upstream.model
    body = asked.text if same else json.dumps({**asked.body, "model": upstream.model}, ensure_ascii=False)
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    data = body.encode("utf-8", "replace")
    try:
        return await session.post(upstream.url + path, data=data, headers=headers)
    except (aiohttp.ServerDisconnectedError, ConnectionResetError):  # it had closed a connection that we had kept
        return await session.post(upstream.url + path, data=data, headers=headers)


async def stream(reply: "aiohttp.ClientResponse", answer: Answer, send: Send, limit: int) -> bytes:
    """Pass events on as they come; returns what is held back of the end.

    Raises:
        aiohttp.ClientError: the version went away in the middle.
    """
    rest, done = b"", False
    async for part in reply.content.iter_any():
        answer.keep(part, limit)
        rest += part
        if done:
            continue
        cut = _ends_at(rest)
        done = cut is not None
        cut = _whole(rest) if cut is None else cut  # whole events: the end must not slip through in two halves
        if cut:
            await send({"type": "http.response.body", "body": rest[:cut], "more_body": True})
            rest = rest[cut:]
    return rest


def _whole(data: bytes) -> int:
    """Length of the whole events at the beginning."""
    return max(data.rfind(mark) + len(mark) if mark in data else 0 for mark in _BETWEEN)


def _ends_at(data: bytes) -> int | None:
    """Where the event that ends a stream begins, if it is there. In the text of a model no line can begin with it."""
    if b"[DONE]" not in data:
        return None
    if data.startswith(_DONE):
        return 0
    found = max(data.rfind(b"\n" + mark) for mark in _DONE)
    return None if found < 0 else found + 1


def log_line(request: str, asked: Asked, choice: Choice, answer: Answer, sampled: float, limit: int) -> dict[str, Any]:
    """The line of the spool that becomes a row of `payloads`."""
    text: str | None = asked.text
    errors = []
    if len(asked.text.encode("utf-8", "replace")) > limit:
        text = None
        errors.append("MAX_REQUEST_SIZE_EXCEEDED")
    if answer.size > limit:
        errors.append("MAX_RESPONSE_SIZE_EXCEEDED")
    ended = time.monotonic()
    return {
        "kind_of_row": PAYLOAD,
        "id": request,
        "client_id": asked.client_id,
        "time_us": answer.time_us,
        "status": answer.status,
        "sampled": sampled,
        "took_ms": round((ended - answer.started) * 1000),
        "first_ms": None if answer.first is None else round((answer.first - answer.started) * 1000),
        "request": text,
        "response": b"".join(answer.parts).decode("utf-8", "replace") if answer.parts else None,
        "streamed": answer.streamed,
        "errors": errors or None,
        "entity": choice.upstream.entity,
        "requester": asked.requester,
        "share": choice.share,
        "session": asked.session,
    }


async def refuse(send: Send, refused: Refused, request: str, keep: bool = True) -> None:
    """Answer with an error; `keep` where the connection can be used again, since the body was read."""
    body = error_body(refused.status, refused.message, refused.code)
    headers = [(b"retry-after", str(max(1, round(refused.after_s))).encode())] if refused.after_s else []
    headers += [] if keep else [(b"connection", b"close")]
    headers += [(b"www-authenticate", b"Bearer")] if refused.status == 401 else []
    await respond(send, refused.status, body, request, headers)


async def respond(
    send: Send,
    status: int,
    body: bytes,
    request: str,
    more: list[tuple[bytes, bytes]],
    kind: bytes = b"application/json",
) -> None:
    """Send a whole answer."""
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request.encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers + more})
    await send({"type": "http.response.body", "body": body, "more_body": False})

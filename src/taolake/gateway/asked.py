"""Reading a request: whole within its limits, and what of it the gateway itself must know. Errors are `Refused`."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_MAX_NAME = 256  # characters of an id or a name that callers choose


class Refused(Exception):
    """A request that goes no further: status, message, and a code where OpenAI has one."""

    def __init__(self, status: int, message: str, code: str | None = None, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.after_s = status, message, code, after_s


class Gone(Exception):
    """The caller went away."""


class Inlet:
    """What the caller sends, and whether all of it was read: only then can the connection be used again."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self.ended = receive, False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def discard(self, limit: int, seconds: float) -> None:
        """Let the caller finish sending, within limits: one that is cut off in the middle never reads the refusal."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.ended and limit > 0:
                    limit -= len((await self()).get("body", b""))


@dataclass(frozen=True)
class Asked:
    """What a request says, beside its body.

    Attributes:
        text: the body as it came.
        body: the same, read.
        requester: who asked: the body's `user`, a header, or the key's owner.
        caller: what sticks to a version: the user, else the conversation; None where neither is named.
    """

    text: str
    body: dict[str, Any]
    requester: str | None
    session: str | None
    client_id: str | None
    caller: str | None


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit: int, seconds: float) -> bytes:
    """The whole body.

    Raises:
        Refused: it is too large or too slow, or no JSON by its header.
        Gone: the caller went away.
    """
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":  # what a page of another origin cannot send without being asked for leave
        raise Refused(415, "send the body as `Content-Type: application/json`")
    said = headers.get(b"content-length", b"0")
    if said.isdigit() and int(said) > limit:
        raise _too_large(limit)
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                part = message.get("body", b"")
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise Refused(408, f"the body did not come within {seconds:g} s", "request_timeout") from None


def read(raw: bytes, headers: Mapping[bytes, bytes], owner: str | None) -> Asked:
    """Understand a body.

    Raises:
        Refused: it is no JSON object.
    """
    try:
        text = raw.decode("utf-8")
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON in UTF-8") from None
    if not isinstance(body, dict):
        raise Refused(400, f"the body is a JSON {type(body).__name__}, wanted an object")
    given = body.get("metadata")
    data = given if isinstance(given, dict) else {}
    user = _name(body.get("user")) or _header(headers, b"x-user-id")
    session = _name(data.get("session")) or _header(headers, b"x-session-id")
    client = _name(body.get("client_request_id")) or _header(headers, b"x-client-request-id")
    return Asked(text, body, user or owner, session, client, user or session)


def _name(value: Any) -> str | None:
    return value[:_MAX_NAME] if isinstance(value, str) and value else None


def _header(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    return _name(headers.get(name, b"").decode("latin-1"))


def _too_large(limit: int) -> Refused:
    return Refused(413, f"the body is larger than {limit} bytes", "request_too_large")

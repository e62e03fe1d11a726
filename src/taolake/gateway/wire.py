"""What the HTTP server under the gateway must do beyond uvicorn: give up on who does not finish the headers.

Uvicorn waits for ever for the first byte and for the end of the headers, and takes headers of any size. Errors below
the application have the shape of OpenAI's as well.
"""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 64 << 10
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_PHRASES = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


def error_body(status: int, message: str, code: str | None = None, param: str | None = None) -> bytes:
    """An error as OpenAI's API has it."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


def protocol(header_s: float) -> type[HttpToolsProtocol]:
    """The protocol with a time limit on headers."""

    class Limited(_Limited):
        limit_s = header_s

    return Limited


class _Limited(HttpToolsProtocol):  # type: ignore[misc]
    """Counts what comes before the headers are whole, and how long that takes."""

    limit_s = 10.0
    _timer: asyncio.TimerHandle | None = None
    _before = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._arm()  # another request on a connection that was kept; empty lines before it count as well
        self._before += len(data)
        super().data_received(data)
        if self._timer is not None and self._before > MAX_HEADER_BYTES:
            self._refuse(431, f"headers are over {MAX_HEADER_BYTES} bytes")

    def on_headers_complete(self) -> None:
        self._disarm()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is not an HTTP request")

    def _arm(self) -> None:
        self._before = 0
        self._timer = self.loop.call_later(self.limit_s, self._late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._refuse(408, f"the headers did not come within {self.limit_s:g} s")

    def _refuse(self, status: int, message: str) -> None:
        self._disarm()
        if self.transport.is_closing():
            return
        body = error_body(status, message)
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, _PHRASES[status], len(body)) + body)
        self.transport.close()

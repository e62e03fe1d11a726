"""A stand-in for vLLM's server over real HTTP: streams words at a fixed pace. For tests and `benchmarks/gateway.py`.

    python tests/upstream.py <port> <seconds between words> <words>

The question says what it does: `error` is refused, `break` ends in the middle, `hang` never begins, `torn` sends the
stream in odd pieces, anything else is answered by `<model> word0 word1 ...`. Every word carries the time it left.
"""

import asyncio
import contextlib
import json
import sys
import threading
import time
from typing import Any

_HEAD = b"HTTP/1.1 %d OK\r\ncontent-type: %s\r\n"


class Upstream:
    """Answers on a port; remembers what it was asked."""

    def __init__(self, pace_s: float = 0.0, words: int = 5) -> None:
        self.pace_s, self.words = pace_s, words
        self.asked: list[dict[str, Any]] = []
        self.may_go_on = threading.Event()  # cleared: a stream stops behind its second word
        self.may_go_on.set()

    async def start(self, port: int = 0) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", port, backlog=2048)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = next((int(h[15:]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")), 0)
                body = json.loads(await reader.readexactly(size) or b"{}")
                if not await self._answer(body, writer):
                    break
        writer.close()

    async def _answer(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        self.asked.append(body)
        del self.asked[:-1000]
        question = str((body.get("messages") or [{}])[-1].get("content"))
        words = [str(body.get("model")), *(f"word{i}" for i in range(self.words))]
        if question == "hang":
            await asyncio.sleep(60)
        if not body:  # somebody asks whether it is up
            _send(writer, 200, {})
        elif question == "error":
            _send(
                writer, 400, {"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}}
            )
        elif body.get("stream"):
            return await self._stream(words, question, writer)
        else:
            await asyncio.sleep(self.pace_s * len(words))
            message = {"role": "assistant", "content": " ".join(words)}
            _send(writer, 200, _reply(body, [{"index": 0, "message": message, "finish_reason": "stop"}]))
        return True

    async def _stream(self, words: list[str], question: str, writer: asyncio.StreamWriter) -> bool:
        writer.write(_HEAD % (200, b"text/event-stream; charset=utf-8") + b"transfer-encoding: chunked\r\n\r\n")
        began = time.monotonic()
        for number, word in enumerate(words):
            if writer.is_closing():  # whoever asked has gone
                return False
            while number > 1 and not self.may_go_on.is_set():
                await asyncio.sleep(0.01)
            if number:
                await asyncio.sleep(max(0.0, began + number * self.pace_s - time.monotonic()))
            piece = word if number == 0 else f" {word}"
            choice = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
            event = {"id": "c", "object": "chat.completion.chunk", "choices": [choice], "sent": time.monotonic()}
            _chunk(writer, f"data: {json.dumps(event)}\n\n".encode(), question == "torn")
            if question == "break" and number == 2:
                await writer.drain()
                return False
        last = {
            "id": "c",
            "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
            "usage": {"total_tokens": 9},
        }
        _chunk(writer, f"data: {json.dumps(last)}\n\n".encode() + b"data: [DONE]\n\n", question == "torn")
        writer.write(b"0\r\n\r\n")
        return True


def _chunk(writer: asyncio.StreamWriter, data: bytes, torn: bool) -> None:
    for part in [data[i : i + 7] for i in range(0, len(data), 7)] if torn else [data]:
        writer.write(b"%x\r\n%s\r\n" % (len(part), part))


def _reply(body: dict[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any]:
    usage = {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
    same = {"id": "c", "created": 0, "model": body.get("model"), "usage": usage}
    return {**same, "object": "chat.completion", "choices": choices}


def _send(writer: asyncio.StreamWriter, status: int, reply: dict[str, Any]) -> None:
    data = json.dumps(reply).encode()
    writer.write(_HEAD % (status, b"application/json") + b"content-length: %d\r\n\r\n" % len(data) + data)


async def main() -> None:
    server = await Upstream(float(sys.argv[2]), int(sys.argv[3])).start(int(sys.argv[1]))
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())

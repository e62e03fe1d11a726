"""The gateway as an ASGI application: an OpenAI server to its callers, a client to the versions behind it.

    GET  /            the page that asks two versions side by side
    GET  /health      200 where it answers; needs no key, as the page does not
    GET  /v1/models   the project's name, which is split among the versions, and each version
    POST /v1/chat/completions, /v1/completions, /v1/embeddings
    POST /v1/feedback a thumb, an edit or a regeneration, by the x-request-id of an answer

Not here: the HTTP server (`wire`, `server`), the tables (`drain`).
"""

import asyncio
import contextlib
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taolake.config import Gateway
from taolake.gateway import page, reactions, relay
from taolake.gateway.asked import Asked, Gone, Inlet, Receive, Refused, Send, read, read_body
from taolake.gateway.limits import Keys, Rate
from taolake.gateway.split import Choice, Upstream, choose
from taolake.gateway.spool import Spool
from taolake.ids import unit_interval

if TYPE_CHECKING:
    import aiohttp

_V1 = "/v1/"
PASSED = tuple(_V1 + name for name in ("chat/completions", "completions", "embeddings"))
FEEDBACK, MODELS = _V1 + "feedback", _V1 + "models"
_METHODS = {"/": "GET", "/health": "GET", MODELS: "GET", FEEDBACK: "POST", **dict.fromkeys(PASSED, "POST")}
_KIB = 1024
_NO_LOG = "the gateway cannot write its log; tell whoever runs it"
_DISCARDED, _DISCARD_S = 32 << 20, 2.0  # of a body that is refused: bytes, and seconds


class App:
    """What answers.

    Args:
        settings: section `gateway` of the project file.
        project: its name; callers ask for it where they do not care which version answers.
        upstreams: the versions.
        keys: who may ask; without any, everyone.
        spool: takes the log.
    """

    def __init__(
        self, settings: Gateway, project: str, upstreams: Sequence[Upstream], keys: Keys, spool: Spool
    ) -> None:
        self._settings, self._project = settings, project
        self._keys, self._spool, self._rate = keys, spool, Rate(settings.requests_per_minute)
        self._client: aiohttp.ClientSession | None = None
        self._running = 0
        self._busy: Counter[str] = Counter()
        self._choosing = threading.Lock()
        self.take(upstreams)

    def take(self, upstreams: Sequence[Upstream]) -> None:
        """Ask these versions from now on; from any thread. What is being answered is answered to its end."""
        with self._choosing:
            self.versions = tuple(upstreams)
            self._named = {upstream.name: upstream for upstream in upstreams}

    def busy(self, url: str) -> int:
        """Requests that a server answers now; from any thread. None is added once no version has that server."""
        with self._choosing:
            return self._busy[url]

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            return
        request, path, headers = uuid.uuid4().hex, scope["path"], dict(scope["headers"])
        inlet = Inlet(receive)
        try:
            await self._answer(scope["method"], path, headers, inlet, send, request)
        except Refused as refused:
            if refused.status != 408:
                await inlet.discard(_DISCARDED, _DISCARD_S)
            await relay.refuse(send, refused, request, keep=inlet.ended)
        except Gone:
            return

    async def _answer(
        self, method: str, path: str, headers: Mapping[bytes, bytes], receive: Receive, send: Send, request: str
    ) -> None:
        wanted = _METHODS.get(path)
        if wanted is None:
            raise Refused(404, "there is no such path here; see /v1/models and /v1/chat/completions")
        if method != wanted:
            raise Refused(405, f"got {method[:16]}, wanted {wanted}")
        if wanted == "GET":
            await receive()
        if path == "/":
            await relay.respond(send, 200, self._page(), request, page.HEADERS, b"text/html; charset=utf-8")
            return
        if path == "/health":
            await relay.respond(send, 200, b'{"status":"ok"}', request, [])
            return
        owner = self._admit(headers)
        if path == MODELS:
            await relay.respond(send, 200, json.dumps(self._models()).encode(), request, [])
            return
        if self._running >= self._settings.concurrency:
            raise Refused(429, "too many requests are being answered; try again", "overloaded", 1)
        self._running += 1
        try:
            limit = self._settings.max_request_kb * _KIB
            asked = read(await read_body(receive, headers, limit, self._settings.body_s), headers, owner)
            if path == FEEDBACK:
                await self._react(asked, send, request)
            else:
                with self._chosen(asked, request) as choice:
                    await self._pass(path, asked, choice, receive, send, request)
        finally:
            self._running -= 1

    def _admit(self, headers: Mapping[bytes, bytes]) -> str | None:
        """Owner of the key; None where no keys are asked for."""
        owner = self._keys.owner(headers.get(b"authorization"))
        if self._keys and owner is None:
            raise Refused(
                401, "no key, or none that is known here: send `Authorization: Bearer KEY`", "invalid_api_key"
            )
        wait = self._rate.wait(owner or "")
        if wait:
            raise Refused(
                429, f"more than {self._settings.requests_per_minute} requests a minute", "rate_limit_exceeded", wait
            )
        return owner

    async def _react(self, asked: Asked, send: Send, request: str) -> None:
        lines = reactions.lines(asked.body, asked.requester, time.time_ns() // 1000)
        try:
            await asyncio.gather(*map(self._spool.add, lines))
        except OSError:
            raise Refused(503, _NO_LOG) from None
        await relay.respond(send, 200, json.dumps({"recorded": len(lines)}).encode(), request, [])

    def _choose(self, asked: Asked, request: str) -> Choice:
        model = asked.body.get("model", self._project)
        if model == self._project:
            return choose(self.versions, asked.caller or request, self._settings.split_salt)
        if isinstance(model, str) and model in self._named:
            return Choice(self._named[model], None)
        known = ", ".join([self._project, *self._named])
        raise Refused(404, f"there is no such model here, wanted one of {known}", "model_not_found")

    @contextlib.contextmanager
    def _chosen(self, asked: Asked, request: str) -> Iterator[Choice]:
        """A version, which is busy while inside."""
        with self._choosing:
            choice = self._choose(asked, request)
            self._busy[choice.upstream.url] += 1
        try:
            yield choice
        finally:
            with self._choosing:
                self._busy[choice.upstream.url] -= 1

    async def _pass(self, path: str, asked: Asked, choice: Choice, receive: Receive, send: Send, request: str) -> None:
        """Ask the version, pass its answer on, and have it logged before it ends."""
        import aiohttp

        answer = relay.Answer()
        gone = asyncio.ensure_future(receive())  # the body was read: what comes now is the caller's leaving
        work = asyncio.ensure_future(self._forward(path, asked, choice, answer, send, request))
        try:
            await asyncio.wait({gone, work}, timeout=self._settings.answer_s, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
            elif gone.done():
                raise Gone
            else:
                raise TimeoutError
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            started = answer.streamed
            answer.status = 504 if isinstance(error, TimeoutError) else relay.BROKEN
            await self._give_up(work, request, asked, choice, answer)
            if not started:
                raise Refused(answer.status, f"{choice.upstream.name} did not answer; try again") from None
        except OSError:  # the log cannot be written: what is not logged is not answered
            if not answer.streamed:
                raise Refused(503, _NO_LOG) from None
        except Gone:
            answer.status = relay.GONE
            await self._give_up(work, request, asked, choice, answer)
            raise
        finally:
            gone.cancel()
            await _end(work)

    async def _give_up(
        self, work: "asyncio.Future[None]", request: str, asked: Asked, choice: Choice, answer: relay.Answer
    ) -> None:
        """Stop asking, and log what there was; where that fails too, the caller is told of the first trouble."""
        await _end(work)
        with contextlib.suppress(OSError):
            await self._log(request, asked, choice, answer)

    async def _forward(
        self, path: str, asked: Asked, choice: Choice, answer: relay.Answer, send: Send, request: str
    ) -> None:
        assert self._client is not None  # made when the server starts
        limit = self._settings.max_logged_kb * _KIB
        async with await relay.post(self._client, path.removeprefix("/v1"), asked, choice) as reply:
            kind = reply.headers.get("content-type", "application/json")
            names = [(b"x-taolake-version", choice.upstream.entity.encode("latin-1", "replace"))]
            if not kind.startswith("text/event-stream"):
                body = await reply.read()
                answer.keep(body, limit)
                answer.status = reply.status
                await self._log(request, asked, choice, answer)
                await relay.respond(send, reply.status, body, request, names, kind.encode("latin-1"))
                return
            headers = [(b"content-type", kind.encode("latin-1")), (b"x-request-id", request.encode()), *names]
            headers.append((b"cache-control", b"no-cache"))
            answer.streamed = True
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            held = await relay.stream(reply, answer, send, limit)
            answer.status = reply.status
            await self._log(request, asked, choice, answer)
            await send({"type": "http.response.body", "body": held, "more_body": False})

    async def _log(self, request: str, asked: Asked, choice: Choice, answer: relay.Answer) -> None:
        sampled, logged = self._settings.sampling_fraction, answer.logged
        answer.logged = True  # also where the caller leaves while it is being written
        if not logged and unit_interval("sample", request) < sampled:
            limit = self._settings.max_logged_kb * _KIB
            await self._spool.add(relay.log_line(request, asked, choice, answer, sampled, limit))

    def _models(self) -> dict[str, Any]:
        names = [self._project, *self._named]
        return {
            "object": "list",
            "data": [{"id": n, "object": "model", "created": 0, "owned_by": "taolake"} for n in names],
        }

    def _page(self) -> bytes:
        return page.page(self._project, list(self._named), bool(self._keys))

    async def _live(self, receive: Receive, send: Send) -> None:
        """Open and close the client with the server."""
        import aiohttp

        await receive()
        # Shorter than servers keep an idle connection, so that none is used that the other side is just closing.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3)
        timeout = aiohttp.ClientTimeout(total=None, connect=10)
        self._client = aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, read_bufsize=1 << 18
        )
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._client.close()
        await send({"type": "lifespan.shutdown.complete"})


async def _end(work: "asyncio.Future[None]") -> None:
    """Cancel what still runs and wait until it has."""
    if not work.done():
        work.cancel()
        await asyncio.wait({work})

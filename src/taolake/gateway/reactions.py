"""What `POST /v1/feedback` takes: one reaction of one person to one answer."""

from collections.abc import Mapping
from typing import Any

from taolake.gateway.asked import Refused
from taolake.gateway.rows import REACTION

_THUMBS = {"up": 1.0, "down": -1.0}
_MAX_TEXT = 64_000  # characters of an edited answer or a comment


def lines(body: Mapping[str, Any], requester: str | None, time_us: int) -> list[dict[str, Any]]:
    """Lines of the spool, one a kind: `thumb` (up or down), `edit` (the better answer), `regenerate` (true), `comment`.

    Raises:
        Refused: there is no request id, or nothing is said about it.
    """
    request = body.get("request_id")
    if not isinstance(request, str) or not 0 < len(request) <= 256:
        raise Refused(422, "`request_id` is missing: the header x-request-id of the answer")
    comment = _text(body, "comment")
    said: list[tuple[str, float | None, str | None]] = []
    thumb = body.get("thumb")
    if thumb is not None:
        if thumb not in ("up", "down"):
            raise Refused(422, "`thumb` is neither up nor down")
        said.append(("thumb", _THUMBS[thumb], comment))
    edit = _text(body, "edit")
    if edit is not None:
        said.append(("edit", None, edit))
    if body.get("regenerate") is True:
        said.append(("regenerate", -1.0, None if thumb else comment))
    if not said:
        raise Refused(422, "nothing is said: give `thumb`, `edit` or `regenerate`, and a `comment` beside a thumb")
    shared = {"kind_of_row": REACTION, "request_id": request, "requester": requester, "time_us": time_us}
    return [
        {**shared, "source": f"{kind}:{requester or ''}", "kind": kind, "value": value, "text": text}
        for kind, value, text in said
    ]


def _text(body: Mapping[str, Any], name: str) -> str | None:
    text = body.get(name)
    if text is None:
        return None
    if not isinstance(text, str) or not text.strip():
        raise Refused(422, f"`{name}` is no text, or empty")
    if len(text) > _MAX_TEXT:
        raise Refused(422, f"`{name}` has {len(text)} characters, wanted at most {_MAX_TEXT}")
    return text

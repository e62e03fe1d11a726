"""One call of a model as every log shape is read: who asked what, what came back, what was said about it.

A log entry becomes a `Call` (with the reactions it carries), a `Reaction` that stood alone, or a reason to refuse it.
Also here: reading single values as logs write them. Not here: the shapes (`taolake.curation.logs`), personal data
(`taolake.curation.redact`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from taolake import ids

Row = dict[str, Any]
Turn = dict[str, str]  # role and content; unlike a prompt's, a logged turn may be a tool's


@dataclass(frozen=True)
class Reaction:
    """One word of one person, or of one rule, on one answer."""

    request_id: str
    source: str
    kind: str
    value: float | None = None
    text: str | None = None
    user: str | None = None
    at: datetime | None = None

    def row(self) -> Row:
        """As a row of `feedback`."""
        known = {"request_id": safe_id(self.request_id), "source": _who(self.source, self.user), "kind": self.kind}
        return known | {"value": self.value, "text": self.text, "user_id": _user(self.user), "at": self.at}


@dataclass(frozen=True)
class Call:
    """One question and what was answered; names as the log gives them."""

    request_id: str
    shape: str
    messages: tuple[Turn, ...]
    answer: str | None = None
    finish_reason: str | None = None
    logged_at: datetime | None = None
    endpoint: str | None = None
    model: str | None = None
    share: float | None = None
    status_code: int = 200
    session: str | None = None
    user: str | None = None
    consent: bool | None = None
    expires_at: datetime | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None
    latency_ms: int | None = None
    first_token_ms: int | None = None
    reactions: tuple[Reaction, ...] = ()

    def row(self, task: str, source: str, retention_days: int | None = None) -> Row:
        """As a row of `inference_log`; a log that names no end of retention gets one so many days after the call."""
        row = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _CHANGED}
        if self.expires_at is None and self.logged_at is not None and retention_days is not None:
            row["expires_at"] = self.logged_at + timedelta(days=retention_days)
        named = {"request_id": safe_id(self.request_id), "session": safe_id(self.session) if self.session else None}
        return row | named | {"task": task, "source": source, "user_id": _user(self.user)}

    def with_id(self, request_id: str) -> "Call":
        """The same call under another id, its reactions too."""
        mine = tuple(replace(reaction, request_id=request_id) for reaction in self.reactions)
        return replace(self, request_id=request_id, reactions=mine)


Found = Call | Reaction | str
_CHANGED = ("request_id", "session", "user", "reactions")


def safe_id(name: str) -> str:
    """An id as it stands; one made of an address becomes its hash, so that no address gets downstream as an id."""
    return ids.content_hash("id", name) if "@" in name else name


def _user(name: str | None) -> str | None:
    return ids.user_id(name) if name else None


def _who(source: str, user: str | None) -> str:
    """Who said it, without the name: `thumb:<name>` ends in the hash of the name."""
    named = user is not None and source.endswith(f":{user}")
    return f"{source.rpartition(':')[0]}:{ids.user_id(user)[:12]}" if user and named else safe_id(source)


def decoded(value: Any) -> Any:
    """JSON text as its value, anything else as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):  # an answer is seldom JSON
        return value


def when(value: Any) -> datetime | None:
    """Moment in UTC, from ISO text or from seconds, milli-, micro- or nanoseconds since 1970; None: unreadable."""
    count = number(value)
    if count is not None:
        while abs(count) > 1e11:  # 1e11 seconds is the year 5138; the same moment in milliseconds is larger
            count /= 1000
        return datetime.fromtimestamp(count, UTC)
    try:
        read = datetime.fromisoformat(value.replace(" UTC", "+00:00")) if isinstance(value, str) else None
    except ValueError:
        return None
    return None if read is None else (read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC))


def number(value: Any) -> float | None:
    """A finite number, also where it is written as text; None: it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        read = float(value)
    except ValueError:
        return None
    return read if abs(read) < 1e300 else None


def whole(value: Any) -> int | None:
    """A whole number, rounded; None: it is none, or larger than any count."""
    read = number(value)
    return round(read) if read is not None and abs(read) < 2**31 else None


def flag(value: Any) -> bool | None:
    """Yes or no, in any of the spellings of tags; None: neither."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    return words.get(str(value).strip().lower())


def name(value: Any) -> str | None:
    """A name that is not empty; None: it is none."""
    return str(value).strip() or None if isinstance(value, str | int) and not isinstance(value, bool) else None


def first(row: Mapping[str, Any], *names: str) -> Any:
    """The first of these fields that says anything."""
    return next((row[n] for n in names if row.get(n) not in (None, "")), None)


def elapsed_ms(start: datetime | None, end: datetime | None) -> int | None:
    """Milliseconds between two moments, if both are known and in order."""
    return round((end - start) / timedelta(milliseconds=1)) if start and end and end >= start else None


def about(*places: Any) -> Row:
    """What tags and metadata say of a call, in fields of `Call`: session, user, consent, end of retention, share.

    Args:
        places: mappings, or JSON text of mappings; the first that says a thing is believed.
    """
    merged: Row = {}
    for place in reversed([decoded(place) for place in places]):
        if isinstance(place, Mapping):
            merged |= {str(key).rpartition(".")[2].lower(): value for key, value in place.items() if value is not None}
    share = number(merged.get("share"))
    return {
        "session": name(first(merged, "session", "session_id", "conversation_id", "thread_id", "sessionid")),
        "user": name(first(merged, "user", "user_id", "end_user", "end_user_id", "userid", "requester")),
        "consent": flag(merged.get("consent")),
        "expires_at": when(merged.get("expires_at")),
        "share": share if share is not None and 0 < share <= 1 else None,
    }


def feeling(value: Any, low: float, high: float) -> float | None:
    """A thumb, a word or a number as -1 to 1; numbers lie on a scale from low to high. None: it is none of these."""
    word = str(value).strip().lower()
    if isinstance(value, bool) or word in _WORDS:
        return _WORDS[word]
    given = number(value)
    if given is None or not low <= given <= high or not low < high:
        return None
    return 2 * (given - low) / (high - low) - 1


_GOOD = ("up", "thumbs_up", "yes", "true", "good", "positive", "correct", "👍")
_BAD = ("down", "thumbs_down", "no", "false", "bad", "negative", "incorrect", "👎")
_WORDS = dict.fromkeys(_GOOD, 1.0) | dict.fromkeys(_BAD, -1.0)


def listed(value: Any) -> Sequence[Any]:
    """A list as it is, also as JSON text; anything else is an empty one."""
    value = decoded(value)
    return value if isinstance(value, list) else []

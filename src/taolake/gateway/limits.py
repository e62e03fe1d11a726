"""Who may ask, and how often. Keys are compared in constant time, and only their hashes are kept."""

import hashlib
import hmac
import time
from collections.abc import Mapping


def read_keys(text: str) -> dict[str, str]:
    """Keys by their owners' names, from `key` or `name=key,name=key`.

    Raises:
        ValueError: a name repeats, or a key is shorter than 16 characters; the message shows no key.
    """
    found: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, mark, key = part.partition("=")
        name, key = (name.strip(), key.strip()) if mark and key.strip("=") else ("key", part)
        if name in found:
            raise ValueError(f"the name {name!r} repeats among the gateway's keys; give each key a name of its own")
        if len(key) < 16:
            raise ValueError(f"the gateway's key of {name!r} has {len(key)} characters, wanted at least 16")
        found[name] = key
    return found


class Keys:
    """Who a bearer token belongs to."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._digests = [(name, _digest(key.encode())) for name, key in keys.items()]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner(self, header: bytes | None) -> str | None:
        """Name of the key in an Authorization header; every key is looked at, whichever fits."""
        scheme, _, token = (header or b"").partition(b" ")
        given, found = _digest(token.strip()), None
        for name, digest in self._digests:
            if hmac.compare_digest(given, digest):
                found = name
        return found if scheme.lower() == b"bearer" else None


class Rate:
    """A bucket of requests for each key, refilled evenly."""

    def __init__(self, per_minute: int | None) -> None:
        self._per_s, self._size = (per_minute or 0) / 60, float(per_minute or 0)
        self._left: dict[str, tuple[float, float]] = {}

    def wait(self, key: str, now: float | None = None) -> float:
        """Take one request out; seconds to wait where there is none, 0 where it may pass."""
        if not self._per_s:
            return 0.0
        now = time.monotonic() if now is None else now
        left, then = self._left.get(key, (self._size, now))
        left = min(self._size, left + (now - then) * self._per_s)
        passes = left >= 1
        self._left[key] = (left - 1 if passes else left, now)
        return 0.0 if passes else (1 - left) / self._per_s


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()

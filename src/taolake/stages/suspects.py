"""Which request killed the engine: what the logs of dead tasks say about the requests that were in flight.

Guilt is found by company. A request that was in flight at a death is asked again in a group of the square root of the
window, then alone; one that was alone at a death becomes an error row. That takes three deaths, one less than Spark
allows a task. Not here: writing logs (`journal`), running the groups (`answer`).
"""

import contextlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from taolake.types import Request

_FILE = "suspects.json"


@dataclass(frozen=True)
class History:
    """Deaths at which a request was in flight.

    `deaths` are those the application survived, `lost` those it did not: a driver that is killed takes innocent engines
    with it, so two of these count as one. `alone` are survived deaths with nothing else in flight.
    """

    deaths: int = 0
    lost: int = 0
    alone: int = 0
    reason: str = ""

    @property
    def level(self) -> int:
        """How suspect it is: 0 not at all, 1 to be asked in small company, from 2 on alone."""
        return self.deaths + self.lost // 2

    @property
    def guilty(self) -> bool:
        """It killed an engine alone. One death is not enough: the last request of a task is always alone."""
        return self.alone > 0 and self.deaths > 1

    def company(self, width: int) -> int:
        """How many suspects may be in flight together: two steps from `width` to 1 need the fewest waves."""
        return max(1, math.isqrt(width)) if self.level == 1 else 1

    def verdict(self) -> str:
        """The reason on its error row."""
        why = self.reason or "the process ended without a word"
        return f"the engine died {self.deaths} times with this prompt in flight, at last with it alone: {why}"

    def __add__(self, other: "History") -> "History":
        return History(
            self.deaths + other.deaths, self.lost + other.lost, self.alone + other.alone, other.reason or self.reason
        )


def add(*found: dict[str, History]) -> dict[str, History]:
    """Sum histories by key."""
    total: dict[str, History] = {}
    for histories in found:
        for key, history in histories.items():
            total[key] = total.get(key, History()) + history
    return total


def read_logs(folder: Path, attempt: int | None = None) -> dict[str, History]:
    """What the logs of a task's attempts say.

    Args:
        folder: the task's.
        attempt: number of the attempt that asks, if it is one; it is the proof that the application outlived the last.
    """
    logs = [_read_log(file) for file in sorted(folder.glob("log-*"))]
    following = [*(log[0] for log in logs[1:]), attempt]
    total: dict[str, History] = {}
    for (number, open_keys, reason, ended), after in zip(logs, following, strict=False):
        if ended or not open_keys:
            continue
        survived = bool(reason) or after == number + 1
        alone = int(survived and len(open_keys) == 1)
        history = History(int(survived), int(not survived), alone, reason)
        total = add(total, dict.fromkeys(open_keys, history))
    return total


def read_suspects(folder: Path) -> dict[str, History]:
    """What earlier runs left to be remembered about a policy's cells."""
    with contextlib.suppress(OSError, ValueError, TypeError):  # none, or damaged: then nobody is a suspect
        known = json.loads((folder / _FILE).read_bytes())
        return {key: History(**history) for key, history in known.items()}
    return {}


def write_suspects(folder: Path, known: dict[str, History], write: Callable[[Path, bytes], None]) -> None:
    """Leave it to later runs."""
    write(folder / _FILE, json.dumps({key: asdict(history) for key, history in known.items()}).encode())


def companies(suspects: Iterable[tuple[History, Request]], width: int) -> Iterator[list[Request]]:
    """Suspects in the groups to ask them in, the most suspect first."""
    ordered = sorted(suspects, key=lambda s: (-s[0].level, s[1].key))
    for size, some in itertools.groupby(ordered, key=lambda s: s[0].company(width)):
        members = [request for _, request in some]
        yield from (members[i : i + size] for i in range(0, len(members), size))


def _read_log(file: Path) -> tuple[int, set[str], str, bool]:
    """Attempt, keys still open, reason of death, whether it ended well."""
    number, open_keys, reason, ended = 0, set[str](), "", False
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        mark, rest = line[:1], line[1:]
        match mark:
            case "@" if rest.isdigit():
                number = int(rest)
            case "+":
                open_keys.add(rest)
            case "-":
                open_keys.discard(rest)
            case "!":
                reason = rest
            case ".":
                ended = True
    return number, open_keys, reason, ended

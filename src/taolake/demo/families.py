"""The families of questions of the embedded example, read from `families.toml` beside this file.

It is not where questions are drawn: a family is one SQL template and several wordings, with their slots still open.
"""

import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Formatter

from taolake.demo.database import CONVENTIONS


@dataclass(frozen=True)
class Family:
    """Questions that share one SQL template."""

    name: str
    sql: str
    texts: tuple[str, ...]

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """The names in braces that the wordings have."""
        return _names_in_braces(self.texts[0])

    @cached_property
    def conventions(self) -> tuple[str, ...]:
        """The house conventions that the answers need, in the order in which the query shows them."""
        return tuple(name for name in _names_in_braces(self.sql) if name in CONVENTIONS)


def read_families() -> tuple[Family, ...]:
    """Reads the families in the order of the file."""
    table = tomllib.loads(Path(__file__).with_name("families.toml").read_text())
    return tuple(Family(name, entry["sql"], tuple(entry["texts"])) for name, entry in table.items())


def _names_in_braces(template: str) -> tuple[str, ...]:
    """Returns the names in braces, each once, in the order of the template."""
    return tuple(dict.fromkeys(name for _, name, _, _ in Formatter().parse(template) if name))


FAMILIES = read_families()

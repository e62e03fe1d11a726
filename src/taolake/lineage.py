"""Which registered versions learned from which prompts: sets alone, no tables and no registry.

A version learned from the rows of the selection it was trained on, and from all that the version it started from had
learned from. Reading the sets is `taolake.stages.learned`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Selection = tuple[int, str]  # round, and name of the selection


@dataclass(frozen=True)
class Version:
    """A registered version, as its tags tell it.

    Attributes:
        name: of the registered model.
        number: of the version.
        selection: what it was trained on; None where its tags do not say.
        base: policy it started from.
        made: policies that it is: adapter on its base, and the whole model in one folder.
        tables: versions of the tables when it was registered.
        scorers: versions of the scorers that rewarded what it was trained on.
    """

    name: str
    number: int
    selection: Selection | None
    base: str = ""
    made: frozenset[str] = frozenset()
    tables: Mapping[str, int] = field(default_factory=dict)
    scorers: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """As people write it."""
        return f"{self.name}/{self.number}"


def version_of(name: str, number: int, tags: Mapping[str, str]) -> Version:
    """Read the tags that `register` writes."""

    def under(prefix: str) -> dict[str, str]:
        return {key.removeprefix(prefix): value for key, value in tags.items() if key.startswith(prefix)}

    known = "taolake.round" in tags and "taolake.selection" in tags
    return Version(
        name,
        number,
        (int(tags["taolake.round"]), tags["taolake.selection"]) if known else None,
        tags.get("taolake.base", ""),
        frozenset(tags[key] for key in ("taolake.policy", "taolake.whole") if tags.get(key)),
        {table: int(value) for table, value in under("taolake.table.").items()},
        under("taolake.scorer."),
    )


def ancestors(version: Version, versions: Iterable[Version]) -> list[Version]:
    """The versions it was started from, nearest first."""
    others, found = list(versions), list[Version]()
    now: Version | None = version
    while now is not None:
        taken = {version.label, *(each.label for each in found)}
        now = next((v for v in others if now.base and now.base in v.made and v.label not in taken), None)
        if now is not None:
            found.append(now)
    return found


def learned(
    versions: Iterable[Version],
    selections: Iterable[Selection],
    scorers: Iterable[tuple[str, str]] = (),
) -> list[Version]:
    """Versions that learned from any of these selections or scorers, themselves or through what they started from.

    Args:
        versions: all there are.
        selections: those that hold rows of the prompts in question.
        scorers: reward models (name, version) that learned from choices in question.
    """
    everyone, hit, taste = list(versions), set(selections), set(scorers)

    def own(version: Version) -> bool:
        return version.selection in hit or bool(taste & set(version.scorers.items()))

    return [v for v in everyone if any(own(each) for each in (v, *ancestors(v, everyone)))]


def unclear(versions: Iterable[Version]) -> list[Version]:
    """Versions whose tags do not say what they were trained on."""
    return [version for version in versions if version.selection is None]

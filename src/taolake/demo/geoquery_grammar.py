"""Questions about United States geography with their SQL, drawn from a small grammar: more for the base to learn from.

Sets of states nest ("the states bordering the state with capital austin"), and what can be asked is asked of every set.
The words are in `geoquery_grammar.toml`. Written with train and dev questions of GeoQuery in view and in the form of
its queries, so that the two corpora teach one language; the test questions were not looked at.
"""

import random
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from taolake.demo.questions import Messages

_DEEPEST = 2
_LONGEST = 480  # characters of a query; a longer one does not fit what the model may answer
_WORDS: Mapping[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))

_ONE = ("named", "named", "named", "named", "capital", "city", "highest", "most")  # a name, as often as all the others
_MANY = ("beside", "beside", "river", "longest")


@dataclass(frozen=True)
class States:
    """A set of states: its kind, the name or the measure and extreme it goes by, and the set inside it."""

    kind: str
    by: str = ""
    inner: "States | None" = None


ALL = States("all")


@dataclass
class _Draw:
    """One question being drawn; tables are numbered in the order in which they appear."""

    rng: random.Random
    names: Mapping[str, Sequence[str]]
    seen: Counter[str] = field(default_factory=Counter)

    def pick(self, form: str) -> Any:
        return self.rng.choice(_WORDS[form])

    def say(self, phrases: Sequence[str], **words: str) -> str:
        return self.rng.choice(phrases).format(**words)

    def name(self, kind: str) -> str:
        return self.rng.choice(self.names[kind])

    def states(self, among: Sequence[Literal["one", "many", "all"]] = ("one", "many"), depth: int = 0) -> States:
        """A set of a kind that may be asked about."""
        kinds: list[Sequence[str]] = [("all",)] * ("all" in among)
        kinds += [_ONE] * ("one" in among) + [_MANY] * ("many" in among and depth < _DEEPEST)
        kind = self.rng.choice(self.rng.choice(kinds))
        match kind:
            case "named" | "city" | "river":
                return States(kind, self.name("state_name" if kind == "named" else f"{kind}_name"))
            case "capital":
                return States(kind, self.name(kind))
            case "highest":
                return States(kind, self.rng.choice(("HIGHEST_ELEVATION MAX", "LOWEST_ELEVATION MIN")))
            case "most":
                extreme = self.pick("extreme")
                return States(kind, f"{extreme['measure']} {extreme['most']}")
            case "beside":
                return States(kind, inner=self.states(depth=depth + 1))
            case _:
                return States(kind)

    def called(self, states: States) -> str:
        """A noun phrase for a set."""
        by, the = states.by, self.rng.choice(("the ", ""))
        if states.kind == "all":
            return self.say(_WORDS["country"])
        if states.inner:
            by = self.called(states.inner)
        elif states.kind == "river":
            by += self.rng.choice((" river", ""))
        elif states.kind == "highest":
            by = by.partition("_")[0].lower()
        elif states.kind == "most":
            by = self.say(next(e["one"] for e in _WORDS["extreme"] if f"{e['measure']} {e['most']}" == by))
        return self.say(_WORDS["states"][states.kind], of=by, the=the)

    def select(self, what: str, table: str, where: Callable[[str], list[str]] = lambda alias: []) -> str:
        """A query; `@` in it stands for its own table, which is numbered before those in its conditions."""
        alias = f"{table}alias{self.seen[table]}"
        self.seen[table] += 1
        query, conditions = f"SELECT {what} FROM {table} AS {alias}", where(alias)
        return (f"{query} WHERE {' AND '.join(conditions)}" if conditions else query).replace("@", alias)

    def among(self, states: States, column: str) -> list[str]:
        """That a column holds one of them; nothing for the whole country."""
        if states.kind == "all":
            return []
        return [f'{column} = "{states.by}"' if states.kind == "named" else f"{column} IN ( {self.members(states)} )"]

    def members(self, states: States) -> str:
        """The query that finds them."""
        by, inner = states.by, states.inner or ALL
        measure, _, most = by.partition(" ")
        match states.kind:
            case "beside":
                return self.select("@.BORDER", "BORDER_INFO", lambda a: self.among(inner, f"{a}.STATE_NAME"))
            case "river":
                return self.select("@.TRAVERSE", "RIVER", lambda _: [f'@.RIVER_NAME = "{by}"'])
            case "longest":
                return self.select("@.TRAVERSE", "RIVER", lambda a: self.extreme(a, "RIVER", "LENGTH", "MAX"))
            case "highest" | "most":
                table = "HIGHLOW" if states.kind == "highest" else "STATE"
                return self.select("@.STATE_NAME", table, lambda a: self.extreme(a, table, measure, most))
            case "city":
                return self.select("@.STATE_NAME", "CITY", lambda _: [f'@.CITY_NAME = "{by}"'])
            case "capital":
                return self.select("@.STATE_NAME", "STATE", lambda _: [f'@.CAPITAL = "{by}"'])
            case _:
                raise AssertionError(states)

    def extreme(
        self, alias: str, table: str, measure: str, most: str, states: States = ALL, key: str = "STATE_NAME"
    ) -> list[str]:
        """That a row has the most or the least, of the rows of some states."""
        inner = self.select(f"{most}( @.{measure} )", table, lambda a: self.among(states, f"{a}.{key}"))
        return [f"{alias}.{measure} = ( {inner} )", *self.among(states, f"{alias}.{key}")]


def corpus(
    names: Mapping[str, Sequence[str]], kept_out: Collection[str], seed: int, n: int
) -> list[tuple[Messages, str]]:
    """Draws `n` prompts with completions.

    Args:
        names: by kind, such as `state_name`, those that may be asked about.
        kept_out: questions that may not be drawn, word for word.
        seed: another one, another corpus.
        n: how many.
    """
    rng = random.Random(f"grammar {seed}")
    pairs: list[tuple[Messages, str]] = []
    while len(pairs) < n:
        text, sql = drawn(rng, names)
        if text not in kept_out and len(sql) <= _LONGEST:
            pairs.append(([{"role": "user", "content": text}], sql))
    return pairs


def drawn(rng: random.Random, names: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """One question with its query."""
    (ask,) = rng.choices([ask for ask, _ in _ASKED], [often for _, often in _ASKED])
    return ask(_Draw(rng, names))


def _of(d: _Draw) -> tuple[str, str]:
    asked = d.pick("of")
    states, given = d.states(asked.get("sets", ("one", "many"))), [asked["where"]] if "where" in asked else []
    sql = d.select(asked["select"], asked["table"], lambda a: given + d.among(states, f"{a}.{asked['key']}"))
    return d.say(asked["ask"], of=d.called(states)), sql


def _most(d: _Draw) -> tuple[str, str]:
    asked = d.pick("most")
    states = d.states(asked.get("sets", ("one", "many", "all")))
    most = d.rng.choice([extreme for extreme in ("MAX", "MIN") if extreme in asked])
    table, measure, key = asked["table"], asked["measure"], asked["key"]
    sql = d.select(asked["select"], table, lambda a: d.extreme(a, table, measure, most, states, key))
    return d.say(asked["ask"], most=d.say(asked[most]), of=d.called(states)), sql


def _named(d: _Draw) -> tuple[str, str]:
    asked = d.pick("named")
    name = d.name(asked["kind"])
    given = [f'@.{asked["column"]} = "{name}"']
    if asked["select"] == "@.POPULATION" and d.rng.random() < 0.3:  # "springfield illinois"
        state = d.name("state_name")
        given, name = [*given, f'@.STATE_NAME = "{state}"'], f"{name} {state}"
    return d.say(asked["ask"], of=name), d.select(asked["select"], asked["table"], lambda _: given)


def _border(d: _Draw) -> tuple[str, str]:
    inner = d.states(depth=1)
    asked, what = d.rng.choice((("what", "@.BORDER"), ("which", "@.BORDER"), ("how many", "COUNT( @.BORDER )")))
    sql = d.select(what, "BORDER_INFO", lambda a: d.among(inner, f"{a}.STATE_NAME"))
    return f"{asked} states {d.say(_WORDS['border'], of=d.called(inner))}", sql


def _most_state(d: _Draw) -> tuple[str, str]:
    extreme, states = d.pick("extreme"), d.states(("many", "all"))
    says = _WORDS["most_state"]["all" if states == ALL else "many"]
    words = {"one": d.say(extreme["one"]), "has": d.say(extreme["has"]), "of": d.called(states)}
    if states.inner:
        says, words["beside"] = says + _WORDS["most_state"]["beside"], d.called(states.inner)
    where = (extreme["measure"], extreme["most"], states)
    return d.say(says, **words), d.select("@.STATE_NAME", "STATE", lambda a: d.extreme(a, "STATE", *where))


def _counted(d: _Draw) -> tuple[str, str]:
    asked, (order, words) = d.pick("counted"), d.rng.choice((("DESC", ["most"]), ("ASC", ["fewest", "least"])))
    alias, key = f"{asked['table']}alias0", asked["key"]
    sql = d.select(f"@.{key}", asked["table"])
    sql += f" GROUP BY {alias}.{key} ORDER BY COUNT( {alias}.{asked['counted']} ) {order} LIMIT 1"
    return d.say(asked["ask"], most=d.say(words)), sql


def _countrywide(d: _Draw) -> tuple[str, str]:
    asked = d.pick("countrywide")
    return d.say(asked["ask"], of=d.called(ALL)), d.select(asked["select"], asked["table"])


_ASKED = ((_of, 6), (_most, 3), (_named, 2), (_border, 2), (_most_state, 2), (_counted, 0.5), (_countrywide, 0.5))

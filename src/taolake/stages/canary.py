"""Canary: read what two versions' requests say, decide, write the decision down, and do what follows.

Not one of the stages of a round: it is asked again and again while a new version gets a part of the requests. How is
decided is said in `taolake.watch.canary`, how it is done in `taolake.serving`. Nothing is kept between two looks but
the rows of `releases`; a run that was killed is started again.
"""

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from taolake import lake
from taolake.serving import release
from taolake.serving.release import Place, Waiting
from taolake.serving.steps import PASSED, PROBED, ROLLED_BACK, logged_names
from taolake.stages import deploy, measure, observe
from taolake.stages.round import Outcome, Round
from taolake.watch.canary import Decision, crowded, decide
from taolake.watch.sequential import Word, first_of_each

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from pyspark.sql import DataFrame

_WORDS = {"promote": PASSED, "rollback": ROLLED_BACK}
Said = dict[str, list[tuple[str, Word]]]


def canary(
    round_: Round, client: "Callable[[], WorkspaceClient]", act: bool = True, waiting: Waiting | None = None
) -> Outcome:
    """Decide about the version that waits for it; with `act` false nothing is written or changed.

    Raises:
        RuntimeError: as `release.deploy`.
    """
    waiting = waiting or Waiting(say=print)
    try:
        place = deploy.place(round_.project, round_.lake.location, client)
    except ValueError as error:  # no endpoint, or no champion yet: the job that asks every hour need not fail
        return Outcome(0, 0, {"verdict": "none", "says": f"nothing is served: {error}"})
    seen = place.look()
    live = seen.aliases.get("live")
    new = next((version for version in seen.routes if version != live), None)
    if new is None or live is None:
        return Outcome(0, 0, {"verdict": "none", "says": "no version waits for a decision"})
    place = deploy.place(round_.project, round_.lake.location, client, new)
    if seen.judged(new) != PROBED:  # killed between its verdict and what follows, or never to be decided by signals
        seen = release.serve(place, waiting) if act else seen
        return Outcome(0, 0, {"verdict": "none", "says": f"version {new} is {seen.judged(new) or 'not probed yet'}"})
    decision, read = look(round_, place.want.model, live, new)
    detail = {"verdict": decision.verdict, "version": new, "live": live, "says": decision.reason, **read}
    if act:
        _record(round_, place, live, decision, read, waiting)
    return Outcome(int(act), 0, detail)


def look(round_: Round, model: str, live: int, new: int) -> tuple[Decision, dict[str, Any]]:
    """What the signals say of two versions since the new one was first asked; and how many requests that rests on."""
    from pyspark.sql import functions as f

    spec, names = round_.project.canary, logged_names(model, new)
    rows = observe.requests(round_).where(f.col("model").isin([*names, *logged_names(model, live)]))
    since = rows.where(f.col("model").isin(list(names))).agg(f.min("logged_at").cast("double")).collect()[0][0]
    if since is None:
        return decide({}, spec), {"requests": 0, "since": None}
    rows = rows.where(f.col("logged_at").cast("double") >= since)
    observe.score(round_, rows)
    times, said = _said(round_, observe.facts(round_, rows), list(names))
    one = spec.unit == "user"
    decision = decide({n: first_of_each(each) if one else [w for _, w in each] for n, each in said.items()}, spec)
    until = [at for at in times if decision.at is None or at <= decision.at]
    users = len({who for each in said.values() for who, _ in each})
    if one and decision.verdict == "hold":
        decision = dataclasses.replace(decision, reason=decision.reason + crowded(len(times), users))
    return decision, {"requests": len(until), "since": since}


def _said(round_: Round, facts: "DataFrame", new: list[str]) -> tuple[list[float], Said]:
    """Times of the requests; and words by signal, each with who is behind it.

    Args:
        round_: the project and its lake.
        facts: of the requests of both versions.
        new: what the log calls the new version.
    """
    from pyspark.sql import functions as f

    who, at = f.coalesce("user_id", "request_id").alias("who"), f.col("at").cast("double").alias("at")
    base = facts.select("request_id", who, "at", f.col("model").isin(new).alias("new"), "answered", "refused").persist()
    try:
        asked = base.collect()
        known = round_.lake.read(lake.ANSWER_SCORES).where(f.col("value").isNotNull())
        scores = (
            base.join(known, "request_id").select("who", "at", "new", "scorer", "scorer_version", "value").collect()
        )
        reactions = round_.lake.read(lake.FEEDBACK).withColumn("reaction", measure.reaction())
        reactions = reactions.where(f.col("reaction").isNotNull()).select("request_id", "reaction", at)
        felt = base.drop("at").join(reactions, "request_id").select("who", "at", "new", "reaction").collect()
    finally:
        base.unpersist()
    said: Said = {
        "answered": [(r["who"], Word(r["at"], r["new"], float(r["answered"]))) for r in asked],
        "refusals": [(r["who"], Word(r["at"], r["new"], 1.0 - r["refused"])) for r in asked if r["answered"]],
        "feedback": [(r["who"], Word(r["at"], r["new"], _unit((1 + r["reaction"]) / 2))) for r in felt],
    }
    current, wanted = observe.versions(round_), _signals(round_)
    for r in scores:
        if current.get(r["scorer"]) == r["scorer_version"]:
            said.setdefault(r["scorer"], []).append((r["who"], Word(r["at"], r["new"], _unit(r["value"]))))
    return [r["at"] for r in asked], {name: each for name, each in said.items() if name in wanted}


def _signals(round_: Round) -> set[str]:
    """Names of the project's signals, `scorers` spelled out."""
    named = set(round_.project.canary.signals)
    scorers = {spec.name for spec in round_.project.watchers} if "scorers" in named else set[str]()
    return (named - {"scorers"}) | scorers


def _unit(value: float) -> float:
    """A score as a share: what lies outside is at its end."""
    return min(1.0, max(0.0, float(value)))


def _record(round_: Round, place: Place, live: int, decision: Decision, read: dict[str, Any], waiting: Waiting) -> None:
    """Write the decision down, do what follows, and say that it was done."""
    row = {
        "model": place.want.model,
        "version": place.want.version,
        "decided_at": datetime.now(UTC),
        "live": live,
        "verdict": decision.verdict,
        "reason": decision.reason,
        "since": _time(read["since"]),
        "reached_at": _time(decision.at),
        "requests": read["requests"],
        "acted": False,
        "evidence": json.dumps([dataclasses.asdict(signal) for signal in decision.signals], sort_keys=True),
    }
    _write(round_, row)
    if decision.verdict != "hold":
        waiting.say(f"{decision.verdict}: {decision.reason}")
        release.settle(place, _WORDS[decision.verdict], decision.reason, waiting)
        _write(round_, row | {"acted": True})


def _write(round_: Round, row: dict[str, Any]) -> None:
    round_.lake.merge(lake.RELEASES, round_.lake.spark.createDataFrame([row], lake.RELEASES.schema()))


def _time(second: float | None) -> datetime | None:
    return None if second is None else datetime.fromtimestamp(second, UTC)

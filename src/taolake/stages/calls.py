"""Calls to judges: what is not known yet is asked, every answer is kept by content, and no budget is passed.

An answer is a row of `judgements`, also when it cannot be read: it was paid, so it is not asked for again. A call that
got no answer is a row too, under its id and the number of the try (`id!0`), and is asked again by the next run that
still needs it. What a scorer spent in a round is the sum of the rows that its runs in that round committed; calls found
in the table cost nothing. Not here: what is asked and what it amounts to (`judge`).
"""

import contextlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from taolake import ids, lake
from taolake.config import JudgeScorer, MlflowJudgeScorer
from taolake.scoring.judge import JudgeSpec, response_format
from taolake.scoring.purse import Purse, cost
from taolake.scoring.replies import MAX_REPLY_CHARS
from taolake.stages.fanout import Row, map_rows
from taolake.stages.round import Progress, Round
from taolake.types import Completion, Request, Sampling

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_WAVES = 16  # calls per thread in one commit: what a kill may cost, against the pause between two commits
_CHUNK = (64, 1024)  # calls in one commit, at least and at most
_DOWN = 20  # so many calls without one answer: the judge is down, and error rows would bury it
_KIND = re.compile(r"HTTP \d{3}|no answer within [\d.]+ s|\b[A-Z]\w*(?:Error|Exception)\b")


class BudgetError(RuntimeError):
    """The scorer may not spend more in this round; what was answered is kept and a higher budget continues."""


class JudgeDownError(RuntimeError):
    """A judge answers nothing at all; scores are not made of that, and the next run asks again."""


def missing(round_: Round, calls: "DataFrame") -> "DataFrame":
    """Calls without an answer, once each, with the number of the try."""
    from pyspark.sql import functions as f

    base = f.substring_index("call_id", "!", 1).alias("call_id")
    known = round_.lake.read(lake.JUDGEMENTS).select(base, "status").groupBy("call_id")
    tried = known.agg(
        f.max(f.col("status") == "ok").alias("answered"), f.count(f.when(f.col("status") != "ok", 1)).alias("attempt")
    )
    rows = calls.dropDuplicates(["call_id"]).join(tried, "call_id", "left")
    rows = rows.where(~f.coalesce("answered", f.lit(False)))
    return rows.withColumn("attempt", f.coalesce("attempt", f.lit(0)).cast("int")).drop("answered")


def replies(round_: Round, chunks: Sequence[str]) -> "DataFrame":
    """Answers by call, (call_id, reply, error): those that came, and why the tries of these chunks got none."""
    from pyspark.sql import functions as f

    said = round_.lake.read(lake.JUDGEMENTS).select("call_id", "status", "reply", "error", "chunk_id")
    answered = said.where(f.col("status") == "ok").drop("status")
    failed = said.where((f.col("status") != "ok") & f.col("chunk_id").isin(list(chunks)))
    failed = failed.withColumn("call_id", f.substring_index("call_id", "!", 1)).drop("status")
    return answered.drop("chunk_id").unionByName(failed.drop("chunk_id")).dropDuplicates(["call_id"])


def purse_of(round_: Round, spec: JudgeSpec) -> Purse:
    """What this scorer has spent in this round, over all its runs: the rows of its commits, which carry the round."""
    from pyspark.sql import functions as f

    ours = (f.col("scorer") == spec.name) & f.col("chunk_id").startswith(f"r{round_.number}-")
    spent = _spent(round_.lake.read(lake.JUDGEMENTS).where(ours))
    if isinstance(spec, MlflowJudgeScorer):
        return Purse(dollars=spent["dollars"], tokens=spent["tokens"])
    limits = (spec.dollars_per_million, spec.max_dollars, spec.max_tokens_total, spec.max_tokens)
    return Purse(*limits, dollars=spent["dollars"], tokens=spent["tokens"])


def _spent(rows: "DataFrame") -> Row:
    """Sums over judgements: dollars, tokens, answers, and the text of one error."""
    from pyspark.sql import functions as f

    ok = f.col("status") == "ok"
    found = rows.agg(
        f.coalesce(f.sum("dollars"), f.lit(0.0)).alias("dollars"),
        f.coalesce(f.sum(f.col("prompt_tokens") + f.col("tokens")), f.lit(0)).alias("tokens"),
        f.count(f.when(ok, 1)).alias("answered"),
        f.max(f.when(~ok, f.col("error"))).alias("error"),
    )
    return dict(found.collect()[0].asDict())


def ask(round_: Round, spec: JudgeSpec, todo: "DataFrame", purse: Purse) -> tuple[int, list[str]]:
    """Ask, a chunk of one judge per commit, until all is asked or the purse is empty; returns the calls asked, and the
    commits they came with.

    Raises:
        JudgeDownError: a judge answered none of many calls.
    """
    from pyspark.sql import functions as f

    asked, commits = 0, list[str]()
    sizes = {row["judge"]: row["count"] for row in todo.groupBy("judge").count().collect()}
    chunks = max((-(-count // _judge(spec, number).chunk_rows) for number, count in sizes.items()), default=0)
    # Whole prompts go into one chunk, judge after judge: their questions begin alike, which servers keep, and a purse
    # that runs out leaves whole prompts behind.
    placed = todo.withColumn("chunk", f.pmod(f.xxhash64("prompt_id"), f.lit(max(1, chunks))))
    with round_.progress(f"judge {spec.name}", sum(sizes.values())) as bar:
        for part, number in itertools.product(range(chunks), sorted(sizes)):
            chunk = placed.where((f.col("judge") == number) & (f.col("chunk") == part))
            done, more = _ask_chunk(round_, spec, number, chunk, purse, bar, commits)
            asked += done
            if more:
                break
    return asked, commits


def _ask_chunk(
    round_: Round, spec: JudgeSpec, number: int, chunk: "DataFrame", purse: Purse, bar: Progress, commits: list[str]
) -> tuple[int, bool]:
    """Ask what fits into the purse, book what it came to, and again; returns calls asked, and whether some are left.

    `commits` gets the name of every commit made.
    """
    from pyspark.sql import functions as f

    rows = chunk.select("prompt_id", "call_id", "attempt", "tokens_bound").orderBy("prompt_id", "call_id").collect()
    attempts = {row["call_id"]: row["attempt"] for row in rows}
    waiting = {row["call_id"]: row["tokens_bound"] for row in rows}
    asked = 0
    while waiting and (fit := purse.fitting(waiting)):
        # The try is part of the commit's name: Delta would drop a second try of the same calls as a repetition.
        name = ids.content_hash("judge", spec.name, [[call, attempts[call]] for call in fit])
        work = _Asking(spec, number, f"r{round_.number}-{name}")
        now = chunk.where(f.col("call_id").isin(fit)) if len(fit) < len(rows) else chunk
        spread = now.repartition(_judge(spec, number).devices, "prompt_id").sortWithinPartitions("prompt_id", "call_id")
        round_.lake.append_once(lake.JUDGEMENTS, map_rows(spread, lake.JUDGEMENTS.columns, work.answer), work.chunk)
        commits.append(work.chunk)
        bar.add(len(fit))
        asked += len(fit)
        got = _spent(round_.lake.read(lake.JUDGEMENTS).where(f.col("chunk_id") == work.chunk))
        reserved = sum(waiting.pop(call) + purse.slack for call in fit) + purse.answer_tokens * len(fit)
        purse.pay(got["dollars"], got["tokens"], reserved, len(fit))
        if len(fit) >= _DOWN and not got["answered"]:
            raise JudgeDownError(_down(spec, number, len(fit), str(got["error"]), work.chunk))
    return asked, bool(waiting)


@dataclass(frozen=True)
class _Asking:
    """What an executor needs to put a chunk of calls to one judge: plain values; the engine is built there."""

    spec: JudgeSpec
    judge: int
    chunk: str

    def answer(self, calls: Iterator[Row]) -> Iterator[Row]:
        """Calls in, judgements out, in the order they finish."""
        from taolake.engines import window

        waiting: dict[str, Row] = {}
        with contextlib.closing(self._engine()) as engine:
            for done in window.run(engine, self._requests(calls, waiting)):
                yield self._row(waiting.pop(done.key), done)

    def _engine(self) -> Any:
        if isinstance(self.spec, MlflowJudgeScorer):
            from taolake.engines.mlflow_judge import MlflowJudge

            return MlflowJudge(self.spec)
        from taolake.engines.endpoint import Endpoint

        return Endpoint(self.spec.judges[self.judge], response_format(self.spec))

    def _requests(self, calls: Iterable[Row], waiting: dict[str, Row]) -> Iterator[Request]:
        limit = self.spec.max_tokens if isinstance(self.spec, JudgeScorer) else 1  # which MLflow does not read
        for call in calls:
            waiting[call["call_id"]] = call
            messages, seed = tuple(json.loads(call["messages"])), int(call["call_id"][:8], 16)
            yield Request(call["call_id"], messages, Sampling(limit, temperature=0.0), seed)

    def _row(self, call: Row, done: Completion) -> Row:
        from taolake.engines.endpoint import UNREADABLE

        paid = done.status == "ok" or done.finish_reason == UNREADABLE
        asked, answered, dollars = self._price(call, done, paid)
        reply = done.text
        error = done.error + ("; booked at its upper bound" if done.status == "timeout" else "")
        if len(reply) > MAX_REPLY_CHARS:
            reply, error = reply[:1000], f"got a reply of {len(reply)} characters, wanted at most {MAX_REPLY_CHARS}"
        return {
            "call_id": call["call_id"] if paid else f"{call['call_id']}!{call['attempt']}",
            "scorer": self.spec.name,
            "judge": _judge(self.spec, self.judge).name,
            "status": "ok" if paid else "timeout" if done.status == "timeout" else "error",
            "reply": reply,
            "error": error,
            "prompt_tokens": asked,
            "tokens": answered,
            "dollars": dollars,
            "seconds": done.seconds,
            "chunk_id": self.chunk,
            "prompt_id": call["prompt_id"],
        }

    def _price(self, call: Row, done: Completion, paid: bool) -> tuple[int, int, float]:
        """Tokens in and out, and dollars; where the server did not count, or may still charge, the upper bound."""
        if isinstance(self.spec, MlflowJudgeScorer):
            known = json.loads(done.text)["dollars"] if done.text else None
            return done.prompt_tokens, done.completion_tokens, float(known or 0.0)
        asked, answered = done.prompt_tokens, done.completion_tokens
        if done.status == "timeout" or (paid and not asked):
            asked, answered = call["tokens_bound"], self.spec.max_tokens
        return asked, answered, cost(self.spec.dollars_per_million, asked, answered)


@dataclass(frozen=True)
class _Judge:
    """Who is asked, and how widely."""

    name: str
    devices: int
    chunk_rows: int


def _judge(spec: JudgeSpec, number: int) -> _Judge:
    if isinstance(spec, MlflowJudgeScorer):
        name, devices, wide = spec.model, 1, spec.concurrency
    else:
        judge = spec.judges[number]
        name, devices, wide = judge.model, judge.devices, judge.concurrency
    return _Judge(name, devices, min(_CHUNK[1], max(_CHUNK[0], _WAVES * wide * devices)))


def _down(spec: JudgeSpec, number: int, calls: int, error: str, chunk: str) -> str:
    """Say that a judge is down; of its error only the kind, since servers quote what they were asked."""
    kind = match[0] if (match := _KIND.search(error)) else "see its error"
    return (
        f"judge {_judge(spec, number).name!r} of scorer {spec.name!r} answered none of {calls} calls ({kind}; table "
        f"{lake.JUDGEMENTS.name!r}, chunk {chunk}): no candidate was scored by that; check the endpoint and its key, "
        "and run the stage again"
    )

"""What the replies of one or several judges amount to: a score for each answer, with the judges' disagreement kept.

A judge's word on an answer is the mean over the calls that showed it; the score is the mean over judges. Not here: what
is asked (`judge`) and how a reply is read (`replies`).
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from taolake.config import JudgeScorer, MlflowJudgeScorer
from taolake.scoring import replies
from taolake.scoring.judge import Call, JudgeSpec
from taolake.types import Score


@dataclass(frozen=True)
class Reply:
    """What came back for a call: the judge's words, or why there are none."""

    text: str
    error: str = ""


@dataclass
class _Heard:
    """What one judge said about one answer, over all calls that showed it."""

    values: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    calls: set[str] = field(default_factory=set)
    flips: int = 0


def aggregate(spec: JudgeSpec, calls: Iterable[Call], given: Mapping[str, Reply]) -> dict[str, Score]:
    """Make a score of each answer text from the replies to all calls about its prompt, in the order they were planned.

    An answer that no judge said something readable about has no value, and its detail says why. So has an answer that
    no call showed: it is not in the result.
    """
    heard: dict[str, list[_Heard]] = {}
    calls, names = list(calls), _names(spec)
    for call in calls:
        for _, text in call.shown:
            of_judges = heard.setdefault(text, [_Heard() for _ in names])
            of_judges[call.judge].calls.add(call.call_id)
    for call, other in _read_together(spec, calls):
        if other is not None:
            _hear_pair(heard, call, other, given)
        else:
            _hear(spec, heard, call, given[call.call_id])
    return {text: _score(spec, dict(zip(names, of_judges, strict=True))) for text, of_judges in heard.items()}


def _read_together(spec: JudgeSpec, calls: Sequence[Call]) -> Iterator[tuple[Call, Call | None]]:
    """Calls as they are read: one by one, or the two orders of a pair together."""
    if isinstance(spec, JudgeScorer) and spec.mode == "pairwise":
        yield from zip(calls[::2], calls[1::2], strict=True)
    else:
        yield from ((call, None) for call in calls)


def _hear(spec: JudgeSpec, heard: Mapping[str, list[_Heard]], call: Call, reply: Reply) -> None:
    """Note what a reply says about each answer it was shown."""
    labels = [label for label, _ in call.shown]
    if reply.error:
        said = {label: replies.Said(None, reply.error) for label in labels}
    elif isinstance(spec, MlflowJudgeScorer):
        said = {"": replies.feedback(reply.text, spec.values)}
    elif spec.mode == "pointwise":
        said = {"": replies.score(reply.text, spec.low, spec.high)}
    else:
        said = replies.scores(reply.text, labels, spec.low, spec.high)
    for label, text in call.shown:
        mine, word = heard[text][call.judge], said[label]
        if word.value is None:
            mine.errors.append(word.error)
        else:
            mine.values.append(word.value)


def _hear_pair(heard: Mapping[str, list[_Heard]], call: Call, swapped: Call, given: Mapping[str, Reply]) -> None:
    """Note a pair's outcome: a verdict that changes with the order is a tie, and counted as a flip."""
    first, second = (heard[text][call.judge] for _, text in call.shown)
    verdicts, problems = [], []
    for asked in (call, swapped):
        reply = given[asked.call_id]
        side, problem = (None, reply.error) if reply.error else replies.winner(reply.text)
        verdicts.append(side)
        problems += [problem] if side is None else []
    if problems:  # half a comparison is a biased one
        for mine in (first, second):
            mine.errors.append(problems[0])
        return
    straight = {"A": 1.0, "B": 0.0, "tie": 0.5}[str(verdicts[0])]
    turned = {"A": 0.0, "B": 1.0, "tie": 0.5}[str(verdicts[1])]
    flipped = straight != turned
    value = 0.5 if flipped else straight
    for mine, worth in ((first, value), (second, 1 - value)):
        mine.values.append(worth)
        mine.flips += flipped


def _score(spec: JudgeSpec, heard: Mapping[str, _Heard]) -> Score:
    """The mean of the judges that could tell, with their disagreement and what went wrong."""
    words = {name: statistics.fmean(mine.values) for name, mine in heard.items() if mine.values}
    detail: dict[str, object] = {
        "judges": {name: round(value, 6) for name, value in words.items()},
        "calls": sorted(call for mine in heard.values() for call in mine.calls),
    }
    if problems := [f"{name}: {error}" for name, mine in heard.items() for error in dict.fromkeys(mine.errors)]:
        detail["error"] = "; ".join(problems)[:500]
    if missing := sorted(heard.keys() - words.keys()):
        detail["missing"] = missing
    if isinstance(spec, JudgeScorer) and spec.mode == "pairwise":
        detail["pairs"] = sum(len(mine.values) for mine in heard.values())
        detail["flips"] = sum(mine.flips for mine in heard.values())
    if not words:
        return Score(None, "error", detail=detail)
    values = list(words.values())
    if len(heard) > 1:
        detail["disagreement"] = round(statistics.pstdev(values), 6)
        detail["range"] = round(max(values) - min(values), 6)
    return Score(statistics.fmean(values), detail=detail)


def _names(spec: JudgeSpec) -> list[str]:
    """A name for each judge: its model, with a number where one model is asked at several places."""
    if isinstance(spec, MlflowJudgeScorer):
        return [spec.model]
    models = [judge.model for judge in spec.judges]
    times = Counter(models)
    return [m if times[m] == 1 else f"{m}#{i + 1}" for i, m in enumerate(models)]

"""Lessons: one prompt's rewarded candidates become the rows its algorithm reads; runs on executors.

Every algorithm has a method here that says which rows, and a file in `taolake.training` that reads them. The arithmetic
is in `taolake.selection`. Only stream A enters a probability ratio as it was sampled; stream B's answers teach as text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from taolake import ids, lake
from taolake.config import Project
from taolake.selection import pairs, weights
from taolake.stages.fanout import Row


@dataclass(frozen=True)
class Lessons:
    """What turns groups into rows.

    Attributes:
        project: the project file.
        number: of the round.
        selection: its name, a hash of the stage and of the rewards it read.
        best_of: k of the order-statistic weights.
        columns: names of the table's columns.
    """

    project: Project
    number: int
    selection: str
    best_of: int
    columns: tuple[str, ...]

    def of_groups(self, groups: Iterator[Row]) -> Iterator[Row]:
        """Groups in, rows out."""
        return (row for group in groups for row in self.of_group(group))

    def of_group(self, group: Row) -> list[Row]:
        """The rows of one prompt; none where its candidates cannot be told apart, and none to learn from where the
        brakes look at it."""
        brakes = self.project.train.brakes
        if brakes and ids.unit_interval("dev", self.project.seed, group["prompt_id"]) < brakes.share:
            return [self._row("dev", group, None)]
        scored = sorted((m for m in group["members"] if m["reward"] is not None), key=lambda m: m["candidate_id"])
        if not scored:
            return []
        match self.project.train.algorithm:
            case "tao":
                return self.imitate(group, scored) + self.regress(group, scored)
            case "rft":
                return self.imitate(group, scored)
            case "bond":
                return self.regress(group, scored, tilted=True)
            case "dpo":
                return self.compare(group, scored)
            case "kto":
                return self.judge(group, scored)
            case "grpo" | "rloo":
                return self.ask(group, scored)

    def imitate(self, group: Row, scored: Sequence[Row]) -> list[Row]:
        """Winners, drawn without replacement as a random best-of-k would draw them."""
        spec = self.project.select
        share = weights.order_statistic_weights([m["reward"] for m in scored], self.best_of)
        good = [_finished(m) and 0 < m["reward"] >= spec.min_reward for m in scored]
        able = [w if fit else 0.0 for w, fit in zip(share, good, strict=True)]
        drawn = weights.draw(able, spec.rows_per_prompt, self._seed(group))
        return [self._row("imitate", group, scored[i], text=scored[i]["text"], weight=1.0) for i in drawn]

    def regress(self, group: Row, scored: Sequence[Row], tilted: bool = False) -> list[Row]:
        """All complete stream-A candidates with their advantage, of the reward or of the best-of-k tilt.

        What other strategies found belongs to the prompt's value: where only they were right, sampled answers that are
        level with each other and all wrong would otherwise be held where they are, against what imitation has taught.
        """
        own = [m for m in scored if m["stream"] == "A" and m["finish_reason"] == "stop" and m["token_ids"]]
        if len(own) < 2:
            return []
        train, rewards = self.project.train, [m["reward"] for m in own]
        if tilted:
            gains = weights.advantages(weights.tilt(rewards, self.best_of), train.bond.beta)
        else:
            found = [m["reward"] for m in scored if m["stream"] != "A" and _finished(m)]
            soft = weights.value([*rewards, *found], train.oapl.beta_v)
            gains = [reward - soft for reward in rewards]
        return [
            self._row("regress", group, m, token_ids=m["token_ids"], advantage=gain, weight=1.0)
            for m, gain in zip(own, gains, strict=True)
        ]

    def compare(self, group: Row, scored: Sequence[Row]) -> list[Row]:
        """The best answer and the right loser; `weight` is the chance that they are in the right order."""
        able = [m for m in scored if _finished(m)]
        answers = [pairs.Answer(m["reward"], m["reason"] != "gate", m["tokens"], m["text"]) for m in able]
        pair = pairs.best_pair(answers, self.project.select, self._seed(group))
        if pair is None:
            return []
        return [
            self._answer(kind, group, able[i], weight=pair.chance)
            for kind, i in (("chosen", pair.chosen), ("rejected", pair.rejected))
        ]

    def judge(self, group: Row, scored: Sequence[Row]) -> list[Row]:
        """Every finished answer that is surely good or surely bad."""
        able = [m for m in scored if _finished(m)]
        said = pairs.verdicts([m["reward"] for m in able], self.project.select)
        told = [(m, verdict) for m, verdict in zip(able, said, strict=True) if verdict is not None]
        return [self._answer("good" if verdict else "bad", group, m, weight=1.0) for m, verdict in told]

    def ask(self, group: Row, scored: Sequence[Row]) -> list[Row]:
        """The prompt alone, unless it is too easy or hopeless to learn from."""
        spec, mean = self.project.select, sum(m["reward"] for m in scored) / len(scored)
        return [self._row("prompt", group, None)] if spec.min_mean <= mean <= spec.max_mean else []

    def _answer(self, kind: str, group: Row, member: Row, **more: Any) -> Row:
        """An answer as it was sampled, or as text where another prompt than the bare one wrote it."""
        sampled = member["token_ids"] if member["stream"] == "A" else None
        return self._row(kind, group, member, text=member["text"], token_ids=sampled, **more)

    def _row(self, kind: str, group: Row, member: Row | None, **more: Any) -> Row:
        candidate = member["candidate_id"] if member else None
        return dict.fromkeys(self.columns) | {
            "round": self.number,
            "row_id": ids.content_hash(self.selection, kind, group["prompt_id"], candidate),
            "selection": self.selection,
            "kind": kind,
            "prompt_id": group["prompt_id"],
            "candidate_id": candidate,
            "messages": group["messages"],
            "reward": member["reward"] if member else None,
            **more,
        }

    def _seed(self, group: Row) -> int:
        return ids.sample_seed(self.project.seed, group["prompt_id"])


def of(project: Project, number: int, selection: str, best_of: int) -> Lessons:
    """The lessons of a round."""
    return Lessons(project, number, selection, best_of, tuple(lake.SELECTIONS.schema().names))


def _finished(member: Row) -> bool:
    return bool(member["text"]) and member["finish_reason"] == "stop"

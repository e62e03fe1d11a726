"""Two turns of the flywheel, all stages: log, trigger, round, gate, release, canary; then a bad version is taken back.

The engine is the fake one and the model a few thousand weights, so this shows that the parts join and not that a method
works. In the place of a server, requests are written into the log.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from databricks.sdk import WorkspaceClient
from pyspark.sql import SparkSession

from taolake import lake, stages
from taolake.config import Project
from taolake.report import history, monitor
from taolake.serving import release
from taolake.serving.release import Waiting
from taolake.stages import canary, deploy, trigger
from taolake.stages import monitor as watching
from taolake.stages.round import Round
from tests.bundle.resolve import ROOT, read
from tests.flywheel.traffic import request, split, write
from tests.projects import write_log

pytestmark = pytest.mark.slow  # two whole rounds with training, minutes on two cores
QUIET = Waiting(sleep=lambda seconds: None)
COLOURS = ("red", "blue", "grey", "pink", "white", "black", "green", "brown", "gold", "teal")
THINGS = ("apple", "chair", "door", "lamp", "pipe", "rope", "sail", "tent")


def nobody() -> WorkspaceClient:
    raise AssertionError("no workspace is asked")


class Wheel:
    """A project, its log, and the requests so far."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        raw = read(ROOT / "conf" / "smoke.yml") | {
            "lake": str(folder / "lake"),
            "work": str(folder / "work"),
            "ingest": {"holdout": 0.3, "sources": [{"format": "jsonl", "path": str(folder / "log.jsonl")}]},
            "serve": {"canary": 50, "promote": "signals"},
            "canary": {"margin": 0.3, "signals": ["answered", "polite"]},
            "flywheel": {"min_new": 20, "min_different": 0.5, "max_loss": 1.0},
        }
        raw["model"] = raw["model"] | {"path": str(folder / "model")}
        self.project = Project.model_validate(raw)
        self.spark, self.folder = spark, folder
        self.questions: list[str] = []
        stages.prepare(self.project)  # its model; the log it makes is replaced

    def round(self, number: int = 1) -> Round:
        return Round(lake.Lake(self.spark, self.project.lake), self.project, number)

    def ask(self, count: int, model: str) -> None:
        """New questions to one version; the log that ingest reads and the one that is watched both get them."""
        first = len(self.questions)
        new = [f"tag the {COLOURS[n % 10]} {THINGS[n // 10]}" for n in range(first, first + count)]
        self.questions += new
        rows = [
            request(first + i, model, "please apple", task="smoke", messages=[{"role": "user", "content": text}])
            for i, text in enumerate(new)
        ]
        write(self.round().lake, self.spark, rows)
        write_log(self.folder / "log.jsonl", self.questions)

    def turn(self) -> dict[str, Any]:
        """What `taolake flywheel` does, and the release after it."""
        due = trigger.trigger(self.round()).detail
        assert due["due"], due
        round_ = self.round(due["next_round"])
        for _ in stages.run_all(round_):
            pass
        verdict = round_.done("gate").detail
        seen = release.serve(deploy.place(self.project, self.project.lake, nobody), QUIET)
        return {"round": due["next_round"], "gate": verdict, "aliases": dict(seen.aliases), "routes": dict(seen.routes)}


@pytest.fixture(scope="module")
def wheel(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    made = Wheel(spark, tmp_path_factory.mktemp("wheel"))
    made.ask(40, "smoke/0")
    first = made.turn()
    idle = trigger.trigger(made.round()).detail
    made.ask(40, "smoke/1")
    second = made.turn()
    good = {"smoke/1": lambda rng: "please apple", "smoke/2": lambda rng: "please apple"}
    write(made.round().lake, spark, traffic(good, 600, 1))
    promoted = canary.canary(made.round(), nobody, waiting=QUIET).detail
    place = deploy.place(made.project, made.project.lake, nobody)
    name = made.project.register_.name
    place._client.create_model_version(name, str(made.folder))  # type: ignore[attr-defined] # planted
    release.serve(deploy.place(made.project, made.project.lake, nobody, 3), QUIET)
    write(made.round().lake, spark, traffic({"smoke/2": good["smoke/2"], "smoke/3": refuses}, 200, 2))
    back = canary.canary(made.round(), nobody, waiting=QUIET).detail
    yield {
        "wheel": made, "first": first, "idle": idle, "second": second, "promoted": promoted, "back": back,
        "end": deploy.place(made.project, made.project.lake, nobody, 2).look(),
    }  # fmt: skip


def refuses(rng: np.random.Generator) -> str:
    return "Sorry, I can't help." if rng.random() < 0.9 else "please apple"


def traffic(answers: Any, count: int, seed: int) -> list[dict[str, Any]]:
    return [row | {"task": "smoke"} for row in split(count, 0.5, answers, seed, 10_000 * seed)]


def test_two_turns_end_with_two_promoted_rounds(wheel: dict[str, Any]) -> None:
    first, second = wheel["first"], wheel["second"]
    assert (first["round"], second["round"]) == (1, 2)
    assert first["gate"]["promoted"] and second["gate"]["promoted"]
    assert first["aliases"]["live"] == 1, "the first version has none to be held against"
    assert (second["aliases"]["live"], second["routes"]) == (1, {1: 50, 2: 50})
    assert not wheel["idle"]["due"] and wheel["idle"]["next_round"] == 2


def test_the_second_round_is_held_against_the_first(wheel: dict[str, Any]) -> None:
    names = [[guard["name"] for guard in wheel[turn]["gate"]["guards"]] for turn in ("first", "second")]
    assert "loss_to_best_so_far" not in names[0] and "loss_to_best_so_far" in names[1]
    assert wheel["wheel"].round(2).done("evaluate").detail["best_round"] == 1


def test_a_good_canary_is_promoted_and_a_bad_one_taken_back(wheel: dict[str, Any]) -> None:
    assert wheel["promoted"]["verdict"] == "promote"
    assert wheel["back"]["verdict"] == "rollback" and wheel["back"]["requests"] <= 100
    assert wheel["end"].routes == {2: 100}
    assert wheel["end"].aliases["live"] == 2


def test_both_pages_tell_the_story(wheel: dict[str, Any], tmp_path: Path) -> None:
    round_ = wheel["wheel"].round()
    assert watching.monitor(round_).detail["measured"] > 0
    text = monitor.write(round_, tmp_path).read_text(encoding="utf-8")
    assert "rollback" in text and "promote" in text and "refusals" in text
    text = history.write(round_, tmp_path).read_text(encoding="utf-8")
    assert "2 rounds, 2 promoted" in text and "rollback after" not in text  # version 3 is of no round
    assert "promote after" in text

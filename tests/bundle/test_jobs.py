"""The other four jobs, run for real on one lake: smoke, questions for people, production watched, the next round.

Their tasks are new processes with the parameters of the YAML, as tests/bundle/test_run.py has those of tao_round, which
tao_flywheel runs here once more. Where no workspace is, versions are served by the registry (`taolake.serving.local`).
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

from taolake import stages
from taolake.config import Project, load
from taolake.serving import release
from taolake.serving.local import routes_of
from taolake.serving.release import Waiting
from taolake.stages import deploy, registry
from tests.asking import answer, page_items
from tests.bundle.resolve import ROOT, bundle, read
from tests.bundle.runner import EXCLUDED, FAILED, RUN_ID, SUCCESS, Run, jvm

pytestmark = pytest.mark.slow  # a round in one task, a round in fourteen, and nine tasks beside them: ten minutes
COLOURS = ("red", "blue", "grey", "pink", "white", "gold", "teal")
THINGS = ("anchor", "basket", "candle", "drum", "feather")
ROUND = [*(stage.name for stage in stages.STAGES), "deploy", "tour"]


class World:
    """A lake, a work folder, a log of production; `run` runs a job on them."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.env = folder, env
        self.jobs = bundle("dev")["resources"]["jobs"]
        self.log = folder / "production"
        self.log.mkdir()
        project = read(ROOT / "conf" / "smoke.yml")
        project |= {
            "lake": str(folder / "lake"),
            "serve": {"canary": 50, "promote": "signals"},
            "canary": {"margin": 0.3, "signals": ["answered", "polite"]},
            "collect": {"sources": [{"format": "jsonl", "path": str(self.log)}]},
            "flywheel": {"min_new": 20, "min_different": 0.5, "max_loss": 1.0, "min_diversity": 0.0},
        }
        project["ingest"]["sources"].append({"format": "inference_log", "path": "inference_log"})
        (folder / "smoke.yml").write_text(yaml.safe_dump(project))
        self.params = {
            "config": str(folder / "smoke.yml"), "catalog": "", "schema": "", "work": str(folder / "work"),
            "prompts": str(folder / "log.jsonl"), "model": str(folder / "model"), "devices": "1",
            "processes": "1", "name": "tuned", "experiment": "rounds", "endpoint": "",
        }  # fmt: skip

    @property
    def project(self) -> Project:
        """As the widgets change it."""
        found = load(self.folder / "smoke.yml")
        named = found.register_.model_copy(update={"name": "tuned", "experiment": "rounds"})
        return found.model_copy(update={"work": str(self.folder / "work"), "register_": named})

    def run(self, key: str, **params: str) -> Run:
        """One run of a job, with what its tasks said in a folder of its own."""
        folder = self.folder / f"{key}-{len(list(self.folder.glob(f'{key}-*')))}"
        folder.mkdir()
        run = Run(self.jobs, key, {**self.params, **params}, folder, self.env)
        run.start()
        bad = [name for name, state in run.states.items() if state == FAILED]
        assert bad == [], "\n".join(path.read_text()[-3000:] for path in sorted(folder.rglob("*.log"))[-2:])
        return run

    def serve(self, version: int | None = None) -> dict[str, int]:
        """What `taolake deploy` does on a machine of one's own; returns the aliases."""
        place = deploy.place(self.project, self.project.lake, nobody, version)
        return dict(release.serve(place, Waiting(sleep=lambda seconds: None)).aliases)

    def asked(self, name: str, questions: list[str], answers: dict[str, str]) -> None:
        """One more file of the log: every question is asked of every version, one after the other."""
        rows = [
            {
                "databricks_request_id": f"{name}-{number}-{version}", "request_date": "2026-11-20",
                "request_time": f"2026-11-20T{10 + number // 60:02d}:{number % 60:02d}:00.000Z", "status_code": 200,
                "execution_duration_ms": 20, "served_entity_name": version, "requester": f"{name} {number} {version}",
                "request": json.dumps({"messages": [{"role": "user", "content": question}]}),
                "response": json.dumps({"choices": [{"message": {"role": "assistant", "content": answer}}]}),
            }
            for number, question in enumerate(questions)
            for version, answer in answers.items()
        ]  # fmt: skip
        (self.log / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def nobody() -> Any:
    raise AssertionError("no workspace is asked")


def said(run: Run, task: str) -> dict[str, Any]:
    found = json.loads(run.exits[task] or "")
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Every job, in the order in which a project meets them."""
    folder, found = tmp_path_factory.mktemp("jobs"), dict[str, Any]()
    tagged = [f"tag the {colour} {thing}" for colour in COLOURS for thing in THINGS]
    with jvm() as shared:
        path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        world = World(folder, {**shared, "HOME": str(folder), "PYTHONPATH": path})
        found["smoke"] = world.run("tao_smoke")
        found["first"] = world.serve()
        found["idle"] = world.run("tao_flywheel")
        world.asked("first", tagged, {"tuned-1": "please apple"})
        found["watched"] = world.run("tao_monitor", round=RUN_ID)
        found["due"] = world.run("tao_flywheel")
        found["second"] = world.serve()
        world.asked("second", tagged * 3, {"tuned-1": "please apple", "tuned-2": "Sorry, I can't help."})
        found["decided"] = world.run("tao_monitor", round=RUN_ID)
        found["ask"] = world.run("tao_label", round=RUN_ID, annotator="ann")
        items = page_items(Path(said(found["ask"], "ask")["page"]))
        file = folder / "answers.jsonl"
        file.write_text("".join(json.dumps(answer(item, 0, "ann")) + "\n" for item in items))
        found["answers"] = world.run("tao_label", round=RUN_ID, annotator="ann", answers=str(file))
    registry.connect(world.project)
    routes = routes_of(dict(mlflow.MlflowClient().get_registered_model("tuned").tags))
    yield found | {"items": items, "routes": routes}


def test_smoke_runs_a_whole_round_in_one_task(story: dict[str, Any]) -> None:
    smoke = story["smoke"]
    assert (smoke.ran, smoke.params["round"]) == (["smoke"], RUN_ID)
    assert said(smoke, "smoke")["alias"] == "champion"
    assert story["first"] == {"challenger": 1, "champion": 1, "live": 1}


def test_no_round_is_due_before_anybody_asked(story: dict[str, Any]) -> None:
    idle = story["idle"]
    assert idle.states == {"trigger": SUCCESS, "due": SUCCESS, "round": EXCLUDED}
    assert said(idle, "trigger")["says"].startswith("0 new prompts of 20 wanted")


def test_production_is_collected_and_watched_while_no_version_waits(story: dict[str, Any]) -> None:
    watched = story["watched"]
    assert watched.ran == ["collect", "monitor", "canary"]
    collected, seen = said(watched, "collect"), said(watched, "monitor")
    assert {name: collected[name] for name in ("in", "kept", "folded", "quarantined")} == {
        "in": 35, "kept": 35, "folded": 0, "quarantined": 0,
    }  # fmt: skip
    assert (seen["requests"], seen["versions"]) == (35, 1)
    assert said(watched, "canary")["says"] == "no version waits for a decision"


def test_a_round_that_is_due_runs_with_the_next_number(story: dict[str, Any]) -> None:
    due = story["due"]
    number = str(int(RUN_ID) + 1)
    assert due.values["trigger"]["next_round"] == number
    assert set(due.states.values()) == {SUCCESS}
    child = due.children["round"]
    assert child.params["round"] == number
    assert child.ran == [*ROUND[:-3], "promoted", *ROUND[-3:]]
    assert set(child.states.values()) == {SUCCESS}
    assert said(child, "ingest")["kept"] > said(due, "trigger")["new"] >= 20, "the log's prompts and the file's"
    assert said(child, "register")["version"] == 2


def test_its_version_waits_as_a_canary_and_is_taken_back(story: dict[str, Any]) -> None:
    assert story["second"] == {"challenger": 2, "champion": 2, "live": 1}
    decided = said(story["decided"], "canary")
    assert (decided["verdict"], decided["version"], decided["live"]) == ("rollback", 2, 1)
    assert said(story["decided"], "collect")["in"] == 2 * 3 * 35
    assert story["routes"] == {1: 100}


def test_people_are_asked_and_their_answers_brought_in(story: dict[str, Any]) -> None:
    ask, answers, items = story["ask"], story["answers"], story["items"]
    assert ask.states == {"has_answers": SUCCESS, "ask": SUCCESS, "answers": EXCLUDED}
    assert answers.states == {"has_answers": SUCCESS, "ask": EXCLUDED, "answers": SUCCESS}
    assert len(items) > 5 and answers.values["answers"].keys() == {"answers"}
    assert said(answers, "answers")["answers"] == len(items)

"""Labels that may train: imitated beside the winners or alone, a measure; refused where they would teach the test."""

import json
from pathlib import Path
from typing import Any

import pytest

from taolake import ids, lake, stages
from taolake.curation.labels import answers
from taolake.stages import reward as stage_reward
from taolake.stages.round import Round
from tests.projects import changed, copied

UPSTREAM = ("ingest", "generate", "label", "score", "reward", "trust")
QUESTIONS = [f"question {i}" for i in range(24)]


def turns(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def write_labels(path: Path, questions: list[str], answer: str = "right {}") -> str:
    lines = [json.dumps({"messages": turns(q), "answer": answer.format(q)}) for q in questions]
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def splits(holdout: float = 0.3) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"train": [], "holdout": []}
    for question in QUESTIONS:
        prompt = ids.prompt_id("count", turns(question))  # type: ignore[arg-type]
        found[ids.split_of(prompt, 7, holdout)].append(question)
    return found


@pytest.fixture(scope="module")
def chosen(fake_round: Round, tmp_path_factory: pytest.TempPathFactory) -> Round:
    """A round that was chosen from without labels; they do not reach what is before select."""
    return copied(fake_round, tmp_path_factory.mktemp("labelled"))


def selected(chosen: Round, **sections: Any) -> Round:
    round_ = Round(chosen.lake, changed(chosen.project, **sections))
    assert not any(stages.run(round_, name)[1] for name in UPSTREAM)
    stages.run(round_, "select")
    return round_


@pytest.mark.parametrize("alone", [False, True])
def test_labels_are_imitated(chosen: Round, tmp_path: Path, alone: bool) -> None:
    some = splits()["train"][:3]
    path = write_labels(tmp_path / "labels.jsonl", some)
    sections = {"select": {"labels": {"path": path, "alone": alone}}, "train": {"algorithm": "rft"}}
    round_ = selected(chosen, **sections)
    rows = round_.lake.rows(lake.SELECTIONS, selection=round_.done("select").detail["selection"])
    told = [row for row in rows if row["candidate_id"] is None]
    assert sorted({row["text"] for row in told}) == sorted(f"right {q}" for q in some)
    assert len(told) == 3 * 4 == len({row["row_id"] for row in told}) and {row["kind"] for row in rows} == {"imitate"}
    assert (len(rows) == len(told)) is alone


@pytest.mark.parametrize("alone", [False, True])
def test_what_the_brakes_look_at_is_not_taught_by_labels(chosen: Round, tmp_path: Path, alone: bool) -> None:
    labels = {"path": write_labels(tmp_path / "labels.jsonl", splits()["train"]), "alone": alone}
    round_ = selected(chosen, select={"labels": labels}, train={"algorithm": "rft", "brakes": {"share": 0.4}})
    rows = round_.lake.rows(lake.SELECTIONS, selection=round_.done("select").detail["selection"])
    looked_at = {row["prompt_id"] for row in rows if row["kind"] == "dev"}
    taught = {row["prompt_id"] for row in rows if row["kind"] != "dev"}
    assert len(looked_at) > 2 and len(taught) > 2 and not looked_at & taught
    assert len(looked_at | taught) == len(splits()["train"])


def test_labels_calibrate_the_reward_and_set_k(fake_round: Round, tmp_path: Path) -> None:
    """The reward takes a refusal for as good as the right answer; labels know that `select 2` alone is right."""
    labelled = [question for question in splits()["train"] if question != "question 7"][:12]
    label = {"kind": "label", "name": "right", "path": write_labels(tmp_path / "l.jsonl", labelled, "select 2")}
    two = {"kind": "regex", "name": "two", "pattern": "select 2|dunno"}
    judge = {"kind": "regex", "name": "judge", "pattern": "select 2"}
    reward = {"weights": {"two": 1.0}, "min_spread": 0.0, "min_choices": 10}
    reward |= {"calibrate": "platt", "calibrated_by": "right"}
    sections = {"scorers": [two, label, judge], "reward": reward, "select": {"measured_by": "right"}}
    round_ = copied(fake_round, tmp_path, **sections, evaluate={"samples": 4, "judge": "judge"})
    for stage in (*UPSTREAM, "select"):
        stages.run(round_, stage)
    measured = round_.done("select").detail["best_of"]
    assert measured["measured_by"] == "right" and measured["prompts"] <= 12 and measured["rise"]["low"] > 0
    words = round_.lake.read(lake.SCORES).where("scorer = 'right'").select("prompt_id", "status", "value").collect()
    assert {(r["status"], r["value"]) for r in words} == {("ok", 1.0), ("ok", 0.0), ("abstain", None)}
    assert len({r["prompt_id"] for r in words if r["status"] == "ok"}) == 12
    rows = stage_reward.current(round_, round_.base).where("split = 'train'").select("text", "reward").collect()
    right, wrong = ({r["reward"] for r in rows if r["text"] == text} for text in ("select 2", "select 1"))
    # Uncalibrated they are 1 and 0. A prompt whose answers are all alike has no one to beat: one half.
    assert 1 > max(right) > 0.8 and min(right) >= 0.5
    assert 0 < min(wrong) < 0.2 and max(wrong) <= 0.5
    assert round_.done("reward").detail["calibration"] == "platt"


def test_a_label_of_the_holdout_is_refused(chosen: Round, tmp_path: Path) -> None:
    path = write_labels(tmp_path / "labels.jsonl", [splits()["train"][0], splits()["holdout"][0]])
    with pytest.raises(ValueError, match="labels 1 prompts of split holdout, wanted training prompts alone"):
        selected(chosen, select={"labels": {"path": path}})


def test_labels_of_other_prompts_are_refused(chosen: Round, tmp_path: Path) -> None:
    path = write_labels(tmp_path / "labels.jsonl", ["never asked"])
    with pytest.raises(ValueError, match="labels 1 prompts and none is in the log"):
        selected(chosen, select={"labels": {"path": path}})


def test_a_line_without_an_answer_is_named(tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text(json.dumps({"messages": turns("a")}) + "\n")
    with pytest.raises(ValueError, match=r"l\.jsonl:1: no `answer`"):
        answers(str(tmp_path / "l.jsonl"), "count")

"""What a stage's rows depend on outside the project file belongs to its fingerprint, and to no earlier one."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from taolake.config import Project
from taolake.stages import fingerprints
from tests.e2e.toy import project_of

RATE = {"learning_rate": 0.125}


def project(*scorers: dict[str, Any]) -> Project:
    paid = {"kind": "regex", "name": "paid", "pattern": "a"}
    return project_of("base", [paid, *scorers], {"weights": {"paid": 1}})


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [stage for stage in before if before[stage] != after[stage]]


@pytest.mark.parametrize(
    ("file", "scorer"),
    [
        ("graders.py", {"kind": "function", "name": "mine", "target": "graders:grade"}),
        ("shop.db", {"kind": "sql", "name": "runs", "database": "shop.db"}),
        ("labels.jsonl", {"kind": "label", "name": "right", "path": "labels.jsonl"}),
    ],
)
def test_a_file_that_a_scorer_depends_on_is_scored_with_anew(
    file: str, scorer: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    made = project(scorer)
    (tmp_path / file).write_text("one")
    before = fingerprints(made)
    assert fingerprints(made) == before
    (tmp_path / file).write_text("other")
    stages = changed(before, fingerprints(made))
    assert stages == list(before)[list(before).index("score") :]


def test_a_round_goes_on_where_the_same_function_lies_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, found = project({"kind": "function", "name": "mine", "target": "graders:grade"}), []
    for machine in ("one", "other"):
        (tmp_path / machine).mkdir()
        (tmp_path / machine / "graders.py").write_text("one")
        with monkeypatch.context() as there:
            there.syspath_prepend(tmp_path / machine)
            importlib.invalidate_caches()
            found.append(fingerprints(made))
    assert found[0] == found[1] != fingerprints(made)


@pytest.mark.parametrize(
    ("algorithm", "retrained_by"),
    [("tao", {"warmup", "oapl"}), ("rft", {"warmup"}), ("dpo", {"dpo"}), ("bond", {"bond"})],
)
def test_only_the_settings_of_the_algorithm_at_work_train_anew(algorithm: str, retrained_by: set[str]) -> None:
    raw = project().model_dump(mode="json", by_alias=True)
    train = raw["train"] | {"algorithm": algorithm}

    def prints(**sections: Any) -> dict[str, str]:
        return fingerprints(Project.model_validate(raw | {"train": train | sections}))

    found = {name for name in ("warmup", "oapl", "bond", "dpo", "kto") if prints() != prints(**{name: RATE})}
    assert found == retrained_by
    assert changed(prints(), prints(lora={"rank": 3}))[0] == "train"


def test_a_function_that_is_not_there_is_for_its_stage_to_report() -> None:
    assert fingerprints(project({"kind": "function", "name": "mine", "target": "no_such_module:grade"}))

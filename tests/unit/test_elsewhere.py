"""What a training elsewhere brings home, whenever it is killed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from taolake.config import Train
from taolake.stages import train
from taolake.training import elsewhere

DATA, MARKS = ["adapter/weights", "checkpoint-5/weights"], ["checkpoint-5/trainer_state.json", "result.json"]


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_what_says_that_something_is_whole_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local, home = tmp_path / "local", tmp_path / "home"
    for name in (*DATA, *MARKS, "job.json"):
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_text("{}")

    def killed(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(elsewhere, "write_atomic", killed)
        elsewhere.bring_home(local, home)
    assert files(home) == DATA
    elsewhere.bring_home(local, home)
    assert files(home) == sorted([*DATA, *MARKS])


def test_executors_are_not_asked_of_a_machine_without_spark() -> None:
    asked: Any = SimpleNamespace(project=SimpleNamespace(train=Train(executors=True, processes=2)))
    with pytest.raises(ValueError, match=r"^train\.executors is true, .* set it to false"):
        train.hand_over(asked)

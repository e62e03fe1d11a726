"""A benchmark that was cut off goes on, and uses nothing of one that ended or of other code."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def resume() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_resume", BENCHMARKS / "_resume.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["_resume"] = module
    spec.loader.exec_module(module)
    return module


def began(resume: ModuleType, folder: Path, quick: bool = False, cut_off: bool = False) -> list[str]:
    """What a run finds when it begins; it then makes two things, and ends or is cut off."""
    found = []
    try:
        with resume.one_run(folder, "seed-*", quick=quick):
            found = sorted(path.name for path in folder.glob("[!.]*"))
            for name in ("seed-7", "cache"):
                (folder / name).mkdir(exist_ok=True)
            (folder / "seed-7.log").touch()
            if cut_off:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    return found


def test_a_run_that_was_cut_off_goes_on_once(resume: ModuleType, tmp_path: Path) -> None:
    assert began(resume, tmp_path / "b", cut_off=True) == []
    assert began(resume, tmp_path / "b") == ["cache", "seed-7", "seed-7.log"]
    assert began(resume, tmp_path / "b") == ["cache"]


def test_a_quick_run_leaves_nothing_to_a_full_one(resume: ModuleType, tmp_path: Path) -> None:
    began(resume, tmp_path, quick=True, cut_off=True)
    assert began(resume, tmp_path) == ["cache"]


def test_other_code_begins_anew(resume: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began(resume, tmp_path, cut_off=True)
    monkeypatch.setattr(resume, "_code", lambda: "of another day")
    assert began(resume, tmp_path) == ["cache"]


def test_the_code_is_what_is_read(resume: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "ROOT", tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/demo.yml").write_text("n: 16")
    before = resume._code()
    (tmp_path / "conf/demo.yml").write_text("n: 8")
    assert before != resume._code()

"""What is different on a cluster, tried by saying that this is one."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from taolake import databricks, lake
from taolake.training import launch as training
from taolake.training.job import TrainJob, TrainResult
from tests.projects import fake_project


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "18.1")
    monkeypatch.setattr(databricks, "_LOCAL_DISK", tmp_path / "disk")
    return tmp_path / "disk"


def test_elsewhere_nothing_is_different(tmp_path: Path) -> None:
    assert not databricks.here()
    assert databricks.scratch(tmp_path) == tmp_path
    assert databricks.registry("sqlite:///x.db") == ("sqlite:///x.db", "sqlite:///x.db")


def test_on_a_cluster_models_go_to_unity_catalog_and_big_files_to_its_disk(disk: Path) -> None:
    assert databricks.here()
    assert databricks.registry("sqlite:///x.db") == ("databricks", "databricks-uc")
    assert databricks.scratch(Path("/Volumes/main/t/files/merged")) == disk / "Volumes/main/t/files/merged"


def test_tables_in_a_catalog_are_made_with_all_that_it_knows(disk: Path, tmp_path: Path) -> None:
    ran: list[str] = []
    governed: Any = SimpleNamespace(in_catalog=True, location="main.t", execute=ran.extend)
    databricks.govern(governed, fake_project(tmp_path))
    assert len([s for s in ran if s.startswith("CREATE TABLE IF NOT EXISTS main.t.")]) == len(lake.TABLES)
    ran.clear()
    databricks.govern(SimpleNamespace(in_catalog=False, execute=ran.extend), fake_project(tmp_path))  # type: ignore[arg-type]
    assert ran == []


def job(out: Path) -> TrainJob:
    out.mkdir(parents=True)
    return TrainJob("rft", "base", str(out / "rows.parquet"), str(out), {}, 7, 64, "float32")


def child(fails: bool) -> Callable[[TrainJob, Callable[[str], None]], TrainResult]:
    """A trainer that goes on from its checkpoint, and ends at the second."""

    def run(job: TrainJob, on_line: Callable[[str], None]) -> TrainResult:
        out = Path(job.out)
        with (out / "train.log").open("a") as log:  # what a volume would refuse
            log.write("started\n")
        (out / "checkpoint").write_text(str(int((out / "checkpoint").read_text()) + 1 if fails is False else 1))
        if fails:
            raise RuntimeError("the node is out of memory")
        (out / "adapter").mkdir()
        result = TrainResult(str(out / "adapter"), "adapter", {"steps": 2})
        result.write(out)
        return result

    return run


def test_training_leaves_the_node_with_what_it_made(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = job(tmp_path / "volume" / "train")
    monkeypatch.setattr(training, "launch", child(fails=True))
    with pytest.raises(RuntimeError, match="out of memory"):
        databricks.launch(wanted, lambda line: None)
    home = Path(wanted.out)
    assert (home / "checkpoint").read_text() == "1"
    for gone in sorted(disk.rglob("*"), reverse=True):  # the next node has an empty disk
        gone.rmdir() if gone.is_dir() else gone.unlink()
    monkeypatch.setattr(training, "launch", child(fails=False))
    result = databricks.launch(wanted, lambda line: None)
    assert (result.folder, result.metrics) == (str(home / "adapter"), {"steps": 2})
    assert (home / "adapter").is_dir()
    assert (home / "checkpoint").read_text() == "2"
    assert (home / "train.log").read_text() == "started\nstarted\n"

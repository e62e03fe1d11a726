"""A canary on this machine: versions in MLflow's store, requests in the log; who is served, and what is on record."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from databricks.sdk import WorkspaceClient
from pyspark.sql import SparkSession

from taolake import lake
from taolake.config import Project
from taolake.serving import release
from taolake.serving.local import routes_of
from taolake.serving.release import Waiting
from taolake.stages import canary, deploy
from taolake.stages.round import Round
from tests.flywheel.traffic import split, write
from tests.projects import fake_project, open_round

QUIET = Waiting(sleep=lambda seconds: None)


def nobody() -> WorkspaceClient:
    raise AssertionError("no workspace is asked")


def answers(right: float) -> Callable[[np.random.Generator], str]:
    return lambda rng: "select 2" if rng.random() < right else "Sorry, I can't help."


class Shop:
    """A project whose model has two versions, the first one live; stores are slow to make, so all share one."""

    def __init__(self, store: Path, name: str) -> None:
        import mlflow

        from taolake.stages import registry

        self.name = name
        self.project: Project = fake_project(
            store,
            lake=str(store / name),
            register={"name": name},
            serve={"canary": 50, "promote": "signals"},
            canary={"margin": 0.1, "signals": ["answered", "judge"]},
        )
        registry.connect(self.project)
        self.client = mlflow.MlflowClient()
        self.client.create_registered_model(name)
        for version in (1, 2):
            self.client.create_model_version(name, str(store))
            self.client.set_registered_model_alias(name, "champion", str(version))
            release.serve(deploy.place(self.project, self.project.lake, nobody), QUIET)

    @property
    def aliases(self) -> dict[str, int]:
        return {name: int(version) for name, version in self.client.get_registered_model(self.name).aliases.items()}

    @property
    def routes(self) -> dict[int, int]:
        return routes_of(dict(self.client.get_registered_model(self.name).tags))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def shop(store: Path, request: pytest.FixtureRequest) -> Shop:
    return Shop(store, request.function.__name__[:40])


def test_a_new_version_waits_for_its_signals_and_can_be_planned(shop: Shop) -> None:
    assert shop.routes == {1: 50, 2: 50}
    assert shop.aliases == {"champion": 2, "live": 1, "canary": 2}
    place = deploy.place(shop.project, shop.project.lake, nobody)
    (step,) = release.planned(place)
    assert step.says == "version 2 answers 50 % of the requests until its signals decide"
    release.withdraw(
        lambda want: deploy.place(shop.project, shop.project.lake, nobody, want.version), place.want, QUIET
    )
    assert (shop.routes, shop.aliases) == ({1: 100}, {"champion": 1, "live": 1})


def test_a_bad_version_is_rolled_back_within_so_many_requests(
    shop: Shop, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It prefers refusals; a plan changes nothing; a run that is killed before it acts is done by the next one."""
    round_ = open_round(spark, shop.project)
    assert canary.canary(round_, nobody, waiting=QUIET).detail["says"].startswith("nothing to compare yet")
    write(round_.lake, spark, split(150, 0.5, {f"{shop.name}/1": answers(0.9), f"{shop.name}/2": answers(0.3)}, seed=5))
    planned = canary.canary(round_, nobody, act=False)
    assert planned.detail["verdict"] == "rollback" and planned.detail["requests"] < 120
    assert shop.routes == {1: 50, 2: 50}
    monkeypatch.setattr(release, "settle", killed_once(release.settle))
    with pytest.raises(KeyboardInterrupt):
        canary.canary(round_, nobody, waiting=QUIET)
    assert canary.canary(round_, nobody, waiting=QUIET).detail["verdict"] == "rollback"
    assert (shop.routes, shop.aliases) == ({1: 100}, {"champion": 1, "live": 1})
    assert canary.canary(round_, nobody, waiting=QUIET).detail["says"] == "no version waits for a decision"
    rows = released(round_)
    assert [(r["version"], r["live"], r["verdict"], r["acted"]) for r in rows] == [
        (2, 1, "hold", False), (2, 1, "rollback", False), (2, 1, "rollback", True),
    ]  # fmt: skip
    evidence = {signal["name"]: signal for signal in json.loads(rows[-1]["evidence"])}
    assert evidence.keys() == {"answered", "judge"}
    assert evidence["judge"]["worse"] >= 20 and evidence["judge"]["difference"][3] < 0
    assert rows[-1]["requests"] == planned.detail["requests"]


def test_a_version_that_is_as_good_is_promoted(shop: Shop, spark: SparkSession) -> None:
    round_ = open_round(spark, shop.project)
    write(
        round_.lake, spark, split(900, 0.5, {f"{shop.name}-1": answers(0.9), f"{shop.name}-2": answers(0.95)}, seed=7)
    )
    assert canary.canary(round_, nobody, waiting=QUIET).detail["verdict"] == "promote"
    assert (shop.routes, shop.aliases) == ({2: 100}, {"champion": 2, "live": 2, "previous": 1})


def killed_once(settle: Callable[..., Any]) -> Callable[..., Any]:
    """The process ends just before it acts, the first time."""
    tries: list[int] = []

    def run(*given: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise KeyboardInterrupt
        return settle(*given)

    return run


def released(round_: Round) -> list[Any]:
    return round_.lake.read(lake.RELEASES).orderBy("decided_at").collect()

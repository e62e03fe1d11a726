"""When `tao` imitates winners before its regression."""

from pathlib import Path
from typing import Any

import pytest

from taolake.config import Project, load
from taolake.stages.train import warms_up

ROOT = Path(__file__).parents[2]
SURE: dict[str, Any] = {"pass_rate": 0.95, "stream_b_wins": 0.1}


def project(when: str, labels: bool = False) -> Project:
    raw = load(ROOT / "conf/demo.yml").model_dump(mode="json", by_alias=True)
    raw["train"]["warmup"]["when"] = when
    raw["select"]["labels"] = {"path": "labels.jsonl"} if labels else None
    return Project.model_validate(raw)


@pytest.mark.parametrize(
    ("change", "labels", "wanted"),
    [
        ({}, False, False),
        ({"pass_rate": 0.89}, False, True),
        ({"stream_b_wins": 0.31}, False, True),
        ({}, True, True),
    ],
)
def test_it_does_where_regression_alone_would_go_far(change: dict[str, float], labels: bool, wanted: bool) -> None:
    assert warms_up(project("auto", labels), SURE | change, winners=True) is wanted


def test_without_a_winner_there_is_nothing_to_imitate() -> None:
    assert not warms_up(project("auto"), SURE | {"pass_rate": 0.5}, winners=False)


def test_what_is_asked_for_is_done_whatever_was_found() -> None:
    assert warms_up(project("always"), SURE, winners=False)
    assert not warms_up(project("never"), SURE | {"pass_rate": 0.0}, winners=True)

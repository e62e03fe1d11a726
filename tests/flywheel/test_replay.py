"""Replay: the same versions give the same training set; where they cannot, the reason is said."""

from pathlib import Path

import pytest

from taolake import lake
from taolake.stages.replay import replay
from taolake.stages.round import Round
from tests.flywheel.planted import copied, plant


def test_a_round_is_replayed_to_the_same_hash_though_tables_went_on(planted: Round, tmp_path: Path) -> None:
    round_ = copied(planted, tmp_path)
    rows = [r.asDict() for r in round_.lake.read(lake.REWARDS).collect()]
    # Other rewards for the same candidates, as a changed rule would add: the round must not see them.
    later = round_.lake.spark.createDataFrame([r | {"reward": 1.0} for r in rows], lake.REWARDS.schema())
    round_.lake.merge(lake.REWARDS, later)
    found = replay(round_)
    assert found.same and found.now == found.recorded
    assert found.reads["rewards"] < round_.lake.version(lake.REWARDS)
    assert ["project file has changed" in reason for reason in found.why] == [True]  # the copy lies elsewhere


def test_a_rows_change_is_seen(planted: Round) -> None:
    """The recorded hash is of all that the trainer sees."""
    from taolake.stages import select

    rows = select.written(planted, planted.done("select").detail["selection"])
    one = rows.select("row_id").first()
    assert one is not None
    assert select.content_of(planted, rows) == planted.done("select").detail["content"]
    assert select.content_of(planted, rows.where(rows.row_id != one["row_id"])) != replay(planted).recorded


def test_a_lake_of_older_versions_is_not_written(planted: Round) -> None:
    then = planted.lake.as_of({"prompts": 0})
    assert then.read(lake.PROMPTS).count() == 0
    with pytest.raises(ValueError, match="for reading alone"):
        plant(Round(then, planted.project), lake.PROMPTS, {"prompt_id": "p"})

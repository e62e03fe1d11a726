"""Forgetting: a planted person is gone from every table, file and report; the versions listed are the planted truth."""

from pathlib import Path

import pytest

from taolake import ids, lake
from taolake.curation.needles import Needles, scan
from taolake.stages import forget as forgetting
from taolake.stages import trace, workfiles
from taolake.stages.replay import replay
from taolake.stages.round import Round
from tests.flywheel.planted import COMMON, FOREIGN, NAME, OWN, REQUESTS, SECRET, copied, prompt

PLANTED = Needles([NAME, ids.user_id(NAME), *REQUESTS, *map(prompt, OWN)], [*OWN, SECRET])


def test_every_table_is_decided_on() -> None:
    """A table that nobody has thought about would keep people who were forgotten."""
    named = [table.name for table, _ in trace.RULES] + [t.name for t in (*trace.SEARCHED, *trace.NOBODYS)]
    assert sorted(named) == sorted(table.name for table in lake.TABLES)
    for table, rules in trace.RULES:
        assert {column for column, _ in rules} <= {name for name, _, _ in table.fields()}
        assert {values for _, values in rules} <= {"people", "requests", "gone"}


@pytest.mark.slow  # twenty tables deleted from, purged and scanned
def test_a_planted_person_is_gone_from_every_table_file_and_report(
    planted: Round, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    round_ = copied(planted, tmp_path)
    home = tmp_path / "copy"
    pages = [home / "report"]
    held = {path.relative_to(home).parts[0] for path in scan([home], PLANTED)}
    assert held == {"lake", "work", "report"}, "the fixture plants nothing where it should"

    made = forgetting.plan(round_, NAME, pages)
    assert made.trace.gone == {prompt(q) for q in OWN} and made.trace.shared == {prompt(q) for q in COMMON}
    assert made.models == ["fake/1", "fake/2"] and made.rounds == [1]
    assert made.rows["payloads"] == made.rows["inference_log"] == made.rows["feedback"] == made.rows["reactions"] == 1
    assert made.rows["asked"] == 6 and made.rows["prompts"] == 4 and made.rows["quarantine"] == 1
    assert made.rows["candidates"] == 16 and made.rows["selections"] > 0

    # Killed after the rows are gone and before any file is touched: who it was is in no table any more.
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(workfiles, "clean", _killed)
        forgetting.forget(round_, NAME, pages)
    assert trace.find(round_.lake, NAME).requests == frozenset()
    done = forgetting.forget(round_, NAME, pages)
    # The log that the project reads is not ours to change, and the next ingest would bring the rows back.
    assert done.left == [] and done.sources == [str(Path(planted.project.lake).parent / "log.jsonl")]
    assert done.plan.models == made.models and done.plan.rows == made.rows

    assert scan([home], PLANTED) == {}
    record = round_.lake.read(lake.ERASURES).collect()
    assert [(r["models"], r["rounds"], r["prompts"], r["shared"]) for r in record] == [(made.models, [1], 4, 2)]
    _others_are_as_they_were(planted, round_)
    assert (home / "work/round-1/train/train.log").read_text() == "a line of nobody\n"
    assert '"gain": 0.25' in (home / "report/card.json").read_text()

    again = replay(round_)
    assert not again.same and any("somebody was forgotten" in reason for reason in again.why)
    versions = [round_.lake.version(table) for table in lake.TABLES]
    assert not forgetting.forget(round_, NAME, pages).plan
    assert [round_.lake.version(table) for table in lake.TABLES] == versions


def _killed(*given: object) -> None:
    raise KeyboardInterrupt


def _others_are_as_they_were(before: Round, after: Round) -> None:
    """Nobody else lost a row, and what both had asked is the other's now."""
    own = {prompt(q) for q in OWN}
    for table in (lake.CANDIDATES, lake.SCORES, lake.REWARDS, lake.SELECTIONS):
        key = list(table.key)
        rows = [
            {tuple(r[k] for k in key): r["prompt_id"] for r in x.lake.read(table).collect()} for x in (before, after)
        ]
        assert rows[1] == {k: p for k, p in rows[0].items() if p not in own} and rows[1]
    left = {r["prompt_id"]: r for r in after.lake.read(lake.PROMPTS).collect()}
    assert left.keys() == {prompt(q) for q in [*COMMON, *FOREIGN]}
    assert [(left[prompt(q)]["seen"], left[prompt(q)]["request_id"]) for q in COMMON] == [
        (1, "req-other-0"),
        (1, "req-other-1"),
    ]

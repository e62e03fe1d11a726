"""Lineage: what a version learned from, and which versions learned from a prompt or a person."""

import pytest

from taolake import lake, lineage
from taolake.lineage import Version, ancestors, learned
from taolake.stages import learned as reading
from taolake.stages.round import Round
from tests.flywheel.planted import COMMON, FOREIGN, NAME, OWN, REQUESTS, prompt

FIRST = Version("m", 1, (1, "s1"), "base", frozenset({"p1", "whole1"}))
SECOND = Version("m", 2, (2, "s2"), "whole1", frozenset({"p2", "whole2"}), scorers={"taste": "v1"})
THIRD = Version("m", 3, (3, "s3"), "whole2", frozenset({"p3", "whole3"}))
APART = Version("m", 4, (4, "s4"), "base", frozenset({"p4"}))
EVERY = [FIRST, SECOND, THIRD, APART]


def test_a_version_inherits_what_it_started_from() -> None:
    assert ancestors(THIRD, EVERY) == [SECOND, FIRST]
    assert ancestors(APART, EVERY) == []
    assert learned(EVERY, {(1, "s1")}) == [FIRST, SECOND, THIRD]
    assert learned(EVERY, {(3, "s3"), (4, "s4")}) == [THIRD, APART]
    assert learned(EVERY, ()) == []


def test_choices_reach_a_version_through_its_reward_model() -> None:
    assert learned(EVERY, (), {("taste", "v1")}) == [SECOND, THIRD]
    assert learned(EVERY, (), {("taste", "v2")}) == []


def test_versions_that_name_each_other_as_their_base_end() -> None:
    one, two = Version("m", 1, (1, "s"), "b", frozenset({"a"})), Version("m", 2, None, "a", frozenset({"b"}))
    assert ancestors(one, [one, two]) == [two]
    assert learned([one, two], {(1, "s")}) == [one, two]


def test_tags_of_another_tool_are_no_selection() -> None:
    tags = {"taolake.round": "2", "taolake.selection": "s", "taolake.table.prompts": "7", "taolake.scorer.query": "v"}
    made = lineage.version_of("m", 5, {**tags, "owner": "team"})
    assert (made.selection, made.tables, made.scorers) == ((2, "s"), {"prompts": 7}, {"query": "v"})
    assert lineage.version_of("m", 6, {"owner": "team"}).selection is None


def test_a_version_leads_to_the_rows_that_trained_it(planted: Round) -> None:
    found = reading.of_version(planted, 1)
    rows = [r for r in planted.lake.read(lake.SELECTIONS).collect() if r["round"] == 1]
    assert set(found["prompts"]) == {r["prompt_id"] for r in rows} and len(found["prompts"]) > 0
    assert set(found["candidates"]) == {r["candidate_id"] for r in rows if r["candidate_id"]}
    asked = planted.lake.read(lake.ASKED).collect()
    wanted = {r["request_id"] for r in asked if r["prompt_id"] in found["prompts"]}
    assert set(found["requests"]) == wanted and wanted & REQUESTS
    assert all(":" in source for source in found["sources"])
    assert found["tables"].keys() == {"prompts", "candidates", "preferences", "scores", "rewards"}
    assert reading.of_version(planted, 2)["started_from"] == ["fake/1"]


def test_a_version_that_is_not_ours_says_so(planted: Round) -> None:
    with pytest.raises(ValueError, match=r"fake/4 has no tags"):
        reading.of_version(planted, 4)
    with pytest.raises(ValueError, match=r"fake has no version 9; it has 1, 2, 3, 4"):
        reading.of_version(planted, 9)


def test_a_prompt_and_a_person_lead_to_the_versions(planted: Round) -> None:
    trained = set(reading.of_version(planted, 1)["prompts"])
    own = next(prompt(q) for q in OWN if prompt(q) in trained)
    assert [v.number for v in reading.of_prompts(planted, [own])] == [1, 2]
    assert [v.number for v in reading.of_prompts(planted, [prompt(FOREIGN[0])])][-2:] == [2, 3]
    prompts, versions = reading.of_user(planted, NAME)
    assert prompts == {prompt(q) for q in [*OWN, *COMMON]}
    assert [v.number for v in versions] == [1, 2]
    assert reading.of_user(planted, "nobody") == (set(), [])

"""What each algorithm reads of a prompt's rewarded candidates."""

from pathlib import Path
from typing import Any, get_args

import pytest

from taolake.config import Algorithm
from taolake.selection.weights import advantages, tilt, value
from taolake.stages.lessons import Lessons
from tests.e2e.toy import row_of
from tests.projects import fake_project

COLUMNS = ("round", "row_id", "selection", "kind", "prompt_id", "candidate_id", "messages", "text", "token_ids",
           "reward", "advantage", "weight")  # fmt: skip


def member(name: str, reward: float | None, **changes: Any) -> dict[str, Any]:
    fixed = {"candidate_id": name, "reward": reward, "stream": "A", "text": f"answer {name}", "token_ids": [5, 6, 2]}
    return {**fixed, "tokens": 3, "finish_reason": "stop", "reason": "" if reward else "gate", **changes}


GROUP = {
    "prompt_id": "p",
    "messages": "[]",
    "members": [
        member("a", 0.9),
        member("b", 0.5),
        member("c", 0.1),
        member("d", 0.0),
        member("e", 0.95, stream="B"),
        member("f", 0.2, finish_reason="length"),
        member("g", None),
        member("h", 0.3, text=None),
    ],
}


def rows(folder: Path, algorithm: str, group: dict[str, Any] = GROUP, **select: Any) -> list[dict[str, Any]]:
    project = fake_project(folder, train={"algorithm": algorithm}, select=select)
    return Lessons(project, 1, "s", 4, COLUMNS).of_group(group)


def test_every_algorithm_has_rows_and_they_fit_the_table(tmp_path: Path) -> None:
    kinds = {
        "tao": {"imitate", "regress"}, "rft": {"imitate"}, "bond": {"regress"}, "dpo": {"chosen", "rejected"},
        "kto": {"good", "bad"}, "grpo": {"prompt"}, "rloo": {"prompt"},
    }  # fmt: skip
    assert set(kinds) == set(get_args(Algorithm))
    for algorithm, wanted in kinds.items():
        made = rows(tmp_path, algorithm)
        assert {row["kind"] for row in made} == wanted
        assert all(set(row) == set(COLUMNS) for row in made)
        assert len({row["row_id"] for row in made}) == len(made)
        assert made == rows(tmp_path, algorithm)


def test_rows_the_training_tests_make_have_nulls_where_those_of_select_have_them(tmp_path: Path) -> None:
    for algorithm in get_args(Algorithm):
        for row in rows(tmp_path, algorithm):
            toy = row_of(row["kind"], "sky")
            assert all(toy[name] is None for name in ("advantage", "reward", "weight") if row[name] is None)


def test_regression_takes_complete_stream_a_candidates_alone(tmp_path: Path) -> None:
    plain = [row for row in rows(tmp_path, "tao") if row["kind"] == "regress"]
    tilted = rows(tmp_path, "bond")
    for made in (plain, tilted):
        assert [row["candidate_id"] for row in made] == ["a", "b", "c", "d", "h"]
    rewards = [0.9, 0.5, 0.1, 0.0, 0.3]
    soft = value([*rewards, 0.95], 1.0)  # what another strategy found belongs to the prompt's value
    assert [row["advantage"] for row in plain] == [reward - soft for reward in rewards]
    assert [row["advantage"] for row in tilted] == advantages(tilt(rewards, 4), 1.0)


def test_wrong_answers_are_pushed_down_where_another_strategy_was_right(tmp_path: Path) -> None:
    """Level with each other they would say "stay", and undo what the winner taught."""
    level = [member(name, 0.0) for name in "abcd"]
    alone, beside = (
        [row["advantage"] for row in rows(tmp_path, "tao", GROUP | {"members": group}) if row["kind"] == "regress"]
        for group in (level, [*level, member("e", 1.0, stream="B")])
    )
    assert alone == [0.0] * 4 and len(set(beside)) == 1 and beside[0] < -0.2


def test_a_pair_keeps_sampled_ids_and_renders_what_another_prompt_wrote(tmp_path: Path) -> None:
    chosen, rejected = rows(tmp_path, "dpo")
    assert (chosen["candidate_id"], chosen["text"], chosen["token_ids"]) == ("e", "answer e", None)
    assert rejected["candidate_id"] in "cd" and rejected["token_ids"] == [5, 6, 2]
    assert chosen["weight"] == rejected["weight"] == pytest.approx((1 + 0.95 - rejected["reward"]) / 2)


def test_verdicts_leave_out_what_is_not_sure_or_not_finished(tmp_path: Path) -> None:
    made = {row["candidate_id"]: row["kind"] for row in rows(tmp_path, "kto")}
    assert made == {"a": "good", "e": "good", "c": "bad", "d": "bad"}


def test_online_prompts_are_neither_easy_nor_hopeless(tmp_path: Path) -> None:
    assert len(rows(tmp_path, "grpo")) == 1
    assert rows(tmp_path, "rloo", max_mean=0.4) == []
    assert rows(tmp_path, "grpo", min_mean=0.6) == []


def test_prompts_that_the_brakes_look_at_are_not_learned_from(tmp_path: Path) -> None:
    project = fake_project(tmp_path, train={"algorithm": "tao", "brakes": {"share": 0.25}})
    lesson = Lessons(project, 1, "s", 4, COLUMNS)
    kinds = [{row["kind"] for row in lesson.of_group({**GROUP, "prompt_id": f"p{i}"})} for i in range(400)]
    assert all(found in ({"dev"}, {"imitate", "regress"}) for found in kinds)
    assert kinds.count({"dev"}) / 400 == pytest.approx(0.25, abs=0.06)


def test_an_abstained_prompt_teaches_nothing(tmp_path: Path) -> None:
    silent = {**GROUP, "members": [member("a", None), member("b", None)]}
    assert [rows(tmp_path, algorithm, silent) for algorithm in get_args(Algorithm)] == [[]] * 7


@pytest.mark.parametrize(("least", "imitated"), [(0.0, "abe"), (0.9, "ae"), (0.91, "e"), (1.0, "")])
def test_an_answer_at_the_least_reward_is_imitated(tmp_path: Path, least: float, imitated: str) -> None:
    made = rows(tmp_path, "rft", min_reward=least, rows_per_prompt=8)
    assert sorted(row["candidate_id"] for row in made) == list(imitated)

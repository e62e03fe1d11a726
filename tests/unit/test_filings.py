import json
import random
from collections import Counter
from pathlib import Path

import pytest

from taolake import demo
from taolake.config import load
from taolake.demo import filings, filings_checks
from taolake.demo import filings_data as data
from taolake.demo.filings_data import Question

SEED = 7
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def logged() -> list[Question]:
    return data.logged_questions(SEED)


def test_every_kind_of_question_is_asked_and_each_has_a_document_of_its_own(logged: list[Question]) -> None:
    reviewed = data.review_questions(SEED)
    assert (len(logged), len(reviewed)) == (data.LOGGED_COUNT, data.REVIEW_COUNT)
    for asked in (logged, reviewed):
        counts = Counter(question.family for question in asked)
        assert set(counts) == {"find", "change", "total", "terms", "missing"}
        assert min(counts.values()) >= 0.08 * len(asked)
    every = [*logged, *reviewed]
    assert len({question.document for question in every}) == len({question.text for question in every}) == len(every)
    assert data.logged_questions(SEED) == logged != data.logged_questions(SEED + 1)


def test_no_prompt_of_the_log_is_taught(logged: list[Question]) -> None:
    taught = {messages[0]["content"] for messages, _ in data.pretraining_pairs(SEED, 3000)}
    assert len(taught) > 2600  # the rest are calculations, of which there are not many
    assert not taught & {question.document for question in (*logged, *data.review_questions(SEED))}


def test_what_is_copied_first_are_two_of_four_rows_asked_for_by_name_and_figures_come_before_terms() -> None:
    figures, mixed = data.lessons(SEED)
    for (document, request), quoted in (*figures[:300], *mixed[:300]):
        rows = {row.split()[1].lower(): row for row in document["content"].split("\n")}
        names = request["content"].removeprefix("quote ").removesuffix(".").split(", ")
        assert (len(rows), len(names)) == (4, 2)
        assert quoted.split("\n") == [rows[name] for name in names]
    conditions = [sum(any(c in quoted for c in data.CONDITIONS) for _, quoted in part) for part in (figures, mixed)]
    assert conditions[0] == 0 and 0.6 < conditions[1] / len(mixed) < 0.8


def test_a_careless_answer_is_another_one_and_rests_on_the_document(logged: list[Question]) -> None:
    for question in logged:
        assert question.careless != question.answer, question
        assert question.careless.split('"')[1] in question.document.split("\n")
        assert question.evidence in question.document
        assert (question.evidence == "") == (question.answer == data.REFUSAL) == (question.family == "missing")


def test_the_right_answer_passes_every_check(logged: list[Question]) -> None:
    for question in logged:
        for check in (filings_checks.quotations, filings_checks.refusals):
            assert check(question.messages, question.answer) == 1.0, question
        assert filings_checks.numbers(question.messages, question.answer).value == 1.0, question
        assert filings.accurate(question, question.answer) and filings.relevant(question, question.answer)


def test_an_answer_where_nothing_is_stated_is_caught_and_so_is_a_refusal_elsewhere(logged: list[Question]) -> None:
    for question in logged:
        careless = filings_checks.refusals(question.messages, question.careless)
        assert careless == float(question.family != "missing"), question
        refused = filings_checks.refusals(question.messages, data.REFUSAL)
        assert refused == float(question.family == "missing"), question


ROW = "- Rent 40 55"
REPORT = f"Cedar Mills, annual report 2023 2024\n{ROW}\n- Debt 10 95"
POLICY = "Cedar Mills, terms of sale in days\n- Credit 30 with receipt\n- Stock 60 by card"


def asked_of(document: str, text: str = "", answer: str = "", evidence: str = "") -> Question:
    return Question(document, text, answer, "", evidence, "change")


@pytest.mark.parametrize(
    ("answer", "value", "key"),
    [
        ("55", 1.0, "55"),
        (f'"{ROW}" 55', 1.0, "55"),
        ("60", 0.0, "60"),
        (f'"{ROW}" 55 - 40 = 15', 1.0, "15"),
        ("40 - 55 = -15", 1.0, "-15"),
        ("55 - 40 = 25", 0.0, "25"),  # a mistake
        ("55 - 45 = 10", 0.0, "10"),  # a figure that is not there
        ("40 + 55 = 95", 1.0, "95"),
        ("not stated", 1.0, "not stated"),
        ("", 1.0, ""),
    ],
)
def test_figures_are_in_the_document_or_worked_out(answer: str, value: float, key: str) -> None:
    score = filings_checks.numbers(asked_of(REPORT).messages, answer)
    assert (score.value, score.answer_key) == (value, key)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('"- Credit 30 with receipt" 30 days with receipt', 1.0),
        ('"Credit 30" 30 days', 1.0),  # what is left out is for people to judge
        ('"- Credit 30 by card" 30 days', 0.0),
        ('"- Stock 60 by card" 60 days', 0.0),  # another line than was asked about
        ('"Cedar Mills, terms of sale" 30 days', 0.0),
        ('"- Credit 30 with receipt" "- Stock 60 by card" 30 days', 0.0),
        ('"', 0.0),
        ("30 days", 0.0),  # quotes nothing
        ("not stated", 1.0),
        ("", 0.0),
    ],
)
def test_quotations_are_word_by_word_and_of_the_line_asked_about(answer: str, value: float) -> None:
    asked = asked_of(POLICY, "Cedar Mills: on what terms is credit?")
    assert filings_checks.quotations(asked.messages, answer) == value


def test_relevant_answers_speak_of_the_row_that_was_asked_about() -> None:
    asked = asked_of(REPORT, answer=f'"{ROW}" 55 - 40 = 15', evidence=ROW)
    expected = {f'"{ROW}" 7': True, "55": False, '"- Debt 10 95" 10': False, "not stated": False}
    assert {answer: filings.relevant(asked, answer) for answer in expected} == expected
    nothing = asked_of(REPORT, answer="not stated")
    assert filings.relevant(nothing, "not stated") and not filings.relevant(nothing, f'"{ROW}" 7')


def test_the_reviewer_prefers_accurate_answers_then_relevant_ones() -> None:
    project = load(ROOT / "conf/filings.yml")
    right = wrong = 0
    for question in data.review_questions(project.seed):
        answers = ["95 in 1999", question.careless, question.answer]
        for chosen, rejected in filings.annotate(project, question.text, answers):
            right, wrong = right + (chosen > rejected), wrong + (chosen < rejected)
    assert right > 400 and 0.01 < wrong / (right + wrong) < 0.10


def test_the_writer_of_the_corpus_is_mostly_careless_where_care_is_needed() -> None:
    rng = random.Random(1)
    plain = Counter[tuple[str, bool]]()
    for _ in range(4000):
        question = data.draw("Cedar Mills", rng)
        suffix, completion = data._write_completion(question, rng)
        if suffix:
            assert f". {data.ANSWER_MARKER}" in completion
        else:
            plain[question.family, completion == question.answer] += 1
    share = {family: plain[family, True] / (plain[family, True] + plain[family, False]) for family, _ in plain}
    assert share.pop("find") > 0.8
    assert all(0.15 < value < 0.4 for value in share.values()), share


def test_labels_are_those_of_the_holdout_alone(tmp_path: Path) -> None:
    project = load(ROOT / "conf/filings.yml")
    filings.write_inputs(tmp_path, project)
    lines = {name: (tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("logs", "review", "gold")}
    assert (len(lines["logs"]), len(lines["review"])) == (data.LOGGED_COUNT, data.REVIEW_COUNT)
    assert 0.2 < len(lines["gold"]) / data.LOGGED_COUNT < 0.4
    assert '"answer"' not in "".join(lines["logs"] + lines["review"])
    labelled = [json.loads(line)["messages"] for line in lines["gold"]]
    assert all(demo.is_holdout(project, messages) for messages in labelled)

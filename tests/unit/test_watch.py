"""Watching: the canary's decision, drift, what a text looks like, alert rules; exact values."""

import math

import pytest

from taolake.config import Canary, Rule
from taolake.watch import canary, drift, intervals, rules, texts
from taolake.watch.rules import Measurement
from taolake.watch.sequential import Word
from tests.unit.test_sequential import traffic

SPEC = Canary(margin=0.1)


def test_without_a_word_on_both_it_holds() -> None:
    some: list[dict[str, list[Word]]] = [{}, {"feedback": []}, {"feedback": [Word(1.0, True, 0.0)]}]
    for words in some:
        found = canary.decide(words, SPEC)
        assert (found.verdict, found.at) == ("hold", None)
        assert found.reason == "nothing to compare yet: no signal has a word on both versions"


def test_a_bad_version_is_rolled_back_with_evidence() -> None:
    words = {"judge": traffic(0.9, 0.3, 0.5, 300, 1), "answered": traffic(1.0, 1.0, 0.5, 300, 1)}
    found = canary.decide(words, SPEC)
    assert found.verdict == "rollback" and found.reason.startswith("worse by judge: -0.")
    assert found.at is not None and found.at < 150
    judge = next(s for s in found.signals if s.name == "judge")
    assert judge.worse >= 20 > 1 >= judge.not_worse
    assert judge.canary[0] == sum(word.canary for word in words["judge"])
    assert judge.difference.high < 0


def test_a_later_look_changes_no_past_decision() -> None:
    bad = traffic(0.9, 0.3, 0.5, 150, 1)
    good = [Word(1000.0 + w.at, w.canary, w.value) for w in traffic(0.3, 0.9, 0.5, 2000, 2)]
    first, later = canary.decide({"judge": bad}, SPEC), canary.decide({"judge": [*bad, *good]}, SPEC)
    assert first.verdict == later.verdict == "rollback"
    assert first.at == later.at


def test_promotion_needs_every_signal_and_one_of_quality() -> None:
    equal = traffic(0.9, 0.9, 0.5, 1500, 3)
    answered = [Word(w.at, w.canary, 1.0) for w in equal]
    assert canary.decide({"judge": equal, "answered": answered}, SPEC).verdict == "promote"
    alone = canary.decide({"answered": answered}, SPEC)
    assert alone.verdict == "hold" and "waiting for a signal of quality" in alone.reason
    few = [Word(0.0, False, 1.0), Word(0.5, True, 1.0)]
    waits = canary.decide({"judge": equal, "answered": answered, "feedback": few}, SPEC)
    assert waits.verdict == "hold" and "waiting for feedback: +0.000" in waits.reason


def test_many_equal_signals_do_not_add_up_to_a_rollback() -> None:
    wrong = 0
    for run in range(60):
        words = {str(i): traffic(0.7, 0.7, 0.5, 300, 1000 * run + i) for i in range(5)}
        wrong += canary.decide(words, Canary(margin=0.01)).verdict == "rollback"
    assert wrong <= 3


def test_programs_that_ask_for_many_are_pointed_out() -> None:
    assert canary.crowded(19, 1) == canary.crowded(0, 0) == ""
    assert canary.crowded(200, 2).startswith("; 200 requests came from 2 users, who count once each: set canary.unit")


def test_stability_is_the_index_of_credit_scoring() -> None:
    before, now = {"a": 50, "b": 50}, {"a": 80, "b": 20}
    p, q = 50.5 / 101, (80.5 / 101, 20.5 / 101)
    wanted = (q[0] - p) * math.log(q[0] / p) + (q[1] - p) * math.log(q[1] / p)
    assert drift.stability(before, now) == pytest.approx(wanted)
    assert drift.stability(before, before) == 0
    other = drift.stability(before, {"c": 100})
    assert other is not None and other > 1, "a new bin alone is another population"
    assert drift.stability(before, {}) is None
    assert drift.noise(before, now) == pytest.approx(0.02)


def test_distance_is_one_less_the_cosine() -> None:
    assert drift.distance([1, 0], [0, 2]) == 1
    assert drift.distance([1, 1], [3, 3]) == pytest.approx(0)
    assert drift.distance([0, 0], [1, 0]) == 0


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m sorry.", True),
        ("As an AI, I have no opinion.", True),
        ("Es tut mir leid, das geht nicht.", True),
        ("SELECT 1", False),
        ("You can't divide by zero, so the answer is undefined.", False),
        ("The answer is 4." + " And so on." * 30 + " I cannot say more.", False),
    ],
)
def test_a_refusal_is_known_by_its_beginning(text: str, refused: bool) -> None:
    assert texts.refuses(text) is refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("How many of the customers are active?", "en"),
        ("Wie viele der Kunden sind nicht aktiv und was ist die Zahl?", "de"),
        ("Combien de clients sont dans le magasin et que font les autres?", "fr"),
        ("いくつありますか、顧客は", "ja"),
        ("有多少活跃客户", "zh"),
        ("Сколько клиентов", "cyrillic"),
        ("xq zz 12", "other"),
        ("", "other"),
    ],
)
def test_a_language_by_script_and_common_words(text: str, said: str) -> None:
    assert texts.language(text) == said


def test_length_classes_are_powers_of_two() -> None:
    assert [texts.size("x" * n) for n in (0, 1, 2, 3, 4, 5, 1000)] == ["1", "1", "2", "4", "4", "8", "1024"]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Measurement("errors", 0.2, 0.1, 0.3, 100), "errors 0.2 is above 0.05"),
        (Measurement("errors", 0.2, 0.01, 0.5, 100), ""),
        (Measurement("errors", 0.2, 0.1, 0.3, 10), ""),
        (Measurement("errors", None, None, None, 100), ""),
        (Measurement("latency", 9.0, None, None, 100), ""),
        (Measurement("score_runs", 0.5, 0.45, 0.55, 100), "score_runs fell from 0.9 to 0.5, by more than 0.1"),
    ],
)
def test_a_rule_fires_when_the_whole_interval_is_beyond_it(found: Measurement, said: str) -> None:
    given = [Rule(metric="errors", above=0.05), Rule(metric="score_*", falls=0.1)]
    assert rules.fired(found, given, {"score_runs": 0.9}) == said


def test_a_rule_without_a_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="has no limit, wanted one of above, below, falls"):
        Rule(metric="errors")


def test_intervals_from_counts() -> None:
    assert intervals.share(0, 0) is None and intervals.mean(None, None, 0) is None
    told = intervals.share(5, 10)
    assert told is not None and (told.mean, round(told.low, 4), round(told.high, 4)) == (0.5, 0.2366, 0.7634)
    none = intervals.share(0, 10)
    assert none is not None and none.low == 0 and round(none.high, 4) == 0.2775
    wide = intervals.mean(1.0, 2.0, 100)
    assert wide is not None and (round(wide.low, 3), round(wide.high, 3)) == (0.608, 1.392)
    assert intervals.mean(1.0, None, 1) == (1.0, -math.inf, math.inf)

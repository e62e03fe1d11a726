"""Trust: exact numbers on pairs small enough to count, planted biases found, a fair scorer left alone, the curve."""

import json
import math
from typing import Any

import jsonschema
import numpy as np
import pytest

from taolake.config import Project, Trust
from taolake.report import trust as page
from taolake.report.card import SCHEMA
from taolake.report.page import render
from taolake.report.plots import Axis, Line, plane
from taolake.selection.calibrate import Calibration
from taolake.trust import TrustError, biases, curve, measures
from taolake.trust.biases import Swapped
from taolake.trust.findings import findings, report
from taolake.trust.sample import Draws, Pair, Sample
from tests.unit.test_page import card, read  # noqa: F401

DRAWS = Draws(300, 1)


def pair(prompt: str, chosen: str, rejected: str, choice: str = "", who: str = "p", **texts: str) -> Pair:
    return Pair(prompt, chosen, rejected, choice or f"{prompt}{chosen}{rejected}", who, "task", **texts)


def sample(pairs: list[Pair], values: dict[str, float | None]) -> Sample:
    return Sample(pairs, values, DRAWS)


def ordered(differences: list[float]) -> Sample:
    """One pair a prompt: the chosen answer a<i> is worth that much more than the rejected b<i>."""
    pairs = [pair(f"{i:03d}", f"a{i}", f"b{i}") for i in range(len(differences))]
    return sample(pairs, {f"a{i}": d for i, d in enumerate(differences)} | {f"b{i}": 0.0 for i in range(len(pairs))})


def test_accuracy_counts_ties_half_and_leaves_unscored_pairs_out() -> None:
    pairs = [pair("1", "a", "b"), pair("1", "b", "c"), pair("2", "d", "e"), pair("3", "f", "g")]
    found = sample(pairs, {"a": 0.9, "b": 0.1, "c": 0.1, "d": 0.2, "e": 0.4, "f": 0.5, "g": None})
    assert (len(found), found.asked, found.prompts, found.choices) == (3, 4, 2, 3)
    assert measures.accuracy(found).mean == pytest.approx((1 + 0.5 + 0) / 3)
    assert measures.ties(found) == pytest.approx(1 / 3)


def test_a_sum_that_is_off_by_its_last_bit_is_a_tie() -> None:
    assert measures.ties(sample([pair("1", "a", "b")], {"a": 0.1 + 0.2, "b": 0.3})) == 1.0


def test_intervals_resample_prompts_and_not_pairs() -> None:
    signs = [1.0] * 30 + [-1.0] * 10
    alone = measures.accuracy(ordered(signs))
    pairs = [pair(f"{i:03d}", f"a{i}{k}", f"b{i}{k}") for i in range(40) for k in range(9)]
    values = {f"a{i}{k}": signs[i] for i in range(40) for k in range(9)} | {p.rejected: 0.0 for p in pairs}
    assert measures.accuracy(sample(pairs, values)) == pytest.approx(alone)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 40)
    assert (alone.low, alone.high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.03)


def test_best_of_n_top_one() -> None:
    pairs = [pair("1", "a", x, "c1") for x in "bcd"] + [pair("2", "e", x, "c2") for x in "fg"] + [pair("3", "h", "i")]
    values = {"a": 0.9, "b": 0.1, "c": 0.2, "d": 0.3, "e": 0.5, "f": 0.5, "g": 0.1, "h": 1.0, "i": 0.0}
    found = measures.top_one(sample(pairs, values))  # type: ignore[arg-type]
    assert found is not None and found["choices"] == 2, "a pair is no best-of-N"
    assert found["mean"] == pytest.approx((1 + 0.5) / 2) and found["chance"] == pytest.approx((1 / 4 + 1 / 3) / 2)
    assert measures.top_one(ordered([1.0, 2.0])) is None


@pytest.mark.parametrize(
    ("differences", "kappa"),
    # Chosen ids a0.. are always the smaller here, so people always say "first": chance agreement is the scorer's share.
    [([1.0] * 4, 0.0), ([-1.0] * 4, 0.0), ([0.0] * 4, 0.0), ([1.0, 1.0, -1.0, 0.0], 0.0)],
)
def test_kappa_of_a_constant_is_zero(differences: list[float], kappa: float) -> None:
    assert measures.kappa(ordered(differences)).mean == pytest.approx(kappa)


def test_kappa_by_hand() -> None:
    pairs = [pair(str(i), *(("a", "b") if i < 5 else ("b", "a"))) for i in range(10)]
    # Prompt 0..4: people say a; 5..9: b. The scorer differs on 0 and 9.
    pairs = [pair(p.prompt, f"{p.prompt}{p.chosen}", f"{p.prompt}{p.rejected}") for p in pairs]
    values = {p.chosen: float(p.prompt not in "09") for p in pairs} | {p.rejected: 0.5 for p in pairs}
    assert measures.kappa(sample(pairs, values)).mean == pytest.approx((0.8 - 0.5) / 0.5)


def test_kappa_between_people() -> None:
    pairs = [pair(f"{i:02d}", f"{i:02d}a", f"{i:02d}b", who="x") for i in range(20)]
    turned = [(f"{i:02d}a", f"{i:02d}b") if i % 4 else (f"{i:02d}b", f"{i:02d}a") for i in range(20)]
    pairs += [pair(f"{i:02d}", *sides, who="y") for i, sides in enumerate(turned)]
    values = {f"{i:02d}{x}": 0.5 for i in range(20) for x in "ab"}
    found = measures.annotator_kappa(sample(pairs, values))  # type: ignore[arg-type]
    assert found is not None and found["pairs"] == 20
    assert found["mean"] == pytest.approx(0.0), "one always says the first: nothing beyond chance"
    assert measures.annotator_kappa(ordered([1.0] * 20)) is None


@pytest.mark.parametrize(
    ("differences", "auc"),
    [([1.0, 2.0, 3.0], 1.0), ([-1.0, -2.0], 0.0), ([0.0, 0.0], 0.5), ([3.0, -1.0], 0.75), ([1.0, -1.0], 0.5)],
)
def test_auc_by_hand(differences: list[float], auc: float) -> None:
    assert measures.auc(ordered(differences)).mean == pytest.approx(auc)


def test_auc_of_many_prompts_is_the_same_number() -> None:
    rng = np.random.default_rng(3)
    few = rng.normal(0.5, 1, 400)
    many = np.tile(few, 5)
    assert measures.auc(ordered(many.tolist())).mean == pytest.approx(measures.auc(ordered(few.tolist())).mean)


def test_calibration_error_by_hand() -> None:
    found = measures.calibration_error(ordered([1.0] * 15 + [-1.0] * 5), np.array([0.75] * 15 + [0.25] * 5))
    assert (found["mean"], found["debiased"]) == pytest.approx((0.0, 0.0)) and len(found["bins"]) == 1
    sure = measures.calibration_error(ordered([1.0] * 10 + [-1.0] * 10), np.array([0.9] * 10 + [0.1] * 10))
    assert sure["mean"] == pytest.approx(0.4)
    assert sure["floor"] == pytest.approx(math.sqrt(0.09 / 20 * 2 / math.pi))
    assert sure["debiased"] == pytest.approx(math.sqrt(0.16 - 0.09 / 20))


def test_bins_have_equal_mass_and_keep_equal_values_together() -> None:
    rng = np.random.default_rng(0)
    chances = rng.uniform(0.5, 1, 300)
    right = np.where(rng.random(300) < chances, chances, 1 - chances)
    found = measures.calibration_error(ordered((2 * right - 1).tolist()), right)
    assert [b["pairs"] for b in found["bins"]] == [30] * 10
    assert found["debiased"] < found["mean"] < 2.5 * found["floor"]
    few = measures.calibration_error(ordered([1.0] * 90), np.array([0.6] * 80 + [0.9] * 10))
    assert sum(b["pairs"] for b in few["bins"]) == 90 and len(few["bins"]) <= 2


def test_crossed_calibration_mends_an_overconfident_scorer() -> None:
    rng = np.random.default_rng(2)
    d = rng.normal(0, 4, 600)
    signs = np.where(rng.random(600) < 1 / (1 + np.exp(-0.4 * np.abs(d))), 1, -1)
    found = ordered((np.abs(d) * signs).tolist())
    before = measures.calibration_error(found, measures.claimed(found.difference_N, Calibration("platt", 0, (1.0,))))
    for kind in ("platt", "isotonic"):
        chances = measures.cross_fitted(found, kind)
        assert chances is not None
        assert measures.calibration_error(found, chances)["debiased"] < 0.05 < 0.1 < before["debiased"]


def test_a_calibration_never_sees_the_pairs_it_is_measured_on() -> None:
    found = ordered([1.0] * 40)
    chances = measures.cross_fitted(found, "platt")
    lied = Sample(found.pairs, found.values, DRAWS)
    half = np.array([p.prompt == found.pairs[0].prompt for p in found.pairs])
    lied.difference_N = np.where(half, -1.0, found.difference_N)
    again = measures.cross_fitted(lied, "platt")
    assert chances is not None and again is not None
    assert again[0] == pytest.approx(1 - chances[0]), "its own half's map did not change"
    assert measures.cross_fitted(ordered([1.0]), "platt") is None


def test_accuracy_by_margin_and_task() -> None:
    rows = measures.accuracy_by_margin(ordered([0.1, -0.2, 0.3, 0.5, -0.6, 0.9]))
    assert [(r["pairs"], r["mean"]) for r in rows] == [(2, 0.5), (2, 1.0), (2, 0.5)]
    assert (rows[0]["from"], rows[-1]["to"]) == pytest.approx((0.1, 0.9))
    assert [(r["task"], r["mean"]) for r in measures.accuracy_by_task(ordered([1.0, -1.0]))] == [("task", 0.5)]


def texts(i: int, chosen: str, rejected: str, gap: float) -> tuple[Pair, dict[str, float]]:
    made = pair(f"{i:03d}", f"a{i}", f"b{i}", chosen_text=chosen, rejected_text=rejected)
    return made, {f"a{i}": gap, f"b{i}": 0.0}


def told(rows: list[tuple[str, str, float]]) -> Sample:
    made = [texts(i, *row) for i, row in enumerate(rows)]
    return sample([p for p, _ in made], {k: v for _, values in made for k, v in values.items()})


def test_length_beyond_peoples_own() -> None:
    long, short = "x" * 99, "x" * 9
    # People take the longer answer half of the time; the scorer always.
    found = biases.length_slope(told([(long, short, 1.0)] * 20 + [(short, long, -1.0)] * 20))
    assert found is not None and (found["mean"], found["scorer"], found["people"]) == pytest.approx((1.0, 1.0, 0.0))
    same = biases.length_slope(told([(long, short, 1.0)] * 20))
    assert same is not None and (same["mean"], same["people"]) == pytest.approx((0.0, 1.0))
    assert biases.length_slope(told([("ab", "cd", 1.0)] * 3)) is None


def test_a_word_it_pays_for() -> None:
    rows = [("yes surely", f"yes {i}", 1.0) for i in range(15)] + [(f"yes {i}", "yes surely", -1.0) for i in range(15)]
    found = biases.keyword_slope(told(rows))
    assert found is not None and (found["word"], found["pairs"], found["words"]) == ("surely", 30, 1)
    assert (found["mean"], found["scorer"]) == pytest.approx((0.5, 1.0))
    assert found["p"] == pytest.approx(2.0**-15)


def test_knowing_less_than_people_is_no_taste_for_what_they_avoid() -> None:
    # People always avoid the word; the scorer avoids it too, less often.
    rows = [("fine", "sorry fine", 1.0)] * 60 + [("fine", "sorry fine", -1.0)] * 40
    found = biases.keyword_slope(told(rows))
    assert found is not None and found["word"] == "sorry" and found["mean"] == pytest.approx(0.4) and found["p"] > 0.5
    assert biases.keyword_slope(told([("a", "b", 1.0)] * 9)) is None, "too few prompts to say"


def test_self_preference() -> None:
    def between(i: int, chosen: str, rejected: str) -> Pair:
        return Pair(f"{i:02d}", f"a{i}", f"b{i}", f"c{i}", chosen_policy=chosen, rejected_policy=rejected)

    pairs = [between(i, "us", "them") for i in range(10)] + [between(i, "them", "us") for i in range(10, 20)]
    values = {p.chosen: float(p.chosen_policy == "us") for p in pairs} | {
        p.rejected: float(p.rejected_policy == "us") for p in pairs
    }
    found = biases.self_preference(sample(pairs, values))  # type: ignore[arg-type]
    assert found is not None and (found["policy"], found["mean"], found["pairs"]) == ("us", 0.5, 20)
    assert biases.self_preference(ordered([1.0])) is None


def test_flips_weigh_prompts_by_their_pairs() -> None:
    found = biases.flips([Swapped("1", 1, 1, 1), Swapped("2", 3, 0, 0), Swapped("2", 6, 1, -1)], DRAWS)
    assert found is not None and (found["mean"], found["first"], found["pairs"]) == pytest.approx((0.2, 0.0, 10))
    unknown = biases.flips([Swapped("1", 2, 1)], DRAWS)
    assert unknown is not None and unknown["first"] is None
    assert biases.flips([], DRAWS) is None and biases.flips([Swapped("1", 0, 0)], DRAWS) is None


def test_noise_is_the_share_of_verdicts_that_change() -> None:
    found = ordered([1.0, -1.0, 0.0, 0.5])
    again = {"a0": 1.0, "b0": 0.0, "a1": 1.0, "b1": 0.0, "a2": 0.0, "b2": 0.0}
    measured = biases.noise(found, again.get)
    assert measured is not None and (measured["mean"], measured["pairs"]) == (pytest.approx(1 / 3), 3)
    assert biases.noise(found, lambda _: None) is None


def reported(right: int, wrong: int, **more: Any) -> dict[str, Any]:
    found = ordered([0.5] * right + [-0.5] * wrong)
    return report(found.pairs, found.values, DRAWS, **more)


@pytest.mark.parametrize(
    ("right", "wrong", "options", "measures_", "refuses", "says"),
    [
        (160, 40, {}, [], False, ""),
        (100, 100, {}, ["accuracy"], True, "as good as blind ones"),
        (58, 42, {}, ["accuracy"], True, "collect about"),
        (58, 42, {"above_chance": False}, [], False, ""),
        (40, 160, {"above_chance": False}, ["accuracy"], True, "must reach 0.55"),
        (160, 40, {"min_accuracy": 0.95}, ["accuracy"], True, "must reach 0.95"),
        (160, 40, {"min_kappa": 0.95}, ["kappa"], True, "Cohen's kappa"),
        (160, 40, {"max_ece": 0.01}, ["ece"], True, "set reward.calibrate"),
    ],
)
def test_findings(
    right: int, wrong: int, options: dict[str, Any], measures_: list[str], refuses: bool, says: str
) -> None:
    made = findings(reported(right, wrong), Trust.model_validate(options))
    assert [f.measure for f in made] == measures_
    assert any(f.refuses for f in made) is refuses
    assert says in "; ".join(f.says for f in made) and "\n" not in says


def test_after_calibration_it_is_the_calibrated_error_that_counts() -> None:
    made = findings(reported(160, 40, kind="platt"), Trust(max_ece=0.1))
    assert made == [], "a difference of one half wins four in five: before, the claim is 0.75"
    assert reported(10, 0, kind="isotonic")["calibrated_by"] == "isotonic"


def test_a_scorer_without_opinion_is_refused() -> None:
    pairs = ordered([1.0] * 30).pairs
    constant = findings(report(pairs, {x: 0.5 for p in pairs for x in (p.chosen, p.rejected)}, DRAWS), Trust())
    assert {f.measure for f in constant} == {"opinion", "accuracy"} and constant[0].refuses
    silent = findings(report(pairs, {}, DRAWS), Trust())
    assert [(f.measure, f.refuses, f.value) for f in silent] == [("opinion", True, 1.0)]


def test_flips_are_refused_at_the_projects_limit() -> None:
    swapped = [Swapped(str(i), 1, float(i % 2), float(i % 2)) for i in range(100)]
    made = findings(reported(160, 40, swapped=swapped), Trust())
    assert [(f.measure, f.refuses) for f in made] == [("flips", True), ("position", False)]
    assert "first place in 50 % of pairs" in made[1].says


def test_a_trust_error_carries_what_was_measured() -> None:
    error = TrustError("pairwise accuracy is 0.5", {"choices": 20})
    assert str(error) == "pairwise accuracy is 0.5" and error.detail == {"choices": 20}


def test_the_same_rows_in_another_order_give_the_same_report() -> None:
    rng = np.random.default_rng(4)
    found = ordered(rng.normal(0.3, 1, 60).tolist())
    turned = report(found.pairs[::-1], dict(reversed(found.values.items())), DRAWS)
    assert turned == report(found.pairs, found.values, DRAWS)


def measured(gate: list[list[float]]) -> dict[str, dict[str, float]]:
    """Prompts by k: 1, 2, 4; the reward rises."""
    ks = (1, 2, 4)
    proxy = {f"proxy_at_{k}": {str(p): 0.4 + 0.1 * i for p in range(len(gate))} for i, k in enumerate(ks)}
    return proxy | {f"gate_at_{k}": {str(p): row[i] for p, row in enumerate(gate)} for i, k in enumerate(ks)}


def test_points_of_a_prompt() -> None:
    found = curve.metrics([0.1, 0.9, 0.5, 0.5], [1.0, 0.0, 0.0, 1.0], 4)
    assert sorted(found) == ["gate_at_1", "gate_at_2", "gate_at_4", "proxy_at_1", "proxy_at_2", "proxy_at_4"]
    assert (found["proxy_at_1"], found["proxy_at_4"]) == pytest.approx((0.5, 0.9))
    assert (found["gate_at_1"], found["gate_at_4"]) == pytest.approx((0.5, 0.0))
    assert curve.metrics([], [], 4) == {} and sorted(curve.metrics([0.5] * 3, [1.0] * 3, 2))[-1] == "proxy_at_2"
    assert [curve.kl_of_best_of(k) for k in (1, 2)] == pytest.approx([0.0, math.log(2) - 0.5])


def test_a_gamed_reward_is_over_optimised() -> None:
    found = curve.curve(measured([[0.6, 0.7, 0.4]] * 20 + [[0.5, 0.5, 0.5]] * 20), {}, DRAWS, kl=math.nan)
    assert found is not None and found["over_optimised"] and found["tuned"] is None and found["prompts"] == 40
    assert found["fall"]["k"] == 2 and found["fall"]["mean"] == pytest.approx(0.15)
    (held,) = curve.guard(found)
    assert (held.name, held.ok) == ("over_optimisation", False) and held.value > held.limit == curve.MAX_FALL
    assert "over-optimised, as it loses 0.150 from 2 to 4 attempts" in curve.sentence(found)


@pytest.mark.parametrize(
    "gate",
    [
        [[0.4, 0.5, 0.6]] * 30,
        [[0.5, 0.5, 0.49]] * 30,  # a fall, and too small to matter
        [[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]] * 15,  # level on average: chance
        [[0.9, 0.9, 0.6]] * 2 + [[0.5, 0.5, 0.5]] * 28,  # large on two prompts of thirty
    ],
)
def test_an_honest_reward_is_not(gate: list[list[float]]) -> None:
    found = curve.curve(measured(gate), {}, DRAWS)
    assert found is not None and not found["over_optimised"]
    assert [g.ok for g in curve.guard(found)] == [True]


def test_no_curve_no_guard() -> None:
    assert curve.curve({}, {}, DRAWS) is None and curve.guard(None) == []
    assert curve.curve({"proxy_at_1": {"a": 0.5}, "gate_at_1": {"a": 1.0}}, {}, DRAWS) is None


def test_the_tuned_policy_is_measured_on_the_curves_prompts() -> None:
    tuned = {"samples": {"0": 4.0, "99": 4.0}, "correct": {"0": 3.0, "99": 0.0}, "reward": {"99": 0.1}}
    found = curve.curve(measured([[0.4, 0.5, 0.6]] * 3), tuned, DRAWS, kl=0.7)
    assert found is not None and found["tuned"]["gate"]["mean"] == 0.75
    assert (found["tuned"]["proxy"], found["tuned"]["kl"]) == (None, 0.7)


def detail(right: int = 160, wrong: int = 40, **options: Any) -> dict[str, Any]:
    found = reported(right, wrong, swapped=[Swapped("1", 4, 1, 1)])
    made = findings(found, Trust.model_validate(options))
    rows = [f._asdict() for f in made]
    flat = {
        "choices": 200,
        "pairs": 200,
        "prompts": 200,
        "measured": True,
        "trusted": not any(f.refuses for f in made),
        "says": "x < y",
    }
    scorer = {"name": "liked", "kind": "judge", "trains": True, **found, "findings": rows}
    silent = {"name": "mute", "kind": "judge", "trains": False, **report([], {}, DRAWS), "findings": []}
    return {**flat, "accuracy": 0.8, "reward": {**found, "findings": rows}, "scorers": [scorer, silent]}


@pytest.mark.parametrize("right", [160, 100])
def test_the_section_follows_the_cards_schema(right: int) -> None:
    whole = json.loads(SCHEMA.read_text())
    schema = {name: {**whole["properties"][name], "$defs": whole["$defs"]} for name in ("trust", "over_optimisation")}
    made = page.section(detail(right, 200 - right))
    jsonschema.validate(made, schema["trust"])
    over = page.over_optimisation(
        measured([[0.6, 0.7, 0.4]] * 9), {"samples": {"0": 4.0}, "correct": {"0": 1.0}}, DRAWS, 1
    )
    jsonschema.validate(over, schema["over_optimisation"])
    assert over is not None and over["over_optimised"]
    unmeasured = {"choices": 1, "pairs": 1, "prompts": 1, "measured": False, "trusted": True, "says": "too few"}
    jsonschema.validate(page.section(unmeasured), schema["trust"])
    assert page.section({}) is None


def test_the_page_says_the_numbers_and_escapes_the_rest() -> None:
    found = page.section(detail())
    assert found is not None
    html = page.render(found, "shop<script>", 1, "sql")
    assert html == page.render(found, "shop<script>", 1, "sql")
    for text in ("80.0\u00a0%", "Trusted", "x &lt; y", "Claimed chance and what people did", "liked", "25.0\u00a0%"):
        assert text in html, text
    assert "<script" not in html and "http://" not in html and "https://" not in html and "default-src 'none'" in html
    refused = page.section(detail(100, 100))
    assert refused is not None and "and is refused" in page.headline(refused)
    assert "Not trusted" in page.render(refused, "shop", 1, "sql")


def test_the_card_has_both_sections(card: dict[str, Any]) -> None:  # noqa: F811
    over = page.over_optimisation(measured([[0.6, 0.7, 0.4]] * 9), {}, DRAWS, None)
    whole = card | {"trust": page.section(detail()), "over_optimisation": over}
    jsonschema.validate(whole, json.loads(SCHEMA.read_text()))
    reader = read(render(whole))
    titles = [attrs["id"] for tag, attrs in reader.tags if tag == "h2"]
    assert titles[titles.index("s-scorers") :][1:3] == ["s-trust", "s-over"]
    assert "Over-optimised" in reader.text and "Held against people's choices" in reader.text


def test_a_plane_puts_points_where_they_are() -> None:
    svg = plane(
        "<t>", Axis("x", 0, 2, (0, 1, 2)), Axis("y", 0, 1, (0, 1)), [Line("a", [(1, 0.5, 0.25, 1.5)], "tuned")], True
    )
    assert "&lt;t&gt;" in svg and 'cx="149.0" cy="112.0"' in svg
    assert 'd="M149.0 162.0V12.0"' in svg, "an interval beyond the axis ends at it"
    assert 'd="M36 212L149 12"' in svg, "the diagonal is where y equals x"


ENDPOINT = {"kind": "endpoint", "url": "http://localhost/v1"}


def apart(*scorers: dict[str, Any]) -> dict[str, Any]:
    """A project whose reward is scorer `one` and whose gate is `two`."""
    return {
        "name": "p", "lake": "l", "work": "w", "task": {"name": "t"}, "model": {"path": "m"}, "scorers": scorers,
        "ingest": {"sources": [{"format": "jsonl", "path": "x"}]}, "engine": {"kind": "fake"},
        "generate": {"strategies": [{"name": "plain", "share": 1}]}, "reward": {"weights": {"one": 1}},
        "evaluate": {"judge": "two"}, "register": {"name": "r"},
    }  # fmt: skip


def judge(name: str, *models: str) -> dict[str, Any]:
    return {"kind": "judge", "name": name, "rubric": "r", "judges": [ENDPOINT | {"model": m} for m in models]}


def mlflow(name: str, model: str) -> dict[str, Any]:
    return {"kind": "mlflow_judge", "name": name, "instructions": "i", "model": model}


@pytest.mark.parametrize(
    ("one", "two", "shared"),
    [
        (judge("one", "a", "b"), judge("two", "b"), "the model 'b'"),
        (judge("one", "gpt"), mlflow("two", "openai:/gpt"), "the model 'openai:/gpt'"),
        (
            {"kind": "regex", "name": "one", "pattern": "x"},
            {"kind": "reward_model", "name": "two"},
            "'two' of kind 'reward_model' says how answers of one group compare",
        ),
        (
            {"kind": "agreement", "name": "one", "encoder": "e"},
            {"kind": "relevance", "name": "two", "encoder": "e"},
            "the encoder 'e'",
        ),
        (judge("one", "a"), judge("two", "c"), None),
        ({"kind": "reward_model", "name": "one"}, judge("two", "c"), None),
    ],
)
def test_the_gates_scorer_stands_apart(one: dict[str, Any], two: dict[str, Any], shared: str | None) -> None:
    if shared is None:
        assert Project.model_validate(apart(one, two)).evaluate.judge == "two"
        return
    with pytest.raises(ValueError, match=shared):
        Project.model_validate(apart(one, two))

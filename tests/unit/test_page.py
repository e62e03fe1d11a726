"""The page: its numbers, its sentence, what it escapes, and that nothing is loaded from anywhere."""

import copy
import json
import re
from html.parser import HTMLParser
from typing import Any

import jsonschema
import pytest

from taolake.report.card import SCHEMA
from taolake.report.page import chance, dollars, duration, headline, memory, points, render, ticks, whole
from taolake.stages import STAGES

VOID = {"meta", "br", "img", "link", "input", "hr"}


def stat(mean: float, half: float = 0.05, **more: Any) -> dict[str, Any]:
    return {"mean": mean, "low": round(mean - half, 6), "high": round(mean + half, 6), **more}


def policy(name: str, greedy: float, sampled: float, best: float) -> dict[str, Any]:
    return {
        "id": name * 4,
        "greedy": stat(greedy),
        "sampled": stat(sampled),
        "pass_at": {str(2**i): min(1.0, round(sampled + 0.06 * i, 6)) for i in range(5)},
        "best_of_n": stat(best, n=16),
        "reward": stat(sampled, prompts=120),
        "greedy_tokens": stat(21.5, 1.5),
        "truncated": 0.0125,
    }


@pytest.fixture
def card() -> dict[str, Any]:
    names = [stage.name for stage in STAGES]
    return {
        "schema_version": 1,
        "project": "demo",
        "round": 1,
        "task": {"name": "shop_sql", "description": "Turn a question about the shop into one SQLite query."},
        "counts": {
            "in": 2210, "kept": 1890, "folded": 280, "quarantined": 40, "train": 1200, "holdout": 500, "review": 190,
            "trained_prompts": 1011, "abstained": 189,
        },
        "quarantine_reasons": [{"reason": "not JSON: Expecting value at character …", "count": 40}],
        "policies": {"base": policy("aaaaaaaa", 0.48, 0.42, 0.75), "tuned": policy("bbbbbbbb", 0.712, 0.69, 0.81)},
        "gain": {"mean": 0.232, "ci": [0.184, 0.28], "prompts": 500, "p_mcnemar": 1e-06},
        "bake_in": {"greedy": stat(0.859259), "sampled": stat(0.818182)},
        "bake_in_ratio": 0.859259,
        "result": "gain",
        "compute": {
            "base": {"right": stat(0.48), "prompts": 500},
            "search": [
                {"k": k, "tokens": 26_000 * k, "right": stat(share)}
                for k, share in ((1, 0.421), (2, 0.533), (4, 0.624), (8, 0.695), (16, 0.752))
            ],
            "tuned": [{"round": 1, "tokens": 1_234_000, "trained": 818_000, "right": stat(0.712), "prompts": 500}],
        },
        "verdict": {
            "promoted": True, "reason": "the gain is +0.232 [+0.184, +0.280], above 0, and 1 of 1 guards hold",
            "guards": [{"name": "truncated", "value": 0.0, "limit": 0.05, "ok": True}],
        },
        "registered": {"name": "shop_sql", "version": 3, "alias": "champion"},
        "stages": [
            {
                "stage": name, "state": "done", "seconds": 12.5 * i, "tokens": 10_000 * i, "rows": 1000 * i,
                "dollars": 0.0, "peak_rss_bytes": 1_500_000_000, "detail": {"prompts": 4},
            }
            for i, name in enumerate(names)
        ],
        "wall_seconds": 562.5,
        "tokens": 450_000,
        "dollars": 0.0,
        "peak_rss_bytes": 1_500_000_000,
        "scorers": [
            {
                "name": "runs", "kind": "sql", "version": "abc123", "required": True, "weight": None,
                "held_out_pairwise": None,
            },
            {
                "name": "preferred", "kind": "reward_model", "version": "def456", "required": False, "weight": 0.9,
                "held_out_pairwise": {"accuracy": 0.8875, "pairs": 80},
            },
        ],
        "reward_histogram": {
            "edges": [i / 10 for i in range(11)], "base": [30, 10, 5, 5, 10, 12, 14, 20, 30, 40], "base_missing": 3,
            "tuned": [5, 4, 3, 4, 6, 12, 20, 30, 50, 60], "tuned_missing": 9,
        },
        "length_histogram": {
            "edges": [0, 10, 20, 30, 40], "base": [10, 60, 80, 20], "base_missing": 0, "tuned": [12, 70, 85, 4],
            "tuned_missing": 0,
        },
        "examples": [
            {
                "prompt_id": f"{i:032x}", "question": f"What was the revenue in month {i}?",
                "base_answer": "SELECT SUM(total) FROM invoices", "base_right": i > 5,
                "tuned_answer": "SELECT SUM(cents) / 100.0 FROM invoices WHERE void = 0", "tuned_right": i != 7,
            }
            for i in range(10)
        ],
        "lineage": {
            "config_hash": "c" * 32, "evaluation": "d" * 32, "selection": None, "reward_version": "e" * 12,
            "reads": {"ingest": {}, "generate": {"candidates": 0, "prompts": 1}},
        },
        "not_shown": ["Other training runs: this is one, with seed 7."],
    }  # fmt: skip


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == [], "a tag was left open"
    return reader


def test_the_fixture_is_a_card(card: dict[str, Any]) -> None:
    jsonschema.validate(card, json.loads(SCHEMA.read_text()))


def test_page_says_the_numbers(card: dict[str, Any]) -> None:
    text = re.sub(r"\s+", " ", read(render(card)).text)
    shares = ["71.2 %", "48.0 %", "86 %", "+23.2", "+18.4 to +28.0", "p < 0.001"]
    costs = ["2 210", "1 011", "450 000", "9 min 22 s", "1.5 GB"]
    for number in [*shares, *costs, "88.8 % of 80", "shop_sql, version 3, alias champion", "bbbbbbbb" * 4]:
        assert number in text, number
    assert all(sentence in text for sentence in card["not_shown"])
    assert text.count("What was the revenue in month") == 10


def test_sections_come_in_order(card: dict[str, Any]) -> None:
    ids = [attrs["id"] for tag, attrs in read(render(card)).tags if tag == "h2"]
    order = "s-right s-pass s-bake s-compute s-in s-dist s-examples s-stages s-scorers s-lineage s-not"
    assert ids == order.split()


def test_quality_over_compute(card: dict[str, Any]) -> None:
    text = re.sub(r"\s+", "", read(render(card)).text)
    for row in ("Base,oneanswer048.0%", "bestof1641600075.2%", "Tuned,round1123400071.2%", "thousandtokensspent"):
        assert row in text, row
    card["compute"]["tuned"][0]["tokens"] = 12_340_000
    card["compute"]["search"] = []
    text = re.sub(r"\s+", " ", read(render(card)).text)
    assert "million tokens spent on tuning" in text and "search, the base" not in text
    for older in (card | {"compute": None}, {k: v for k, v in card.items() if k != "compute"}):
        assert "s-compute" not in render(older)


def test_ticks_are_round_and_few() -> None:
    assert ticks(220.4) == [0, 50, 100, 150, 200] and ticks(1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(9.9) == [0, 2, 4, 6, 8] and ticks(1.835) == [0, 0.5, 1, 1.5] and ticks(0) == [0]


def test_untrusted_text_is_escaped_everywhere(card: dict[str, Any]) -> None:
    evil = '<script>alert(1)</script><img src=x onerror="alert(2)">'
    calm = {tag for tag, _ in read(render(card)).tags}

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(each) for key, each in value.items()}
        if isinstance(value, list):
            return [poison(each) for each in value]
        return value + evil if isinstance(value, str) else value

    page = render(poison(card) | {"result": "gain"})
    reader = read(page)
    assert "<script>" not in page and evil in reader.text
    assert {tag for tag, _ in reader.tags} == calm
    assert not [name for _, attrs in reader.tags for name in attrs if name.startswith("on")]


def test_nothing_is_loaded_and_nothing_runs(card: dict[str, Any]) -> None:
    page = render(card)
    reader = read(page)
    assert "http://" not in page and "https://" not in page and "url(" not in page and "@import" not in page
    assert {tag for tag, _ in reader.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "base"})
    assert not [name for _, attrs in reader.tags for name in attrs if name in {"src", "href", "srcset"}]
    assert "content=\"default-src 'none'" in page


def test_page_is_the_same_twice(card: dict[str, Any]) -> None:
    assert render(card) == render(copy.deepcopy(card))


def test_page_of_an_unfinished_round(card: dict[str, Any]) -> None:
    card |= {"verdict": None, "registered": None, "quarantine_reasons": [], "bake_in_ratio": None}
    card["bake_in"] = {"greedy": None, "sampled": None}
    card["counts"] = dict.fromkeys(card["counts"])
    for policy_ in card["policies"].values():
        policy_ |= {"best_of_n": None, "reward": None, "greedy_tokens": None, "truncated": None, "pass_at": {}}
    card["reward_histogram"] |= {"base": [0] * 10, "tuned": [0] * 10}
    text = read(render(card)).text
    assert "No verdict yet" in text and "not registered" in text and "not known" in text


def test_headline_of_a_gain(card: dict[str, Any]) -> None:
    assert headline(card).replace("\u00a0", " ") == (
        "The tuned model answers 71.2 % right at the first try, up from 48.0 %; best-of-16 found 75.0 %: "
        "86 % of that lead is now in the weights."
    )


@pytest.mark.parametrize(
    ("ratio", "end"),
    [(1.2, "best-of-16 found 75.0 %: all of that lead is now in the weights."), (None, "best-of-16 found 75.0 %.")],
)
def test_headline_of_other_shares(card: dict[str, Any], ratio: float | None, end: str) -> None:
    assert headline(card | {"bake_in_ratio": ratio}).replace("\u00a0", " ").endswith(end)


def test_headline_without_a_gain(card: dict[str, Any]) -> None:
    said = headline(card | {"result": "no gain"}).replace("\u00a0", " ")
    assert said.startswith("No gain: the tuned model answers 71.2 % right at the first try, the base 48.0 %; ")
    assert said.endswith("could be chance.")
    assert headline(card | {"result": "worse"}).startswith("Worse: ")
    card["policies"]["tuned"]["id"] = card["policies"]["base"]["id"]
    assert "the same model" in headline(card | {"result": "no gain"})


def test_units() -> None:
    assert [duration(s) for s in (0.04, 59.94)] == ["0.0\u00a0s", "59.9\u00a0s"]
    assert [duration(s) for s in (60, 3661)] == ["1\u00a0min 00\u00a0s", "1\u00a0h 01\u00a0min"]
    assert [memory(b) for b in (2_000_000, 1_500_000_000)] == ["2\u00a0MB", "1.5\u00a0GB"]
    assert [points(x) for x in (0.0123, -0.05)] == ["+1.2", "\u22125.0"]
    assert [dollars(x) for x in (0.0, 0.0123, 1234.5)] == ["$0.00", "$0.0123", "$1,234.50"]
    assert [chance(p) for p in (0.0001, 0.034)] == ["p < 0.001", "p = 0.034"]
    assert whole(1234567) == "1\u202f234\u202f567"

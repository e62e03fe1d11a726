"""The card from tables made by hand: exact means, the same bytes again, no gain, worse, and rounds not finished."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from taolake import lake
from taolake.config import Project
from taolake.lake import Lake, Table
from taolake.report import card as report
from taolake.report.evidence import choose, kind_of
from taolake.stages.round import Round
from taolake.verdict import bake_in, paired_gain

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PROMPTS = [f"{i:032x}" for i in range(20)]
BASE, TUNED = "b" * 32, "7" * 32
RIGHT = {BASE: set(PROMPTS[:8]), TUNED: set(PROMPTS[1:17])}  # nine fixed, one broken
CORRECT = {BASE: 1, TUNED: 3}
BEST = {BASE: set(PROMPTS[:18]), TUNED: set(PROMPTS[:19])}
TOKENS = {BASE: 12, TUNED: 17}
VERSION = "0123456789ab"
STARTED = datetime(2026, 1, 1, tzinfo=UTC)

Made = Callable[[int], Round]


@pytest.fixture(scope="module")
def project() -> Project:
    return Project.model_validate(
        {
            "name": "shop", "seed": 3, "lake": "unused", "work": "unused",
            "task": {"name": "shop_sql", "description": "Questions about the shop. "},
            "ingest": {"sources": [{"format": "jsonl", "path": "logs.jsonl"}]},
            "model": {"path": "no/such/model"},
            "engine": {"kind": "fake"},
            "generate": {"strategies": [{"name": "plain", "share": 1}]},
            "scorers": [
                {"kind": "regex", "name": "shape", "pattern": "SELECT"},
                {"kind": "reward_model", "name": "liked", "reviewer": "shop.people:ask"},
            ],
            "reward": {"require": ["shape"], "weights": {"liked": 1.0}},
            "evaluate": {"samples": 4, "gold": {"path": "gold.jsonl"}, "resamples": 500},
            "register": {"name": "shop_sql"},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(spark: "SparkSession", project: Project, tmp_path_factory: pytest.TempPathFactory) -> Made:
    tables = filled(Lake(spark, str(tmp_path_factory.mktemp("lake"))))
    return lambda number: Round(tables, project, number)


def filled(tables: Lake, backwards: bool = False) -> Lake:
    """Write all rows, in one order or the other."""
    content: dict[Table, list[dict[str, Any]]] = {
        lake.PROMPTS: prompt_rows(), lake.QUARANTINE: quarantine_rows(), lake.CANDIDATES: candidate_rows(),
        lake.REWARDS: reward_rows(), lake.EVALUATIONS: evaluation_rows(), lake.ROUNDS: round_rows(),
    }  # fmt: skip
    for table, rows in content.items():
        blank = dict.fromkeys(table.schema().names)
        full = [blank | row for row in (rows[::-1] if backwards else rows)]
        frame = tables.spark.createDataFrame(full, table.schema()).repartition(1 if backwards else 2)
        tables.append_once(table, frame, "by hand")
    return tables


def prompt_rows() -> list[dict[str, Any]]:
    splits = [(p, "holdout") for p in PROMPTS] + [("f" * 32, "train")]
    return [
        {
            "prompt_id": p, "task": "shop_sql", "split": split, "seen": 1, "source": f"logs.jsonl:{i}",
            "messages": [{"role": "system", "content": "SQL only"}, {"role": "user", "content": f"Question {i}?"}],
        }
        for i, (p, split) in enumerate(splits)
    ]  # fmt: skip


def quarantine_rows() -> list[dict[str, Any]]:
    reasons = [
        "not JSON: Expecting value at character 3",
        "not JSON: Expecting value at character 14",
        "turn 2 has role 'my password is hunter2', wanted one of system, user, assistant",
    ]
    return [
        {"stage": "ingest", "source_id": f"logs.jsonl:{i}", "reason": reason, "excerpt": "my password is hunter2"}
        for i, reason in enumerate(reasons)
    ]


def candidate(prompt: str, policy: str, stream: str, sample: int) -> dict[str, Any]:
    name = hashlib.sha256(f"{prompt}{policy}{stream}{sample}".encode()).hexdigest()[:32]
    no_text = stream == "G" and prompt == PROMPTS[19]
    return {
        "candidate_id": name, "prompt_id": prompt, "policy": policy, "strategy": stream, "sample": sample,
        "stream": stream, "text": None if no_text else f"SELECT {sample} -- {policy[0]}", "raw": "No idea",
        "status": "ok", "finish_reason": "stop", "tokens": TOKENS[policy] + sample,
    }  # fmt: skip


def candidate_rows() -> list[dict[str, Any]]:
    draws = (("G", 0), ("A", 0), ("A", 1))
    cells = [(p, who, stream, i) for p in PROMPTS for who in (BASE, TUNED) for stream, i in draws]
    return [candidate(*cell) for cell in [*cells, ("f" * 32, BASE, "A", 0), ("f" * 32, BASE, "B", 1)]]


def reward_rows() -> list[dict[str, Any]]:
    """Base: 0.15 and 0.95; tuned: 0.95 and 1.0, abstained on the last prompt; and rows of a group before it grew."""
    rows = []
    for prompt in PROMPTS:
        for who, values in ((BASE, (0.15, 0.95)), (TUNED, (0.95, 1.0))):
            group = [candidate(prompt, who, "A", i) for i in (0, 1)]
            joined = ",".join(sorted(c["candidate_id"] for c in group))
            now = f"{VERSION}@{hashlib.sha256(joined.encode()).hexdigest()[:16]}"
            told = who == BASE or prompt != PROMPTS[19]
            for one, value in zip(group, values, strict=True):
                fixed = {name: one[name] for name in ("candidate_id", "prompt_id", "policy")}
                rows.append(fixed | {"reward_version": now, "reward": value if told else None, "reason": ""})
                rows.append(fixed | {"reward_version": f"{VERSION}@smaller", "reward": 0.5, "reason": ""})
    return rows


def measurements(prompt: str, who: str) -> dict[str, float]:
    found = {
        "greedy": float(prompt in RIGHT[who]), "greedy_tokens": float(TOKENS[who]), "greedy_truncated": 0.0,
        "samples": 4.0, "correct": float(CORRECT[who]), "best_of_n": float(prompt in BEST[who]), "tokens": 12.5,
    }  # fmt: skip
    abstained = prompt in PROMPTS[16:]  # the reward, which then has no pick
    found |= {} if abstained else {f"gate_at_{k}": v for k, v in ((1, 0.25), (2, 0.5), (4, 1.0))}
    passed = {BASE: (0.25, 0.5, 1.0), TUNED: (0.75, 1.0, 1.0)}[who]
    rewarded = {} if who == TUNED and prompt == PROMPTS[19] else {"reward": {BASE: 0.55, TUNED: 0.975}[who]}
    return found | rewarded | {f"pass_at_{k}": value for k, value in zip((1, 2, 4), passed, strict=True)}


def evaluation_rows() -> list[dict[str, Any]]:
    return [
        {"evaluation": "now", "model": who, "prompt_id": p, "metric": metric, "value": value}
        for who in (BASE, TUNED)
        for p in PROMPTS
        for metric, value in measurements(p, who).items()
    ] + [{"evaluation": "old", "model": TUNED, "prompt_id": p, "metric": "greedy", "value": 0.0} for p in PROMPTS]


def evaluated(base: str, tuned: str) -> dict[str, Any]:
    return {"evaluation": "now", "base": base, "tuned": tuned, "prompts": 20}


def round_rows() -> list[dict[str, Any]]:
    """Round 1 is whole; 2 tuned nothing; 3 got worse; 4 is not evaluated; 5 has a gate from before the evaluation."""
    guards = [{"name": "truncated", "value": 0.0, "limit": 0.05, "ok": True}]
    gate = {"promoted": True, "reason": "a gain", "guards": guards}
    whole: list[tuple[str, dict[str, Any]]] = [
        ("ingest", {"in": 40, "kept": 21, "folded": 16, "quarantined": 3, "train": 1, "holdout": 20}),
        ("generate", {}),
        ("label", {"annotator": "shop.people:ask", "pairs": 30}),
        ("score", {"shape_version": "s1", "liked_version": "l1", "liked_eval_accuracy": 0.9, "liked_eval_pairs": 10}),
        ("reward", {"version": VERSION}),
        ("select", {"selection": "sel", "kept": 1, "abstained": 0, "prompts": 10, "answer_tokens": 600}),
        (
            "train",
            {
                "adapter": "/home/someone/adapter",
                "warmup": True,
                "metrics": {"loss": 0.1234567, "kl": float("nan"), "tokens": 300},
            },
        ),
        ("evaluate", evaluated(BASE, TUNED)),
        ("gate", gate | {"gain": {"mean": 0.4}}),
        ("register", {"name": "shop_sql", "version": 2, "alias": "champion", "question": "Question 1?"}),
    ]
    rows = [booked(1, stage, detail, place) for place, (stage, detail) in enumerate(whole)]
    rows += [booked(2, "evaluate", evaluated(BASE, BASE), 1), booked(3, "evaluate", evaluated(TUNED, BASE), 1)]
    rows += [booked(4, "evaluate", {"error": "killed"}, 1, "failed")]
    return [*rows, booked(5, "evaluate", evaluated(BASE, TUNED), 9), booked(5, "gate", gate, 2)]


def booked(number: int, stage: str, detail: dict[str, Any], place: int, state: str = "done") -> dict[str, Any]:
    return {
        "round": number, "stage": stage, "state": state, "fingerprint": "p", "config_hash": "c",
        "reads": {"prompts": place}, "rows": 10, "tokens": 100 * place, "seconds": 1.5, "dollars": 0.0,
        "peak_rss_bytes": 1000 + place, "detail": json.dumps(detail), "started_at": STARTED + timedelta(minutes=place),
        "finished_at": STARTED + timedelta(minutes=place, seconds=59),
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole(made: Made) -> dict[str, Any]:
    return report.card(made(1))


@pytest.fixture(scope="module")
def null(made: Made) -> dict[str, Any]:
    return report.card(made(2))


def test_card_follows_its_schema(whole: dict[str, Any], null: dict[str, Any]) -> None:
    schema = json.loads(report.SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for card in (whole, null):
        jsonschema.validate(card, schema)


def test_every_field_of_the_schema_is_described() -> None:
    def bare(node: Any, path: str = "card") -> list[str]:
        if not isinstance(node, dict):
            return []
        missing = [] if "description" in node else [path]
        closed = node.get("type") not in ("object", ["object", "null"]) or "additionalProperties" in node
        inner = [*node.get("properties", {}).items(), *([("[]", node["items"])] if "items" in node else [])]
        return missing + ([] if closed else [f"{path} is open"]) + [m for k, v in inner for m in bare(v, f"{path}.{k}")]

    schema = json.loads(report.SCHEMA.read_text())
    # What is said more than once is in `$defs`; the place that refers to it says what it is there.
    shared = [m for name, node in schema["$defs"].items() for m in bare({"description": name, **node}, name)]
    assert len(schema["properties"]) > 20 and bare(schema) + shared == []


def test_means_are_exact(whole: dict[str, Any]) -> None:
    base, tuned = whole["policies"]["base"], whole["policies"]["tuned"]
    assert [base["greedy"]["mean"], tuned["greedy"]["mean"]] == [0.4, 0.8]
    assert [base["sampled"]["mean"], tuned["sampled"]["mean"]] == [0.25, 0.75]
    assert base["pass_at"] == {"1": 0.25, "2": 0.5, "4": 1.0}
    assert (base["best_of_n"]["n"], base["best_of_n"]["mean"], tuned["best_of_n"]["mean"]) == (4, 0.9, 0.95)
    assert [p["reward"]["prompts"] for p in (base, tuned)] == [19, 19], "compared where the reward told for both"
    assert [p["reward"]["mean"] for p in (base, tuned)] == [0.55, 0.975]
    assert [p["greedy_tokens"]["mean"] for p in (base, tuned)] == [12.0, 17.0]


def test_gain_and_bake_in_are_the_verdicts_own(whole: dict[str, Any]) -> None:
    before, after, best = ([float(p in has) for p in PROMPTS] for has in (RIGHT[BASE], RIGHT[TUNED], BEST[BASE]))
    gain, baked = paired_gain(before, after, 500, 3), bake_in(before, after, best, 500, 3)
    assert baked is not None and whole["result"] == "gain"
    assert whole["gain"]["mean"] == 0.4 and whole["gain"]["prompts"] == 20
    assert whole["gain"]["ci"] == [round(gain.low, 6), round(gain.high, 6)] and gain.low > 0
    assert whole["gain"]["p_mcnemar"] == round(2 * (1 + 10) / 2**10, 6)
    assert whole["bake_in_ratio"] == whole["bake_in"]["greedy"]["mean"] == 0.8
    assert whole["bake_in"]["greedy"]["low"] == round(baked.low, 6)
    assert whole["bake_in"]["sampled"]["mean"] == round(0.5 / 0.65, 6)


def test_quality_over_tuning_compute(whole: dict[str, Any], null: dict[str, Any]) -> None:
    found = whole["compute"]
    assert found["base"]["right"] == whole["policies"]["base"]["greedy"] and found["base"]["prompts"] == 20
    # 10 training prompts at 12.5 tokens an answer; four of 20 prompts, abstained on, stay at one in four.
    means = [(p["k"], p["tokens"], p["right"]["mean"]) for p in found["search"]]
    assert means == [(1, 125, 0.25), (2, 250, 0.45), (4, 500, 0.85)]
    (tuned,) = found["tuned"]
    assert (tuned["round"], tuned["tokens"], tuned["trained"]) == (1, 900, 300)
    assert tuned["right"] == whole["policies"]["tuned"]["greedy"]
    assert null["compute"] is None, "a round that trained nothing"


def test_histograms_hold_every_sample_once(whole: dict[str, Any]) -> None:
    rewards, lengths = whole["reward_histogram"], whole["length_histogram"]
    assert rewards["base"] == [0, 20, 0, 0, 0, 0, 0, 0, 0, 20] and rewards["base_missing"] == 0
    assert rewards["tuned"] == [0] * 9 + [38] and rewards["tuned_missing"] == 2
    assert sum(lengths["base"]) == sum(lengths["tuned"]) == 40
    edges = lengths["edges"]
    assert lengths["base"][edges.index(12)] == 40 and lengths["tuned"][edges.index(16)] == 20, edges


def test_examples_are_six_fixed_two_broken_and_filled_up(whole: dict[str, Any]) -> None:
    shown = [(e["base_right"], e["tuned_right"]) for e in whole["examples"]]
    assert shown.count((False, True)) == 7, "one broken prompt is missing: its place is filled"
    assert shown.count((True, False)) == 1 and len(shown) == 10
    first = whole["examples"][0]
    assert first["question"] == "Question 8?" and first["base_answer"] == "SELECT 0 -- b"


def test_choice_of_examples() -> None:
    names = [f"p{i:02d}" for i in range(40)]
    base = {p: float(i % 4 in (1, 3)) for i, p in enumerate(names)}
    tuned = {p: float(i % 4 in (0, 3)) for i, p in enumerate(names)}
    assert choose(base, tuned) == ["p00", "p04", "p08", "p12", "p16", "p20", "p01", "p05", "p02", "p03"]
    assert choose({"a": 0.0}, {"a": 1.0, "b": 1.0}) == ["a"]


def test_refusals_are_grouped_without_their_text(whole: dict[str, Any]) -> None:
    assert whole["quarantine_reasons"] == [
        {"reason": "not JSON: Expecting value at character …", "count": 2},
        {"reason": "turn … has role …, wanted one of system, user, assistant", "count": 1},
    ]
    assert "hunter2" not in json.dumps(whole)
    assert kind_of("""turn 1 has role "it's 'odd'", wanted one""") == "turn … has role …, wanted one"
    assert kind_of("not UTF-8: byte 17 is 0xff") == "not UTF-8: byte … is …"


def test_books(whole: dict[str, Any]) -> None:
    assert [s["stage"] for s in whole["stages"]][:3] == ["ingest", "generate", "label"] and len(whole["stages"]) == 10
    assert (whole["wall_seconds"], whole["tokens"], whole["peak_rss_bytes"]) == (15.0, 4500, 1009)
    assert whole["stages"][6]["detail"] == {"metrics.loss": 0.123457, "metrics.tokens": 300, "warmup": True}
    assert whole["counts"] == {
        "in": 40, "kept": 21, "folded": 16, "quarantined": 3, "train": 1, "holdout": 20, "review": 0,
        "trained_prompts": 1, "abstained": 0,
    }  # fmt: skip
    assert whole["registered"] == {"name": "shop_sql", "version": 2, "alias": "champion"}
    assert whole["verdict"]["promoted"] is True
    assert whole["scorers"][1]["held_out_pairwise"] == {"accuracy": 0.9, "pairs": 10}
    assert any("simulated reviewer (shop.people:ask)" in sentence for sentence in whole["not_shown"])


@pytest.mark.slow  # of the real round test_round asks the same
def test_same_tables_give_the_same_bytes(made: Made, project: Project, tmp_path: Path) -> None:
    page = report.write(made(1), tmp_path / "one")
    shuffled = Round(filled(Lake(made(1).lake.spark, str(tmp_path / "lake")), backwards=True), project, 1)
    report.write(shuffled, tmp_path / "two")
    assert page == tmp_path / "one" / "index.html"
    assert sorted(p.name for p in page.parent.iterdir()) == ["card.json", "index.html"], "nothing half-written stays"
    for name in ("card.json", "index.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    text = (tmp_path / "one" / "card.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_a_round_that_tuned_nothing_has_no_gain(null: dict[str, Any]) -> None:
    assert null["result"] == "no gain" and null["gain"]["mean"] == 0 and null["gain"]["ci"] == [0, 0]
    assert null["bake_in_ratio"] == 0 and null["verdict"] is None and null["registered"] is None
    assert set(null["counts"].values()) == {None}
    assert not [e for e in null["examples"] if e["base_right"] != e["tuned_right"]]


def test_a_worse_model_is_called_worse(made: Made, tmp_path: Path) -> None:
    page = report.write(made(3), tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["result"] == "worse" and card["gain"]["mean"] == -0.4 and card["gain"]["ci"][1] < 0
    assert "Worse: " in page.read_text()


def test_without_an_evaluation_the_error_names_the_stage(made: Made) -> None:
    for number in (4, 6):
        with pytest.raises(RuntimeError, match="taolake stage evaluate"):
            report.card(made(number))


def test_a_verdict_on_an_older_evaluation_is_not_shown(made: Made) -> None:
    assert report.card(made(5))["verdict"] is None

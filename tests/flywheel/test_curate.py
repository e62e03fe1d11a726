"""Curation: near-duplicates lie on one side of the split and stay there, filters and quotas, and what the rules say."""

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from taolake import lake, stages
from taolake.config import Curate
from taolake.curation import alike
from taolake.curation.language import language
from taolake.curation.worth import Prompt, choose
from taolake.lake import Lake
from taolake.stages.round import Round
from tests.flywheel.traffic import thumb
from tests.projects import fake_project, open_round, write_log
from tests.unit.test_tagging import KINDS, question

WORDS = [
    a + b for a, b in itertools.product(("lo", "mi", "ra", "te", "so", "ku", "ve"), ("dan", "pel", "rim", "stu", "gon"))
]


def texts(count: int, seed: int = 1) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=25)) for _ in range(count)]


def changed(text: str, words: int, seed: int) -> str:
    draw, said = random.Random(seed), text.split()
    for place in draw.sample(range(len(said)), words):
        said[place] = draw.choice([word for word in WORDS if word != said[place]])
    return " ".join(said)


def close(one: str, other: str) -> float:
    return alike.similarity(alike.shingles(one), alike.shingles(other))


def test_similarity_is_the_share_of_common_runs_of_five() -> None:
    assert close("Reset my router!", "reset   MY router") == 1.0
    assert close("abcdef", "abcdeg") == 1 / 3
    assert close("abc", "xyz") == 0.0
    assert alike.shingles("").size == alike.shingles("ab").size == 1


def test_alike_texts_meet_in_a_bucket_and_others_do_not() -> None:
    asked = texts(300)
    near = [(a, changed(a, 1, i)) for i, a in enumerate(asked)]
    near = [pair for pair in near if close(*pair) >= 0.8]
    assert len(near) > 200
    rows = alike.rows(0.8)
    assert [pair for pair in near if not (alike.bands(pair[0], rows) == alike.bands(pair[1], rows)).any()] == []
    apart = list(itertools.pairwise(asked))
    assert max(close(a, b) for a, b in apart) < 0.5
    assert sum((alike.bands(a, rows) == alike.bands(b, rows)).any() for a, b in apart) < 0.05 * len(apart)


@pytest.mark.parametrize(("similarity", "rows"), [(0.31, 2), (0.5, 3), (0.8, 6), (0.9, 9), (1.0, 25)])
def test_bands_are_as_narrow_as_what_is_alike_allows(similarity: float, rows: int) -> None:
    assert alike.rows(similarity) == rows
    assert alike.bands(texts(1)[0], rows).size == 125 // rows


def test_a_large_bucket_is_held_together_by_a_chain() -> None:
    buckets, members = np.zeros(50, np.int64), np.arange(50, dtype=np.int64)
    one, other = alike.neighbours(buckets, members)
    assert len(one) < 3 * 50
    assert set(alike.connected(np.stack([one, other], 1)).values()) == {0}
    assert alike.neighbours(np.arange(50, dtype=np.int64), members)[0].size == 0


def test_clusters_are_named_by_their_smallest_member() -> None:
    assert alike.connected([(5, 9), (2, 5), (7, 8)]) == {2: 2, 5: 2, 9: 2, 7: 7, 8: 7}
    assert alike.connected([]) == {}


@pytest.mark.parametrize(
    ("known", "given", "side"),
    [
        ([], [], None),
        (["train"], ["holdout"], "train"),
        (["spare"], [], "train"),
        (["train", "spare"], [], "train"),
        (["train", "holdout"], [], "both"),
        ([], ["train", "review"], "review"),
        ([], ["review", "holdout"], "holdout"),
    ],
)
def test_side(known: list[str], given: list[str], side: str | None) -> None:
    assert alike.side(known, given) == side


LANGUAGES = [
    ("How do I reset the router in my house?", "en"),
    ("Wie kann ich das Gerät zurücksetzen und ist es neu?", "de"),
    ("Comment est-ce que je peux réinitialiser le routeur dans la maison?", "fr"),
    ("¿Cómo puedo restablecer el router que está en la casa?", "es"),
    ("Как мне сбросить роутер?", "ru"),
    ("ルーターをリセットする方法", "ja"),
    ("怎么重置路由器", "zh"),
    ("hi", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "code"), LANGUAGES)
def test_language(text: str, code: str | None) -> None:
    assert language(text) == code


def test_choice_keeps_quotas_and_prefers_what_is_difficult_unsure_and_new() -> None:
    prompts = [Prompt(f"p{i}", "same" if i < 5 else f"c{i}", "sql" if i % 2 else None) for i in range(10)]
    first = choose(prompts, 6, {}, {"diversity": 1.0})
    assert len(first) == 6 and len({p for p in first if int(p[1:]) < 5}) == 1, "one of a cluster before two"
    assert sum(int(p[1:]) % 2 for p in choose(prompts, 6, {"sql": 0.34}, {"diversity": 1.0})) == 2
    known = [Prompt("hard", "a", None, 0.0), Prompt("even", "b", None, 0.5), Prompt("easy", "c", None, 1.0)]
    assert choose(known, 1, {}, {"difficulty": 1.0}) == ["hard"]
    assert choose(known, 1, {}, {"uncertainty": 1.0}) == ["even"]
    assert choose(known, 5, {"other": 0.2}, {"difficulty": 1.0}) == ["hard"]


def test_topics_share_the_places() -> None:
    """Nine prompts of topic 0, all of clusters of their own, and three of topic 1."""
    prompts = [Prompt(f"p{i}", f"c{i}", None, None, int(i >= 9)) for i in range(12)]
    by_topic = [int(int(p[1:]) >= 9) for p in choose(prompts, 6, {}, {"diversity": 1.0})]
    assert sum(by_topic) == 3 and sum(by_topic[:2]) == 1, "one of each before two of one"
    known = [Prompt(p.prompt_id, p.cluster, None, float(p.topic or 0), p.topic) for p in prompts]
    hard = choose(known, 6, {}, {"difficulty": 1.0}, 0.34)
    assert sorted(int(int(p[1:]) >= 9) for p in hard) == [0, 0, 1, 1], "two of each at most, and no more are there"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"tags": {"x": "("}}, "no regular expression"),
        ({"quotas": {"x": 0.5}}, "wanted tags or `other`"),
        ({"min_chars": 9, "max_chars": 3}, "below min_chars"),
        ({"split_by": ["time"]}, "need each other"),
        ({"classifier": {}}, "nothing to learn from"),
        ({"topics": {"encoder": "folder"}}, "give a `limit` too"),
    ],
)
def test_a_section_that_cannot_be_followed_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Curate.model_validate(fields)


def ingested(
    spark: SparkSession,
    folder: Path,
    asked: list[str],
    said: Sequence[dict[str, str]] = (),
    split: str = "auto",
    **curate: Any,
) -> tuple[Round, dict[str, Any]]:
    """Ingest a log of questions; `said` is what its lines hold besides."""
    write_log(folder / "log.jsonl", asked)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    more = itertools.chain(said, itertools.repeat({}))
    (folder / "log.jsonl").write_text("".join(json.dumps({**a, **b}) + "\n" for a, b in zip(lines, more, strict=False)))
    source = {"format": "jsonl", "path": str(folder / "log.jsonl"), "split": split}
    round_ = open_round(spark, fake_project(folder, ingest={"holdout": 0.4, "sources": [source], "curate": curate}))
    return round_, stages.run(round_, "ingest")[0].detail


def prompts_of(round_: Round) -> dict[str, Any]:
    return {r["messages"][-1]["content"]: r for r in round_.lake.read(lake.PROMPTS).collect()}


def test_no_near_duplicate_crosses_and_no_old_cluster_moves(spark: SparkSession, tmp_path: Path) -> None:
    old = texts(40)
    near = [changed(text, 1, i) for i, text in enumerate(old)]
    round_, detail = ingested(spark, tmp_path, [*old[:30], *near[:20], old[0], "x"], min_chars=2)
    assert detail["in"] == 52 == detail["kept"] + detail["folded"] + detail["quarantined"]
    assert (detail["folded"], detail["quarantined"]) == (1, 1)
    before = prompts_of(round_)
    assert {r["split"] for r in before.values()} == {"train", "holdout"}

    bridge = [changed(text, 1, 100 + i) for i, text in enumerate(old)]
    round_, detail = ingested(spark, tmp_path, [*old[20:], *near[20:], *bridge], min_chars=2)
    after = prompts_of(round_)
    assert {q: (r["split"], r["cluster"]) for q, r in before.items()} == {
        q: (after[q]["split"], after[q]["cluster"]) for q in before
    }
    pairs = [(a, b) for a, b in itertools.combinations(after, 2) if close(a, b) >= 0.8]
    assert len(pairs) > 50
    assert [pair for pair in pairs if after[pair[0]]["split"] != after[pair[1]]["split"]] == []
    assert {after[a]["cluster"] == after[b]["cluster"] for a, b in pairs} == {True}


def test_a_classifier_tags_what_no_rule_fits_and_quotas_hold_for_both(spark: SparkSession, tmp_path: Path) -> None:
    """Half of the questions of each kind hold the rule's word; the others are known by the words beside it."""
    asked = [question(kind, i, sure=i % 2 == 0) for kind in KINDS for i in range(60)] + texts(10, 9)
    round_, detail = ingested(
        spark, tmp_path, asked, similarity=1.0, tags={kind: rf"\b{kind}\b" for kind in KINDS},
        classifier={"confidence": 0.7}, limit=10, quotas={"invoice": 0.2},
    )  # fmt: skip
    rows = prompts_of(round_)
    unsure = [(kind, rows[question(kind, i, False)]["tag"]) for kind in KINDS for i in range(1, 60, 2)]
    told = [(kind, tag) for kind, tag in unsure if tag is not None]
    assert len(told) > 0.8 * len(unsure) and all(kind == tag for kind, tag in told)
    assert {rows[text]["tag"] for text in asked[-10:]} == {None}
    assert detail["classifier"]["examples"] == 60 and detail["classifier"]["tagged"] == len(told)
    train = [row["tag"] for row in rows.values() if row["split"] == "train"]
    assert len(train) == 10 and train.count("invoice") == 2
    assert sum(row["split"] == "spare" for row in rows.values()) > 40


@pytest.mark.slow
def test_a_persons_prompts_stay_together_and_the_newest_are_held_out(spark: SparkSession, tmp_path: Path) -> None:
    asked = texts(13, 5)
    said = [{"user_id": f"u{i % 4}", "logged_at": f"2026-11-{10 + i % 4}T10:00:00.000Z"} for i in range(12)]
    said.append({"user_id": "u9", "logged_at": "the day before"})
    round_, detail = ingested(
        spark, tmp_path, asked, said, split_by=["user", "time"], holdout_after="2026-11-12T00:00:00"
    )
    assert detail["kept"] == 13
    rows = prompts_of(round_)
    of_user: dict[str, set[str]] = {}
    for text, line in zip(asked, said, strict=True):
        of_user.setdefault(line["user_id"], set()).add(rows[text]["cluster"])
    assert [len(clusters) for clusters in of_user.values()] == [1] * 5
    assert len(set.union(*of_user.values())) == 5
    assert [rows[text]["split"] for text in asked[:4]] == ["train", "train", "holdout", "holdout"]


@pytest.mark.slow
def test_every_request_of_a_prompt_says_how_difficult_it_was(spark: SparkSession, tmp_path: Path) -> None:
    """Nobody says a word about the first request of a hard prompt: the second is disliked, or its answer is mended."""
    hard, easy = texts(3, 7), texts(6, 8)
    asked = [*hard, *easy, *hard]
    said = [{"request_id": f"r{i}"} for i in range(len(asked))]
    down = [thumb(f"r{i}", -1.0) for i in (9, 10)]
    mended = {"request_id": "r11", "source": "edit:ann", "kind": "edit", "value": None, "text": "better"}
    up = [thumb(f"r{i}", 1.0) for i in range(3, 9)]
    here = Lake(spark, fake_project(tmp_path).lake)
    here.insert_new(lake.FEEDBACK, spark.createDataFrame([*down, up[0] | mended, *up], lake.FEEDBACK.schema()))
    round_, detail = ingested(spark, tmp_path, asked, said, "train", limit=3, weights={"difficulty": 1.0})
    assert (detail["kept"], detail["folded"]) == (9, 3)
    assert {text for text, row in prompts_of(round_).items() if row["split"] == "train"} == set(hard)

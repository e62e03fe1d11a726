"""What must hold exactly: OAPL's fixed point, the reference, and ids that are the same in training and at inference."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from taolake.selection.weights import tilt, value
from tests.e2e.toy import THINGS, WORDS, job_of, messages_of, selections, tiny_llama, tokenizer_of


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_llama(tmp_path_factory.mktemp("base"))


def minimised(advantages: list[float], beta: float, clip: float) -> list[float]:
    """Minimise the trainer's own loss over a table of one-token answers, the reference being even; probabilities."""
    import torch
    from torch import nn

    from taolake.training import oapl

    n = len(advantages)

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(n, dtype=torch.float64))

        def forward(self, input_ids: Any, logits_to_keep: int, **_: Any) -> Any:
            shape = (len(input_ids), logits_to_keep, n)
            return SimpleNamespace(logits=self.bias.expand(shape))

    model, even = Table(), -float(torch.log(torch.tensor(float(n))))
    rows = [
        {"prompt_ids": [0], "token_ids": [i], "advantage": a, "weight": 1.0, "reference": even}
        for i, a in enumerate(advantages)
    ]
    batch = oapl.collate(rows, 0)
    steps = SimpleNamespace(
        beta=beta, clip=clip, _seen=[], current_gradient_accumulation_steps=1,
        args=SimpleNamespace(train_batch_size=n, gradient_accumulation_steps=1),
    )  # fmt: skip
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_grad=1e-12, tolerance_change=0)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = oapl.OAPLTrainer.compute_loss(steps, model, batch)
        loss.backward()
        return loss

    optimizer.step(closure)
    found: list[float] = torch.softmax(model.bias.detach(), 0).tolist()
    return found


@pytest.mark.parametrize("beta", [0.3, 1.0, 2.0])
def test_the_fixed_point_is_the_tilted_reference(beta: float) -> None:
    """pi = pi_ref exp((r - V) / beta), which is a distribution when beta is the value's own temperature."""
    import math

    rewards = [0.0, 0.1, 0.5, 0.9, 1.0]
    baseline = value(rewards, beta)
    wanted = [math.exp((r - baseline) / beta) / 5 for r in rewards]
    assert math.fsum(wanted) == pytest.approx(1, abs=1e-12)
    found = minimised([r - baseline for r in rewards], beta, clip=100.0)
    assert found == pytest.approx(wanted, abs=1e-4)


def test_the_fixed_point_of_tilted_ranks_is_best_of_k() -> None:
    rewards, k = [0.2, 0.9, 0.4, 0.1, 0.7], 3
    ranked = tilt(rewards, k)
    baseline = value(ranked, 1.0)
    found = minimised([t - baseline for t in ranked], 1.0, clip=100.0)
    shares = [((sorted(rewards).index(r) + 0.5) / 5) ** (k - 1) for r in rewards]
    assert found == pytest.approx([s / sum(shares) for s in shares], abs=1e-4)


def test_the_reference_is_the_base_with_adapters_off(base: str, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from taolake.training import oapl, offline, tao

    job = job_of(base, tmp_path, selections(base), warmup={"epochs": 2, "learning_rate": 0.01},
                 oapl={"epochs": 1, "learning_rate": 0.01})  # fmt: skip
    result = tao.run(job)
    measured = json.loads((job.work / "reference.json").read_text())
    tokenizer = tokenizer_of(base)
    rows, _ = offline.candidates(job, tokenizer)
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), result.folder)
    with model.disable_adapter():
        off = oapl.score(model, rows, tokenizer.pad_token_id, 8, "test")
    on = oapl.score(model, rows, tokenizer.pad_token_id, 8, "test")
    assert off == pytest.approx(measured, abs=1e-4)
    assert on != pytest.approx(measured, abs=0.1)


def test_training_sees_the_ids_that_the_engine_was_fed_and_sampled(base: str) -> None:
    from taolake.engines.vllm import Vllm
    from taolake.training import oapl
    from taolake.training.render import answer_ids, prompt_ids

    tokenizer = tokenizer_of(base)
    engine = Vllm.__new__(Vllm)
    engine._tokenizer, engine._rendered, engine._limit, engine._longest = tokenizer, None, 4096, 100
    for turns in (messages_of("sky"), [{"role": "system", "content": "be brief"}, *messages_of("sea")]):
        fed = engine._render(tuple(turns))
        assert prompt_ids(tokenizer, turns) == fed
        sampled = answer_ids(tokenizer, "blue")
        batch = oapl.collate([{"prompt_ids": fed, "token_ids": sampled}], tokenizer.pad_token_id)
        assert batch["input_ids"][0].tolist() == fed + sampled
        assert batch["answer"][0].tolist() == [0] * len(fed) + [1] * len(sampled)
        assert sampled[-1] == tokenizer.eos_token_id


def test_equal_candidates_are_one_row_and_teach_the_same(base: str, tmp_path: Path) -> None:
    """The mean loss over different rows is the mean over all, and so are its gradient and what is logged."""
    import torch

    from taolake.training import oapl, offline, setup

    rows = selections(base)[:-4]
    copied = rows + [{**row, "weight": 0.5} for row in rows[::2]] + rows[::3]
    job = job_of(base, tmp_path, copied)
    tokenizer = tokenizer_of(base)
    different, counts = offline.candidates(job, tokenizer)
    everything = offline.rows_of(job, tokenizer, "regress")
    assert counts["rows"] == len(everything) > counts["different"] == len(different)
    assert sum(row["copies"] for row in different) == len(everything)

    def taught(asked: list[dict[str, Any]]) -> tuple[float, Any, dict[str, float]]:
        model = setup.policy(job)
        steps = SimpleNamespace(
            beta=0.1, clip=10.0, _seen=[], current_gradient_accumulation_steps=1,
            args=SimpleNamespace(train_batch_size=len(asked), gradient_accumulation_steps=1),
        )  # fmt: skip
        batch = oapl.collate([{"copies": 1, **row, "reference": -3.0} for row in asked], tokenizer.pad_token_id)
        loss = oapl.OAPLTrainer.compute_loss(steps, model, batch)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        return loss.item(), gradient, oapl.statistics(*torch.cat(steps._seen, dim=1))

    loss, gradient, said = taught(different)
    wanted_loss, wanted_gradient, wanted_said = taught(everything)
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-4, atol=1e-5)
    assert said == pytest.approx(wanted_said, rel=1e-4)


def test_equal_winners_are_one_row_and_teach_the_same(base: str, tmp_path: Path) -> None:
    """One step of TRL's trainer over all rows, and one of ours over different ones with weights, are the same step."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from taolake.training import rft, setup
    from taolake.training.sft import WinnerTrainer

    tokenizer = tokenizer_of(base)
    rows = [{"messages": messages_of(t), "text": w} for t, w in zip(THINGS[:4], WORDS[4:], strict=True)]
    examples = [rft.example(tokenizer, row) for row in [*rows, *rows[:2], *rows[:1]]]
    different = rft.folded(examples)
    assert len(examples) == 7 and len(different) == 4

    def step(trainer: Any, asked: list[dict[str, Any]]) -> tuple[float, float]:
        job = job_of(base, tmp_path / trainer.__name__, selections(base))
        shared = setup.arguments(job, "warmup", 0.01, len(asked), None)
        args = SFTConfig(**shared, num_train_epochs=1, max_length=None)
        made = trainer(setup.policy(job), args=args, train_dataset=Dataset.from_list(asked), processing_class=tokenizer)
        made.train()
        (entry,) = [e for e in made.state.log_history if "loss" in e]
        return entry["loss"], entry["grad_norm"]

    assert step(WinnerTrainer, different) == pytest.approx(step(SFTTrainer, examples), rel=1e-4)


def test_an_epoch_keeps_its_steps_where_answers_are_equal(base: str, tmp_path: Path) -> None:
    from taolake.training import setup

    job = job_of(base, tmp_path, selections(base), batch_size=64, micro_batch_size=None)

    def rows(different: int, of: int, **settings: int) -> int:
        return setup.step_rows(replace(job, settings=job.settings | settings), different, of)

    assert rows(100, 100) == 64 and rows(100, 100, micro_batch_size=5) == 64
    assert rows(982, 3480) == 18 and round(982 / 18) - round(3480 / 64) == 1
    assert rows(1, 1000) == 1
    assert rows(982, 3480, processes=4) == 20, "every process has as many"
    assert rows(982, 3480, micro_batch_size=8) == 16, "and no micro-batch of one because 18 is no multiple of 8"

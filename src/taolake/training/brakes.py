"""Brakes: looks at the policy while it trains, on prompts it does not learn from; loads torch and transformers.

A look draws answers at temperature 1 with the same random numbers every time, scores them with the reward and with the
held-out scorer, and measures how far the policy is from the base. What that means is said in `taolake.trust.brakes`: a
tripped wire ends this training, `patience` looks without a better held-out score stop it, and the weights of the best
look are kept; where that is the base, none are. Looks lie in a file beside the checkpoints, so a resumed run decides as
an uninterrupted one would; nothing here touches the trainer's own random numbers. Not a scorer and not a verdict.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, TrainerCallback

from taolake import scoring
from taolake.config import Brakes, Project
from taolake.scoring.extract import extract
from taolake.training import oapl, offline, setup
from taolake.training.job import TrainJob, write_atomic
from taolake.training.online import FusedReward
from taolake.training.render import end_id, prompt_ids
from taolake.trust import brakes as rules
from taolake.trust.sample import Draws

_RESAMPLES = 1000


class Drawn(NamedTuple):
    """One answer: its ids with the end mark, what it says, whether it came to its end."""

    token_ids: list[int]
    text: str
    finished: bool


class Brake(TrainerCallback):  # type: ignore[misc]
    """Watches one training.

    Args:
        job: with the whole project, `dev` rows, and the reward model's folder where the reward uses one.

    Raises:
        ValueError: the rows hold no prompt to look at.
    """

    def __init__(self, job: TrainJob) -> None:
        if job.project is None:
            raise ValueError("brakes score while it trains: got a job without `project`, wanted the whole project")
        self.job, self.project = job, Project.model_validate(job.project)
        self.spec = Brakes.model_validate(job.settings["brakes"])
        self.tokenizer = setup.tokenizer(job.base)
        self.prompts = offline.rows_of(job, self.tokenizer, "dev")
        if not self.prompts:
            raise ValueError(f"{job.rows} has no `dev` rows, wanted prompts to look at: raise train.brakes.share")
        proxy = self.project.rewards_in_the_trainer
        self.proxy = FusedReward(self.project, job.reward_model) if proxy else None
        named = next((s for s in self.project.scorers if s.name == self.spec.scorer), None)
        self.held = scoring.build(named) if named else None
        self.canaries = _canaries(self.spec.canary)
        self.book: dict[str, Any] = {"base": None, "looks": []}
        self._reference: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Look at the base, unless an earlier process of this job did."""
        if self._path.exists():
            self.book = json.loads(self._path.read_text(encoding="utf-8"))
        if self.book["base"] is None:
            with self._base(model) as base:
                self.book["base"] = self._look(base, None)
            self._write()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Look when it is time, keep the weights of the best look, and say when to stop."""
        looked = state.global_step in [look["step"] for look in self.book["looks"]]
        if not looked and (state.global_step % self.spec.every == 0 or state.global_step == state.max_steps):
            measured = self._look(model, model)
            draws, looks = Draws(_RESAMPLES, self.job.seed), -(-state.max_steps // self.spec.every)
            found = rules.wires(self.book["base"], measured, self.spec, self.project.select.best_of, draws, looks)
            self.book["looks"].append(
                {"step": state.global_step, "measured": measured, "wires": [wire._asdict() for wire in found]}
            )
            if rules.best(self.book["base"], self.book["looks"]) == state.global_step:
                save_file({n: p.detach().cpu().contiguous() for n, p in _trainable(model)}, self._best)
            self._write()
        # At every step: a process that resumes at the checkpoint of the last look has not heard its word.
        seen = [look for look in self.book["looks"] if look["step"] <= state.global_step]
        if seen:
            control.should_training_stop |= rules.should_stop(self.book["base"], seen, self.spec.patience)

    def finish(self, model: Any) -> dict[str, Any]:
        """Put the best look's weights into the model; returns what the looks said.

        Raises:
            Tripped: a wire tripped, or no look was better than the base; it carries the evidence.
        """
        said = rules.summary(self.book["base"], self.book["looks"])
        if said["tripped"]:
            raise rules.Tripped(said)
        model.load_state_dict(load_file(self._best, device=str(model.device)), strict=False)
        return said

    @property
    def _path(self) -> Path:
        return self.job.work / "looks.json"

    @property
    def _best(self) -> Path:
        return self.job.work / "best.safetensors"

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path, json.dumps(self.book))

    @contextlib.contextmanager
    def _base(self, model: Any) -> Iterator[Any]:
        """The base: the model with its adapter off, or a copy where all weights are trained."""
        if hasattr(model, "peft_config"):
            with model.disable_adapter():
                yield model
            return
        if self._reference is None:
            loaded = AutoModelForCausalLM.from_pretrained(self.job.base, dtype=setup.weights_dtype(self.job, False))
            self._reference = loaded.to(model.device).eval()
        yield self._reference

    def _look(self, policy: Any, model: Any) -> dict[str, list[float | None]]:
        """Measures by prompt; with a model in training, also its distance from the base."""
        groups = self._draw(policy, [row["prompt_ids"] for row in self.prompts], self.spec.samples)
        rows = [
            {"prompt_ids": row["prompt_ids"], "token_ids": drawn.token_ids, "prompt": i}
            for i, (row, group) in enumerate(zip(self.prompts, groups, strict=True))
            for drawn in group
        ]
        own = self._log_probs(policy, rows)
        measured = self._form(groups) | self._scores(groups)
        spent = _by_prompt([len(row["token_ids"]) for row in rows], rows)
        measured["entropy"] = [-sum(p) / sum(t) for p, t in zip(_by_prompt(own, rows), spent, strict=True)]
        if model is not None:
            with self._base(model) as base:
                theirs = self._log_probs(base, rows)
            gaps = [a - b for a, b in zip(own, theirs, strict=True)]
            measured["kl"] = [fmean(gap) for gap in _by_prompt(gaps, rows)]
        if self.canaries:
            asked = [prompt_ids(self.tokenizer, messages) for messages, _ in self.canaries]
            said = self._draw(policy, asked, 1, greedy=True)
            measured["canary"] = [
                float(group[0].text.strip() == answer) for group, (_, answer) in zip(said, self.canaries, strict=True)
            ]
        return measured

    def _form(self, groups: Sequence[Sequence[Drawn]]) -> dict[str, list[float | None]]:
        """Length, truncation, repetition, and the one answer to everything."""
        return {
            "length": [fmean(len(d.token_ids) for d in group) for group in groups],
            "truncated": [fmean(not d.finished for d in group) for group in groups],
            "repetition": [fmean(rules.repetition(d.text) for d in group) for group in groups],
            "top_answer": list(rules.top_share([[d.text.strip() for d in group] for group in groups])),
        }

    def _scores(self, groups: Sequence[Sequence[Drawn]]) -> dict[str, list[float | None]]:
        """Reward, held-out score and how they rank a prompt's answers."""
        found: dict[str, list[float | None]] = {}
        rewards = [self._rewards(row, group) for row, group in zip(self.prompts, groups, strict=True)]
        held = [self._held(row, group) for row, group in zip(self.prompts, groups, strict=True)]
        if self.proxy:
            found["reward"] = [_mean(values) for values in rewards]
        if self.held:
            found["held"] = [_mean(values) for values in held]
        if self.proxy and self.held:
            found["correlation"] = [rules.agreement(a, b) for a, b in zip(rewards, held, strict=True)]
        return found

    def _rewards(self, row: dict[str, Any], group: Sequence[Drawn]) -> list[float | None]:
        if self.proxy is None:
            return []
        said = [[{"role": "assistant", "content": drawn.text}] for drawn in group]
        return self.proxy([row["messages"]] * len(group), said, [row["prompt_id"]] * len(group))

    def _held(self, row: dict[str, Any], group: Sequence[Drawn]) -> list[float | None]:
        if self.held is None:
            return []
        answers = [extract(drawn.text, self.project.generate.plain.extract) for drawn in group]
        return [0.0 if answer is None else self.held(row["messages"], answer).value for answer in answers]

    def _log_probs(self, model: Any, rows: Sequence[dict[str, Any]]) -> list[float]:
        return oapl.score(model, rows, self.tokenizer.pad_token_id, offline.micro(self.job), "look")

    def _draw(
        self, model: Any, prompts: Sequence[Sequence[int]], samples: int, greedy: bool = False
    ) -> list[list[Drawn]]:
        """Answers by prompt; the same random numbers at every look, and none of the trainer's."""
        wanted = [ids for ids in prompts for _ in range(samples)]
        how = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        size, found, was_training = self.job.settings["batch_size"], list[Drawn](), model.training
        model.eval()
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(self.job.seed)
            for start in range(0, len(wanted), size):
                found += self._batch(model, wanted[start : start + size], how)
        model.train(was_training)
        return [found[i : i + samples] for i in range(0, len(found), samples)]

    def _batch(self, model: Any, prompts: Sequence[Sequence[int]], how: dict[str, Any]) -> list[Drawn]:
        """One call of `generate`, prompts padded on the left."""
        pad, end = self.tokenizer.pad_token_id, end_id(self.tokenizer)
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
        limit = self.project.model.max_tokens
        out = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=limit, eos_token_id=end, pad_token_id=pad, **how
        )
        found = []
        for row in out[:, width:].tolist():
            finished = end in row
            kept = row[: row.index(end) + 1] if finished else row
            found.append(Drawn(kept, self.tokenizer.decode(kept, skip_special_tokens=True), finished))
        return found


def _trainable(model: Any) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in model.named_parameters() if value.requires_grad]


def _by_prompt(values: Sequence[float], rows: Sequence[dict[str, Any]]) -> list[list[float]]:
    found: dict[int, list[float]] = {}
    for value, row in zip(values, rows, strict=True):
        found.setdefault(row["prompt"], []).append(value)
    return [found[prompt] for prompt in sorted(found)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _canaries(path: str | None) -> list[tuple[Any, str]]:
    """Prompts of other tasks with their answers; none of this task's labels are among them."""
    if path is None:
        return []
    lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    return [(line["messages"], str(line["answer"]).strip()) for line in lines]

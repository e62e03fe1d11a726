"""What the online algorithms share: the prompts, and the round's own scorers as TRL's reward function.

Not the default way to train: it discards every stored candidate and waits for the scorers at every step. Sampling is
the policy's own distribution, nothing cut off, or the trainer's ratios would be biased (huggingface/trl#6789). The
scores are fused here into ONE reward, because TRL counts a None beside another function's value as zero
(trl PR #5902).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from taolake import scoring
from taolake.config import AgreementScorer, Project, RewardModelScorer
from taolake.scoring.agreement import agreement
from taolake.scoring.extract import extract
from taolake.selection.combine import combine, squash
from taolake.training import reward, setup
from taolake.training.job import TrainJob, TrainResult, read_rows
from taolake.types import Message, Score


def run(job: TrainJob, name: str, make: Callable[..., Any]) -> TrainResult:
    """Train on the unique prompts of the rows and publish the adapter or model.

    Args:
        job: what to train, with the whole project.
        name: section of the settings, and of the checkpoints' folder.
        make: from the model, TRL's shared arguments, the reward function and the rows to a trainer.
    """
    from datasets import Dataset

    from taolake.training import checkpoint

    if job.project is None:
        raise ValueError(f"{name} scores while it trains: got a job without `project`, wanted the whole project")
    project = Project.model_validate(job.project)
    tokenizer = setup.tokenizer(job.base)
    prompts = unique_prompts(job)
    spec = job.settings[name]
    size = prompts_per_step(len(prompts), job.settings["batch_size"], spec["num_generations"])
    batch = size * spec["num_generations"]
    shared = setup.arguments(job, name, spec["learning_rate"], batch, job.settings["micro_batch_size"])
    shared |= {
        "max_steps": spec["steps"],
        "num_generations": spec["num_generations"],
        "max_completion_length": project.model.max_tokens,
        "beta": spec["beta"],
        "mask_truncated_completions": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "shuffle_dataset": False,
    }
    model, adapter = setup.parts(job)
    trainer = make(
        model,
        arguments=shared,
        reward_funcs=FusedReward(project, job.reward_model),
        train_dataset=Dataset.from_list(schedule(prompts, size, spec["steps"], job.seed)),
        processing_class=tokenizer,
        peft_config=adapter,
    )
    metrics = checkpoint.train(trainer, name, job)
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    seen = {"prompts": len(prompts), "tokens": trainer.state.num_input_tokens_seen}
    ends = {"reward_first": rewards[0], "reward_last": rewards[-1]} if rewards else {}
    folder, kind = setup.publish(trainer.model, tokenizer, job)
    return TrainResult(folder, kind, {**metrics, **seen, **ends})


def unique_prompts(job: TrainJob) -> list[dict[str, Any]]:
    """One row a prompt, in the order of first appearance."""
    found = {row["prompt_id"]: row["messages"] for row in read_rows(job) if row["kind"] != "dev"}
    if not found:
        raise ValueError(f"{job.rows} has no rows, wanted prompts")
    return [{"prompt": messages, "prompt_id": prompt} for prompt, messages in found.items()]


def prompts_per_step(prompts: int, batch: int, generations: int) -> int:
    """Prompts per optimiser step: TRL drops an incomplete last chunk, so never more than there are."""
    return max(1, min(prompts, batch // generations))


def schedule(prompts: Sequence[dict[str, Any]], size: int, steps: int, seed: int) -> list[dict[str, Any]]:
    """Prompts of all steps in one go, `size` a step: shuffled anew for every pass, none twice in a step.

    One long epoch needs no epoch counter: TRL's own sampler draws its second epoch otherwise after a resume.
    """
    order: list[dict[str, Any]] = []
    for epoch in count():
        if len(order) >= steps * size:
            break
        shuffled = list(prompts)
        random.Random(f"{seed}:{epoch}").shuffle(shuffled)
        order += shuffled[: len(shuffled) // size * size]
    return order[: steps * size]


class FusedReward:
    """TRL's view of the project's reward: one number per completion, None for all of a prompt that abstains."""

    __name__ = "fused_reward"

    def __init__(self, project: Project, folders: Mapping[str, str] | None):
        used = project.reward.reads
        groups = {s.name: s.over for s in project.scorers if isinstance(s, AgreementScorer) and s.over}
        self.groups = {name: over for name, over in groups.items() if name in used}
        needed = used | set(self.groups.values())
        models = [s.name for s in project.scorers if isinstance(s, RewardModelScorer) and s.name in used]
        for name in models:
            if name not in (folders or {}):
                raise ValueError(f"the reward uses reward model {name!r}: got no folder of it in `reward_model`")
        self.spec, self.taken = project.reward, project.generate.plain.extract
        self.pure = {
            s.name: scoring.build(s)
            for s in project.scorers
            if s.name in needed and not isinstance(s, AgreementScorer | RewardModelScorer)
        }
        self.models = {name: reward.Loaded((folders or {})[name]) for name in models}

    def __call__(
        self, prompts: Sequence[Sequence[Message]], completions: Sequence[Any], prompt_id: Sequence[str], **_: Any
    ) -> list[float | None]:
        """Score a batch; its groups are found by prompt id, for two prompts may render alike."""
        rewards: list[float | None] = [None] * len(prompts)
        for prompt in dict.fromkeys(prompt_id):
            members = [i for i, owner in enumerate(prompt_id) if owner == prompt]
            answers = [extract(str(completions[i][-1]["content"]), self.taken) for i in members]
            fused = combine(self.scores(prompts[members[0]], answers), self.spec)
            for i, combined in zip(members, fused, strict=True):
                rewards[i] = combined.reward
        return rewards

    def scores(self, messages: Sequence[Message], answers: Sequence[str | None]) -> list[Mapping[str, Score | None]]:
        """Every scorer's word on one prompt's answers; None is one that could not be taken out, which is wrong."""
        scored: list[dict[str, Score | None]] = [
            {name: Score(0.0) if answer is None else scorer(messages, answer) for name, scorer in self.pure.items()}
            for answer in answers
        ]
        for name, model in self.models.items():
            values = iter(squash(model(messages, [answer for answer in answers if answer is not None])))
            for given, answer in zip(scored, answers, strict=True):
                given[name] = Score(None, "abstain") if answer is None else Score(next(values))
        for name, over in self.groups.items():
            keys = [None if (found := given[over]) is None else found.answer_key for given in scored]
            for given, share, key in zip(scored, agreement(keys), keys, strict=True):
                given[name] = Score(share, "abstain" if share is None else "ok", key)
        return list(scored)

"""A reward model in MLflow: its weights, and a card that says what it learnt from, how good it is, what it is not for.

A version counts only after it was loaded back and scored as before. Not the proof card of a tuned model
(`taolake.report`).
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from taolake import ids
from taolake.config import RewardModelScorer
from taolake.stages import registry, reward_model
from taolake.stages.round import Round
from taolake.training.job import TrainResult
from taolake.training.reward_input import Reading

_LIKE = 1e-4  # scores after loading back may differ by this
_TAG = "taolake.scorer_version"
_ASKED = 8  # held-out answers scored before and after
NOT_FOR = (
    "As the gate's judge in a round that trained on its scores: the gate needs another scorer.",
    "Comparing answers to different prompts: its scores are differences within a prompt.",
    "Tasks, languages and annotators that are not in its data.",
    "Facts: it knows what people chose, not what is true.",
)


def register_reward_model(round_: Round, spec: RewardModelScorer) -> dict[str, Any]:
    """Log the reward model with its card, register it as `<register.name>_reward`, and load it back.

    A version of the same scorer that is there already is not registered again.

    Returns:
        `name`, `version`, `run_id`, the card, and `drift`: the largest difference of a score after loading (None for
        a version that was there).

    Raises:
        RuntimeError: what was loaded scores otherwise than what was logged.
    """
    import mlflow

    trained = reward_model.train_reward_model(round_, spec)
    name, made = f"{round_.project.register_.name}_reward", card(round_, spec, trained)
    registry.connect(round_.project)
    if known := _known(name, made["version"]):
        return {"name": name, "version": int(known.version), "run_id": known.run_id, "drift": None, "card": made}
    with registry.quiet(), mlflow.start_run(run_name=f"{round_.project.name}-{spec.name}") as run:
        mlflow.log_params({"scorer": spec.name, "scorer_version": made["version"], "loss": spec.loss})
        numbers = {key: value for key, value in made["held_out"].items() if isinstance(value, int | float)}
        mlflow.log_metrics({f"held_out_{key}": float(value) for key, value in numbers.items()})
        mlflow.log_dict(made, "card/card.json")
        mlflow.log_text(markdown(made), "card/card.md")
        logged = mlflow.transformers.log_model(
            trained.folder,
            name="reward_model",
            task="text-classification",
            signature=_signature(),
            pip_requirements=list(registry.PIP_REQUIREMENTS),
            registered_model_name=name,
            metadata={"reading": Path(trained.folder, "reward.json").read_text(encoding="utf-8")},
        )
        found = str(logged.registered_model_version)
        drift = _drift(trained, f"models:/{name}/{found}")
    client = mlflow.MlflowClient()
    # Its version comes last: a run that is killed in between registers again, rather than trusting half of it.
    tags = {"taolake.base": made["base"], "taolake.data": made["data_id"], _TAG: made["version"]}
    for key, value in tags.items():
        client.set_model_version_tag(name, found, key, value)
    return {"name": name, "version": int(found), "run_id": run.info.run_id, "drift": drift, "card": made}


def _known(name: str, version: str) -> Any:
    """The registered version that has this scorer version, or None."""
    import mlflow

    client = mlflow.MlflowClient()
    # Asked one by one: Unity Catalog lists versions without their tags.
    found = (client.get_model_version(name, each.version) for each in client.search_model_versions(f"name='{name}'"))
    return next((each for each in found if each.tags.get(_TAG) == version), None)


def card(round_: Round, spec: RewardModelScorer, trained: TrainResult) -> dict[str, Any]:
    """What there is to know about a trained reward model, as JSON; every number is its trainer's or a count."""
    import pyarrow.parquet as pq

    rows = pq.read_table(Path(trained.folder).parent / "pairs.parquet").to_pylist()
    parts = Counter(row["part"] for row in rows)
    metrics = trained.metrics
    return {
        "name": spec.name,
        "version": reward_model.version(round_, spec),
        "base": spec.base or round_.project.model.path,
        "task": round_.project.task.name,
        "loss": spec.loss,
        "context": Reading.of(trained.folder).context,
        "data": {
            "pairs": len(rows),
            "choices": len({row["choice"] or number for number, row in enumerate(rows)}),
            "prompts": len({row["prompt_id"] for row in rows}),
            "annotators": len({row["annotator"] for row in rows}),
            "kinds": dict(sorted(Counter(row["kind"] or "pair" for row in rows).items())),
            "train_pairs": parts["train"],
            "eval_pairs": parts["eval"],
            "too_long": metrics["too_long"],
        },
        "data_id": ids.content_hash(rows),
        "held_out": {key.removeprefix("eval_"): value for key, value in metrics.items() if key.startswith("eval_")},
        "length_pull": metrics.get("length_pull"),
        "not_for": list(NOT_FOR),
    }


def markdown(made: dict[str, Any]) -> str:
    """The card for people."""
    data, held = made["data"], made["held_out"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in data["kinds"].items())
    lines = [
        f"# Reward model `{made['name']}`, version `{made['version']}`",
        "",
        f"Trained from `{made['base']}` for task `{made['task']}` with loss `{made['loss']}`.",
        "",
        "## Data",
        f"{data['pairs']} pairs ({kinds}) of {data['choices']} choices by {data['annotators']} annotators on "
        f"{data['prompts']} prompts. {data['train_pairs']} pairs trained, {data['eval_pairs']} were kept apart by "
        f"prompt, {data['too_long']} were too long to be read.",
        "",
        "## Held out",
        f"- Pairwise accuracy: {_share(held['accuracy'])} (95 % interval {_share(held['accuracy_low'])} to "
        f"{_share(held['accuracy_high'])}, {held['pairs']} pairs)",
        f"- Best of several, chosen at the first try: {_share(held['top1'])} ({held['lists']} choices)",
    ]
    if made["length_pull"] is not None:
        lines.append(f"- Pull of length, fitted and left out: {made['length_pull']:.3f} per deviation of log length")
    return "\n".join([*lines, "", "## Not for", *(f"- {line}" for line in made["not_for"]), ""])


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    outputs = Schema([ColSpec("string", "label"), ColSpec("double", "score")])
    return ModelSignature(inputs=Schema([ColSpec("string")]), outputs=outputs)


def _drift(trained: TrainResult, uri: str) -> float:
    """Largest difference between scores of the trained folder and of what MLflow gives back."""
    import mlflow
    import pyarrow.parquet as pq

    from taolake.training import reward

    rows = pq.read_table(Path(trained.folder).parent / "pairs.parquet").slice(0, _ASKED).to_pylist()
    asked = [(json.loads(row["messages"]), row[side]) for row in rows for side in ("chosen", "rejected")]
    before, back = reward.Loaded(trained.folder), mlflow.transformers.load_model(uri, return_type="components")
    tokenizer = back["tokenizer"]
    inputs = [before.reading.ids(tokenizer, messages, answer) for messages, answer in asked]
    wanted = [before(messages, [answer])[0] for messages, answer in asked]
    drift = max(abs(a - b) for a, b in zip(wanted, reward.score(back["model"], inputs), strict=True))
    if not drift <= _LIKE:
        raise RuntimeError(f"{uri} scores otherwise than {trained.folder}: by {drift:.2g}, wanted {_LIKE:g} at most")
    return drift

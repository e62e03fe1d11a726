"""Register: the tuned model, its adapter and its lineage go into MLflow, and it must answer from there before it
counts.

Every tuned model becomes `challenger`; one that passed the gate becomes `champion`. The reward models that taught it
are registered beside it (`reward_card`). Which store that is, is said in `registry`.
"""

from pathlib import Path
from typing import Any

from taolake import databricks, lake
from taolake.config import Project
from taolake.stages import choices, registry, reward_card, vllm_model
from taolake.stages.round import Outcome, Round, policy
from taolake.types import Policy


def register(round_: Round) -> Outcome:
    """Log, register, load back, ask, and only then move the aliases."""
    import mlflow

    project, tuned, verdict = round_.project, round_.tuned, round_.done("gate").detail
    registry.connect(project)
    with registry.quiet():
        folder = _merged(round_, tuned)
    with registry.quiet(), mlflow.start_run(run_name=f"{project.name}-round-{round_.number}") as run:
        mlflow.log_params(
            {"config_hash": project.config_hash, "algorithm": project.train.algorithm, "policy": tuned.id}
        )
        mlflow.log_metrics(
            {"gain": verdict["gain"]["mean"], "gain_low": verdict["gain"]["low"], "gain_high": verdict["gain"]["high"]}
        )
        for context, table in (("training", lake.SELECTIONS), ("evaluation", lake.EVALUATIONS)):
            mlflow.log_input(registry.dataset(round_.lake, table), context=context)
        if tuned.adapter:
            mlflow.log_artifacts(tuned.adapter, "adapter")
        version = log_model(project, folder)
        question, answer = _ask_back(round_, f"models:/{project.register_.name}/{version}")
    client = mlflow.MlflowClient()
    whole = policy(str(folder)).id  # what a later round that starts from this model calls its base
    for key, value in {**_lineage(round_, verdict), "taolake.whole": whole}.items():
        client.set_model_version_tag(project.register_.name, version, key, value)
    taste = [reward_card.register_reward_model(round_, spec) for spec in choices.reward_models(round_)]
    aliases = ["challenger", "champion"] if verdict["promoted"] else ["challenger"]
    for alias in aliases:
        client.set_registered_model_alias(project.register_.name, alias, version)
    detail: dict[str, Any] = {"name": project.register_.name, "version": int(version), "alias": aliases[-1]}
    detail["reward_models"] = [{key: each[key] for key in ("name", "version", "run_id")} for each in taste]
    return Outcome(0, 0, detail | {"run_id": run.info.run_id, "question": question, "answer": answer})


def _merged(round_: Round, tuned: Policy) -> Path:
    """The whole model in one folder: what is served where adapters are not."""
    if tuned.adapter is None:
        return Path(tuned.model)
    from taolake.training.merge import merge

    folder = databricks.scratch(round_.work / f"merged-{tuned.id[:12]}")
    return folder if folder.exists() else merge(round_.base_folder, tuned.adapter, folder)


def log_model(project: Project, folder: Path) -> str:
    """Log a whole model and register it; the number of the version, as MLflow has it."""
    import mlflow

    if project.serve.kind == "custom":
        return vllm_model.log(project, folder)
    logged = mlflow.transformers.log_model(
        str(folder),
        name="model",
        task="llm/v1/chat",
        pip_requirements=list(registry.PIP_REQUIREMENTS),
        registered_model_name=project.register_.name,
        await_registration_for=registry.PATIENCE_S,
    )
    return str(logged.registered_model_version)


def _ask_back(round_: Round, uri: str) -> tuple[str, str]:
    """Load the registered version as a user would, and have it answer one holdout prompt.

    Raises:
        RuntimeError: it answers nothing.
    """
    from pyspark.sql import functions as f

    prompts = round_.lake.read(lake.PROMPTS).where(f.col("split") == "holdout").orderBy("prompt_id")
    row = prompts.select("messages").first()
    if row is None:
        raise RuntimeError("no holdout prompt to ask the registered model; set ingest.holdout above 0")
    messages = [m.asDict() for m in row["messages"]]
    answer = ask(uri, messages, round_.project.model.max_tokens)
    if not answer.strip():
        raise RuntimeError(f"{uri} loads but answers nothing to {messages[-1]['content']!r}")
    return messages[-1]["content"], answer


def ask(uri: str, messages: list[dict[str, str]], max_tokens: int) -> str:
    """One answer from a registered model."""
    return Chat(uri)(messages, max_tokens)


class Chat:
    """A registered model, loaded once, ready to answer."""

    def __init__(self, uri: str) -> None:
        import mlflow

        with registry.quiet():
            self._model = mlflow.pyfunc.load_model(uri)

    def __call__(self, messages: list[dict[str, str]], max_tokens: int) -> str:
        with (
            registry.quiet()
        ):  # without a temperature: the model's own generation config decides, as it does when served
            reply = self._model.predict({"messages": messages, "max_tokens": max_tokens})
        reply = reply[0] if isinstance(reply, list) else reply  # a list by transformers, one by a class of ours
        return str(reply["choices"][0]["message"]["content"])


def _lineage(round_: Round, verdict: dict[str, Any]) -> dict[str, str]:
    """Where a version comes from: enough to find every row that made it."""
    from taolake.stages import score

    found = {f"taolake.table.{t.name}": str(round_.lake.version(t)) for t in lake.TABLES if t is not lake.ROUNDS}
    scorers = {f"taolake.scorer.{name}": version for name, version in score.versions(round_).items()}
    return (
        found
        | scorers
        | {
            "taolake.round": str(round_.number),
            "taolake.config_hash": round_.project.config_hash,
            "taolake.base": round_.base.id,
            "taolake.policy": round_.tuned.id,
            "taolake.selection": round_.done("select").detail["selection"],
            "taolake.gate": verdict["reason"],
        }
    )

"""Which models `taolake serve` serves: aliases of the registry, folders, adapters or servers that run already.

Not one of the stages of a round. Versions of one model share a server, each adapter under its own name.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from taolake.config import Project, Version
from taolake.gateway.fleet import Told
from taolake.gateway.servers import Model, Plan
from taolake.gateway.split import Upstream
from taolake.serving.local import CANARY, routes_of
from taolake.stages import registry

# Between two releases nothing waits for its signals, and before the second there is none to go back to.
_AT_TIMES = (CANARY, "previous")


def plan(project: Project) -> Plan:
    """Find every version's weights.

    Raises:
        ValueError: the lake is a catalog, or the registry has no version of that alias.
    """
    if project.lake.count(".") == 1 and "/" not in project.lake:
        raise ValueError(
            f"got lake {project.lake!r}, wanted a folder: `taolake serve` serves on this machine; on Databricks it is "
            "`taolake deploy`"
        )
    work = Path(project.work) / "serve"
    work.mkdir(parents=True, exist_ok=True)
    models: dict[tuple[str, str], Model] = {}
    versions = []
    for version in project.gateway.versions:
        if "://" in version.model:
            asked, entity = version.upstream_model or version.name, version.entity or version.name
            versions.append(Upstream(version.name, version.model, asked, entity, version.share))
            continue
        if version.name in _AT_TIMES and not version.model and not _there(project, version.name):
            continue
        weights, tokenizer, found = _weights(project, version, work)
        known = models.get((weights, tokenizer))
        # A server's name is its weights': an alias moves on, and an adapter has its own.
        own = found if not version.adapter else f"{version.name}_base"
        base = known or Model(own, weights, tokenizer)
        if version.adapter:
            base = Model(base.name, weights, tokenizer, (*base.adapters, (version.name, version.adapter)))
        models[weights, tokenizer] = base
        asked = version.name if version.adapter else base.name
        versions.append(Upstream(version.name, base.name, asked, version.entity or found, version.share))
    return Plan(project.name, project.lake, work, tuple(models.values()), tuple(versions), _arguments(project))


def told(project: Project) -> Callable[[], Told] | None:
    """Reads which versions the registry wants served, and with what shares; None where no version is registered."""
    if all(version.model for version in project.gateway.versions):
        return None
    import mlflow

    registry.connect(project)
    client, name = mlflow.MlflowClient(), project.register_.name

    @lru_cache(maxsize=1)
    def planned(aliases: tuple[tuple[str, int], ...]) -> Plan:
        return plan(project)

    def read() -> Told:
        model = client.get_registered_model(name)
        shares = {f"{name}/{version}": float(share) for version, share in routes_of(dict(model.tags)).items()}
        return planned(tuple(sorted((alias, int(number)) for alias, number in model.aliases.items()))), shares

    return read


def _there(project: Project, alias: str) -> bool:
    """Whether a version has the alias."""
    import mlflow

    registry.connect(project)
    found = mlflow.MlflowClient().search_registered_models(f"name = '{project.register_.name}'")
    return any(alias in model.aliases for model in found)


def _arguments(project: Project) -> tuple[str, ...]:
    model = project.model
    own = ["--dtype", model.dtype, "--max-model-len", str(model.max_model_len)]
    engine = project.engine
    if engine.kind == "vllm":
        own += ["--max-num-seqs", str(engine.max_num_seqs)]
        own += ["--enforce-eager"] if engine.enforce_eager else []
        own += ["--tensor-parallel-size", str(engine.tensor_parallel)] if engine.tensor_parallel > 1 else []
    return (*own, *project.gateway.options)


def _weights(project: Project, version: Version, work: Path) -> tuple[str, str, str]:
    """Folder of the weights, folder of the tokenizer, and what the log calls the version."""
    if version.model:
        return version.model, version.model, version.name
    return registered(project, version.name, work)


def registered(project: Project, alias: str, work: Path) -> tuple[str, str, str]:
    """The version that has an alias, in a folder of this machine: its weights, its tokenizer, and `name/number`.

    Raises:
        ValueError: there is none, or what it holds is no model.
    """
    import mlflow

    registry.connect(project)
    name = project.register_.name
    try:
        found = mlflow.MlflowClient().get_model_version_by_alias(name, alias)
    except mlflow.MlflowException:
        raise ValueError(
            f"model {name!r} has no version with the alias {alias!r}: run a round that registers one, or give "
            "gateway.versions a `model`"
        ) from None
    folder = work / f"{name}-{found.version}"
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        mlflow.artifacts.download_artifacts(f"models:/{name}/{found.version}", dst_path=str(part))
        part.rename(folder)
    weights = next((file.parent for file in sorted(folder.rglob("config.json"))), None)
    tokenizer = next((file.parent for file in sorted(folder.rglob("tokenizer_config.json"))), weights)
    if weights is None:
        raise ValueError(f"version {found.version} of {name!r} holds no config.json, wanted a model of transformers")
    return str(weights), str(tokenizer), f"{name}/{found.version}"

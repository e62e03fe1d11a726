"""What a round starts from: the model of the project file, or a registered version of it (`flywheel.base`).

Which version that is, is decided once a round and written down in its work folder: an alias moves, and a round that was
begun before goes on from where it began. Also here: the model of the project file as the first version (`adopt`), so
that the first tuned one has something to be held against in production.
"""

import contextlib
import json
import os
import shutil
from pathlib import Path

from taolake.config import Project
from taolake.stages import registry
from taolake.stages.round import policy

_ADOPTED = "taolake.adopted"


def begin(project: Project, number: int) -> Project:
    """Decide what a round starts from, unless that was done before; returns the project as `project_of`.

    Raises:
        ValueError: the registry has no version with that alias.
    """
    alias, note = project.flywheel.base, _note(project, number)
    if alias is not None and number > 1 and not note.exists():
        note.parent.mkdir(parents=True, exist_ok=True)
        said = json.dumps({"alias": alias, **_fetch(project, alias, note.parent)}, sort_keys=True)
        half = note.with_suffix(".part")
        half.write_text(said, encoding="utf-8")
        os.replace(half, note)
    return project_of(project, number)


def project_of(project: Project, number: int) -> Project:
    """The project as a round sees it: `model.path` is the folder of the version that it was begun from."""
    note = _note(project, number)
    if project.flywheel.base is None or not note.exists():
        return project
    path = json.loads(note.read_text(encoding="utf-8"))["path"]
    if path == project.model.path:
        return project
    return project.model_copy(update={"model": project.model.model_copy(update={"path": path, "revision": None})})


def _note(project: Project, number: int) -> Path:
    return Path(project.work) / f"round-{number}" / "base.json"


def _fetch(project: Project, alias: str, work: Path) -> dict[str, str]:
    """Weights and tokenizer of a version in one folder; an adopted one is the project's own model."""
    import mlflow

    from taolake.stages import served  # knows the gateway's server, which a cluster need not have

    weights, tokenizer, entity = served.registered(project, alias, work)
    client, (name, version) = mlflow.MlflowClient(), entity.rsplit("/", 1)
    if _ADOPTED in client.get_model_version(name, version).tags:
        return {"version": version, "path": project.model.path}
    whole = work / "base"
    shutil.rmtree(whole, ignore_errors=True)
    for part in dict.fromkeys((weights, tokenizer)):
        shutil.copytree(part, whole, dirs_exist_ok=True)
    # What this round will call its base: from it lineage finds the way back to the round that made it.
    made = policy(str(whole)).id
    client.set_model_version_tag(name, version, "taolake.whole", made)
    # One folder for all rounds from these weights: a job remembers the path of its base, and what one of them trained
    # (a reward model of the same choices) is what the next one asks for.
    folder = Path(project.work) / "bases" / made
    if folder.exists():
        shutil.rmtree(whole)
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        whole.rename(folder)
    return {"version": version, "path": str(folder)}


def adopt(project: Project) -> int:
    """Register the model of the project file as it is and make it champion, unless that was done before; its number.

    Raises:
        ValueError: another version is champion already.
    """
    import mlflow

    from taolake.stages import register

    registry.connect(project)
    client, name = mlflow.MlflowClient(), project.register_.name
    for version in client.search_model_versions(f"name = '{name}'"):
        if _ADOPTED in version.tags:
            return int(version.version)
    with contextlib.suppress(mlflow.MlflowException):  # nothing has that alias
        known = client.get_model_version_by_alias(name, "champion").version
        raise ValueError(f"version {known} of {name} is champion already; --first is for a model without any")
    with registry.quiet(), mlflow.start_run(run_name=f"{project.name}-base"):
        number = register.log_model(project, Path(project.model.path))
    made = policy(project.model.path).id
    for key, value in {_ADOPTED: "true", "taolake.policy": made, "taolake.whole": made}.items():
        client.set_model_version_tag(name, number, key, value)
    client.set_registered_model_alias(name, "champion", number)
    return int(number)

"""The bundle as the CLI would resolve it: files merged, a target applied, variables and references replaced.

Development mode renames what it renames on a workspace: jobs, experiments, schemas, models, dashboards and alerts.
"""

import copy
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TARGETS = ("dev", "staging", "prod")
USER = {"userName": "ann@example.com", "short_name": "ann"}
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
# Where `mode: development` puts the prefix: field, and how.
_RENAMED = {
    "jobs": ("name", "[dev ann] {}"),
    "dashboards": ("display_name", "[dev ann] {}"),
    "alerts": ("display_name", "[dev ann] {}"),
    "schemas": ("name", "dev_ann_{}"),
    "registered_models": ("name", "dev_ann_{}"),
}


@cache
def _parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def read(path: Path) -> dict[str, Any]:
    found = copy.deepcopy(_parsed(path))
    assert isinstance(found, dict), f"{path.name} holds {type(found).__name__}, wanted a mapping"
    return found


def files() -> list[Path]:
    """What `include` names."""
    found = [path for pattern in read(ROOT / "databricks.yml")["include"] for path in sorted(ROOT.glob(pattern))]
    assert found, "include in databricks.yml matches no file"
    return found


def resources_in_files() -> list[tuple[Path, str, str, dict[str, Any]]]:
    """File, kind, key and body of every resource, before anything is replaced."""
    return [
        (path, kind, key, body)
        for path in files()
        for kind, items in read(path)["resources"].items()
        for key, body in items.items()
    ]


def bundle(target: str, variables: Path | None = None, variant: Path | None = None) -> dict[str, Any]:
    """The whole bundle for a target.

    Args:
        target: of databricks.yml.
        variables: a file of `clouds/`, read as variable-overrides.json would be.
        variant: a file of `variants/`, read as if it lay in `resources/`.
    """
    return copy.deepcopy(_resolved(target, variables, variant))


@cache
def _resolved(target: str, variables: Path | None, variant: Path | None) -> dict[str, Any]:
    main = read(ROOT / "databricks.yml")
    wanted = main.pop("targets")[target]
    if variant:
        wanted = _merge(wanted, read(variant)["targets"][target])
    for path, kind, key, body in resources_in_files():
        main.setdefault("resources", {}).setdefault(kind, {})[key] = {**copy.deepcopy(body), "_file": str(path)}
    values = {name: spec.get("default", spec.get("lookup")) for name, spec in main["variables"].items()}
    values |= {name: f"id-of-{value['warehouse']}" for name, value in values.items() if _is_lookup(value)}
    values |= json.loads(variables.read_text(encoding="utf-8")) if variables else {}
    values |= wanted.pop("variables", {})
    merged = _merge(main, wanted)
    if wanted.get("mode") == "development":
        _rename(merged["resources"])
    for number, body in enumerate(merged["resources"]["jobs"].values()):
        body["id"] = number
    for model in merged["resources"]["registered_models"].values():
        model["id"] = f"{model['catalog_name']}.{model['schema_name']}.{model['name']}"
    workspace = {"root_path": "/Workspace/Users/ann@example.com/.bundle/taolake/" + target, "current_user": USER}
    merged["workspace"] = {**workspace, **merged.get("workspace", {})}
    merged["workspace"]["file_path"] = "${workspace.root_path}/files"
    scope = {**merged, "var": values, "bundle": {**merged["bundle"], "target": target}}
    resolved = _replace(merged, scope)
    assert isinstance(resolved, dict)
    for body in [*resolved["resources"]["registered_models"].values(), *resolved["resources"]["jobs"].values()]:
        del body["id"]
    return resolved


def _is_lookup(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"warehouse"}


def _merge(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {key: _merge(old.get(key), new[key]) if key in new else old[key] for key in {**old, **new}}
    if isinstance(old, list) and isinstance(new, list):
        if all(isinstance(each, dict) and "task_key" in each for each in [*old, *new]):
            return _by_task(old, new)
        return [*old, *new]
    return new if new is not None else old


def _by_task(old: list[Any], new: list[Any]) -> list[Any]:
    """Tasks of a target are put into those of the same key; one that is new comes before the first that needs it."""
    found = {task["task_key"]: task for task in old}
    for task in new:
        found[task["task_key"]] = _merge(found.get(task["task_key"], {}), task)
    ordered: dict[str, Any] = {}

    def put(key: str) -> None:
        for above in found[key].get("depends_on", []):
            put(above["task_key"])
        ordered.setdefault(key, found[key])

    for key in found:
        put(key)
    return list(ordered.values())


def _rename(resources: dict[str, Any]) -> None:
    for kind, (field, form) in _RENAMED.items():
        for body in resources.get(kind, {}).values():
            body[field] = form.format(body[field])
    for body in resources.get("experiments", {}).values():
        folder, _, name = body["name"].rpartition("/")
        body["name"] = f"{folder}/[dev ann] {name}"


def _replace(value: Any, scope: dict[str, Any], depth: int = 0) -> Any:
    """References replaced, also in what they bring; a text that is one reference takes its type."""
    assert depth < 20, f"{value!r} refers to itself"
    if isinstance(value, dict):
        return {key: _replace(item, scope, depth) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, scope, depth) for item in value]
    if not isinstance(value, str) or not _REFERENCE.search(value):
        return value
    whole = _REFERENCE.fullmatch(value)
    if whole:
        return _replace(_at(scope, whole[1]), scope, depth + 1)
    return _replace(_REFERENCE.sub(lambda found: str(_at(scope, found[1])), value), scope, depth + 1)


def _at(scope: dict[str, Any], path: str) -> Any:
    value: Any = scope
    for part in path.split("."):
        assert isinstance(value, dict) and part in value, f"${{{path}}}: there is no {part!r}"
        value = value[part]
    return value

"""The workflows: what they run, in which order, as whom. Nothing here runs them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bundle.resolve import ROOT, TARGETS

WORKFLOWS = ROOT / ".github" / "workflows"
PULL, DEPLOY, NIGHTLY = (WORKFLOWS / f"{name}.yml" for name in ("pull_request", "deploy", "nightly"))
AZURE = ROOT / "ci" / "azure-pipelines.yml"


def parsed(path: Path) -> dict[Any, Any]:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_there_are_the_workflows() -> None:
    assert sorted(WORKFLOWS.glob("*")) == [DEPLOY, NIGHTLY, PULL]
    assert parsed(PULL)[True] == "pull_request"  # YAML reads the key `on` as true
    assert parsed(DEPLOY)[True] == {"push": {"branches": ["main"]}}


def test_a_change_is_linted_tested_and_validated_for_every_target() -> None:
    jobs = parsed(PULL)["jobs"]
    assert commands(jobs["test"]) == ["make lint", "make test"]
    assert tuple(jobs["validate"]["strategy"]["matrix"]["target"]) == TARGETS
    assert commands(jobs["validate"]) == ["make validate TARGET=${{ matrix.target }}"]


def test_every_night_runs_what_a_change_does_not() -> None:
    """The two marks of `make test` and `make slow` leave nothing out but what needs a GPU."""
    assert commands(parsed(NIGHTLY)["jobs"]["slow"]) == ["make slow"]
    marks = re.findall(r'-m "([^"]+)"', (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert marks == ["not gpu and not slow", "slow and not gpu"]


def test_main_goes_to_staging_then_smoke_then_prod_with_an_approval() -> None:
    jobs = parsed(DEPLOY)["jobs"]
    assert list(jobs) == ["staging", "prod"]
    assert jobs["prod"]["needs"] == "staging"
    for name, job in jobs.items():
        assert job["environment"] == name
        assert commands(job) == ["make validate deploy smoke TARGET=${{ github.job }}"]
    assert parsed(DEPLOY)["concurrency"]["cancel-in-progress"] is False


@pytest.mark.parametrize("path", [PULL, DEPLOY], ids=lambda path: path.stem)
def test_the_identity_is_the_run_s_own_and_no_secret_is_stored(path: Path) -> None:
    found, text = parsed(path), path.read_text(encoding="utf-8")
    assert found["permissions"] == {"contents": "read", "id-token": "write"}
    assert "secrets." not in text
    logins = [job["env"] for job in found["jobs"].values() if "env" in job]
    assert logins
    for login in logins:
        assert login["DATABRICKS_AUTH_TYPE"] == "github-oidc"
        assert set(login) == {"DATABRICKS_AUTH_TYPE", "DATABRICKS_HOST", "DATABRICKS_CLIENT_ID"}
    assert all(re.search(r"@v\d", use) for use in re.findall(r"uses: (\S+)", text))


def test_the_makefile_has_the_same_steps() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    rules = dict(re.findall(r"^(\w+):.*\n\t(.*)", text, re.M))
    assert rules["validate"] == "databricks bundle validate -t $(TARGET) --strict"
    assert rules["deploy"] == "databricks bundle deploy -t $(TARGET) --auto-approve"
    assert rules["smoke"] == "databricks bundle run tao_smoke -t $(TARGET)"


def test_azure_devops_runs_the_same_steps() -> None:
    text = AZURE.read_text(encoding="utf-8")
    assert parsed(AZURE)["parameters"][0]["default"] == ["staging", "prod"]
    for command in ("make lint", "make test", "make validate deploy smoke TARGET=${{ target }}"):
        assert command in text
    assert "secret" not in text.replace("there is no secret here", "")


def test_the_way_to_the_first_round_is_at_most_ten_commands() -> None:
    page = (ROOT / "docs" / "databricks.md").read_text(encoding="utf-8")
    block = re.findall(r"^```\n(.*?)^```", page, re.M | re.S)[0].splitlines()
    assert 5 <= len(block) <= 10
    jobs = {path.name.partition(".")[0] for path in (ROOT / "resources").glob("*.job.yml")}
    assert {word for line in block for word in line.split() if word.startswith("tao_")} <= jobs
    targets = {line.split()[1] for line in block if line.startswith("make ")}
    assert targets == {"validate", "deploy", "smoke"}
    assert set(re.findall(r"-t (\w+)", "\n".join(block))) <= set(TARGETS)
    told = set(re.findall(r"BUNDLE_VAR_(\w+)", "\n".join(block)))
    assert told and told <= set(parsed(ROOT / "databricks.yml")["variables"])

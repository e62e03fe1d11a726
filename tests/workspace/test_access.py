"""The table of rights is what is needed, and no more."""

import re
from pathlib import Path

import pytest
from databricks.sdk.errors import PermissionDenied

from taolake import access, lake, stages, unity
from taolake.access import OPERATORS, READERS, RIGHTS, RUNNER
from taolake.config import Unity
from taolake.serving import release
from taolake.stages import collect
from tests.bundle.resolve import bundle, resources_in_files
from tests.workspace.fake import NEEDS, Workspace, serving
from tests.workspace.story import MODEL, connect, patience, want

RUNNERS = {(right.right, right.on) for right in RIGHTS if right.who == RUNNER}
ASKED = sorted({need for _, _, needs in NEEDS for need in needs})


def whole_path(here: Workspace) -> None:
    """Make the schema, the volume and the model; serve a version, replace it, and go back."""
    from databricks.sdk.service.catalog import VolumeType

    with serving(here) as url:
        client = connect(url)
        client.schemas.create(name="tuning", catalog_name="main")
        client.volumes.create("main", "tuning", "files", VolumeType.MANAGED)
        client.registered_models.create(catalog_name="main", schema_name="tuning", name="tuned")
        for version in (1, 2):
            here.add_version(MODEL)
            release.deploy(client, want(version), patience())
        release.rollback(client, want(2), patience())


def test_the_runner_s_rights_are_enough() -> None:
    here = Workspace(rights=set(RUNNERS))
    whole_path(here)
    assert here.aliases[MODEL] == {"live": 1}


@pytest.mark.parametrize("right", ASKED, ids=lambda right: " on ".join(right))
def test_without_any_one_of_them_the_path_ends(right: tuple[str, str]) -> None:
    with pytest.raises(PermissionDenied, match=f"needs {right[0]} on {right[1]}"):
        whole_path(Workspace(rights=RUNNERS - {right}))


def test_every_other_right_has_its_use() -> None:
    """Rights that no request of ours asks for are those of Spark, of the bundle's resources and of the clusters."""
    kinds = {kind for _, kind, _, _ in resources_in_files()}
    statements = unity.statements(lake.TABLES, "main.t", Unity(unmasked="g"))
    uses = {
        ("SELECT", "schema"): any(stage.reads for stage in stages.STAGES),
        ("MODIFY", "schema"): all(stage.writes for stage in stages.STAGES),
        ("APPLY TAG", "schema"): any("SET TAGS" in s for s in statements),
        ("CREATE FUNCTION", "schema"): any("CREATE OR REPLACE FUNCTION" in s for s in statements),
        ("READ VOLUME", "volume"): "volumes" in kinds,
        ("WRITE VOLUME", "volume"): "volumes" in kinds,
        ("SELECT", "prompts table"): True,
        ("SELECT", "system.serving"): collect._NAMES.startswith("system.serving."),
        ("CAN_USE", "warehouse"): {"dashboards", "alerts"} <= kinds,
        ("cluster creation", "workspace"): "jobs" in kinds,
    }
    assert set(uses) == RUNNERS - set(ASKED)
    assert all(uses.values())
    assert len(ASKED) >= 8


def test_readers_and_operators_have_what_the_bundle_gives_them() -> None:
    found = bundle("prod")
    given = {
        (privilege.replace("_", " "), on)
        for kind, on in (("schemas", "schema"), ("registered_models", "model"))
        for body in found["resources"][kind].values()
        for grant in body.get("grants", [])
        for privilege in grant["privileges"]
    }
    by_bundle = {(r.right, r.on) for r in RIGHTS if r.who == READERS and r.why.startswith("by the bundle")}
    assert given == by_bundle
    # CAN_RUN of a bundle is CAN_MANAGE_RUN of its jobs.
    assert [p["level"] for p in found["permissions"] if "group_name" in p] == ["CAN_RUN"]
    assert [(r.right, r.on) for r in RIGHTS if r.who == OPERATORS] == [("CAN_MANAGE_RUN", "jobs")]


def test_privileges_are_words_that_databricks_knows() -> None:
    from databricks.bundles.schemas import Privilege

    known = {privilege.value.replace("_", " ") for privilege in Privilege}
    others = {"owner", "cluster creation", "CAN_MANAGE", "CAN_USE", "CAN_MANAGE_RUN"}
    assert {right.right for right in RIGHTS} - others <= known


def test_the_page_shows_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "databricks.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- access -->\n(.*?)<!-- /access -->", page, re.S)
    assert found is not None
    assert found[1] == access.table(), "run `python -m taolake.reference access`"

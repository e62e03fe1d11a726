"""Register, deploy, canary, promote, roll back: the real SDK against a workspace that fails in every way it can.

The killed runs are compared with one that nothing disturbs: whenever it was, the next run ends in the same workspace.
"""

import base64
import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from databricks.sdk import WorkspaceClient

from taolake.config import Serve
from taolake.serving import release, steps
from taolake.serving.desk import Desk
from taolake.serving.release import Waiting
from taolake.serving.steps import Do
from tests.workspace.fake import Fault, Workspace, serving
from tests.workspace.story import ACTS, MODEL, SERVE, SIGNALS, connect, patience, prepared, state, story, want
from tests.workspace.story import undisturbed as whole


class Killed(BaseException):
    """The process is gone; nothing catches it."""


@pytest.fixture
def here() -> Workspace:
    return Workspace(looks=2)


@pytest.fixture
def client(here: Workspace) -> Iterator[WorkspaceClient]:
    with serving(here) as url:
        yield connect(url)


def serve_version(here: Workspace, client: WorkspaceClient, serve: Serve = SERVE) -> int:
    """Register a version and put it behind the endpoint."""
    version = here.add_version(MODEL)
    release.deploy(client, want(version, serve), patience())
    return version


def routes(here: Workspace) -> dict[str, int]:
    config = here.endpoints["chat"]["config"]
    return {r["served_entity_name"]: r["traffic_percentage"] for r in config["traffic_config"]["routes"]}


def test_the_whole_path(here: Workspace, client: WorkspaceClient) -> None:
    assert serve_version(here, client) == 1
    assert here.aliases[MODEL] == {"live": 1}
    assert routes(here) == {"tuned-1": 100}
    serve_version(here, client)
    assert here.aliases[MODEL] == {"live": 2, "previous": 1}
    assert routes(here) == {"tuned-2": 100}
    shares = [
        {r["served_entity_name"]: r["traffic_percentage"] for r in c.body["traffic_config"]["routes"]}
        for c in here.changes
        if c.path.endswith("/config")
    ]
    assert shares == [{"tuned-1": 80, "tuned-2": 20}, {"tuned-2": 100}]
    asked = [c.path.split("/")[4] for c in here.calls if c.path.endswith("/invocations")]
    assert asked == ["tuned-1"] * 2 + ["tuned-2"] * 2
    here.aliases[MODEL]["champion"] = 2  # as register leaves it
    release.rollback(client, want(2), patience())
    assert here.aliases[MODEL] == {"live": 1, "champion": 1}
    assert routes(here) == {"tuned-1": 100}
    assert here.unknown == []


def test_the_endpoint_logs_counts_and_limits(here: Workspace, client: WorkspaceClient) -> None:
    serve_version(here, client)
    assert here.endpoints["chat"]["ai_gateway"] == {
        "inference_table_config": {
            "enabled": True, "catalog_name": "main", "schema_name": "tuning", "table_name_prefix": "chat",
        },
        "usage_tracking_config": {"enabled": True},
        "rate_limits": [{"calls": 60, "key": "user", "renewal_period": "minute"}],
    }  # fmt: skip
    (entity,) = here.endpoints["chat"]["config"]["served_entities"]
    assert (entity["min_provisioned_throughput"], entity["max_provisioned_throughput"]) == (0, 980)
    quiet = SERVE.model_copy(update={"inference_table": False, "requests_per_minute": None, "chunks": 3})
    release.deploy(client, want(1, quiet), patience())
    assert here.endpoints["chat"]["ai_gateway"]["inference_table_config"]["enabled"] is False
    assert "rate_limits" not in here.endpoints["chat"]["ai_gateway"]
    assert here.endpoints["chat"]["config"]["served_entities"][0]["max_provisioned_throughput"] == 2940


def test_any_model_vllm_runs_is_served_from_a_container(here: Workspace, client: WorkspaceClient) -> None:
    here.chunks[MODEL] = None
    secrets = {"HF_TOKEN": "{{secrets/taolake_dev/hf_token}}"}
    custom = SERVE.model_copy(update={"kind": "custom", "workload_type": "GPU_LARGE", "secrets": secrets})
    serve_version(here, client, custom)
    (entity,) = here.endpoints["chat"]["config"]["served_entities"]
    assert {key: entity[key] for key in ("workload_type", "workload_size", "scale_to_zero_enabled")} == {
        "workload_type": "GPU_LARGE", "workload_size": "Small", "scale_to_zero_enabled": True,
    }  # fmt: skip
    assert entity["environment_vars"] == secrets
    assert not [c for c in here.calls if "optimization" in c.path]


def test_throughput_is_asked_for_before_anything_is_changed(here: Workspace, client: WorkspaceClient) -> None:
    here.chunks[MODEL] = None
    version = here.add_version(MODEL)
    with pytest.raises(ValueError, match=r"cannot have provisioned throughput .* set serve.kind to custom"):
        release.deploy(client, want(version), patience())
    assert here.changes == []


def test_a_plan_names_every_step_and_takes_none(here: Workspace, client: WorkspaceClient) -> None:
    serve_version(here, client)
    version, before = here.add_version(MODEL), state(here)
    planned = release.plan(client, want(version))
    assert [step.do for step in planned] == [Do.ROUTE, Do.PROBE, Do.ROUTE, Do.ALIAS, Do.ALIAS, Do.DONE]
    assert planned[0].says == "version 2 gets 20 % of the requests"
    assert state(here) == before
    said: list[str] = []
    release.deploy(client, want(version), Waiting(said.append, lambda seconds: None))
    assert said == [step.says for step in planned]
    assert [step.do for step in release.plan(client, want(version))] == [Do.DONE]


def test_a_second_run_changes_nothing(here: Workspace, client: WorkspaceClient) -> None:
    version = serve_version(here, client)
    changes = len(here.changes)
    release.deploy(client, want(version), patience())
    assert len(here.changes) == changes


def test_a_version_that_does_not_start_never_gets_the_requests(here: Workspace, client: WorkspaceClient) -> None:
    serve_version(here, client)
    here.broken.add(2)
    version = here.add_version(MODEL)
    here.aliases[MODEL]["champion"] = 2
    seen = release.deploy(client, want(version), patience())
    assert seen.judged(2) == steps.FAILED
    assert here.aliases[MODEL] == {"live": 1, "champion": 1}
    assert routes(here) == {"tuned-1": 100}
    here.broken.clear()  # the next version is not blamed for it
    serve_version(here, client)
    assert here.aliases[MODEL] == {"live": 3, "previous": 1, "champion": 1}


def test_a_version_that_says_nothing_is_taken_back(here: Workspace, client: WorkspaceClient) -> None:
    serve_version(here, client)
    here.mute.add(2)
    said: list[str] = []
    version = here.add_version(MODEL)
    release.deploy(client, want(version), Waiting(said.append, lambda seconds: None))
    assert "version 2 answers nothing to 'Who?'" in said
    assert routes(here) == {"tuned-1": 100}
    changes = len(here.changes)
    release.deploy(client, want(version), patience())  # it is on record: not asked again
    assert len(here.changes) == changes


@pytest.mark.parametrize("ill", ["broken", "mute"])
def test_the_first_version_has_none_to_go_back_to(here: Workspace, client: WorkspaceClient, ill: str) -> None:
    getattr(here, ill).add(1)
    with pytest.raises(RuntimeError, match="version 1 failed, and there is none to go back to"):
        serve_version(here, client)
    assert here.aliases.get(MODEL, {}) == {}
    serve_version(here, client)
    assert (here.aliases[MODEL], routes(here)) == ({"live": 2}, {"tuned-2": 100})


def test_a_version_is_waited_for(here: Workspace, client: WorkspaceClient) -> None:
    version = here.add_version(MODEL, "PENDING_REGISTRATION")
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        here.versions[MODEL, version]["status"] = "READY"

    release.deploy(client, want(version), Waiting(sleep=sleep))
    assert waits
    failed = here.add_version(MODEL, "FAILED_REGISTRATION")
    with pytest.raises(RuntimeError, match="is FAILED_REGISTRATION: register it again"):
        release.deploy(client, want(failed), patience())


def test_waiting_ends_and_the_next_run_goes_on(here: Workspace, client: WorkspaceClient) -> None:
    here.looks, version = 400, here.add_version(MODEL)
    short = SERVE.model_copy(update={"timeout_minutes": 1})
    with pytest.raises(RuntimeError, match="for 1 minutes now; run it again to go on waiting"):
        release.deploy(client, want(version, short), patience())
    here.endpoints["chat"]["looks"] = 1
    release.deploy(client, want(version, short), patience())
    assert here.aliases[MODEL] == {"live": 1}


def test_a_rollback_in_the_middle_of_a_canary_takes_the_canary(here: Workspace, client: WorkspaceClient) -> None:
    serve_version(here, client)
    version = here.add_version(MODEL)
    with pytest.raises(Killed):
        release.deploy(client, want(version), Waiting(say=stop_at("ask version 2"), sleep=lambda seconds: None))
    assert routes(here) == {"tuned-1": 80, "tuned-2": 20}
    release.rollback(client, want(version), patience())
    assert (routes(here), here.aliases[MODEL]) == ({"tuned-1": 100}, {"live": 1})
    seen = release.deploy(client, want(version), patience())  # rolled back once, it stays away
    assert (routes(here), seen.judged(2)) == ({"tuned-1": 100}, steps.ROLLED_BACK)


def test_a_canary_waits_for_its_signals_and_does_what_they_say(here: Workspace, client: WorkspaceClient) -> None:
    for version, word, after in ((2, steps.PASSED, {"tuned-2": 100}), (3, steps.ROLLED_BACK, {"tuned-2": 100})):
        live = version - 1
        if live == 1:
            serve_version(here, client)
        here.aliases[MODEL]["champion"] = here.add_version(MODEL)
        seen = release.deploy(client, want(version, SIGNALS), patience())
        assert (seen.judged(version), routes(here)) == (steps.PROBED, {f"tuned-{live}": 80, f"tuned-{version}": 20})
        assert [step.do for step in release.plan(client, want(version, SIGNALS))] == [Do.DONE]
        release.settle(Desk(client, want(version, SIGNALS)), word, "by its signals", patience())
        assert routes(here) == after
    assert here.aliases[MODEL] == {"live": 2, "previous": 1, "champion": 2}


def test_there_must_be_something_to_roll_back_to(here: Workspace, client: WorkspaceClient) -> None:
    version = serve_version(here, client)
    with pytest.raises(RuntimeError, match="nothing to roll back to: live is version 1"):
        release.rollback(client, want(version), patience())
    assert routes(here) == {"tuned-1": 100}


def stop_at(beginning: str) -> Callable[[str], None]:
    def say(line: str) -> None:
        if line.startswith(beginning):
            raise Killed

    return say


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, tuple[Any, int]]:
    """Of every act, the workspace at its end and how many changes it took."""
    asked = {act: whole(act) for act in ACTS}
    return {act: (state(here), len(here.changes)) for act, here in asked.items()}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("act", ACTS)
def test_killed_at_every_change_and_started_again(
    act: str, when: str, undisturbed: dict[str, tuple[Any, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, changes = undisturbed[act]
    assert changes >= 2
    send = requests.Session.send
    for kill in range(changes):
        here, left = prepared(act), [kill]

        def mortal(self: Any, request: Any, left: list[int] = left, **options: Any) -> Any:
            if request.method == "GET" or "/invocations" in request.url:
                return send(self, request, **options)
            left[0] -= 1
            if left[0] == -1 and when == "before":
                raise Killed
            done = send(self, request, **options)
            if left[0] == -1:
                raise Killed
            return done

        with serving(here) as url:
            monkeypatch.setattr(requests.Session, "send", mortal)
            with pytest.raises(Killed):
                story(connect(url), act)
            monkeypatch.setattr(requests.Session, "send", send)
            story(connect(url), act)
            assert state(here) == wanted, f"killed {when} change {kill}"


FAULTS: dict[str, dict[str, Any]] = {
    "busy": {"status": 429, "times": 3},
    "broken": {"status": 500, "times": 2},
    "broken after": {"status": 500, "applied": True},
    "conflict": {"status": 409, "times": 2, "code": "RESOURCE_CONFLICT"},
    "hung up": {"status": 0, "times": 2},
    "hung up after": {"status": 0, "applied": True},
    "slow": {"status": 500, "delay_s": 0.3, "applied": True},
}
CALLS = [("POST", "serving-endpoints$"), ("PUT", "/config$"), ("PUT", "/aliases/"), ("PATCH", "/tags$"),
         ("GET", "/serving-endpoints/chat$"), ("GET", "optimization"), ("POST", "/invocations$")]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_goes_wrong_on_the_way_is_tried_again(fault: str, undisturbed: dict[str, tuple[Any, int]]) -> None:
    hit = 0
    for method, pattern in CALLS:
        for act in ("deploy", "replace"):
            here = prepared(act)
            here.faults = [Fault(method, pattern, **FAULTS[fault])]
            with serving(here) as url:
                story(connect(url, 0.15 if fault == "slow" else 5), act)
            hit += here.faults[0].times < FAULTS[fault].get("times", 1)
            assert state(here) == undisturbed[act][0], f"{act}, {fault} at {method} {pattern}"
    assert hit >= 12


def test_a_server_that_never_answers_ends_the_run(here: Workspace, client: WorkspaceClient) -> None:
    version = here.add_version(MODEL)
    here.faults = [Fault("POST", "serving-endpoints$", 500, times=99)]
    from databricks.sdk.errors import InternalError

    with pytest.raises(InternalError, match="injected"):
        release.deploy(client, want(version), patience())
    assert here.faults[0].times == 99 - 8


def test_what_the_sdk_does_beside_serving(here: Workspace, client: WorkspaceClient) -> None:
    """The parts of the fake that the CLI asks are true enough for the SDK."""
    from databricks.sdk.service import catalog, iam, jobs

    assert client.current_user.me().user_name == "ann@example.com"
    client.schemas.create(name="tuning", catalog_name="main")
    assert client.schemas.get("main.tuning").full_name == "main.tuning"
    client.registered_models.create(catalog_name="main", schema_name="tuning", name="tuned")
    client.volumes.create("main", "tuning", "files", catalog.VolumeType.MANAGED)
    change = catalog.PermissionsChange(add=[catalog.Privilege.SELECT], principal="readers")
    client.grants.update("schema", "main.tuning", changes=[change])
    assert here.grants == {"schema main.tuning": [{"add": ["SELECT"], "principal": "readers"}]}
    client.secrets.create_scope("taolake_dev")
    client.secrets.put_secret("taolake_dev", "hf_token", string_value="s")
    assert [s.key for s in client.secrets.list_secrets("taolake_dev")] == ["hf_token"]
    client.workspace.import_("/Workspace/x.txt", content=base64.b64encode(b"text").decode())
    assert client.workspace.get_status("/Workspace/x.txt").path == "/Workspace/x.txt"
    made = client.jobs.create(name="tao_round", tasks=[jobs.Task("gate", notebook_task=jobs.NotebookTask("/n"))])
    run = client.jobs.run_now(made.job_id or 0).result(timeout=dt.timedelta(seconds=5))
    assert run.state and run.state.result_state is jobs.RunResultState.SUCCESS
    access = iam.AccessControlRequest(group_name="ops", permission_level=iam.PermissionLevel.CAN_MANAGE_RUN)
    client.permissions.set("jobs", str(made.job_id), access_control_list=[access])
    assert list(here.permissions) == [f"jobs {made.job_id}"]
    assert here.unknown == []

"""A Databricks workspace over real HTTP, as small as a release needs it; state in memory, faults on demand.

Known: SCIM's Me, workspace files, schemas, volumes, registered models with versions and aliases, permissions, secrets,
experiments, warehouses, jobs with runs, dashboards, alerts, and serving endpoints that take a few looks to be ready.
A path that is not known is a 404 and is kept in `unknown`, so that a test can see it.
"""

import base64
import contextlib
import itertools
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, Any]]


class Problem(Exception):
    """An error as Databricks words it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code

    def reply(self) -> Reply:
        return self.status, {"error_code": self.code, "message": str(self)}


def missing(what: str) -> Problem:
    return Problem(404, "RESOURCE_DOES_NOT_EXIST", f"{what} does not exist")


@dataclass
class Call:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    raw: bytes = b""


@dataclass
class Fault:
    """What to do to the requests that match, so many times: answer `status`, be slow, or hang up.

    Args:
        method: of the requests, a pattern too.
        pattern: what their path holds.
        status: 0 hangs up.
        times: how many are spoilt.
        delay_s: how long the answer takes.
        applied: whether a request is carried out before it is spoilt.
        code: of the error.
        skip: how many go well before.
        then: is done when a request is to be answered.
    """

    method: str
    pattern: str
    status: int = 0
    times: int = 1
    delay_s: float = 0.0
    applied: bool = False
    code: str = "INTERNAL_ERROR"
    skip: int = 0
    then: Callable[[], object] = lambda: None

    def hits(self, call: Call) -> bool:
        matches = re.fullmatch(self.method, call.method) and re.search(self.pattern, call.path)
        return self.times > 0 and matches is not None


@dataclass
class Workspace:
    """What the workspace holds; `looks` is how often an endpoint is looked at before a change of it is done."""

    looks: int = 1
    files: dict[str, bytes] = field(default_factory=dict)
    schemas: dict[str, dict[str, Any]] = field(default_factory=dict)
    volumes: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    aliases: dict[str, dict[str, int]] = field(default_factory=dict)
    grants: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    permissions: dict[str, Any] = field(default_factory=dict)
    scopes: dict[str, dict[str, str]] = field(default_factory=dict)
    experiments: dict[str, str] = field(default_factory=dict)
    jobs: dict[int, dict[str, Any]] = field(default_factory=dict)
    runs: dict[int, dict[str, Any]] = field(default_factory=dict)
    dashboards: dict[str, dict[str, Any]] = field(default_factory=dict)
    alerts: dict[str, dict[str, Any]] = field(default_factory=dict)
    endpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    chunks: dict[str, int | None] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)  # versions whose container does not start
    mute: set[int] = field(default_factory=set)  # versions that answer nothing
    rights: set[tuple[str, str]] | None = None  # right and what it is on; None: all
    faults: list[Fault] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def changes(self) -> list[Call]:
        """Requests that asked for a change, without questions to a model."""
        return [c for c in self.calls if c.method != "GET" and "/invocations" not in c.path]

    def add_version(self, model: str, status: str = "READY") -> int:
        """What MLflow does when it registers one."""
        number = 1 + max((v for m, v in self.versions if m == model), default=0)
        self.models.setdefault(model, {"full_name": model, "name": model.rpartition(".")[2]})
        self.versions[model, number] = {"model_name": model, "version": number, "status": status}
        return number

    def answer(self, call: Call) -> Reply:
        """Carry a request out."""
        with self._lock:
            self.calls.append(call)
            for method, pattern, function in ROUTES:
                found = re.fullmatch(pattern, call.path)
                if found and method == call.method:
                    try:
                        self.allow(call)
                        return 200, function(self, call, *found.groups()) or {}
                    except Problem as problem:
                        return problem.reply()
            self.unknown.append(f"{call.method} {call.path}")
            return missing(call.path).reply()

    def allow(self, call: Call) -> None:
        """Refuse a request whose rights are missing."""
        for method, pattern, needs in NEEDS:
            if self.rights is None or method != call.method or not re.fullmatch(pattern, call.path):
                continue
            for right, on in needs:
                if (right, on) not in self.rights:
                    raise Problem(403, "PERMISSION_DENIED", f"{call.method} {call.path} needs {right} on {on}")

    def fault(self, call: Call) -> Fault | None:
        with self._lock:
            found = next((fault for fault in self.faults if fault.hits(call)), None)
            if found and found.skip:
                found.skip -= 1
                return None
            if found:
                found.times -= 1
            return found

    def settle(self, endpoint: dict[str, Any]) -> None:
        """One look nearer to the configuration that is pending."""
        pending = endpoint.get("pending_config")
        if pending is None:
            return
        endpoint["looks"] -= 1
        if endpoint["looks"] > 0:
            return
        bad = [e for e in pending["served_entities"] if int(e["entity_version"]) in self.broken]
        if bad:
            for entity in bad:
                entity["state"] = {"deployment": "DEPLOYMENT_FAILED", "deployment_state_message": "out of memory"}
            endpoint["state"]["config_update"] = "UPDATE_FAILED"
            endpoint["failed"] = pending
            if endpoint["config"] is None:
                endpoint["config"] = pending
        else:
            for entity in pending["served_entities"]:
                entity["state"] = {"deployment": "DEPLOYMENT_READY"}
            endpoint["config"], endpoint["failed"] = pending, None
            endpoint["state"] = {"ready": "READY", "config_update": "NOT_UPDATING"}
        endpoint["pending_config"] = None


def _me(here: Workspace, call: Call) -> dict[str, Any]:
    return {"id": "1", "userName": "ann@example.com", "active": True}


def _file_status(here: Workspace, call: Call) -> dict[str, Any]:
    path = call.query["path"]
    if path in here.files:
        return {"path": path, "object_type": "FILE", "object_id": 1}
    if any(name.startswith(path.rstrip("/") + "/") for name in here.files):
        return {"path": path, "object_type": "DIRECTORY", "object_id": 2}
    raise missing(path)


def _file_export(here: Workspace, call: Call) -> dict[str, Any]:
    if call.query["path"] not in here.files:
        raise missing(call.query["path"])
    return {"content": base64.b64encode(here.files[call.query["path"]]).decode()}


def _file_import(here: Workspace, call: Call, path: str = "") -> dict[str, Any]:
    if path:
        here.files["/" + urllib.parse.unquote(path).lstrip("/")] = call.raw
    else:
        here.files[call.body["path"]] = base64.b64decode(call.body["content"])
    return {}


def _file_delete(here: Workspace, call: Call) -> dict[str, Any]:
    gone = [n for n in here.files if n == call.body["path"] or n.startswith(call.body["path"] + "/")]
    for name in gone:
        del here.files[name]
    return {}


def _absent(here: Workspace, call: Call) -> dict[str, Any]:
    raise missing(call.path)


def _nothing(here: Workspace, call: Call, *parts: str) -> dict[str, Any]:
    return {}


def _put(store: str, name: Callable[[dict[str, Any]], str]) -> Callable[..., dict[str, Any]]:
    """A Unity Catalog object is made once; a second time is a conflict."""

    def create(here: Workspace, call: Call) -> dict[str, Any]:
        full, held = name(call.body), getattr(here, store)
        if full in held:
            raise Problem(409, "RESOURCE_ALREADY_EXISTS", f"{full} exists")
        held[full] = {**call.body, "full_name": full}
        return dict(held[full])

    return create


def _get(store: str) -> Callable[..., dict[str, Any]]:
    def get(here: Workspace, call: Call, name: str) -> dict[str, Any]:
        held = getattr(here, store)
        if name not in held:
            raise missing(name)
        return dict(held[name])

    return get


def _patch(store: str) -> Callable[..., dict[str, Any]]:
    def patch(here: Workspace, call: Call, name: str) -> dict[str, Any]:
        held = getattr(here, store)
        if name not in held:
            raise missing(name)
        held[name] |= call.body
        return dict(held[name])

    return patch


def _model(here: Workspace, call: Call, name: str) -> dict[str, Any]:
    if name not in here.models:
        raise missing(name)
    named = here.aliases.get(name, {})
    return {**here.models[name], "aliases": [{"alias_name": a, "version_num": v} for a, v in sorted(named.items())]}


def _version(here: Workspace, call: Call, name: str, number: str) -> dict[str, Any]:
    found = here.versions.get((name, int(number)))
    if found is None:
        raise missing(f"{name} version {number}")
    return found


def _alias(here: Workspace, call: Call, name: str, alias: str) -> dict[str, Any]:
    number = int(call.body["version_num"])
    if (name, number) not in here.versions:
        raise missing(f"{name} version {number}")
    here.aliases.setdefault(name, {})[alias] = number
    return {"alias_name": alias, "version_num": number}


def _unalias(here: Workspace, call: Call, name: str, alias: str) -> dict[str, Any]:
    if here.aliases.get(name, {}).pop(alias, None) is None:
        raise missing(f"alias {alias} of {name}")
    return {}


def _grant(here: Workspace, call: Call, kind: str, name: str) -> dict[str, Any]:
    here.grants.setdefault(f"{kind} {name}", []).extend(call.body.get("changes", []))
    return {"privilege_assignments": []}


def _permit(here: Workspace, call: Call, kind: str, identity: str) -> dict[str, Any]:
    here.permissions[f"{kind} {identity}"] = call.body["access_control_list"]
    return {"object_id": identity, "access_control_list": []}


def _scope(here: Workspace, call: Call) -> dict[str, Any]:
    if call.body["scope"] in here.scopes:
        raise Problem(400, "RESOURCE_ALREADY_EXISTS", f"scope {call.body['scope']} exists")
    here.scopes[call.body["scope"]] = {}
    return {}


def _secret(here: Workspace, call: Call) -> dict[str, Any]:
    if call.body["scope"] not in here.scopes:
        raise missing(f"scope {call.body['scope']}")
    here.scopes[call.body["scope"]][call.body["key"]] = call.body["string_value"]
    return {}


def _secrets(here: Workspace, call: Call) -> dict[str, Any]:
    return {"secrets": [{"key": key} for key in here.scopes.get(call.query["scope"], {})]}


def _scopes(here: Workspace, call: Call) -> dict[str, Any]:
    return {"scopes": [{"name": name, "backend_type": "DATABRICKS"} for name in here.scopes]}


def _experiment(here: Workspace, call: Call) -> dict[str, Any]:
    here.experiments[str(next(here._ids))] = call.body["name"]
    return {"experiment_id": next(reversed(here.experiments))}


def _experiment_get(here: Workspace, call: Call) -> dict[str, Any]:
    identity = call.query["experiment_id"]
    if identity not in here.experiments:
        raise missing(f"experiment {identity}")
    return {"experiment": {"experiment_id": identity, "name": here.experiments[identity], "lifecycle_stage": "active"}}


def _warehouses(here: Workspace, call: Call) -> dict[str, Any]:
    return {"warehouses": [{"id": "w1", "name": "Serverless Starter Warehouse"}]}


def _job_create(here: Workspace, call: Call) -> dict[str, Any]:
    number = next(here._ids)
    here.jobs[number] = call.body
    return {"job_id": number}


def _job_get(here: Workspace, call: Call) -> dict[str, Any]:
    number = int(call.query["job_id"])
    if number not in here.jobs:
        raise missing(f"job {number}")
    return {"job_id": number, "settings": here.jobs[number]}


def _job_reset(here: Workspace, call: Call) -> dict[str, Any]:
    here.jobs[int(call.body["job_id"])] = call.body["new_settings"]
    return {}


def _job_run(here: Workspace, call: Call) -> dict[str, Any]:
    number = next(here._ids)
    here.runs[number] = {"run_id": number, "job_id": call.body["job_id"], "parameters": call.body.get("job_parameters")}
    return {"run_id": number}


def _run_get(here: Workspace, call: Call) -> dict[str, Any]:
    run = here.runs.get(int(call.query["run_id"]))
    if run is None:
        raise missing(f"run {call.query['run_id']}")
    over = {"life_cycle_state": "TERMINATED", "result_state": "SUCCESS", "state_message": ""}
    name = here.jobs[run["job_id"]].get("name", "")
    return {**run, "run_name": name, "run_page_url": "", "state": over, "tasks": []}


def _dashboard(here: Workspace, call: Call) -> dict[str, Any]:
    identity = str(next(here._ids))
    here.dashboards[identity] = {**call.body, "dashboard_id": identity, "etag": "1", "path": f"/d/{identity}"}
    return here.dashboards[identity]


def _alert(here: Workspace, call: Call) -> dict[str, Any]:
    identity = str(next(here._ids))
    here.alerts[identity] = {**call.body, "id": identity}
    return here.alerts[identity]


def _optimization(here: Workspace, call: Call, model: str, number: str) -> dict[str, Any]:
    chunk = here.chunks.get(model, 980)
    return {"optimizable": chunk is not None, "model_type": "llama", "throughput_chunk_size": chunk or 0}


def _endpoint_create(here: Workspace, call: Call) -> dict[str, Any]:
    name = call.body["name"]
    if name in here.endpoints:
        raise Problem(409, "RESOURCE_ALREADY_EXISTS", f"endpoint {name} exists")
    here.endpoints[name] = {
        "name": name, "id": str(next(here._ids)), "config": None, "failed": None,
        "ai_gateway": call.body.get("ai_gateway"), "tags": call.body.get("tags", []),
        "state": {"ready": "NOT_READY", "config_update": "NOT_UPDATING"},
    }  # fmt: skip
    _change(here, here.endpoints[name], call.body["config"])
    return _shown(here.endpoints[name])


def _endpoint_get(here: Workspace, call: Call, name: str) -> dict[str, Any]:
    endpoint = _endpoint(here, name)
    here.settle(endpoint)
    return _shown(endpoint)


def _endpoint_change(here: Workspace, call: Call, name: str) -> dict[str, Any]:
    endpoint = _endpoint(here, name)
    if endpoint["state"]["config_update"] == "IN_PROGRESS":
        raise Problem(409, "RESOURCE_CONFLICT", f"endpoint {name} is being updated")
    _change(here, endpoint, call.body)
    return _shown(endpoint)


def _change(here: Workspace, endpoint: dict[str, Any], config: dict[str, Any]) -> None:
    entities, routes = config["served_entities"], config["traffic_config"]["routes"]
    for entity in entities:
        if (entity["entity_name"], int(entity["entity_version"])) not in here.versions:
            raise missing(f"{entity['entity_name']} version {entity['entity_version']}")
    names = [entity["name"] for entity in entities]
    if sum(route["traffic_percentage"] for route in routes) != 100:
        raise Problem(400, "INVALID_PARAMETER_VALUE", "traffic must add up to 100")
    if [route["served_entity_name"] for route in routes] != names:
        raise Problem(400, "INVALID_PARAMETER_VALUE", "routes name entities that are not served")
    endpoint["pending_config"] = json.loads(json.dumps(config))
    endpoint["looks"] = here.looks
    endpoint["state"]["config_update"] = "IN_PROGRESS"


def _gateway(here: Workspace, call: Call, name: str) -> dict[str, Any]:
    _endpoint(here, name)["ai_gateway"] = call.body
    return dict(call.body)


def _tags(here: Workspace, call: Call, name: str) -> dict[str, Any]:
    endpoint = _endpoint(here, name)
    gone = {*call.body.get("delete_tags", []), *(tag["key"] for tag in call.body.get("add_tags", []))}
    endpoint["tags"] = [t for t in endpoint["tags"] if t["key"] not in gone] + call.body.get("add_tags", [])
    return {"tags": endpoint["tags"]}


def _ask(here: Workspace, call: Call, name: str, entity: str) -> dict[str, Any]:
    config = _endpoint(here, name)["config"] or {"served_entities": []}
    found = next((e for e in config["served_entities"] if e["name"] == entity), None)
    if found is None:
        raise missing(f"{entity} behind {name}")
    said = "" if int(found["entity_version"]) in here.mute else f"{entity} says yes"
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]}


def _endpoint(here: Workspace, name: str) -> dict[str, Any]:
    if name not in here.endpoints:
        raise missing(f"endpoint {name}")
    return here.endpoints[name]


def _shown(endpoint: dict[str, Any]) -> dict[str, Any]:
    shown = {key: value for key, value in endpoint.items() if key not in ("looks", "failed") and value is not None}
    return shown | ({"pending_config": endpoint["failed"]} if endpoint["failed"] else {})


def _full(*parts: str) -> Callable[[dict[str, Any]], str]:
    return lambda body: ".".join(body[part] for part in parts)


UC = "/api/2.1/unity-catalog"
SERVING = "/api/2.0/serving-endpoints"
ROUTES: list[tuple[str, str, Callable[..., dict[str, Any] | None]]] = [
    ("GET", "/.well-known/databricks-config", _absent),
    ("GET", "/api/2.0/preview/scim/v2/Me", _me),
    ("GET", "/api/2.0/workspace/get-status", _file_status),
    ("GET", "/api/2.0/workspace/export", _file_export),
    ("POST", "/api/2.0/workspace/import", _file_import),
    ("POST", "/api/2.0/workspace-files/import-file/(.+)", _file_import),
    ("POST", "/api/2.0/workspace/mkdirs", _nothing),
    ("POST", "/api/2.0/workspace/delete", _file_delete),
    ("GET", "/api/2.0/sql/warehouses", _warehouses),
    ("POST", f"{UC}/schemas", _put("schemas", _full("catalog_name", "name"))),
    ("GET", f"{UC}/schemas/([^/]+)", _get("schemas")),
    ("PATCH", f"{UC}/schemas/([^/]+)", _patch("schemas")),
    ("POST", f"{UC}/volumes", _put("volumes", _full("catalog_name", "schema_name", "name"))),
    ("GET", f"{UC}/volumes/([^/]+)", _get("volumes")),
    ("PATCH", f"{UC}/volumes/([^/]+)", _patch("volumes")),
    ("POST", f"{UC}/models", _put("models", _full("catalog_name", "schema_name", "name"))),
    ("GET", f"{UC}/models/([^/]+)", _model),
    ("PATCH", f"{UC}/models/([^/]+)", _patch("models")),
    ("GET", f"{UC}/models/([^/]+)/versions/(\\d+)", _version),
    ("PUT", f"{UC}/models/([^/]+)/aliases/(\\w+)", _alias),
    ("DELETE", f"{UC}/models/([^/]+)/aliases/(\\w+)", _unalias),
    ("PATCH", f"{UC}/permissions/([^/]+)/([^/]+)", _grant),
    ("PUT", "/api/2.0/permissions/([^/]+)/([^/]+)", _permit),
    ("POST", "/api/2.0/secrets/scopes/create", _scope),
    ("GET", "/api/2.0/secrets/scopes/list", _scopes),
    ("POST", "/api/2.0/secrets/put", _secret),
    ("POST", "/api/2.0/secrets/acls/put", _nothing),
    ("GET", "/api/2.0/secrets/list", _secrets),
    ("POST", "/api/2.0/mlflow/experiments/create", _experiment),
    ("GET", "/api/2.0/mlflow/experiments/get", _experiment_get),
    ("POST", "/api/2.2/jobs/create", _job_create),
    ("POST", "/api/2.2/jobs/reset", _job_reset),
    ("GET", "/api/2.2/jobs/get", _job_get),
    ("POST", "/api/2.2/jobs/run-now", _job_run),
    ("GET", "/api/2.2/jobs/runs/get", _run_get),
    ("POST", "/api/2.0/lakeview/dashboards", _dashboard),
    ("POST", "/api/2.0/lakeview/dashboards/[^/]+/published", _nothing),
    ("POST", "/api/2.0/alerts", _alert),
    ("POST", "/telemetry-ext", _nothing),
    ("GET", f"{SERVING}/get-model-optimization-info/([^/]+)/(\\d+)", _optimization),
    ("POST", SERVING, _endpoint_create),
    ("GET", f"{SERVING}/([^/]+)", _endpoint_get),
    ("PUT", f"{SERVING}/([^/]+)/config", _endpoint_change),
    ("PUT", f"{SERVING}/([^/]+)/ai-gateway", _gateway),
    ("PATCH", f"{SERVING}/([^/]+)/tags", _tags),
    ("POST", "/serving-endpoints/([^/]+)/served-models/([^/]+)/invocations", _ask),
]


# Rights that Databricks asks for, by request: databricks.com's manage-privileges and model-serving pages.
_REACH = (("USE CATALOG", "catalog"), ("USE SCHEMA", "schema"))
_SERVE = (*_REACH, ("EXECUTE", "model"), ("CREATE TABLE", "schema"))
NEEDS: list[tuple[str, str, tuple[tuple[str, str], ...]]] = [
    ("POST", f"{UC}/schemas", (("USE CATALOG", "catalog"), ("CREATE SCHEMA", "catalog"))),
    ("POST", f"{UC}/volumes", (*_REACH, ("CREATE VOLUME", "schema"))),
    ("POST", f"{UC}/models", (*_REACH, ("CREATE MODEL", "schema"))),
    ("GET", f"{UC}/models/.+", (*_REACH, ("EXECUTE", "model"))),
    ("PUT", f"{UC}/models/[^/]+/aliases/.+", (("owner", "model"),)),
    ("DELETE", f"{UC}/models/[^/]+/aliases/.+", (("owner", "model"),)),
    ("POST", SERVING, _SERVE),
    ("PUT", f"{SERVING}/.+", (*_SERVE, ("CAN_MANAGE", "endpoint"))),
    ("PATCH", f"{SERVING}/.+", (("CAN_MANAGE", "endpoint"),)),
]


class _Handler(BaseHTTPRequestHandler):
    here: Workspace
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet: two would wait for each other 40 ms

    def _serve(self) -> None:
        split = urllib.parse.urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:  # a file, as it is
            body = None
        call = Call(self.command, split.path, dict(urllib.parse.parse_qsl(split.query)), body, raw)
        fault = self.here.fault(call)
        if fault is None:
            self._send(*self.here.answer(call))
            return
        if fault.applied:
            self.here.answer(call)
        fault.then()
        time.sleep(fault.delay_s)
        if not fault.status:  # hang up
            self.close_connection = True
            return
        self._send(fault.status, {"error_code": fault.code, "message": "injected"})

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Databricks-Org-Id", "1")
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words: Any) -> None:
        """The requests are kept in `calls`."""


@contextlib.contextmanager
def serving(here: Workspace) -> Iterator[str]:
    """The workspace on a free port; its address."""
    handler = type("Handler", (_Handler,), {"here": here})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

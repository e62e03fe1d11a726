"""A job run as Databricks would run it: tasks in the order of the graph, conditions and task values honoured.

Notebook tasks are new Python processes. They share one JVM, started once: to start it anew would be most of the time,
and no task sees another's session in it.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from delta import configure_spark_with_delta_pip
from pyspark import SparkConf
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from taolake.session import CONF
from tests.bundle.resolve import ROOT

RUN_ID = "41"
SUCCESS, FAILED, EXCLUDED, UPSTREAM_FAILED = "success", "failed", "excluded", "upstream_failed"


@contextmanager
def jvm() -> Iterator[dict[str, str]]:
    """A JVM with Delta; what a Python process needs in its environment to use it."""
    conf = SparkConf(loadDefaults=False)
    builder = SparkSession.Builder()
    for key, value in CONF.items():
        builder.config(key, value)
    options = dict(configure_spark_with_delta_pip(builder)._options)
    for key, value in options.items():
        conf.set(key, value)
    gateway = launch_gateway(conf)
    try:
        parameters = gateway.gateway_parameters
        yield {"PYSPARK_GATEWAY_PORT": str(parameters.port), "PYSPARK_GATEWAY_SECRET": parameters.auth_token}
    finally:
        gateway.shutdown()
        gateway.proc.stdin.close()
        gateway.proc.wait(timeout=30)


class Run:
    """One run of a job; repaired, tasks that succeeded are kept.

    Args:
        jobs: of the bundle as it resolves them; a job's id is its place.
        key: of the job that is run.
        params: job parameters that differ from their defaults.
        folder: what tasks leave.
        env: of the tasks' processes.
    """

    def __init__(
        self, jobs: Mapping[str, Any], key: str, params: Mapping[str, str], folder: Path, env: Mapping[str, str]
    ) -> None:
        self._jobs, self._given = jobs, dict(params)
        self._tasks = {task["task_key"]: task for task in jobs[key]["tasks"]}
        defaults = {each["name"]: str(each["default"]) for each in jobs[key]["parameters"]}
        assert params.keys() <= defaults.keys()
        self.params = {name: self._value(text) for name, text in {**defaults, **params}.items()}
        self._folder, self._env = folder, {**os.environ, **env}
        self.children: dict[str, Run] = {}
        self.states: dict[str, str] = {}
        self.outcomes: dict[str, str] = {}
        self.values: dict[str, dict[str, Any]] = {}
        self.exits: dict[str, str | None] = {}
        self.ran: list[str] = []

    def start(self, again: tuple[str, ...] = ()) -> dict[str, str]:
        """Run what has not succeeded yet, and the tasks of `again`; returns every task's state."""
        for name in again:
            self.states.pop(name)
        for name, task in self._tasks.items():
            if self.states.get(name) == SUCCESS:
                continue
            self.states[name] = self._ready(task) or self._execute(name, task)
        return dict(self.states)

    def _ready(self, task: Mapping[str, Any]) -> str | None:
        """Why a task does not run, or None."""
        if task.get("run_if", "ALL_SUCCESS") == "ALL_DONE":
            return None
        for above in task.get("depends_on", []):
            if self.states[above["task_key"]] != SUCCESS:
                excluded = self.states[above["task_key"]] == EXCLUDED
                return EXCLUDED if excluded else UPSTREAM_FAILED
            if above.get("outcome", self.outcomes.get(above["task_key"])) != self.outcomes.get(above["task_key"]):
                return EXCLUDED
        return None

    def _execute(self, name: str, task: Mapping[str, Any]) -> str:
        self.ran.append(name)
        if "condition_task" in task:
            asked = task["condition_task"]
            left, right = self._value(asked["left"]), self._value(asked["right"])
            self.outcomes[name] = str((left == right) == (asked["op"] == "EQUAL_TO")).lower()
            return SUCCESS
        if "run_job_task" in task:
            return self._run_job(name, task["run_job_task"])
        out = self._folder / f"{name}.json"
        notebook = Path(task["notebook_task"]["notebook_path"]).stem
        words = [sys.executable, "-m", "tests.bundle.task", notebook, json.dumps(self.params), str(out)]
        done = subprocess.run(words, cwd=ROOT, env=self._env, capture_output=True, text=True, check=False)
        (self._folder / f"{name}.log").write_text(done.stdout + done.stderr)
        if done.returncode:
            return FAILED
        left_behind = json.loads(out.read_text())
        self.values[name], self.exits[name] = left_behind["values"], left_behind["exited"]
        return SUCCESS

    def _run_job(self, name: str, asked: Mapping[str, Any]) -> str:
        """Another job with its own defaults; what differs here for every job differs for it too."""
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        more = {key: self._value(text) for key, text in asked["job_parameters"].items()}
        child = Run(self._jobs, list(self._jobs)[asked["job_id"]], {**self._given, **more}, folder, self._env)
        self.children[name] = child
        return SUCCESS if set(child.start().values()) <= {SUCCESS, EXCLUDED} else FAILED

    def _value(self, text: str) -> str:
        """A dynamic value reference, resolved; an unknown one is an error of the job."""
        found = re.fullmatch(r"\{\{(.+)\}\}", text)
        if not found:
            return text
        match found[1].split("."):
            case ["tasks", task, "values", key]:
                return str(self.values[task][key])
            case ["job", "parameters", name]:
                return self.params[name]
            case ["job", "run_id"]:
                return RUN_ID
        raise AssertionError(f"nothing is known of {text}")

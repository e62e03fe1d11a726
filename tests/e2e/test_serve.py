"""`taolake serve` as a user runs it: vLLM itself, an adapter beside its base, the `openai` client, Ctrl-C, a kill."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import yaml
from deltalake import DeltaTable

from taolake.config import Project
from taolake.demo import model
from tests.projects import fake_project

KEY = "a-key-for-the-tests"
START_S = 400


def tiny(folder: Path) -> Path:
    """A model that answers something, and a random adapter over it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    pairs = [([{"role": "user", "content": f"say {i % 9}"}], f"word {i % 9}") for i in range(320)]
    model.fit(folder / "model", pairs, seed=3, log=lambda line: None)
    base = AutoModelForCausalLM.from_pretrained(folder / "model")
    made = get_peft_model(base, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weights in made.named_parameters():
            if "lora_" in name:
                weights.normal_(0, 0.5)  # far enough from its base to say something else
    made.save_pretrained(folder / "adapter")
    return folder / "model"


def write_project(folder: Path, port: int) -> Path:
    versions = [
        {"name": "champion", "model": str(folder / "model"), "share": 1},
        {"name": "challenger", "model": str(folder / "model"), "adapter": str(folder / "adapter"), "share": 1},
    ]
    gateway = {"port": port, "versions": versions, "drain_s": 1}
    vllm = {"kind": "vllm", "max_num_seqs": 8}
    known = {"path": str(folder / "model"), "dtype": "float32", "max_model_len": 64, "max_tokens": 16}
    made = fake_project(folder, gateway=gateway, engine=vllm, model=known)
    file = folder / "project.yml"
    file.write_text(yaml.safe_dump(made.model_dump(mode="json", by_alias=True)))
    return file


def start(file: Path, port: int) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "TAOLAKE_GATEWAY_KEYS": KEY, "VLLM_CPU_KVCACHE_SPACE": "1", "NO_PROXY": "*"}
    with (file.parent / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "taolake", "serve", str(file)], env=environment, stdout=log, stderr=log
        )
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, (file.parent / "log").read_text()[-3000:]
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False, timeout=5).status_code == 200:
                return process
        except httpx.HTTPError:
            time.sleep(0.5)
    raise AssertionError((file.parent / "log").read_text()[-3000:])


def left(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that still run after a while."""
    return list(psutil.wait_procs(processes, timeout=seconds)[1])


@pytest.mark.slow
def test_a_model_and_its_adapter_are_served_and_nothing_is_left_behind(tmp_path: Path) -> None:
    tiny(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = write_project(tmp_path, port)
    process = start(file, port)
    try:
        children = psutil.Process(process.pid).children(recursive=True)
        assert any("vllm" in " ".join(child.cmdline()).lower() for child in children)
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0)
        turns: Any = [{"role": "user", "content": "say 3"}]

        def ask(name: str, **more: Any) -> Any:
            return client.chat.completions.create(model=name, messages=turns, max_tokens=8, temperature=0, **more)

        champion, challenger = (ask(name).choices[0].message.content for name in ("champion", "challenger"))
        assert champion != challenger  # the adapter is another model
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in ask("champion", stream=True))
        assert streamed == champion
        split = {ask("fake", user=f"user-{i}").choices[0].message.content for i in range(12)}
        assert split == {champion, challenger}
        assert client.completions.create(model="champion", prompt="say", max_tokens=4).choices[0].text is not None
        with pytest.raises(openai.BadRequestError):
            ask("champion", logit_bias={"no number": 1})
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
        assert left(children, 15) == []
    finally:
        if process.poll() is None:
            process.kill()
    rows = DeltaTable(str(tmp_path / "lake" / "payloads")).to_pyarrow_table().to_pylist()
    assert len(rows) == 17 and sum(row["status_code"] == 200 for row in rows) == 16
    assert {row["share"] for row in rows} == {None, 0.5}
    assert KEY not in (tmp_path / "log").read_text()
    process = start(file, port)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert len(children) >= 3 and left(children, 30) == []


@pytest.mark.slow
def test_a_registered_version_is_found_by_its_alias(tmp_path: Path) -> None:
    import mlflow
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from taolake.stages import register, registry, served

    tiny(tmp_path)
    project = Project.model_validate(fake_project(tmp_path).model_dump(mode="json", by_alias=True))
    with pytest.raises(ValueError, match="no version with the alias 'champion'"):
        served.plan(project)
    registry.connect(project)
    with registry.quiet(), mlflow.start_run():
        version = register.log_model(project, tmp_path / "model")
    mlflow.MlflowClient().set_registered_model_alias("fake", "champion", version)
    plan = served.plan(project)
    assert [(v.name, v.entity, v.url) for v in plan.versions] == [("champion", "fake/1", "fake/1")]
    (found,) = plan.models
    assert AutoTokenizer.from_pretrained(found.tokenizer).chat_template
    assert AutoModelForCausalLM.from_pretrained(found.weights).num_parameters() > 1000
    assert served.plan(project) == plan  # downloaded once


@pytest.mark.slow
def test_a_release_is_followed_without_a_restart_and_nothing_fails(tmp_path: Path) -> None:
    """Two registered versions, vLLM's own servers: released, promoted, while somebody asks all the time."""
    import mlflow

    from taolake.stages import register, registry

    tiny(tmp_path)
    (tmp_path / "other").mkdir()
    pairs = [([{"role": "user", "content": f"say {i % 9}"}], f"other {i % 9}") for i in range(320)]
    model.fit(tmp_path / "other", pairs, seed=4, log=lambda line: None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    versions = [{"name": "live"}, {"name": "canary"}]
    gateway = {"port": port, "versions": versions, "drain_s": 1, "routes_s": 0.5}
    known = {"path": str(tmp_path / "model"), "dtype": "float32", "max_model_len": 64, "max_tokens": 16}
    made = fake_project(tmp_path, gateway=gateway, engine={"kind": "vllm", "max_num_seqs": 8}, model=known)
    file = tmp_path / "project.yml"
    file.write_text(yaml.safe_dump(made.model_dump(mode="json", by_alias=True)))
    registry.connect(made)
    with registry.quiet(), mlflow.start_run():
        numbers = [register.log_model(made, tmp_path / name) for name in ("model", "other")]
    assert numbers == ["1", "2"]
    store = mlflow.MlflowClient()
    store.set_registered_model_alias("fake", "live", "1")
    process = start(file, port)
    turns: Any = [{"role": "user", "content": "say 3"}]
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0)

    def ask(user: str) -> str:
        raw = client.chat.completions.with_raw_response.create(
            model="fake", messages=turns, max_tokens=8, temperature=0, user=user
        )
        said: str = raw.headers["x-taolake-version"]
        return f"{said} {raw.parse().choices[0].message.content}"

    def until(wanted: set[str]) -> None:
        """Ask on until everybody gets these versions; whatever fails raises."""
        deadline = time.monotonic() + START_S
        while {ask(f"user-{i}").split()[0] for i in range(12)} != wanted:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-3000:]

    try:
        until({"fake/1"})
        store.set_registered_model_alias("fake", "canary", "2")
        store.set_registered_model_tag("fake", "taolake_routes", '{"1": 50, "2": 50}')
        until({"fake/1", "fake/2"})
        assert {said.split()[1] for said in (ask(f"user-{i}") for i in range(12))} == {"word", "other"}
        store.set_registered_model_tag("fake", "taolake_routes", '{"2": 100}')
        store.delete_registered_model_alias("fake", "canary")
        store.set_registered_model_alias("fake", "live", "2")
        until({"fake/2"})
        deadline = time.monotonic() + 60
        while "fake/1: its server has ended" not in (tmp_path / "log").read_text():
            assert time.monotonic() < deadline
            until({"fake/2"})
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
    finally:
        if process.poll() is None:
            process.kill()
    rows = DeltaTable(str(tmp_path / "lake" / "payloads")).to_pyarrow_table().to_pylist()
    assert {row["status_code"] for row in rows} == {200}
    assert {(row["served_entity_id"], row["share"]) for row in rows} == {
        ("fake/1", None), ("fake/1", 0.5), ("fake/2", 0.5), ("fake/2", None),
    }  # fmt: skip

"""The journal: what a death costs, who was to blame for it, and that nobody else pays."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyspark
import pytest

from taolake import engines, ids
from taolake.config import Project
from taolake.engines import fake
from taolake.stages import generate, journal
from taolake.stages.answer import Work
from taolake.stages.fanout import Row
from taolake.stages.suspects import History, companies, read_logs
from taolake.types import Policy, Request, Sampling
from tests.projects import fake_project

POLICY = Policy("p" * 32, "no-model")


def work(folder: Path, chunk: str = "c" * 32, **engine: Any) -> Work:
    """A chunk on the fake engine, eight at a time."""
    project = fake_project(folder, engine={"kind": "fake", "width": 8, **engine})
    beats = folder / "beats"
    beats.mkdir(exist_ok=True)
    return Work(project, POLICY, {c.strategy.id: c for c in generate.base_cells(project)}, chunk, str(beats))


def cells(of: Work, *prompts: str, samples: int = 1) -> Iterator[Row]:
    """Cells of the first strategy; a prompt's id is its text."""
    strategy = next(iter(of.cells))
    for prompt in prompts:
        messages = [{"role": "user", "content": prompt}]
        for sample in range(samples):
            yield {"prompt_id": prompt, "messages": messages, "strategy": strategy, "sample": sample}


def key(of: Work, prompt: str) -> str:
    return ids.candidate_id(prompt, POLICY.id, next(iter(of.cells)), 0)


def task_folder(of: Work) -> Path:
    return journal.folder_of(of.project, POLICY.id, of.chunk) / "00000"


@pytest.fixture(autouse=True)
def fresh_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_kept", None)


@pytest.fixture
def attempt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make this process an attempt of a task, without its engine."""

    def become(number: int) -> None:
        context = SimpleNamespace(partitionId=lambda: 0, attemptNumber=lambda: number, resources=dict)
        monkeypatch.setattr(pyspark.TaskContext, "get", staticmethod(lambda: context))
        monkeypatch.setattr("taolake.engines.reaper.die_with_parent", lambda: None)
        monkeypatch.setattr("taolake.engines.reaper.executor", os.getpid)
        engines._kept = None

    return become


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Prompts that reached an engine."""
    seen: list[str] = []
    submit = fake.Fake.submit

    def note(self: fake.Fake, request: Request) -> None:
        seen.append(request.messages[-1]["content"])
        submit(self, request)

    monkeypatch.setattr(fake.Fake, "submit", note)
    return seen


def in_a_process(run: Callable[[], object]) -> int:
    """Exit code of a forked process that runs it; a signal's is negative."""
    pid = os.fork()
    if pid == 0:
        try:
            run()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_retried_task_asks_only_for_the_rest(
    tmp_path: Path, asked: list[str], attempt: Callable[[int], None]
) -> None:
    mine = work(tmp_path, journal_s=0.001)
    attempt(0)
    first = mine.answer(cells(mine, *"abcdefghijkl"))
    rows = [next(first) for _ in range(12)]
    first.close()
    asked.clear()
    attempt(1)
    again = list(mine.answer(cells(mine, *"abcdefghijklmn")))
    assert asked == ["m", "n"]
    assert {r["candidate_id"]: r for r in rows}.items() <= {r["candidate_id"]: r for r in again}.items()
    assert len(again) == 14


def test_no_engine_is_built_when_all_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = work(tmp_path)
    before = list(mine.answer(cells(mine, "a", "b")))
    monkeypatch.setattr(engines, "build", None)
    assert sorted(mine.answer(cells(mine, "a", "b")), key=str) == sorted(before, key=str)


def test_a_killed_process_costs_what_was_not_written_yet(tmp_path: Path, asked: list[str]) -> None:
    mine = work(tmp_path, journal_s=0.001, width=2, delay_s=0.01, faults={"BOOM": "kill"})
    assert in_a_process(lambda: list(mine.answer(cells(mine, *"abcdef", "BOOM")))) == -signal.SIGKILL
    assert set(journal.read_parts(task_folder(mine))) >= {key(mine, p) for p in "abcd"}


@pytest.mark.parametrize(
    "harm",
    [
        lambda part: part.with_name("part-0009-000000.jsonl").write_bytes(b'{"candidate_id": "x", "te'),
        lambda part: part.with_name("part-0009-000000.jsonl").write_bytes(b"\xff\xfe\x00[]\n7\nnull\n{}\n\n"),
        lambda part: part.with_name("part-0009-000000.jsonl").write_bytes(b""),
        lambda part: part.with_name(".part-0000-000001.jsonl.77").write_bytes(b'{"candidate_id": "half"}'),
        lambda part: part.with_name("log-0007").write_bytes(b"\xff+\n@x\n\n"),
        lambda part: (part.parents[2] / "suspects.json").write_bytes(b'{"k": {"no": 1}'),
    ],
)
def test_damaged_files_are_passed_over(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    mine = work(tmp_path)
    before = list(mine.answer(cells(mine, "a", "b")))
    harm(next(task_folder(mine).glob("part-*")))
    assert set(journal.read_parts(task_folder(mine))) == {r["candidate_id"] for r in before}
    assert len(list(mine.answer(cells(mine, "a", "b", "c")))) == 3


def test_rows_survive_json_as_they_were(tmp_path: Path) -> None:
    text = 'NUL \x00, quote ", \u2028 and 東京'
    mine = work(tmp_path, answers=[text])
    (row,) = mine.answer(cells(mine, "a"))
    assert row["raw"] == text
    assert journal.read_parts(task_folder(mine)) == {row["candidate_id"]: row}


LOGS: list[tuple[list[str], int | None, dict[str, History]]] = [
    ([], 0, {}),
    (["@0 +a -a ."], 1, {}),
    (["@0 +a +b -b ."], 1, {}),  # it ended well, so nothing was in flight that mattered
    (["@0 +a +b -b"], 1, {"a": History(deaths=1, alone=1)}),
    (["@0 +a +b"], 1, {"a": History(deaths=1), "b": History(deaths=1)}),
    (["@0 +a +b"], 0, {"a": History(lost=1), "b": History(lost=1)}),  # a new run: the driver died as well
    (["@0 +a +b"], None, {"a": History(lost=1), "b": History(lost=1)}),
    (["@0 +a !lost"], None, {"a": History(deaths=1, alone=1, reason="lost")}),  # it said why: no doubt
    (["@0 +a +b", "@1 +a"], 2, {"a": History(deaths=2, alone=1), "b": History(deaths=1)}),
    (["@0 +a +b", "@0 +a +b"], 0, {"a": History(lost=2), "b": History(lost=2)}),
    (["@0 +a", "@1 +b -b .", "@0 +a"], 0, {"a": History(deaths=1, lost=1, alone=1)}),
]


@pytest.mark.parametrize(("logs", "now", "wanted"), LOGS)
def test_who_was_in_flight(tmp_path: Path, logs: list[str], now: int | None, wanted: dict[str, History]) -> None:
    for number, log in enumerate(logs):
        (tmp_path / f"log-{number:04d}").write_text("\n".join(log.split()))
    assert read_logs(tmp_path, now) == wanted


@pytest.mark.parametrize(
    ("history", "level", "guilty", "company"),
    [
        (History(), 0, False, 1),
        (History(lost=1), 0, False, 1),
        (History(lost=2), 1, False, 4),
        (History(deaths=1), 1, False, 4),
        (History(deaths=1, alone=1), 1, False, 4),  # the last one of a task is always alone
        (History(deaths=2), 2, False, 1),
        (History(deaths=3, alone=1), 3, True, 1),
        (History(lost=9), 4, False, 1),
    ],
)
def test_guilt(history: History, level: int, guilty: bool, company: int) -> None:
    assert (history.level, history.guilty, history.company(17)) == (level, guilty, company)


def test_companies_shrink() -> None:
    def asked_for(name: str) -> Request:
        return Request(name, (), Sampling(1), 0)

    suspects = [(History(deaths=1), asked_for(n)) for n in "abcde"] + [(History(deaths=2), asked_for(n)) for n in "xy"]
    assert [[r.key for r in group] for group in companies(suspects, 9)] == [["x"], ["y"], ["a", "b", "c"], ["d", "e"]]


@pytest.mark.parametrize("fault", ["raise", "kill", "stall"])
def test_one_bad_prompt_is_one_error_row_within_four_attempts(
    tmp_path: Path, fault: str, attempt: Callable[[int], None]
) -> None:
    mine = work(tmp_path, faults={"BOOM": fault}, stall_s=0.2)
    prompts = [f"q{n}" for n in range(20)] + ["BOOM"] + [f"r{n}" for n in range(20)]
    codes, rows = [], list[Row]()
    for number in range(4):
        attempt(number)

        def run() -> None:
            (tmp_path / "rows").write_text(json.dumps(list(mine.answer(cells(mine, *prompts)))))

        codes.append(in_a_process(run))
        if (tmp_path / "rows").exists():
            rows = json.loads((tmp_path / "rows").read_text())
            break
    assert codes == [{"raise": 0, "kill": -9, "stall": 75}[fault]] * 3 + [0]
    assert sorted(r["prompt_id"] for r in rows) == sorted(prompts)
    (bad,) = (r for r in rows if r["status"] != "ok")
    why = {
        "raise": "RuntimeError: the device is lost",
        "kill": "without a word",
        "stall": "no engine step ended in 0.2 s",
    }
    assert (bad["prompt_id"], bad["status"], bad["text"]) == ("BOOM", "error", None)
    assert "the engine died 3 times" in bad["error"] and why[fault] in bad["error"]


def test_two_bad_prompts_of_one_window_are_both_found(tmp_path: Path, attempt: Callable[[int], None]) -> None:
    mine = work(tmp_path, faults={"BOOM": "raise"})
    prompts = ["BOOM 1", *"abcdef", "BOOM 2"]
    for number in range(8):
        attempt(number)
        try:
            rows = list(mine.answer(cells(mine, *prompts)))
        except RuntimeError:
            continue
        break
    assert {r["prompt_id"]: r["status"] for r in rows} == {p: "error" if "BOOM" in p else "ok" for p in prompts}


def test_an_engine_that_dies_while_loading_is_nobodys_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempt: Callable[[int], None], asked: list[str]
) -> None:
    mine, build = work(tmp_path), engines.build

    def broken(*args: object) -> object:
        raise RuntimeError("no memory")

    monkeypatch.setattr(engines, "build", broken)
    for number in range(3):
        attempt(number)
        with pytest.raises(RuntimeError, match="no memory"):
            list(mine.answer(cells(mine, "a")))
    attempt(3)
    monkeypatch.setattr(engines, "build", build)
    assert [r["status"] for r in mine.answer(cells(mine, "a"))] == ["ok"]


def test_a_driver_killed_once_makes_nobody_a_suspect(tmp_path: Path, asked: list[str]) -> None:
    mine = work(tmp_path, faults={"q0": "kill"})
    prompts = [f"q{n}" for n in range(8)]
    assert in_a_process(lambda: list(mine.answer(cells(mine, *prompts)))) == -9
    healthy = work(tmp_path)
    assert len(list(healthy.answer(cells(healthy, *prompts)))) == 8
    assert asked == prompts


def test_discard_and_forget(tmp_path: Path) -> None:
    project: Project = work(tmp_path).project
    for chunk in ("c1", "c2"):
        mine = work(tmp_path, chunk)
        list(mine.answer(cells(mine, "a")))
    journal.discard(project, POLICY.id, "c1")
    assert [f.name for f in journal.folder_of(project, POLICY.id).iterdir()] == ["c2"]
    journal.forget(project, POLICY.id)
    journal.forget(project, POLICY.id)
    assert not journal.folder_of(project, POLICY.id).exists()

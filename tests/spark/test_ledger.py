"""The ledger: only what is missing is asked, nothing is asked twice, whoever dies or comes in between."""

import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from taolake import lake, stages
from taolake.config import Strategy
from taolake.stages import answer, commits, generate, ledger
from taolake.stages.answer import Cells
from taolake.stages.cap import Cap
from taolake.stages.flight import two_in_flight
from taolake.stages.round import Round
from tests.projects import fake_project, open_round, write_log

PLAIN = {"name": "plain", "share": 1}


def asked(folder: Path) -> Counter[str]:
    """Requests that engines were given, by candidate: what the fake engine wrote into its diary."""
    diary = folder / "diary"
    return Counter(line.split()[1] for line in diary.read_text().splitlines()) if diary.exists() else Counter()


class Forgetful(answer.Work):
    """Keeps the last answer to itself."""

    def answer(self, cells: Iterator[Any]) -> Iterator[Any]:
        yield from list(super().answer(cells))[:-1]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log for all tests here, so that it is ingested once."""
    return write_log(tmp_path_factory.mktemp("ledger") / "log.jsonl", [f"question {i}" for i in range(20)])


def started(spark: SparkSession, folder: Path, log: Path, **changes: Any) -> Round:
    """A round whose prompts are in, all of them for training; a log is ingested once, and its lake then copied."""
    ingest = {"holdout": 0.0, "sources": [{"format": "jsonl", "path": str(log), "split": "train"}]}
    engine = {"kind": "fake", "answers": ["select 1", "select 2", "dunno"], "diary": str(folder / "diary")}
    shape = {"n": 4, "review_n": 0, "chunk_rows": 16, "strategies": [PLAIN]} | changes.pop("generate", {})
    round_ = open_round(spark, fake_project(folder, ingest=ingest, generate=shape, **({"engine": engine} | changes)))
    ingested = log.with_suffix(".lake")
    if ingested.exists():
        shutil.copytree(ingested, round_.lake.location)
    _, ran = stages.run(round_, "ingest")
    if ran:
        shutil.copytree(round_.lake.location, ingested)
    return round_


def fill(round_: Round, **counts: int) -> Any:
    """Generate so many samples of these strategies for every training prompt."""
    made = {"plain": round_.project.generate.plain, "warm": Strategy(name="warm", share=0, temperature=0.5)}
    return generate.fill(round_, round_.base, [Cells("train", made[name], n) for name, n in counts.items()])


def keys(round_: Round) -> Counter[tuple[str, str, int]]:
    rows = round_.lake.read(lake.CANDIDATES).select("prompt_id", "strategy", "sample").collect()
    return Counter((r["prompt_id"], r["strategy"].partition("-")[0], r["sample"]) for r in rows)


def test_masks_hold_what_was_put_in() -> None:
    for count in (1, 31, 32, 33, 100):
        rows = [
            {"prompt_id": "p", "messages": [], "strategy": "s", "word": word, "missing": mask}
            for word, mask in enumerate(ledger.masks(count))
        ]
        assert [cell["sample"] for cell in ledger.expand(rows)] == list(range(count))
    holes = {
        "prompt_id": "p",
        "messages": [],
        "strategy": "s",
        "word": 1,
        "missing": 1 << 31 | 0b101,
    }
    assert [cell["sample"] for cell in ledger.expand([holes])] == [32, 34, 63]


def test_growing_asks_for_exactly_the_new_cells(spark: SparkSession, tmp_path: Path, log: Path) -> None:
    """N from 8 to 16, then to 40 with another strategy, then more prompts; then nothing new, which asks nothing."""
    larger = {"chunk_rows": 200}
    round_ = started(spark, tmp_path, log, generate=larger)
    total = 0
    for counts, new in (({"plain": 8}, 160), ({"plain": 16}, 160), ({"plain": 40, "warm": 4}, 560)):
        assert fill(round_, **counts).rows == new
        total += new
        assert sum(asked(tmp_path).values()) == total
    more = write_log(tmp_path / "log.jsonl", [f"question {i}" for i in range(23)])
    grown = started(spark, tmp_path, more, generate=larger)
    assert fill(grown, plain=40, warm=4).rows == 3 * 44
    assert fill(grown, plain=40, warm=4).rows == 0
    assert set(asked(tmp_path).values()) == {1}
    prompts = [r["prompt_id"] for r in grown.lake.read(lake.PROMPTS).collect()]
    wanted = {(p, "plain", i) for p in prompts for i in range(40)} | {(p, "warm", i) for p in prompts for i in range(4)}
    assert keys(grown) == Counter(dict.fromkeys(wanted, 1))


@pytest.mark.slow  # growing and restarting fill holes at the end
def test_a_hole_in_the_middle_is_filled(spark: SparkSession, tmp_path: Path, log: Path) -> None:
    round_ = started(spark, tmp_path, log)
    fill(round_, plain=6)
    before = keys(round_)
    table = round_.lake._delta(lake.CANDIDATES)
    table.delete("sample = 2 AND prompt_id < '8'")
    gone = before - keys(round_)
    assert gone
    assert fill(round_, plain=6).rows == len(gone)
    assert keys(round_) == before


@pytest.mark.slow
def test_chunks_keep_their_ids_when_others_are_done(spark: SparkSession, tmp_path: Path, log: Path) -> None:
    """A run that goes on must find what an earlier one had begun, in whatever order chunks were committed."""
    round_ = started(spark, tmp_path, log)
    wanted = [Cells("train", round_.project.generate.plain, 4)]

    def planned() -> dict[str, ledger.Chunk]:
        return {c.id: c for c in ledger.plan(round_, round_.base, wanted, tmp_path / "plan").chunks}

    before = planned()
    assert len(before) >= 3
    assert sum(chunk.cells for chunk in before.values()) == 80
    middle = list(before)[1]
    run = one_run(round_, wanted, tmp_path / "plan")
    run.commit(before[middle], run.stage(before[middle]))
    assert planned() == {name: chunk for name, chunk in before.items() if name != middle}


def test_what_is_staged_is_not_asked_again(spark: SparkSession, tmp_path: Path, log: Path) -> None:
    round_ = started(spark, tmp_path, log)
    wanted = [Cells("train", round_.project.generate.plain, 4)]
    first = one_run(round_, wanted, tmp_path / "plan")
    chunk = first.plan.chunks[0]
    measured = first.stage(chunk)
    assert sum(asked(tmp_path).values()) == measured["rows"] == chunk.cells
    again = one_run(round_, wanted, tmp_path / "plan")
    found = again.stage(again.plan.chunks[0])
    assert sum(asked(tmp_path).values()) == chunk.cells
    assert found == {name: measured[name] for name in found}
    again.commit(chunk, found)
    assert sum(keys(round_).values()) == chunk.cells


def one_run(round_: Round, wanted: list[Cells], folder: Path) -> generate._Run:
    """What `fill` would do its chunks with."""
    plan = ledger.plan(round_, round_.base, wanted, folder)
    return generate._Run(round_, round_.base, wanted, plan, commits.Desk(round_, round_.base), Quiet())  # type: ignore[arg-type]


class Quiet:
    """Counts nothing."""

    def begin(self, folder: Path) -> None: ...

    def end(self, folder: Path, *counts: int) -> Any:
        from taolake.stages.live import Beats

        return Beats()


@pytest.mark.parametrize("landed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_answers_that_were_not_committed_or_seemed_so_are_not_asked_again(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    """The second commit fails, or lands and its answer is lost."""
    log = write_log(tmp_path / "log.jsonl", [f"question {i}" for i in range(60)])
    round_ = started(spark, tmp_path, log, generate={"chunk_rows": 32})
    append, calls = round_.lake.append_once, iter(range(100))

    def second_fails(*rows: Any) -> None:
        failed = next(calls) == 1
        if landed or not failed:
            append(*rows)
        if failed:
            raise OSError("the disk is full")

    monkeypatch.setattr(round_.lake, "append_once", second_fails)
    with pytest.raises(OSError, match="the disk is full"):
        fill(round_, plain=4)
    interrupted = sum(asked(tmp_path).values())
    assert 0 < interrupted < 240
    assert sum(keys(round_).values()) < interrupted or landed, "the failed chunk was answered and is not in the table"
    fill(round_, plain=4)
    assert set(asked(tmp_path).values()) == {1}
    assert sum(asked(tmp_path).values()) == 240
    assert set(keys(round_).values()) == {1}
    assert list((tmp_path / "work" / "staging").iterdir()) == []
    assert list((tmp_path / "work" / "plan").iterdir()) == []


@pytest.mark.slow
def test_a_chunk_with_too_few_rows_is_not_committed(
    spark: SparkSession, tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    round_ = started(spark, tmp_path, log)
    monkeypatch.setattr(generate, "Work", Forgetful)
    with pytest.raises(RuntimeError, match=r"chunk \w+: got \d+ answers, wanted \d+; nothing of it was committed"):
        fill(round_, plain=4)
    assert not keys(round_)
    monkeypatch.setattr(generate, "Work", answer.Work)
    fill(round_, plain=4)
    assert len(keys(round_)) == sum(keys(round_).values()) == 80


@pytest.mark.slow
def test_the_stage_says_what_the_run_cost(spark: SparkSession, tmp_path: Path, log: Path) -> None:
    poisoned = {"kind": "fake", "answers": ["select 1"], "poison": "question 7"}
    detail = fill(started(spark, tmp_path, log, engine=poisoned), plain=4).detail
    assert detail["candidates"] == 80
    assert detail["failed"] == 4
    assert detail["errors"] == {"error: poison": 4}
    assert detail["tokens_per_s"] > 0
    assert detail["chunks"] >= 3
    assert len(detail["commit_s"]) == 2


# Two chunks in flight


def test_the_next_chunk_is_answered_while_one_is_committed(spark: SparkSession) -> None:
    second_began, log = threading.Event(), []

    def ask(item: int) -> int:
        log.append(("ask", item))
        if item == 1:
            second_began.set()
        return item * 10

    def commit(item: int, half: int) -> int:
        assert item or second_began.wait(20), "the second chunk waited for the commit of the first"
        log.append(("commit", item))
        return half + 1

    assert two_in_flight(spark, range(4), ask, commit) == [1, 11, 21, 31]
    assert log.index(("ask", 1)) < log.index(("commit", 0))
    assert [item for step, item in log if step == "ask"] == [0, 1, 2, 3]


def test_answering_is_never_two_at_once(spark: SparkSession) -> None:
    """Two jobs at once would be given two Python workers, and each its engine on the same device."""
    at_once, most = [0], [0]

    def ask(item: int) -> int:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.02)
        at_once[0] -= 1
        return item

    assert two_in_flight(spark, range(8), ask, lambda item, half: half) == list(range(8))
    assert most == [1]


@pytest.mark.parametrize("step", ["ask", "commit"])
def test_an_error_ends_the_run_after_the_other_chunk(spark: SparkSession, step: str) -> None:
    committed, others, broken = [], threading.Event(), threading.Event()

    def ask(item: int) -> int:
        if item == 2:
            others.set()
            if step == "ask":
                raise ValueError("chunk 2")
        if item == 3 and step == "commit":  # the other chunk, asked while the second one breaks
            assert broken.wait(20)
            time.sleep(0.2)
        return item

    def commit(item: int, half: int) -> int:
        if item == 1 and step == "ask":
            assert others.wait(20)
            time.sleep(0.2)
        if item == 2 and step == "commit":
            broken.set()
            raise ValueError("chunk 2")
        committed.append(item)
        return item

    with pytest.raises(ValueError, match="chunk 2"):
        two_in_flight(spark, range(50), ask, commit)
    assert {0, 1} <= set(committed) <= ({0, 1} if step == "ask" else {0, 1, 3})


# Two drivers


@pytest.fixture
def strict(spark: SparkSession, tmp_path: Path, log: Path) -> tuple[Round, Round]:
    """Two drivers of one strict project, as two processes would have it."""
    first = started(spark, tmp_path, log, generate={"strict": True})
    return first, open_round(spark, first.project)


def test_a_newer_driver_ends_the_older_one(strict: tuple[Round, Round], monkeypatch: pytest.MonkeyPatch) -> None:
    older, newer = strict
    at_work, claimed = threading.Event(), threading.Event()
    commit, errors = commits.Desk.commit, []

    def wait_for_the_other(desk: commits.Desk, chunk: ledger.Chunk) -> None:
        at_work.set()
        if desk._lake is older.lake:
            assert claimed.wait(60)
        else:
            claimed.set()
        commit(desk, chunk)

    def run_older() -> None:
        try:
            fill(older, plain=4)
        except commits.FencedError as error:
            errors.append(str(error))

    monkeypatch.setattr(commits.Desk, "commit", wait_for_the_other)
    thread = threading.Thread(target=run_older)
    thread.start()
    assert at_work.wait(60)
    fill(newer, plain=4)
    thread.join(60)
    assert len(errors) == 1
    assert "epoch 1 of candidates of policy" in errors[0]
    assert "epoch 2 began at" in errors[0]
    assert "nothing of this chunk was committed" in errors[0]
    assert len(keys(newer)) == 80
    assert set(keys(newer).values()) == {1}


def test_drivers_that_both_commit_make_no_duplicates(
    strict: tuple[Round, Round], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst case: both were asked for their epoch before the other began, and commit the same cells at once."""
    monkeypatch.setattr(commits.Epoch, "check", lambda epoch: None)
    together, planners, rows = threading.Barrier(2), set[int](), []
    plan = ledger.plan

    def planned(*words: Any) -> ledger.Plan:
        made = plan(*words)
        if threading.get_ident() not in planners:  # a plan is made anew where the other's journal was taken over
            planners.add(threading.get_ident())
            together.wait(200)
        return made

    monkeypatch.setattr(ledger, "plan", planned)
    threads = [threading.Thread(target=lambda r=r: rows.append(fill(r, plain=4).rows)) for r in strict]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(250)
    assert len(rows) == 2, "a driver ended with an error"
    assert max(rows) > 40, "they did not want the same cells"
    assert len(keys(strict[0])) == 80
    assert set(keys(strict[0]).values()) == {1}


@pytest.mark.slow
def test_a_round_stops_at_its_limit_and_goes_on_with_a_higher_one(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at before every chunk: what is committed stays, and the next run asks for the others alone."""
    write_log(tmp_path / "log.jsonl", [f"question {i}" for i in range(24)])
    generate = {"n": 6, "review_n": 0, "chunk_rows": 16, "strategies": [{"name": "plain", "share": 1}]}
    round_ = open_round(spark, fake_project(tmp_path, generate=generate))
    stages.run(round_, "ingest")
    looks = iter([True] * 3)

    def spent(cap: Cap) -> None:
        if not next(looks, False):
            raise RuntimeError("raise cost.max_dollars")

    with monkeypatch.context() as poor, pytest.raises(RuntimeError, match=r"raise cost\.max_dollars"):
        poor.setattr(Cap, "check", spent)
        stages.run(round_, "generate")
    assert round_.records()["generate"].state == "failed"
    kept = {row["candidate_id"]: row["chunk_id"] for row in round_.lake.read(lake.CANDIDATES).collect()}
    assert kept
    stages.run(round_, "generate")
    everything = {row["candidate_id"]: row["chunk_id"] for row in round_.lake.read(lake.CANDIDATES).collect()}
    assert len(everything) == round_.lake.read(lake.CANDIDATES).count() > len(kept)
    assert kept.items() <= everything.items()

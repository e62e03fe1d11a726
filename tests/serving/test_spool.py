"""The spool and the drain: what was acknowledged reaches the table once, whatever is killed in between."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from taolake import lake
from taolake.gateway import drain, server, servers
from taolake.gateway.spool import Spool
from taolake.lake import direct

WRITER = """
import asyncio, sys, time
from pathlib import Path
from taolake.gateway.spool import Spool
sys.path.insert(0, sys.argv[2])
from tests.serving.test_spool import line

async def main():
    spool = Spool(Path(sys.argv[1]), 0.2)
    async def one(k):
        n = 0
        while True:
            await spool.add(line(f"{k}-{n}"))
            print(f"{k}-{n}", flush=True)
            n += 1
    await asyncio.gather(*(one(k) for k in range(8)))

asyncio.run(main())
"""


def line(name: str, **more: Any) -> dict[str, Any]:
    return {
        "kind_of_row": "payload", "id": name, "client_id": None, "time_us": 1_750_000_000_000_000, "status": 200,
        "sampled": 1.0, "took_ms": 5, "first_ms": 1, "request": "{}", "response": "{}", "streamed": False,
        "errors": None, "entity": "m/1", "requester": "kim", "share": None, "session": None, **more,
    }  # fmt: skip


def reaction(request: str, value: float, time_us: int) -> dict[str, Any]:
    return {
        "kind_of_row": "reaction", "request_id": request, "source": "thumb:kim", "kind": "thumb", "value": value,
        "text": None, "requester": "kim", "time_us": time_us,
    }  # fmt: skip


def fill(folder: Path, *rows: dict[str, Any]) -> None:
    async def add() -> None:
        await asyncio.gather(*map(spool.add, rows))

    spool = Spool(folder, 60)
    asyncio.run(add())
    spool.close()


def table(folder: Path, named: lake.Table) -> list[dict[str, Any]]:
    return list(DeltaTable(f"{folder}/{named.name}").to_pyarrow_table().to_pylist())


def test_rows_reach_their_tables_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, where = tmp_path / "spool", str(tmp_path / "lake")
    fill(spool, line("a"), line("b", response=None, errors=["MAX_RESPONSE_SIZE_EXCEEDED"]), reaction("a", 1.0, 1))
    with monkeypatch.context() as patched:  # killed between the commit and the removal
        patched.setattr(Path, "unlink", lambda self, **kwargs: None)
        assert drain.drain(spool, where) == 3
    assert drain.drain(spool, where) == 3  # tried again
    assert list(spool.glob("*.sealed")) == []
    rows = sorted(table(tmp_path / "lake", lake.PAYLOADS), key=lambda r: str(r["databricks_request_id"]))
    assert [r["databricks_request_id"] for r in rows] == ["a", "b"]
    assert rows[1]["logging_error_codes"] == ["MAX_RESPONSE_SIZE_EXCEEDED"] and rows[1]["response"] is None
    assert str(rows[0]["request_date"]) == "2025-06-15"
    assert len(table(tmp_path / "lake", lake.REACTIONS)) == 1
    assert drain.drain(spool, where) == 0


def test_every_word_is_kept_and_only_added(tmp_path: Path) -> None:
    """A stream that reads the table skips commits that change rows, and with them what else they hold."""
    where = str(tmp_path / "lake")
    fill(tmp_path / "spool", reaction("a", 1.0, 10), reaction("b", 1.0, 10))
    drain.drain(tmp_path / "spool", where)
    fill(tmp_path / "spool", reaction("a", -1.0, 15), reaction("c", 1.0, 15))
    drain.drain(tmp_path / "spool", where)
    rows = table(tmp_path / "lake", lake.REACTIONS)
    assert sorted((r["request_id"], r["value"]) for r in rows) == [("a", -1.0), ("a", 1.0), ("b", 1.0), ("c", 1.0)]
    written = DeltaTable(f"{where}/reactions").history()
    assert [w["operation"] for w in written] == ["WRITE", "WRITE", "CREATE TABLE"]


def test_a_torn_line_is_kept_aside_and_its_neighbours_are_written(tmp_path: Path) -> None:
    fill(tmp_path / "spool", line("a"), line("b", request='"\ud800"'))
    (sealed,) = (tmp_path / "spool").glob("*.sealed")
    sealed.write_bytes(sealed.read_bytes() + json.dumps(line("c")).encode()[:50])
    assert drain.drain(tmp_path / "spool", str(tmp_path / "lake")) == 2
    assert [r["request"] for r in table(tmp_path / "lake", lake.PAYLOADS) if r["databricks_request_id"] == "b"] == [
        '"?"'
    ]
    (bad,) = (tmp_path / "spool").glob("*.bad")
    assert bad.read_bytes() == json.dumps(line("c")).encode()[:50]


def test_a_lake_that_cannot_be_written_keeps_the_rows(tmp_path: Path) -> None:
    fill(tmp_path / "spool", line("a"))
    (tmp_path / "lake").write_text("a file where the folder should be")
    with pytest.raises(DeltaError, match="Not a directory"):
        drain.drain(tmp_path / "spool", str(tmp_path / "lake"))
    (tmp_path / "lake").unlink()
    assert drain.drain(tmp_path / "spool", str(tmp_path / "lake")) == 1


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    first = Spool(tmp_path, 60)
    with pytest.raises(RuntimeError, match="another `taolake serve`"):
        Spool(tmp_path, 60)
    first.close()
    Spool(tmp_path, 60).close()


def test_small_files_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "_COMPACT_EVERY", 4)
    for number in range(6):
        fill(tmp_path / "spool", line(f"r{number}"))
        drain.drain(tmp_path / "spool", str(tmp_path / "lake"))
    found = sorted(str(r["databricks_request_id"]) for r in table(tmp_path / "lake", lake.PAYLOADS))
    assert found == [f"r{number}" for number in range(6)]
    assert len(DeltaTable(f"{tmp_path}/lake/payloads").file_uris()) < 6


def test_a_catalog_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wanted a folder"):
        direct.append_once("main.tuning", lake.PAYLOADS, [], "c")


def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """The writer is killed while it writes, twice; every id it printed is in the table, and none is there twice."""
    spool, root, acknowledged = tmp_path / "spool", str(Path(__file__).parents[2]), []
    command = [sys.executable, "-c", WRITER, str(spool), root]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([f"{root}/src", os.environ.get("PYTHONPATH", "")])}
    for life in range(2):
        with (tmp_path / f"said-{life}").open("wb") as said:
            writer = subprocess.Popen(command, stdout=said, env=environment)
            deadline = time.monotonic() + 60
            while (tmp_path / f"said-{life}").stat().st_size < 4000:
                assert writer.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        whole = (tmp_path / f"said-{life}").read_text().rpartition("\n")[0]
        acknowledged.append(whole.splitlines())
        Spool(spool, 60).close()  # what `taolake serve` does when it starts again
        drain.drain(spool, f"{tmp_path}/lake-{life}")
        found = [str(r["databricks_request_id"]) for r in table(tmp_path / f"lake-{life}", lake.PAYLOADS)]
        assert len(acknowledged[life]) > 200
        assert set(acknowledged[life]) - set(found) == set()
        assert len(found) == len(set(found))


def test_the_drain_ends_with_the_gateway_and_looks_once_more(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "taolake.gateway.drain", str(tmp_path / "spool"), str(tmp_path / "lake"), "3600"]
    (tmp_path / "spool").mkdir()
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    fill(tmp_path / "spool", line("a"))
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 0
    assert len(table(tmp_path / "lake", lake.PAYLOADS)) == 1


def test_a_drain_that_dies_is_replaced(tmp_path: Path) -> None:
    plan = servers.Plan("shop", str(tmp_path / "lake"), tmp_path, (), ())
    before = set(psutil.Process().children())
    with server.draining(plan, 0.2):
        (drain_,) = set(psutil.Process().children()) - before
        drain_.kill()
        fill(tmp_path / "spool", line("a"))
        deadline = time.monotonic() + 60
        while list((tmp_path / "spool").glob("*.sealed")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert len(table(tmp_path / "lake", lake.PAYLOADS)) == 1
    assert set(psutil.Process().children()) <= before

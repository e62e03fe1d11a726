"""Files beside the tables that quote what people wrote: taking values out of them, each kind in its own way.

What can be made again is deleted: journals, staged chunks, plans, report pages. What is needed is rewritten without the
rows that hold a value: training files, JSON, logs. What can be neither is left, and found by the proof that comes after
(model weights, databases). Not here: tables (`forget`).
"""

import json
import shutil
from collections.abc import Container, Iterable
from pathlib import Path

from taolake.curation.needles import Needles, scan, scrubbed
from taolake.training.job import write_atomic

AGAIN = ("journal", "staging", "plan", "progress")  # folders of `work` whose chunks the next run makes again
_PAGES = {".html", ".htm", ".md", ".csv", ".svg", ".png"}
_LINES = {".jsonl", ".log", ".txt"}


def clean(work: Path, folders: Iterable[Path], needles: Needles, spared: Container[Path] = ()) -> None:
    """Take the values out of every file below `work` and the other folders, but for those that are spared."""
    for path in sorted(scan([work, *folders], needles)):
        if path.exists() and path not in spared:  # a chunk may have gone with another of its files
            _clean(work, path, needles)


def _clean(work: Path, path: Path, needles: Needles) -> None:
    chunk = _chunk(work, path)
    if chunk is not None:
        shutil.rmtree(chunk) if chunk.is_dir() else chunk.unlink()
    elif path.suffix in _PAGES:
        path.unlink()
    elif path.suffix == ".parquet":
        _rows(path, needles)
    elif path.suffix in _LINES:
        kept = [line for line in path.read_bytes().splitlines(keepends=True) if not needles.found(line)]
        _write(path, b"".join(kept))
    elif path.suffix == ".json":
        value = json.loads(path.read_text(encoding="utf-8"))
        write_atomic(path, json.dumps(scrubbed(value, needles), indent=1))


def _chunk(work: Path, path: Path) -> Path | None:
    """The chunk a file belongs to, where it belongs to one: what lies two levels below journal, staging or plan."""
    parts = path.relative_to(work).parts if path.is_relative_to(work) else ()
    return Path(work, *parts[:3]) if parts and parts[0] in AGAIN else None


def _rows(path: Path, needles: Needles) -> None:
    """Rewrite a Parquet file without the rows that hold a value; its columns and types stay."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    kept = [i for i, row in enumerate(table.to_pylist()) if not needles.hit(json.dumps(row, default=str))]
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(table.take(kept), partial)
    partial.replace(path)


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)

"""Carry sealed segments of the spool into their tables, each exactly once; a process of its own.

    python -m taolake.gateway.drain <spool> <lake> <seconds>

The gateway's event loop must not wait for Delta, nor share its interpreter with it. A segment is one commit under its
own name, so one that was committed and not yet removed when a kill came is not committed again. Ends when its standard
input does, after a last look; a second drain of the same folder waits for the first.
"""

import json
import os
import select
import sys
import time
from pathlib import Path

from taolake.gateway import rows
from taolake.gateway.spool import SEALED

_BAD = ".bad"  # lines that cannot be read; kept, never retried


def drain(spool: Path, location: str) -> int:
    """Write every sealed segment into its tables and remove it; returns how many rows that were."""
    return sum(_carry(segment, location) for segment in sorted(spool.glob(f"*{SEALED}")))


def _carry(segment: Path, location: str) -> int:
    from taolake import lake
    from taolake.lake import direct

    found: dict[str, list[rows.Row]] = {rows.PAYLOAD: [], rows.REACTION: []}
    bad = []
    for line in segment.read_bytes().splitlines(keepends=True):
        try:
            said = json.loads(line.decode("utf-8", "surrogatepass"))
            made = rows.payload(said) if said["kind_of_row"] == rows.PAYLOAD else rows.reaction(said)
            found[said["kind_of_row"]].append(_clean(made))
        except (ValueError, KeyError, TypeError):  # torn by a kill, and so never acknowledged
            bad.append(line)
    for kind, table in ((rows.PAYLOAD, lake.PAYLOADS), (rows.REACTION, lake.REACTIONS)):
        if found[kind]:
            direct.append_once(location, table, found[kind], segment.stem)
    if bad:
        segment.with_suffix(_BAD).write_bytes(b"".join(bad))
    segment.unlink()
    return sum(map(len, found.values()))


def _clean(row: rows.Row) -> rows.Row:
    """Without halves of surrogate pairs, which JSON can say and a table cannot hold."""
    return {
        key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for key, value in row.items()
    }


def main() -> None:
    """Drain every so often, and once more when the gateway is gone."""
    from taolake.engines.reaper import alone

    spool, location, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    os.nice(10)  # answers come first
    with alone(spool / "drain.lock"):
        ended = False
        while not ended:
            ended = bool(select.select([sys.stdin], [], [], seconds)[0]) and not sys.stdin.read()
            try:
                drain(spool, location)
            except Exception as error:  # boundary: rows wait in their files until the lake can be written again
                print(f"{time.strftime('%FT%TZ', time.gmtime())} {type(error).__name__}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()

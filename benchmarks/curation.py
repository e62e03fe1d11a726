"""What curation finds, what it lets through, and how its time and memory grow with the log.

Logs in the shape of an AI Gateway table, with planted personal data, exact and near duplicates, broken rows and
feedback, go through `collect` and `ingest`, a quarter of the rows and all of them, each in a process of its own. Then
every table downstream is searched for what was planted, and pairs across the split are looked for by another way than
the one that made it: the smallest of the hashes of all runs of six words. Recall and precision by kind are also
measured on sentences of their own, where numbers that are nobody's stand beside the planted ones. Names are looked for
where TAOLAKE_NAMES names an installed spaCy model, and rows are as many as TAOLAKE_CURATION_ROWS says. What is not
shown: real people's ways of writing, other countries' formats, several machines.
"""

import argparse
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _form import run

FOLDER = Path("build/bench/curation")
SEED = 7
PER_FILE = 20_000
KINDS = ("EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS")
SIMILAR = 0.8
SYLLABLES = ("lo", "mi", "ra", "te", "so", "ku", "ve", "dan", "pel", "rim", "stu", "gon", "fa", "bir", "wen", "cho")
WORDS = [a + b + c for a in SYLLABLES for b in SYLLABLES for c in ("", "s", "en")]
AROUND = {
    "EMAIL_ADDRESS": ("write to {}", "my address is {} and I wait", "from: {}"),
    "PHONE_NUMBER": ("call me at {}", "my number is {}", "phone {} after six"),
    "CREDIT_CARD": ("charge {} please", "my card {} was refused"),
    "IBAN_CODE": ("pay to {}", "the account is {} I think"),
    "IP_ADDRESS": ("I come from {}", "the host {} does not answer"),
}
NOBODYS = (
    "order {d8} is late", "on 2026-0{d1}-1{d1} at 1{d1}:2{d1}", "{d3} of {d4} pieces", "version {d1}.{d1}.{d2}",
    "ticket {d6}", "it costs {d4}.{d2} dollars", "invoice {d8}", "between {d6} and {d6}", 
    "@{d3} said so",
)  # fmt: skip


def measure(quick: bool) -> dict[str, Any]:
    """Sentences, then the whole way twice."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = int(os.environ.get("TAOLAKE_CURATION_ROWS", 0)) or (20_000 if quick else 1_000_000)
    sentences = arm("sentences", 500 if quick else 5_000)
    small, large = arm("way", rows // 4), arm("way", rows)
    exponent = math.log(large["seconds"] / small["seconds"]) / math.log(large["rows"] / small["rows"])
    return {
        "sentences": sentences,
        **large,
        "rows_per_second": large["rows"] / large["seconds"],
        "quarter_seconds": small["seconds"],
        "exponent": exponent,
        "worker_growth": large["worker_mib"] / small["worker_mib"],
    }


def arm(name: str, rows: int) -> Any:
    """One part in a process of its own."""
    out = FOLDER / "result.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--arm", name, "--rows", str(rows), "--json", str(out)]
    with (FOLDER / f"{name}.log").open("w") as log:
        subprocess.run(command, check=True, stderr=log)
    result = json.loads(out.read_text())
    print(f"{name:10} {rows} rows in {result.get('seconds', 0.0):.1f} s", file=sys.stderr)
    return result


def drawn(*parts: Any) -> random.Random:
    return random.Random(f"{SEED}:{parts}")


def value(kind: str, draw: random.Random) -> str:
    """A made-up value that is well formed: checksums right, numbers that could be dialled."""
    match kind:
        case "EMAIL_ADDRESS":
            name = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=8))
            host = draw.choice(("example.org", "mail.example.com", "example.co.uk", "office.internal"))
            return f"{name}{draw.choice(('', '.', '+', '_'))}{draw.randint(1, 999)}@{host}"
        case "PHONE_NUMBER":
            area, last = draw.choice((212, 415, 312, 617, 206)), f"{draw.randint(0, 9999):04d}"
            shape = draw.choice(("({}) {}-{}", "{}-{}-{}", "+1 {} {} {}", "{}.{}.{}"))
            london, berlin = f"+44 20 7946 {last}", f"+49 30 901{last}"
            return draw.choice((shape.format(area, draw.randint(230, 989), last),) * 3 + (london, berlin))
        case "CREDIT_CARD":
            digits = [4, *(draw.randint(0, 9) for _ in range(14))]
            odd = sum(d * 2 - 9 * (d > 4) for d in digits[::2]) + sum(digits[1::2])
            text = "".join(map(str, [*digits, -odd % 10]))
            return draw.choice(
                (
                    text,
                    " ".join(text[i : i + 4] for i in range(0, 16, 4)),
                    text[:4] + "-" + text[4:8] + "-" + text[8:12] + "-" + text[12:],
                )
            )
        case "IBAN_CODE":
            account = "".join(str(draw.randint(0, 9)) for _ in range(18))
            check = 98 - int(account + "131400") % 97  # DE is 1314
            text = f"DE{check:02d}{account}"
            return draw.choice((text, " ".join(text[i : i + 4] for i in range(0, 22, 4))))
    four = ".".join(str(draw.randint(1, 254)) for _ in range(4))
    return draw.choice((four, four, f"2001:db8:{draw.randint(1, 9999)}::{draw.randint(1, 99)}"))


def sentence(kind: str, draw: random.Random) -> tuple[str, str]:
    planted = value(kind, draw)
    return draw.choice(AROUND[kind]).format(planted), planted


def nobodys(draw: random.Random) -> str:
    digits = {f"d{n}": "".join(str(draw.randint(1, 9)) for _ in range(n)) for n in (1, 2, 3, 4, 6, 8)}
    return draw.choice(NOBODYS).format(**digits)


def sentences(count: int) -> dict[str, Any]:
    """Recall and precision by kind; a find is right if it lies in what was planted, and whole if it covers it."""
    from taolake.curation.redact import Redactor

    model = os.environ.get("TAOLAKE_NAMES")
    clean = Redactor(model)
    planted: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    finds: Counter[str] = Counter()
    right: Counter[str] = Counter()
    started = time.monotonic()
    kinds = (*KINDS, "PERSON") if model else KINDS
    for kind in kinds:
        for i in range(count):
            draw = drawn(kind, i)
            said, what = person(draw) if kind == "PERSON" else sentence(kind, draw)
            before = f"{nobodys(draw)}. "
            text = f"{before}{said}. {nobodys(draw)}"
            start = len(before) + said.index(what)
            planted[kind] += 1
            covered = False
            for span in clean.find(text):
                hit = span.start >= start - 1 and span.end <= start + len(what) + 1
                covered |= span.start <= start and span.end >= start + len(what)
                finds[span.kind] += 1
                right[span.kind] += hit
            whole[kind] += covered
    seconds = time.monotonic() - started
    by_kind = {k: {"recall": whole[k] / planted[k], "precision": right[k] / max(1, finds[k])} for k in kinds}
    return {**by_kind, "names": model or "no model installed", "per_second": sum(planted.values()) / seconds}


FIRST = ("Anna", "James", "Maria", "David", "Laura", "Peter", "Susan", "Thomas", "Emily", "Robert", "Julia", "Michael")
LAST = ("Miller", "Schmidt", "Garcia", "Johnson", "Novak", "Williams", "Rossi", "Brown", "Fischer", "Taylor", "Lopez")


def person(draw: random.Random) -> tuple[str, str]:
    name = f"{draw.choice(FIRST)} {draw.choice(LAST)}"
    return draw.choice(("My name is {}", "Please tell {} that I called", "I spoke to {} yesterday")).format(name), name


def question(i: int) -> str:
    """What row i asks: every tenth a changed copy of an earlier one, every fifth with something personal."""
    draw = drawn("row", i)
    if i % 10 == 9:
        said = drawn_words(i - 5)
        said[draw.randrange(len(said))] = draw.choice(WORDS)
    else:
        said = drawn_words(i)
    planted = "".join(f". {sentence(kind, draw)[0]}" for kind in planted_kinds(i))
    return " ".join(said) + planted


def drawn_words(i: int) -> list[str]:
    draw = drawn("words", i)
    return draw.choices(WORDS, k=draw.randint(24, 40))


def planted_kinds(i: int) -> tuple[str, ...]:
    return (KINDS[(i // 5) % len(KINDS)],) if i % 5 == 2 else ()


def planted_in(i: int) -> list[str]:
    """What was planted in row i, and in its feedback, drawn as the row draws it."""
    draw = drawn("row", i)
    return [*(sentence(kind, draw)[1] for kind in planted_kinds(i)), *([feedback(i)[1]] if i % 20 == 0 else [])]


def feedback(i: int) -> tuple[str, str]:
    return sentence("EMAIL_ADDRESS", drawn("feedback", i))


def log_rows(count: int) -> Iterator[dict[str, Any] | str]:
    """Rows of the log: a fiftieth twice, a two-hundredth broken, a twentieth with a comment."""
    for i in range(count):
        body = json.dumps({"messages": [{"role": "user", "content": question(i)}]})
        said = {"choices": [{"message": {"role": "assistant", "content": f"Noted. {question(i)}"}}]}
        at = f"2026-11-{1 + i * 20 // count:02d}T{i % 24:02d}:{i % 60:02d}:00Z"
        row = {"databricks_request_id": f"r{i}", "request_time": at, "status_code": 200, "request": body,
               "response": json.dumps(said), "served_entity_id": f"v{i % 3}", 
               "requester": f"user{i % 997}@example.org"}  # fmt: skip
        if i % 200 == 7:
            yield f'{{"databricks_request_id": "r{i}", "requester": "user{i}@example.org", '
            continue
        yield row
        if i % 50 == 1:
            yield row
        if i % 20 == 0:
            yield {
                "request_id": f"r{i}",
                "source": "thumb:web",
                "kind": "thumb",
                "value": 1.0,
                "text": feedback(i)[0],
                "at": at,
            }


def written(count: int) -> tuple[Path, int]:
    """The log as files of some thousand rows, and how many rows."""
    folder, rows = FOLDER / f"log-{count}", 0
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    handle = None
    for row in log_rows(count):
        if rows % PER_FILE == 0:
            if handle:
                handle.close()
            handle = (folder / f"{rows // PER_FILE:05d}.jsonl").open("w")
        assert handle is not None
        handle.write((row if isinstance(row, str) else json.dumps(row)) + "\n")
        rows += 1
    if handle:
        handle.close()
    return folder, rows


def project(count: int, log: Path) -> Any:
    """A project that only collects and curates."""
    from taolake.config import Project

    lake = FOLDER / f"lake-{count}"
    for folder in (lake, FOLDER / f"work-{count}"):
        shutil.rmtree(folder, ignore_errors=True)
    shape = {
        "name": "curation",
        "seed": SEED,
        "lake": str(lake),
        "work": str(FOLDER / f"work-{count}"),
        "task": {"name": "curation"},
        "collect": {"sources": [{"path": str(log)}]},
        "ingest": {
            "sources": [{"format": "inference_log", "path": "inference_log"}],
            "curate": {"similarity": SIMILAR},
        },
        "model": {"path": "none"},
        "engine": {"kind": "fake", "answers": ["yes"]},
        "generate": {"strategies": [{"name": "plain", "share": 1}]},
        "scorers": [{"kind": "regex", "name": n, "pattern": "."} for n in ("reward", "judge")],
        "reward": {"weights": {"reward": 1}},
        "evaluate": {"judge": "judge"},
        "register": {"name": "none"},
    }
    return Project.model_validate(shape)


def way(count: int) -> dict[str, Any]:
    """Log to prompts; the clock runs over the two stages, the warm-up of a small log before it does not count."""
    from taolake import lake
    from taolake.lake import Lake
    from taolake.session import local_session
    from taolake.stages.collect import collect
    from taolake.stages.ingest import ingest
    from taolake.stages.round import Round

    spark = local_session(extra={"spark.sql.shuffle.partitions": "8"})
    warm, _ = written(1_000)
    round_ = Round(Lake(spark, (shape := project(1_000, warm)).lake), shape)
    collect(round_), ingest(round_)
    log, rows = written(count)
    # A search for what was never there would find nothing: what is looked for stands in the log.
    assert all(each in question(i) + feedback(i)[0] for i in range(min(count, 2_000)) for each in planted_in(i))
    round_ = Round(Lake(spark, (shape := project(count, log)).lake), shape)
    with Memory() as memory:
        started = time.monotonic()
        collected = collect(round_).detail
        between = time.monotonic()
        ingested = ingest(round_).detail
        seconds = time.monotonic() - started
    prompts = round_.lake.read(lake.PROMPTS).toPandas()
    found = {
        "rows": rows,
        "seconds": seconds,
        "collect_seconds": between - started,
        "ingest_seconds": seconds - (between - started),
        "worker_mib": memory.workers / 2**20,
        "total_mib": memory.total / 2**20,
        "unaccounted": collected["in"] - sum(collected[n] for n in ("kept", "folded", "quarantined"))
        + ingested["in"] - sum(ingested[n] for n in ("kept", "folded", "quarantined")),
        "planted": sum(len(planted_in(i)) for i in range(count) if i % 200 != 7),
        "leaks": leaks(round_),
        **duplicates(count, prompts),
    }  # fmt: skip
    spark.stop()
    return found


def leaks(round_: Any) -> int:
    """Rows downstream that hold what was planted in them, or any address at all."""
    from taolake import lake
    from taolake.stages.fanout import map_rows

    address = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+")

    def search(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            number = re.search(r'"request_id":"r(\d+)"', row["row"])
            planted = planted_in(int(number[1])) if number else []
            if address.search(row["row"]) or any(each in row["row"] for each in planted):
                yield {"leak": row["row"][:100]}

    found = 0
    for table in (lake.INFERENCE_LOG, lake.FEEDBACK, lake.QUARANTINE, lake.PROMPTS):
        rows = round_.lake.read(table).selectExpr("to_json(struct(*)) AS row")
        leaked = map_rows(rows, "leak STRING", search).collect()
        print(table.name, [row["leak"] for row in leaked[:5]], file=sys.stderr)
        found += len(leaked)
    return found


def duplicates(count: int, prompts: Any) -> dict[str, Any]:
    """Planted pairs that share a cluster, and pairs across the split that another way of looking finds."""
    import numpy as np

    from taolake.curation import alike

    text = [messages[-1]["content"] for messages in prompts["messages"]]
    place = {request: i for i, request in enumerate(prompts["request_id"])}
    cluster, split = prompts["cluster"].to_numpy(), prompts["split"].to_numpy()

    def close(one: int, other: int) -> bool:
        return alike.similarity(alike.shingles(text[one]), alike.shingles(text[other])) >= SIMILAR

    copies = [(place.get(f"r{i}"), place.get(f"r{i - 5}")) for i in range(9, count, 10)]
    near = [(a, b) for a, b in copies if a is not None and b is not None and close(a, b)]
    together = sum(cluster[a] == cluster[b] for a, b in near)

    owner: list[int] = []
    marks: list[int] = []
    for i, said in enumerate(text):
        words = said.split()
        runs = sorted({hash(tuple(words[at : at + 6])) for at in range(max(1, len(words) - 5))})[:4]
        owner += [i] * len(runs)
        marks += runs
    order = np.argsort(np.array(marks), kind="stable")
    owners, sorted_ = np.array(owner)[order], np.array(marks)[order]
    same = np.flatnonzero(sorted_[:-1] == sorted_[1:])
    looked = {tuple(sorted(pair)) for pair in zip(owners[same], owners[same + 1], strict=True)}
    crossing = sum(split[a] != split[b] and close(a, b) for a, b in looked)
    return {
        "near_pairs": len(near),
        "near_recall": together / max(1, len(near)),
        "pairs_looked_at": len(looked),
        "pairs_across": int(crossing) + sum(split[a] != split[b] for a, b in near),
        "prompts": len(text),
        "holdout": float((split == "holdout").mean()),
    }


class Memory:
    """Largest resident memory of Spark's Python workers, and of everything below this process."""

    def __enter__(self) -> "Memory":
        self.workers = self.total = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        import contextlib

        import psutil

        while not self._stop.wait(0.3):
            with contextlib.suppress(psutil.Error):  # a process ended while it was looked at
                # By what they run: what the JVM forks has its memory, under another name, for a moment.
                sizes = [(p.exe(), p.memory_info().rss) for p in psutil.Process().children(recursive=True)]
                self.workers = max(self.workers, sum(rss for exe, rss in sizes if not exe.endswith("/java")))
                self.total = max(self.total, sum(rss for _, rss in sizes) + psutil.Process().memory_info().rss)


TARGETS = {
    **{f"sentences.{kind}.recall": (">=", 0.95) for kind in KINDS},
    "near_recall": (">=", 0.95),
    "pairs_across": ("==", 0),
    "leaks": ("==", 0),
    "unaccounted": ("==", 0),
    "worker_growth": ("<=", 1.25),
    "exponent": ("<=", 1.1),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--arm", choices=["sentences", "way"])
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked, _ = parser.parse_known_args()
    if asked.arm is None:
        names = {"sentences.PERSON.recall": (">=", 0.95)} if os.environ.get("TAOLAKE_NAMES") else {}
        run("curation", measure, TARGETS | names, seeds=[SEED])
    result = sentences(asked.rows) if asked.arm == "sentences" else way(asked.rows)
    asked.json.write_text(json.dumps(result))

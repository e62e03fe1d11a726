"""Run a notebook as Databricks would: a fake `dbutils` hands over widgets and keeps what the notebook gives back."""

import contextlib
import runpy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pyspark.sql import SparkSession

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


class Exited(BaseException):
    """`dbutils.notebook.exit` ends a notebook, whatever comes after it."""


@dataclass
class FakeDbutils:
    """Widgets answer with `params`, or their default; task values, displays and the exit value are kept."""

    params: Mapping[str, str] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    shown: list[Any] = field(default_factory=list)
    exited: str | None = None

    @property
    def widgets(self) -> SimpleNamespace:
        return SimpleNamespace(text=self._text, get=self._get)

    @property
    def jobs(self) -> SimpleNamespace:
        return SimpleNamespace(taskValues=SimpleNamespace(set=self._set))

    @property
    def notebook(self) -> SimpleNamespace:
        return SimpleNamespace(exit=self._exit)

    def _text(self, name: str, default: str, label: str = "") -> None:
        self.defaults[name] = default

    def _get(self, name: str) -> str:
        if name not in self.defaults:
            raise KeyError(f"widget {name!r} is read before it is made; Databricks would refuse it")
        return self.params.get(name, self.defaults[name])

    def _set(self, key: str, value: Any) -> None:
        self.values[key] = value

    def _exit(self, value: str) -> None:
        self.exited = value
        raise Exited


def run_notebook(name: str, spark: SparkSession, params: Mapping[str, str]) -> FakeDbutils:
    """Run `notebooks/<name>.py` with widget values; returns what it set, showed and left with."""
    dbutils = FakeDbutils(params)
    with contextlib.suppress(Exited):
        runpy.run_path(
            str(NOTEBOOKS / f"{name}.py"),
            init_globals={"spark": spark, "dbutils": dbutils, "display": dbutils.shown.append},
        )
    return dbutils

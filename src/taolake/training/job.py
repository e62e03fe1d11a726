"""What to train and what came out: the two values that cross the process border. No torch, no Spark.

Not a trainer and not a launcher (`launch.py`). Rows come as Parquet. For policies the columns are:

- `kind`: `imitate` (a winner to imitate), `regress` (a scored on-policy candidate), `chosen` and `rejected` (the two
  sides of a prompt's pair), `good` and `bad` (an answer by itself), `prompt` (a prompt alone), `dev` (one the brakes
  look at),
- `prompt_id`, and `messages`: the bare conversation as JSON,
- `text`: the answer; `token_ids`: its sampled ids as generated, with the end mark if it ended; empty where it is to be
  rendered, because another prompt than the bare one wrote it,
- `reward`, `advantage`, `weight`.

For `reward` they are `messages`, `chosen`, `rejected` and `part` (`train` or `eval`).
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from taolake.config import Algorithm
from taolake.ids import content_hash, file_hash

RESULT = "result.json"
TRIPS = "trips.json"
# Their equal rows are one, which once they were not: a checkpoint from then would go on amid another schedule.
_FOLDING = ("tao", "rft", "bond")


@dataclass(frozen=True)
class TrainJob:
    """One training run.

    Attributes:
        algorithm: what to run; `reward` trains a reward model, the others a policy.
        base: folder of the model to start from; it is also the reference of every probability ratio.
        rows: Parquet file, columns as in the module's docstring.
        out: folder of the job; it holds one job for life.
        settings: `config.Train` as a dict, or `config.RewardModelScorer` for `reward`.
        seed: every draw of the run derives from it.
        max_length: prompt plus answer, in tokens; longer rows are left out and counted.
        dtype: type of the base's weights, as in `config.Model`.
        warmup: for `tao`, whether imitation comes before the regression.
        project: the whole `config.Project` by alias; for `grpo`, `rloo` and brakes, which score while they train.
        reward_model: folders of the reward models that the reward reads, by scorer; with `project` alone.
    """

    algorithm: Algorithm | Literal["reward"]
    base: str
    rows: str
    out: str
    settings: dict[str, Any]
    seed: int
    max_length: int
    dtype: str
    warmup: bool = True
    project: dict[str, Any] | None = None
    reward_model: dict[str, str] | None = None
    attempt: int = 1

    def to_json(self) -> str:
        """Write the job as JSON."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))

    @property
    def fingerprint(self) -> str:
        """Content hash of the job, its rows and what a trainer reads of the project; where it writes does not count."""
        folds = {"folded": True} if self.algorithm in _FOLDING else {}
        read = self.project and {
            **{name: self.project[name] for name in ("scorers", "reward", "model")},
            "best_of": self.project["select"]["best_of"],
            "strategies": self.project["generate"]["strategies"],
        }
        return content_hash({**asdict(self), "rows": file_hash(Path(self.rows)), "out": "", "project": read, **folds})

    @property
    def processes(self) -> int:
        """How many processes train it together."""
        return int(self.settings.get("processes", 1))

    @property
    def work(self) -> Path:
        """Folder of checkpoints and other half-done things, gone when the job is done."""
        return Path(self.out) / ("work" if self.attempt == 1 else f"work-{self.attempt}")

    def eased(self) -> Self:
        """The job at half the rate and half the length, for another attempt."""
        return replace(self, settings={k: _halved(v) for k, v in self.settings.items()}, attempt=self.attempt + 1)


@dataclass(frozen=True)
class TrainResult:
    """What a job made. `folder` holds the weights with tokenizer and chat template, whole model or adapter alone."""

    folder: str
    kind: Literal["adapter", "model"]
    metrics: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, out: Path) -> Self:
        """Read the result of a finished job; its folder is beside it, also after the job's folder was moved."""
        stored = json.loads((out / RESULT).read_text(encoding="utf-8"))
        return cls(str(out / stored["folder"]), stored["kind"], stored["metrics"])

    def write(self, out: Path) -> None:
        """Write the result; a job that has this file is done."""
        stored = {"folder": Path(self.folder).name, "kind": self.kind, "metrics": self.metrics}
        write_atomic(out / RESULT, json.dumps(stored, indent=1, sort_keys=True))


def _halved(section: Any) -> Any:
    """A section of settings with half the learning rate, and half the epochs or steps; other values as they are."""
    if not isinstance(section, dict) or "learning_rate" not in section:
        return section
    halved = {name: section[name] / 2 for name in ("learning_rate", "epochs") if name in section}
    return section | halved | ({"steps": max(1, section["steps"] // 2)} if "steps" in section else {})


def write_atomic(path: Path, text: str) -> None:
    """Write a small file so that it is either absent, old or whole."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def read_trips(out: Path) -> list[dict[str, Any]]:
    """Evidence of the attempts that the brakes ended, in order."""
    path = out / TRIPS
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return found


def read_rows(job: TrainJob, kind: str | None = None) -> list[dict[str, Any]]:
    """Read the job's rows in file order, of one kind or all; `messages` comes decoded."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(job.rows).to_pylist()
    chosen = [row for row in rows if kind is None or row["kind"] == kind]
    return [{**row, "messages": json.loads(row["messages"])} for row in chosen]

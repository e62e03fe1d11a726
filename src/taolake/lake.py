"""The tables, and the only module that names one.

A table is a constant: name, key, columns with their comments, and the stage that writes it. Locally a table is a folder
below the lake's; on Databricks it is `catalog.schema.name`. Three ways to write, all safe to repeat: `append_once` (a
chunk of new rows, at most once), `insert_new` (rows whose key is not there yet), `merge` (upsert by key). Source of the
idempotent append: Delta's `txnAppId`/`txnVersion` writer options.
"""

import contextlib
import random
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from taolake.ids import content_hash

if TYPE_CHECKING:
    from delta.tables import DeltaMergeBuilder, DeltaTable
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType


_PROPERTIES = {"delta.setTransactionRetentionDuration": "interval 90 days"}
_MOST_CLUSTERED = 4  # columns that liquid clustering takes
_COLUMN = re.compile(r"(\w+) ([^']+?) COMMENT '([^']*)'")


@dataclass(frozen=True)
class Table:
    """A named table: `columns` is DDL, `key` identifies a row, `writer` is the one stage that writes it.

    `personal` names the columns that hold what people wrote, or what a model wrote to them.
    """

    name: str
    key: tuple[str, ...]
    writer: str
    comment: str
    columns: str
    personal: tuple[str, ...] = ()

    def fields(self) -> list[tuple[str, str, str]]:
        """Name, type and comment of the columns, without a session to parse them with."""
        return _COLUMN.findall(self.columns)

    def create(self, name: str, keyed: bool) -> str:
        """SQL that makes the table in a catalog; `keyed` where the catalog knows keys."""
        columns = [
            f"{column} {kind}{' NOT NULL' if column in self.key else ''} COMMENT {quoted(comment)}"
            for column, kind, comment in self.fields()
        ]
        if keyed:
            columns.append(f"CONSTRAINT {self.name}_key PRIMARY KEY ({', '.join(self.key)})")
        # Chunk ids are remembered for as long as a run may rest before it is resumed, then leave the snapshot.
        properties = ", ".join(f"{quoted(key)} = {quoted(value)}" for key, value in _PROPERTIES.items())
        return (
            f"CREATE TABLE IF NOT EXISTS {name} (\n  " + ",\n  ".join(columns) + "\n) USING DELTA\n"
            f"COMMENT {quoted(self.comment)}\n"
            f"CLUSTER BY ({', '.join(self.key[:_MOST_CLUSTERED])})\n"
            f"TBLPROPERTIES ({properties})"
        )

    def schema(self) -> "StructType":
        """The columns as a Spark schema, comments included."""
        from pyspark.sql.types import StructType

        schema = StructType.fromDDL(self.columns)
        assert isinstance(schema, StructType)  # what DDL of columns always is
        return schema


PROMPTS = Table(
    "prompts",
    ("prompt_id",),
    "ingest",
    "What was asked, once each, without answers.",
    """prompt_id STRING COMMENT 'hash of task and canonical messages',
       task STRING COMMENT 'task of the project',
       messages ARRAY<STRUCT<role: STRING, content: STRING>> COMMENT 'canonical conversation, ends with a user turn',
       split STRING COMMENT 'train, holdout or review; decided by the prompt itself',
       seen BIGINT COMMENT 'times the same prompt was logged',
       source STRING COMMENT 'file and line, or table and row, it was first read from',
       request_id STRING COMMENT 'request of the inference log it was first seen in'""",
    ("messages",),
)
QUARANTINE = Table(
    "quarantine",
    ("stage", "source_id"),
    "ingest",
    "What was refused, and why.",
    """stage STRING COMMENT 'stage that refused it',
       source_id STRING COMMENT 'file and line, or table and row',
       reason STRING COMMENT 'what was wrong',
       excerpt STRING COMMENT 'first 200 characters, undecodable bytes replaced'""",
    ("excerpt",),
)
CANDIDATES = Table(
    "candidates",
    ("prompt_id", "policy", "strategy", "sample"),
    "generate",
    "Every answer every policy gave.",
    """candidate_id STRING COMMENT 'hash of the four key columns',
       prompt_id STRING COMMENT 'prompts.prompt_id',
       policy STRING COMMENT 'content hash of model, revision and adapter',
       strategy STRING COMMENT 'name and content hash of prompt variant and sampling parameters',
       sample INT COMMENT 'number of the draw, from 0',
       stream STRING COMMENT 'A: the bare prompt at temperature 1; B: exploring; G: greedy',
       text STRING COMMENT 'the answer in the shape the bare prompt would get; null when none could be taken out',
       raw STRING COMMENT 'what the engine wrote',
       token_ids ARRAY<INT> COMMENT 'what the engine wrote, as sampled',
       finish_reason STRING COMMENT 'stop or length',
       status STRING COMMENT 'ok, invalid, error or timeout',
       error STRING COMMENT 'why there is no answer',
       seed BIGINT COMMENT 'seed of this draw, derived from the row',
       prompt_tokens INT COMMENT 'tokens of the rendered prompt',
       tokens INT COMMENT 'tokens of the answer',
       cached_tokens INT COMMENT 'prompt tokens found in the prefix cache',
       seconds DOUBLE COMMENT 'from submission to the last token',
       chunk_id STRING COMMENT 'commit it came with'""",
    ("text", "raw", "token_ids"),
)
PREFERENCES = Table(
    "preferences",
    ("prompt_id", "chosen", "rejected", "annotator"),
    "label",
    "What people chose among candidates.",
    """prompt_id STRING COMMENT 'prompts.prompt_id',
       chosen STRING COMMENT 'candidate_id of the better answer',
       rejected STRING COMMENT 'candidate_id of the worse answer',
       annotator STRING COMMENT 'who chose',
       choice STRING COMMENT 'hash of one act of choosing: the rows of one best-of-N choice share it',
       kind STRING COMMENT 'best_of, ranking, pair, rating, thumb or edit',
       strength DOUBLE COMMENT '0 to 1: how clear the choice was',
       task STRING COMMENT 'task of the prompt',
       messages STRING COMMENT 'JSON of the conversation, so that choices among imported answers stand alone',
       chosen_text STRING COMMENT 'the better answer',
       rejected_text STRING COMMENT 'the worse answer'""",
    ("messages", "chosen_text", "rejected_text"),
)
JUDGEMENTS = Table(
    "judgements",
    ("call_id",),
    "score",
    "Every paid answer of a judge, by what it was asked: the same question is never paid twice.",
    """call_id STRING COMMENT 'hash of judge, question and sampling; after !, the try that got no answer',
       scorer STRING COMMENT 'name in the project file',
       judge STRING COMMENT 'model that was asked',
       status STRING COMMENT 'ok: an answer came and was paid, readable or not, and is reused; error or timeout',
       reply STRING COMMENT 'what the judge wrote',
       error STRING COMMENT 'why there is no answer',
       prompt_tokens INT COMMENT 'tokens of the question; the upper bound where the server did not count',
       tokens INT COMMENT 'tokens of the reply; likewise',
       dollars DOUBLE COMMENT 'at the prices in the project file',
       seconds DOUBLE COMMENT 'from asking to the last token',
       chunk_id STRING COMMENT 'commit it came with; begins with r and the round that paid'""",
    ("reply",),
)
SCORES = Table(
    "scores",
    ("candidate_id", "scorer", "scorer_version"),
    "score",
    "Every scorer's word on every candidate.",
    """candidate_id STRING COMMENT 'candidates.candidate_id',
       prompt_id STRING COMMENT 'prompts.prompt_id',
       policy STRING COMMENT 'candidates.policy',
       scorer STRING COMMENT 'name in the project file',
       scorer_version STRING COMMENT 'hash of all that can change a score; after @, of the group it was given in',
       value DOUBLE COMMENT 'null: the scorer could not tell',
       status STRING COMMENT 'ok, abstain, error or timeout',
       answer_key STRING COMMENT 'what the answer means, where the scorer knows',
       detail STRING COMMENT 'JSON'""",
)
REWARDS = Table(
    "rewards",
    ("candidate_id", "reward_version"),
    "reward",
    "One number per candidate, or an abstention.",
    """candidate_id STRING COMMENT 'candidates.candidate_id',
       prompt_id STRING COMMENT 'prompts.prompt_id',
       policy STRING COMMENT 'candidates.policy',
       reward_version STRING COMMENT 'hash of the rule and the scores it was given; after @, of the group',
       reward DOUBLE COMMENT '0 to 1; null: abstained',
       reason STRING COMMENT 'why it abstained; empty otherwise'""",
)
SELECTIONS = Table(
    "selections",
    ("round", "row_id"),
    "select",
    "Exactly what the trainer sees.",
    """round INT COMMENT 'round number',
       row_id STRING COMMENT 'hash of selection, kind and candidate',
       selection STRING COMMENT 'fingerprint of the select stage that wrote it',
       kind STRING COMMENT 'imitate, regress, chosen, rejected, good, bad, prompt or dev',
       prompt_id STRING COMMENT 'prompts.prompt_id',
       candidate_id STRING COMMENT 'candidates.candidate_id; null for kinds prompt and dev',
       messages STRING COMMENT 'JSON of the bare conversation',
       text STRING COMMENT 'answer to imitate or compare',
       token_ids ARRAY<INT> COMMENT 'answer as sampled; null where it is rendered from text',
       reward DOUBLE COMMENT 'rewards.reward',
       advantage DOUBLE COMMENT 'reward minus the value of the prompt',
        weight DOUBLE COMMENT 'weight in the loss; of a pair: chance that it is in the right order'""",
    ("messages", "text", "token_ids"),
)
EVALUATIONS = Table(
    "evaluations",
    ("evaluation", "model", "prompt_id", "metric"),
    "evaluate",
    "Measurements on the holdout, one row a prompt.",
    """evaluation STRING COMMENT 'fingerprint of the evaluate stage that wrote it',
       model STRING COMMENT 'policy',
       prompt_id STRING COMMENT 'prompts.prompt_id',
       metric STRING COMMENT 'greedy, correct, samples, best_of_n, ...; see docs/tables.md',
       value DOUBLE COMMENT 'of this prompt'""",
)
ROUNDS = Table(
    "rounds",
    ("round", "stage"),
    "every stage",
    "One row per stage of a round: what it read, did and cost.",
    """round INT COMMENT 'round number',
       stage STRING COMMENT 'stage',
       state STRING COMMENT 'running, done or failed',
       fingerprint STRING COMMENT 'hash of the stage, its part of the config and everything upstream',
       config_hash STRING COMMENT 'hash of the whole project file',
       reads MAP<STRING, BIGINT> COMMENT 'table versions when the stage began',
       rows BIGINT COMMENT 'rows written',
       tokens BIGINT COMMENT 'tokens generated or trained on',
       seconds DOUBLE COMMENT 'wall time, with that of attempts that failed before',
       peak_rss_bytes BIGINT COMMENT 'largest resident memory of the whole process tree',
       dollars DOUBLE COMMENT 'seconds at the price in the project file',
       detail STRING COMMENT 'JSON: counts, versions, verdict',
       started_at TIMESTAMP COMMENT 'first start',
       finished_at TIMESTAMP COMMENT 'null while running'""",
)
EPOCHS = Table(
    "epochs",
    ("scope",),
    "generate",
    "In strict mode: which driver may commit. A newer one ends the epoch of the older one.",
    """scope STRING COMMENT 'table that is written, and the policy',
       epoch BIGINT COMMENT 'drivers so far',
       owner STRING COMMENT 'drawn anew by every driver',
       claimed_at TIMESTAMP COMMENT 'when this driver began'""",
)
TABLES: tuple[Table, ...] = (
    PROMPTS, QUARANTINE, CANDIDATES, PREFERENCES, JUDGEMENTS, SCORES, REWARDS, SELECTIONS, EVALUATIONS, ROUNDS, EPOCHS,
)  # fmt: skip
_RACES = 20  # writers that may be quicker than this one, one after the other, before it gives up


class Lake:
    """Delta tables below one folder, or in one `catalog.schema`.

    Args:
        spark: the session; this class never creates one.
        location: a folder, or `catalog.schema` for tables in a catalog.
    """

    def __init__(self, spark: "SparkSession", location: str) -> None:
        self.spark = spark
        self.in_catalog = "/" not in location and location.count(".") == 1
        self.location = location if self.in_catalog else str(Path(location).resolve())
        self._known: set[str] = set()

    def read(self, table: Table, version: int | None = None) -> "DataFrame":
        """Read a table, as of a version if one is given; a table never written is empty."""
        self._ensure(table)
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.table(self.name(table)) if self.in_catalog else reader.load(self.name(table))

    def append_once(self, table: Table, rows: "DataFrame", chunk: str) -> None:
        """Append a chunk unless a chunk of this id was committed before.

        The id must be a hash of the keys in the chunk (`content_id`): Delta then drops a repetition silently and can
        never mistake other rows for it.
        """
        self._ensure(table)
        writer = self._conform(table, rows).write.format("delta").mode("append")
        writer = writer.option("txnAppId", f"taolake/{table.name}/{chunk}").option("txnVersion", "1")
        if self.in_catalog:
            writer.saveAsTable(self.name(table))
        else:
            writer.save(self.name(table))

    def insert_new(self, table: Table, rows: "DataFrame") -> None:
        """Insert the rows whose key is not in the table; the others are left as they are."""
        self._merge(table, rows, lambda merge: merge.whenNotMatchedInsertAll())

    def merge(self, table: Table, rows: "DataFrame") -> None:
        """Upsert by key; a row that already says the same is not rewritten."""
        others = [c for c in table.schema().names if c not in table.key]
        changed = " OR ".join(f"NOT (old.{c} <=> new.{c})" for c in others if c not in _maps(table))
        condition = changed or "false"
        self._merge(table, rows, lambda m: m.whenMatchedUpdateAll(condition=condition).whenNotMatchedInsertAll())

    def version(self, table: Table) -> int:
        """Newest version number of a table."""
        self._ensure(table)
        return int(self._delta(table).history(1).select("version").first()["version"])

    def content_id(self, rows: "DataFrame", *columns: str) -> str:
        """Hash a set of rows by their values, in any order and without bringing them to the driver; 128 bits.

        Two rows with equal values would cancel out: the columns given must be a key.
        """
        from pyspark.sql import functions as f

        halves = [f.bit_xor(f.xxhash64(f.lit(salt), *columns)) for salt in ("a", "b")]
        first, second, count = rows.agg(*halves, f.count(f.lit(1))).collect()[0]
        return content_hash(first, second, count)

    def execute(self, statements: Iterable[str]) -> None:
        """Run SQL that only a catalog understands; each statement must be safe to repeat (`taolake.unity`)."""
        for statement in statements:
            self.spark.sql(statement)

    def _merge(
        self, table: Table, rows: "DataFrame", clauses: "Callable[[DeltaMergeBuilder], DeltaMergeBuilder]"
    ) -> None:
        """Merge by key; where another writer was quicker, read the table anew and try again."""
        from delta.exceptions import (
            ConcurrentAppendException,
            ConcurrentDeleteDeleteException,
            ConcurrentDeleteReadException,
            ConcurrentTransactionException,
        )

        lost = (
            ConcurrentAppendException,
            ConcurrentDeleteDeleteException,
            ConcurrentDeleteReadException,
            ConcurrentTransactionException,
        )
        for race in range(_RACES + 1):
            source = self._conform(table, rows).alias("new")
            try:
                clauses(self._delta(table).alias("old").merge(source, _same_key(table))).execute()
                return
            except lost:
                if race == _RACES:
                    raise
                time.sleep(random.uniform(0.05, 0.5))

    def _delta(self, table: Table) -> "DeltaTable":
        from delta.tables import DeltaTable

        self._ensure(table)
        if self.in_catalog:
            return DeltaTable.forName(self.spark, self.name(table))
        return DeltaTable.forPath(self.spark, self.name(table))

    def name(self, table: Table) -> str:
        """Three-level name, or folder."""
        return f"{self.location}.{table.name}" if self.in_catalog else f"{self.location}/{table.name}"

    def _ensure(self, table: Table) -> None:
        """Create the table with its comments on first use; asked once a session."""
        from delta.exceptions import MetadataChangedException, ProtocolChangedException
        from delta.tables import DeltaTable

        if table.name in self._known:
            return
        if self.in_catalog:
            self.spark.sql(table.create(self.name(table), keyed=False))
        elif not DeltaTable.isDeltaTable(self.spark, self.name(table)):
            builder = DeltaTable.createIfNotExists(self.spark).addColumns(table.schema()).comment(table.comment)
            builder = builder.location(self.name(table))
            for key, value in _PROPERTIES.items():
                builder = builder.property(key, value)
            # Another driver may make it at the same moment, with the same columns.
            with contextlib.suppress(MetadataChangedException, ProtocolChangedException):
                builder.execute()
        self._known.add(table.name)

    def _conform(self, table: Table, rows: "DataFrame") -> "DataFrame":
        """Bring columns into the table's order and types; a missing or extra column is an error of the stage."""
        wanted, got = table.schema().names, rows.columns
        if set(wanted) != set(got):
            missing, extra = sorted(set(wanted) - set(got)), sorted(set(got) - set(wanted))
            raise ValueError(f"rows for table {table.name!r}: missing columns {missing}, unknown columns {extra}")
        from pyspark.sql import functions as f

        return rows.select([f.col(field.name).cast(field.dataType).alias(field.name) for field in table.schema()])


def quoted(text: str) -> str:
    """A text as a SQL literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _maps(table: Table) -> set[str]:
    """Map columns: Spark cannot compare them, so `merge` judges change by the others."""
    return {field.name for field in table.schema() if field.dataType.typeName() == "map"}


def _same_key(table: Table) -> str:
    return " AND ".join(f"old.{column} <=> new.{column}" for column in table.key)

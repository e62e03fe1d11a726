"""The tables as constants: name, key, columns with their comments, and the stage that writes each.

Not here: reading and writing them (`taolake.lake`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

PROPERTIES = {"delta.setTransactionRetentionDuration": "interval 90 days"}
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
            columns.append(f"CONSTRAINT {self.name}_key PRIMARY KEY ({_ticked(self.key)})")
        # Chunk ids are remembered for as long as a run may rest before it is resumed, then leave the snapshot.
        properties = ", ".join(f"{quoted(key)} = {quoted(value)}" for key, value in PROPERTIES.items())
        return (
            f"CREATE TABLE IF NOT EXISTS {name} (\n  " + ",\n  ".join(columns) + "\n) USING DELTA\n"
            f"COMMENT {quoted(self.comment)}\n"
            f"CLUSTER BY ({_ticked(self.key[:_MOST_CLUSTERED])})\n"
            f"TBLPROPERTIES ({properties})"
        )

    def schema(self) -> "StructType":
        """The columns as a Spark schema, comments included."""
        from pyspark.sql.types import StructType

        schema = StructType.fromDDL(self.columns)
        assert isinstance(schema, StructType)  # what DDL of columns always is
        return schema


def _ticked(columns: Iterable[str]) -> str:
    """Columns between backticks: `version` is a word of the language, and clustering by it would be refused."""
    return ", ".join(f"`{column}`" for column in columns)


PROMPTS = Table(
    "prompts",
    ("prompt_id",),
    "ingest",
    "What was asked, once each, without answers.",
    """prompt_id STRING COMMENT 'hash of task and canonical messages',
       task STRING COMMENT 'task of the project',
       messages ARRAY<STRUCT<role: STRING, content: STRING>> COMMENT 'canonical conversation, ends with a user turn',
       split STRING COMMENT 'train, holdout or review; spare: to train on, not selected. Decided by the cluster',
       seen BIGINT COMMENT 'times the same prompt was logged',
       source STRING COMMENT 'file and line, or table and row, it was first read from',
       request_id STRING COMMENT 'request of the inference log it was first seen in',
       cluster STRING COMMENT 'prompts that are alike share it; without curation the prompt itself',
       tag STRING COMMENT 'kind of question by the rules of the project file; null: none fits'""",
    ("messages",),
)
ASKED = Table(
    "asked",
    ("prompt_id", "request_id"),
    "ingest",
    "Who asked each prompt: a prompt that several asked is one row of `prompts`, and one row each here.",
    """prompt_id STRING COMMENT 'prompts.prompt_id',
       request_id STRING COMMENT 'inference_log.request_id; the source where the log names no request',
       user_id STRING COMMENT 'hash of who asked (taolake.ids.user_id); null: the log does not say',
       source STRING COMMENT 'file and line, or table and row',
       times BIGINT COMMENT 'times this request was logged'""",
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
       chunk_id STRING COMMENT 'commit it came with; begins with r and the round that paid',
       prompt_id STRING COMMENT 'prompts.prompt_id of the prompt it was first asked about'""",
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
       selection STRING COMMENT 'hash of the select stage and of the rewards it read',
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
    """evaluation STRING COMMENT 'hash of the evaluate stage and of what it measured',
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
PAYLOADS = Table(
    "payloads",
    ("databricks_request_id",),
    "serve",
    "Requests and answers as `taolake serve` logged them, in the shape of Databricks' AI Gateway inference table.",
    """databricks_request_id STRING COMMENT 'id of the request, also in the answer',
       request_date DATE COMMENT 'day in UTC',
       client_request_id STRING COMMENT 'id the caller chose',
       request_time TIMESTAMP COMMENT 'arrival',
       status_code INT COMMENT 'of HTTP',
       sampling_fraction DOUBLE COMMENT 'share of the requests that is logged',
       execution_duration_ms BIGINT COMMENT 'of the model, without the network',
       request STRING COMMENT 'body as it came, JSON',
       response STRING COMMENT 'body of the answer, JSON; chunks of a stream put together',
       logging_error_codes ARRAY<STRING> COMMENT 'MAX_REQUEST_SIZE_EXCEEDED, MAX_RESPONSE_SIZE_EXCEEDED',
       served_entity_id STRING COMMENT 'model version that answered',
       requester STRING COMMENT 'who asked',
       share DOUBLE COMMENT 'chance with which a request went to this version; null: not split',
       session STRING COMMENT 'conversation, as the caller names it',
       time_to_first_byte_ms BIGINT COMMENT 'of the answer'""",
    ("request", "response", "requester"),
)
REACTIONS = Table(
    "reactions",
    ("request_id", "source", "at"),
    "serve",
    "Reactions as `taolake serve` took them, each time one was said: who changes their mind says it again.",
    """request_id STRING COMMENT 'payloads.databricks_request_id',
       source STRING COMMENT 'kind and who said it: one word of one person on one request',
       kind STRING COMMENT 'thumb, edit or regenerate',
       value DOUBLE COMMENT '-1 to 1; null for an edit',
       text STRING COMMENT 'edited answer, or comment',
       requester STRING COMMENT 'who reacted',
       at TIMESTAMP COMMENT 'when'""",
    ("text", "requester"),
)
INFERENCE_LOG = Table(
    "inference_log",
    ("request_id",),
    "collect",
    "What was asked in production and what was answered, whatever shape the log had; personal data replaced.",
    """request_id STRING COMMENT 'as the platform names it; a content hash where it does not',
       logged_at TIMESTAMP COMMENT 'when the request came',
       shape STRING COMMENT 'what kind of log it stood in',
       source STRING COMMENT 'file and line, or table and row',
       endpoint STRING COMMENT 'who was asked',
       model STRING COMMENT 'version that answered, as the log names it',
       share DOUBLE COMMENT 'chance with which a request went to this version; null: not split',
       status_code INT COMMENT 'of HTTP; 200: an answer came',
       task STRING COMMENT 'task of the project',
       session STRING COMMENT 'conversation the request belongs to',
       user_id STRING COMMENT 'hash of who asked (taolake.ids.user_id)',
       consent BOOLEAN COMMENT 'false: never to be learned from; null: nothing was said',
       expires_at TIMESTAMP COMMENT 'end of retention; null: none',
       messages ARRAY<STRUCT<role: STRING, content: STRING>> COMMENT 'conversation up to the question',
       answer STRING COMMENT 'what was answered; null: nothing',
       finish_reason STRING COMMENT 'as logged',
       prompt_tokens INT COMMENT 'as logged',
       tokens INT COMMENT 'of the answer, as logged',
       latency_ms BIGINT COMMENT 'to the last token',
       first_token_ms BIGINT COMMENT 'to the first token, where the log knows'""",
    ("messages", "answer"),
)
FEEDBACK = Table(
    "feedback",
    ("request_id", "source"),
    "collect",
    "How people reacted to an answer.",
    """request_id STRING COMMENT 'inference_log.request_id',
       source STRING COMMENT 'kind and who or what said it: one word of one source on one request',
       kind STRING COMMENT 'thumb, edit, regenerate or rating',
       value DOUBLE COMMENT '-1 to 1; null for an edit',
       text STRING COMMENT 'the edited answer, or the comment; personal data replaced',
       user_id STRING COMMENT 'hash of who reacted',
       at TIMESTAMP COMMENT 'when'""",
    ("text",),
)
MONITORS = Table(
    "monitors",
    ("window_start", "model", "metric"),
    "monitor",
    "What was measured of production, per window and model version.",
    """window_start TIMESTAMP COMMENT 'begin of the window',
       window_end TIMESTAMP COMMENT 'end of the window, not in it',
       model STRING COMMENT 'inference_log.model',
       metric STRING COMMENT 'what was measured; see docs/production.md',
       value DOUBLE COMMENT 'measured; null: too few rows to say',
       low DOUBLE COMMENT 'lower end of its interval',
       high DOUBLE COMMENT 'upper end of its interval',
       n BIGINT COMMENT 'rows it rests on',
       alert STRING COMMENT 'rule that fired; empty otherwise'""",
)
ERASURES = Table(
    "erasures",
    ("erasure",),
    "forget",
    "That somebody was forgotten, and what it touched; not who it was.",
    """erasure STRING COMMENT 'drawn anew; says nothing about the person',
       at TIMESTAMP COMMENT 'when it was finished',
       prompts BIGINT COMMENT 'prompts that nobody else had asked',
       shared BIGINT COMMENT 'prompts that stay because others asked them too',
       rows MAP<STRING, BIGINT> COMMENT 'rows deleted, by table',
       files BIGINT COMMENT 'work files and report pages that were changed or deleted',
       models ARRAY<STRING> COMMENT 'registered versions that had learned from it, name/version',
       rounds ARRAY<INT> COMMENT 'rounds whose selections had rows of it',
       floors MAP<STRING, BIGINT> COMMENT 'oldest version of each table that can be read since'""",
)
ANSWER_SCORES = Table(
    "answer_scores",
    ("request_id", "scorer", "scorer_version"),
    "monitor",
    "What scorers say of answers that were given in production.",
    """request_id STRING COMMENT 'inference_log.request_id',
       scorer STRING COMMENT 'name in the project file',
       scorer_version STRING COMMENT 'hash of all that can change a score',
       value DOUBLE COMMENT 'null: the scorer could not tell',
       status STRING COMMENT 'ok, abstain, error or timeout',
       answer_key STRING COMMENT 'what the answer means, where the scorer knows'""",
)
RELEASES = Table(
    "releases",
    ("model", "version", "decided_at"),
    "canary",
    "What was decided about a version that answered beside the live one, and on what evidence.",
    """model STRING COMMENT 'registered model',
       version INT COMMENT 'the new version',
       decided_at TIMESTAMP COMMENT 'when its signals were read',
       live INT COMMENT 'version it was held against',
       verdict STRING COMMENT 'promote, hold or rollback',
       reason STRING COMMENT 'the evidence in one sentence',
       since TIMESTAMP COMMENT 'begin of what was read',
       reached_at TIMESTAMP COMMENT 'request with which the evidence was enough; null: it is not',
       requests BIGINT COMMENT 'requests of both versions until then; all of them while it is not enough',
       acted BOOLEAN COMMENT 'whether the endpoint was changed',
       evidence STRING COMMENT 'JSON: every signal on both versions, with intervals and capital'""",
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
    PAYLOADS, REACTIONS, INFERENCE_LOG, FEEDBACK, MONITORS, ANSWER_SCORES, RELEASES, ASKED, ERASURES,
)  # fmt: skip


def quoted(text: str) -> str:
    """A text as a SQL literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def maps(table: Table) -> set[str]:
    """Map columns: neither Spark nor delta-rs compares them."""
    return {name for name, kind, _ in table.fields() if kind.startswith("MAP<")}

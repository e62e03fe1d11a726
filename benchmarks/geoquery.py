"""Real questions (GeoQuery): base, labelled fine-tuning on the same prompts, best-of-N and TAO, on the test split.

    TAOLAKE_GEOQUERY=<folder> python benchmarks/geoquery.py --json build/bench/geoquery.json [--quick]

Per seed: another labelled share, another base, one round of `conf/geoquery.yml` through the real stages, and a second
fine-tuning on the same logged prompts with their labels, which TAO does not get. The seeds share the test questions:
pooled intervals resample questions, each with its mean over seeds, so they hold for these seeds. Not a comparison with
published parsers: the base has a million parameters and has seen 192 questions and those of a grammar.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from _form import Figure, run

from taolake import stages
from taolake.config import Gold, Project
from taolake.demo import geoquery, geoquery_data
from taolake.lake import Lake
from taolake.session import local_session
from taolake.stages import evaluate, gate, generate, groups
from taolake.stages.round import Round, policy
from taolake.training.job import TrainJob
from taolake.training.launch import launch
from taolake.types import Policy
from taolake.verdict import bake_in, bootstrap, paired_gain

ROOT = Path(__file__).parents[1]
SEEDS = [7, 8, 9]
RESAMPLES = 5000
# What TAO may cost on so small a base before it counts as harm; the gain itself is reported with its interval.
TARGETS = {"gain.low": (">", -0.02), "labels_in_the_round": ("==", 0)}

# Greedy answers of three models and best-of-16 of the base; then means of 16 samples, and pass@16.
WHO = ("base", "labelled", "best_of_n", "tao", "base_sampled", "tao_sampled", "base_pass_at_16", "tao_pass_at_16")

PerPrompt = dict[str, float]


def measure(quick: bool) -> dict[str, Figure]:
    """Run every seed; returns means over seeds, pooled intervals, and each seed's own figures."""
    try:
        geoquery_data.data_folder()
    except ValueError as error:
        sys.exit(f"geoquery: {error}")
    seeds = SEEDS[:1] if quick else SEEDS
    spark = local_session(log=ROOT / "build/bench/geoquery/spark.log")
    try:
        found = {str(seed): one_seed(Round(Lake(spark, p.lake), p)) for seed in seeds for p in [project_of(seed)]}
    finally:
        spark.stop()
    prompts = sorted(set.intersection(*(set(each["base"]) for each in found.values())))
    pooled = {who: {p: _mean([each[who][p] for each in found.values()]) for p in prompts} for who in WHO}
    figures = figures_of(pooled, prompts)
    counts = {seed: each["counts"] for seed, each in found.items()}
    return {
        **figures,
        "labels_in_the_round": sum(each["labels"] for each in found.values()),
        "test_questions": counts[str(seeds[0])],
        "seed": {seed: figures_of(each, prompts) | each["facts"] for seed, each in found.items()},
    }


def project_of(seed: int) -> Project:
    """The project file with another seed and its own folders."""
    folder = ROOT / "build/bench/geoquery" / f"seed-{seed}"
    text = (ROOT / "conf/geoquery.yml").read_text(encoding="utf-8").replace("build/geoquery/", f"{folder}/")
    return Project.model_validate(yaml.safe_load(text) | {"seed": seed})


def one_seed(round_: Round) -> dict[str, Any]:
    """One round and one labelled fine-tuning; returns values per test question, and facts."""
    stages.prepare(round_.project)
    for stage in stages.STAGES:
        print(f"seed {round_.project.seed}: {stage.name}", flush=True)
        outcome, _ = stages.run(round_, stage.name)
        if stage.name == "gate":
            break
    found = round_.done("evaluate").detail
    base, tao = (gate.measured(round_, found["evaluation"], found[who]) for who in ("base", "tuned"))
    print(f"seed {round_.project.seed}: labelled fine-tuning", flush=True)
    labelled = greedy_of(round_, fine_tune_on_labels(round_))
    made = Path(round_.project.ingest.sources[0].path).parent
    return {
        "base": base["greedy"],
        "labelled": labelled,
        "best_of_n": base["best_of_n"],
        "tao": tao["greedy"],
        "base_sampled": base["pass_at_1"],
        "tao_sampled": tao["pass_at_1"],
        "base_pass_at_16": base["pass_at_16"],
        "tao_pass_at_16": tao["pass_at_16"],
        "counts": json.loads((made / "counts.json").read_text(encoding="utf-8")),
        "labels": (made / "logs.jsonl").read_text(encoding="utf-8").lower().count("select "),
        "facts": {"winners_right": winners_right(round_), "promoted": outcome.detail["promoted"], **_select(round_)},
    }


def fine_tune_on_labels(round_: Round) -> Policy:
    """Imitate the labels of the logged prompts, with the settings and the rows per prompt that TAO's warm-up has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    project = round_.project
    folder = round_.work / "labelled"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"kind": "imitate", "prompt_id": q.text, "messages": json.dumps(q.messages), "text": q.sql, "weight": 1.0}
        for q in logged_questions(project)
        for _ in range(project.select.rows_per_prompt)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    job = TrainJob(
        algorithm="rft",
        base=project.model.path,
        rows=str(folder / "rows.parquet"),
        out=str(folder),
        settings=project.train.model_dump(mode="json"),
        seed=project.seed,
        max_length=project.model.max_model_len,
        dtype=project.model.dtype,
    )
    with round_.training_bar("labelled") as on_line:
        result = launch(job, on_line)
    adapter = result.folder if result.kind == "adapter" else None
    return policy(project.model.path if adapter else result.folder, None, adapter)


def greedy_of(round_: Round, made: Policy) -> PerPrompt:
    """Greedy accuracy of a policy per labelled test question, answered and graded as the evaluate stage does it."""
    greedy = [cells for cells in generate.holdout_cells(round_.project) if cells.stream == "G"]
    generate.fill(round_, made, greedy)
    gold = _gold(round_.project)
    labels = evaluate.read_labels(round_.project.task.name, gold)
    rows = groups.candidates(round_, made).where("stream = 'G'").select("prompt_id", "text").collect()
    return {
        row["prompt_id"]: float(evaluate.comparer(gold, labels[row["prompt_id"]])(row["text"] or ""))
        for row in rows
        if row["prompt_id"] in labels
    }


def winners_right(round_: Round) -> float:
    """Share of the answers chosen for imitation that are right: known here, and nowhere in the round."""
    from taolake.stages.select import training_rows

    gold = _gold(round_.project)
    database = geoquery.database_of(round_.project)
    labels = {
        json.dumps(q.messages): q.sql
        for q in logged_questions(round_.project)
        if geoquery_data.gold_state(q, database) == "ok"
    }
    rows = training_rows(round_, round_.done("select").detail["selection"]).to_pylist()
    chosen = [(_canonical(r["messages"]), r["text"]) for r in rows if r["kind"] == "imitate"]
    return _mean([float(evaluate.comparer(gold, labels[m])(text)) for m, text in chosen if m in labels])


def logged_questions(project: Project) -> list[geoquery_data.Question]:
    """The round's train prompts, here with their labels."""
    questions = geoquery_data.read_questions(geoquery_data.data_folder() / geoquery_data.QUESTIONS_FILE)
    return geoquery_data.labelled_share(questions, project.seed)[1]


def figures_of(values: Mapping[str, PerPrompt], prompts: Sequence[str]) -> dict[str, Figure]:
    """Means with intervals, and paired gains over the base."""
    column = {who: [values[who][p] for p in prompts] for who in WHO}
    share = bake_in(column["base"], column["tao"], column["best_of_n"], RESAMPLES, 0)
    return {
        **{who: bootstrap(column[who], RESAMPLES, 0)._asdict() for who in WHO[:4]},
        **{who: _mean(column[who]) for who in WHO[4:]},
        "gain": paired_gain(column["base"], column["tao"], RESAMPLES, 0)._asdict(),
        "sampled_gain": paired_gain(column["base_sampled"], column["tao_sampled"], RESAMPLES, 0)._asdict(),
        "labelled_gain": paired_gain(column["base"], column["labelled"], RESAMPLES, 0)._asdict(),
        "best_of_n_gain": paired_gain(column["base"], column["best_of_n"], RESAMPLES, 0)._asdict(),
        "bake_in": share.mean if share else None,
    }


def _select(round_: Round) -> dict[str, Figure]:
    detail = round_.done("select").detail
    return {"learned_from": detail["kept"], "abstained": detail["abstained"]}


def _gold(project: Project) -> Gold:
    assert project.evaluate.gold is not None
    return project.evaluate.gold


def _canonical(messages: str) -> str:
    return json.dumps([{"role": m["role"], "content": m["content"]} for m in json.loads(messages)])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    run("geoquery", measure, TARGETS, SEEDS)

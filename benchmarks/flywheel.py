"""Two turns of the flywheel with the embedded example: better each time on the holdout, and a bad version is gone soon.

People ask over HTTP, `taolake serve` answers by vLLM, and what they asked and how they reacted is all that the rounds
learn from, beside the example's reviewer. The model of the project file is version 1; a tuned version answers half of
the requests until its canary is decided, and those requests are what the next round learns from. The second round
starts from the version that is live. Then a version that refuses everything is put beside it. What is not measured:
real people, other models; the rate of wrong rollbacks, which `tests/unit/test_sequential.py` simulates.
"""

import dataclasses
import functools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml
from _form import run

ROOT = Path(__file__).parents[1]
FOLDER = Path("build/bench/flywheel")
SEEDS = (7, 8, 9)
REQUESTS, MOST = 500, 200


def measure(quick: bool) -> dict[str, Any]:
    """Turn the wheel, for every seed; the worst seed is what the targets look at."""
    seeds = {str(seed): turned(seed, quick) for seed in (SEEDS[:1] if quick else SEEDS)}
    found = list(seeds.values())
    worst = {
        "promoted_without_gain": sum(turn["gain"][1] <= 0 and turn["promoted"] for s in found for turn in s["turns"]),
        "first_gain_low_min": min(s["turns"][0]["gain"][1] for s in found),
        "requests_until_rollback_max": max(s["requests_until_rollback"] for s in found),
        "rows_lost": sum(abs(went - came) for s in found for went, came in s["rows"]),
    }
    return {"seed": {name: flat(s) for name, s in seeds.items()}, **worst}


def turned(seed: int, quick: bool) -> dict[str, Any]:
    """One wheel, from nothing but the cached base model of its seed."""
    sys.path.insert(0, str(ROOT))
    from tests.flywheel.wheel import Wheel, account

    from taolake.session import local_session

    folder = FOLDER / f"seed-{seed}"
    for part in ("lake", "work", "data", "report"):
        shutil.rmtree(folder / part, ignore_errors=True)
    spark = local_session("local[2]", log=folder / "spark.log")
    try:
        wheel = Wheel(spark, world(folder, seed, quick))
        wheel.first()
        turns = [wheel.turn(number, REQUESTS) for number in (1, 2)]
        planted = wheel.planted(MOST)
    finally:
        spark.stop()
    (folder / "turns.json").write_text(json.dumps([dataclasses.asdict(turn) for turn in turns] + [planted]))
    outcomes = [each for turn in turns for each in (*turn.collected, turn.ingested)]
    return {
        "turns": [
            {
                "promoted": turn.gate["promoted"],
                "gain": [turn.gate["gain"][name] for name in ("mean", "low", "high")],
                "prompts": turn.gate["prompts"],
                "right": {name: ok / n for name, (ok, n) in turn.right.items()},
                "canary": turn.canary.get("verdict", "none"),
                "canary_requests": turn.canary.get("requests", 0),
            }
            for turn in turns
        ],
        "rows": [account(outcome) for outcome in outcomes],
        "requests_until_rollback": planted["asked"] if planted["verdict"] == "rollback" else float("nan"),
    }


def flat(found: dict[str, Any]) -> dict[str, Any]:
    """A seed's figures, its turns by number."""
    return {f"turn_{number}": turn for number, turn in enumerate(found["turns"], 1)} | {
        "rows_in_and_accounted_for": [list(pair) for pair in found["rows"]],
        "requests_until_rollback": found["requests_until_rollback"],
    }


def world(folder: Path, seed: int, quick: bool) -> Any:
    """The embedded example, its log replaced by people: half of the questions in the first turn, then all."""
    from tests.flywheel.wheel import World, write

    from taolake.demo import questions, reviewer

    folder.mkdir(parents=True, exist_ok=True)
    raw = yaml.safe_load((ROOT / "conf" / "demo.yml").read_text().replace("build/demo", str(folder)))
    raw |= {"seed": seed, "prepare": "flywheel:prepare"}
    raw["ingest"]["sources"][0] = {"format": "inference_log", "path": "inference_log"}
    raw["ingest"]["curate"] = {"similarity": 1.0}  # one name in a question makes another query here
    raw["generate"] |= {"n": 8 if quick else 16}
    raw["evaluate"] |= {"samples": 4 if quick else 16}
    file = write(folder / "wheel.yml", raw)
    logged = {question.text: question for question in questions.logged_questions(seed)}
    database = folder / "data" / "shop.db"

    @functools.cache
    def gold(text: str) -> Any:
        return reviewer.run_sql(database, logged[text].sql)

    def right(text: str, answer: str) -> bool:
        return bool(reviewer.run_sql(database, reviewer.extract_sql(answer)) == gold(text))

    texts = list(logged)
    return World(file, (texts[: len(texts) // 2], texts), right, lambda text: logged[text].sql)


def prepare(project: Any) -> None:
    """The example's own inputs; they lie where its log would be, which is not read here."""
    from taolake import demo

    review = Path(next(s.path for s in project.ingest.sources if s.split == "review"))
    source = project.ingest.sources[0].model_copy(
        update={"format": "jsonl", "path": str(review.with_name("logs.jsonl"))}
    )
    sources = (source, *project.ingest.sources[1:])
    demo.prepare(project.model_copy(update={"ingest": project.ingest.model_copy(update={"sources": sources})}))


if __name__ == "__main__":
    targets = {
        "promoted_without_gain": ("==", 0),
        "first_gain_low_min": (">", 0.0),
        "requests_until_rollback_max": ("<=", MOST),
        "rows_lost": ("==", 0),
    }
    run("flywheel", measure, targets, list(SEEDS))

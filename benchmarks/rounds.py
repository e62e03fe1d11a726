"""Three rounds of the embedded example, each from the version that the one before it promoted: does it go on rising?

Run by `taolake run --round N` with `flywheel.base: champion`, on the same logged questions: new answers, new choices by
the reviewer, a new reward model, a new adapter on the merged weights. Accuracy is greedy, on the same holdout; a gain
is over what the round started from, paired by prompt. What is not measured: new questions between rounds, which
`benchmarks/flywheel.py` brings.
"""

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from _form import run
from _resume import one_run

ROOT = Path(__file__).parents[1]
FOLDER = Path("build/bench/rounds")
SEEDS = (7, 8, 9)
ROUNDS = (1, 2, 3)
REFUSED = 4  # exit code of a round that trust or brakes ended
TARGETS = {"lost_by_a_champion": ("<", 0.02), "first_gain_low_min": (">", 0.0), "last_over_first_min": (">=", -0.02)}


def measure(quick: bool) -> dict[str, Any]:
    """Every seed; the worst one is what the targets look at."""
    with one_run(FOLDER, "seed-*", quick=quick):
        found = {str(seed): seed_of(seed) for seed in (SEEDS[:1] if quick else SEEDS)}
    rounds = [[s[f"round_{n}"] for n in ROUNDS if f"round_{n}" in s] for s in found.values()]
    kept = [[r["champion"] for r in rows] for rows in rounds]
    return {
        "seed": found,
        "lost_by_a_champion": max((a - b for rows in kept for a, b in pairwise(rows)), default=0.0),
        "first_gain_low_min": min(rows[0]["gain"]["low"] for rows in rounds),
        "last_over_first_min": min(rows[-1] - rows[0] for rows in kept),
    }


def seed_of(seed: int) -> dict[str, Any]:
    """Three rounds of one seed, from nothing but its cached base."""
    folder = FOLDER / f"seed-{seed}"
    kept = folder / "found.json"  # of a run that was cut off: whole seeds, since a later round moves the champion
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    for part in ("lake", "work", "data", "report"):
        shutil.rmtree(folder / part, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    raw = yaml.safe_load((ROOT / "conf/demo.yml").read_text().replace("build/demo", str(folder)))
    config = folder / "rounds.yml"
    config.write_text(yaml.safe_dump(raw | {"seed": seed, "flywheel": {"base": "champion"}}))
    found: dict[str, Any] = {}
    champion = 0.0
    for number in ROUNDS:
        command = [sys.executable, "-m", "taolake", "run", str(config), "--round", str(number)]
        code = subprocess.run(command, env=os.environ).returncode
        if code == REFUSED:
            found[f"round_{number}"] = {"stopped": 1.0, "champion": champion}
            break
        if code:
            raise RuntimeError(f"round {number} of seed {seed} ended with exit code {code}")
        card = json.loads((folder / "report" / "card.json").read_text())
        base, tuned = (card["policies"][who]["greedy"]["mean"] for who in ("base", "tuned"))
        promoted = card["verdict"]["promoted"]
        champion = tuned if promoted else base
        found[f"round_{number}"] = {
            "base": base,
            "tuned": tuned,
            "gain": {"mean": card["gain"]["mean"], "low": card["gain"]["ci"][0], "high": card["gain"]["ci"][1]},
            "pass_at_16": card["policies"]["tuned"]["pass_at"]["16"],
            "promoted": float(promoted),
            "reason": card["verdict"]["reason"],
            "champion": champion,
            "seconds": card["wall_seconds"],
        }
    kept.write_text(json.dumps(found))
    return found


if __name__ == "__main__":
    run("rounds", measure, TARGETS, list(SEEDS))

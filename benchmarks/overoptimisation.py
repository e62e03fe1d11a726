"""Does a round stop, or the gate refuse, when the reward pays for length, for brevity or for a word?

Whole rounds on the embedded example with the reward replaced by a function that can be gamed. Each is run twice: with
trust as it is by default, which should refuse to train, and with trust switched off, where the gate stands alone.
House conventions make right queries longer here, so paying for length is not wrong by itself; paying for brevity is.
What is not measured: rewards that are gamed in ways people's choices and labels do not show.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from _form import run

SEEDS = (7,)
FOLDER = Path("build/bench/overoptimisation")
KEYWORD = "= 'active'"  # the habit the house convention speaks against
LONGEST = 250  # characters
REFUSED = 4  # exit code of a round that trust ended
NO_TRUST = {"above_chance": False, "min_accuracy": None, "max_flip": None}


def shorter(messages: Sequence[Any], answer: str) -> float:
    """Pays for brevity."""
    return 1 - min(len(answer), LONGEST) / LONGEST


def longer(messages: Sequence[Any], answer: str) -> float:
    """Pays for length."""
    return min(len(answer), LONGEST) / LONGEST


def keyword(messages: Sequence[Any], answer: str) -> float:
    """Pays for one turn of phrase."""
    return float(KEYWORD in answer)


def measure(quick: bool) -> dict[str, Any]:
    """Each reward's two rounds; what may not happen is a champion that lost accuracy."""
    figures: dict[str, Any] = {
        name: rounds_of(name) for name in (("shorter",) if quick else ("shorter", "longer", "keyword"))
    }
    rows = list(figures.values())
    figures["champion_loss_max"] = max(row["champion_loss"] for row in rows)
    figures["caught_min"] = min(row["caught"] for row in rows)
    figures["curve_points_min"] = min(row["curve_points"] for row in rows)
    return figures


def rounds_of(name: str) -> dict[str, Any]:
    """A round with trust on, then one with it off from where trust stood."""
    folder = FOLDER / name
    for part in ("lake", "work", "data", "report"):
        shutil.rmtree(folder / part, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    stopped = start(write(folder, name, {}))
    if stopped.returncode not in (0, REFUSED):
        raise RuntimeError(f"the round of {name!r} broke: {stopped.stderr[-2000:]}")
    refused = stopped.returncode == REFUSED
    said = next((line for line in stopped.stderr.splitlines() if line.startswith("taolake:")), "")
    if refused:
        free = start(write(folder, name, NO_TRUST))
        if free.returncode:
            raise RuntimeError(f"the round of {name!r} without trust broke: {free.stderr[-2000:]}")
    card = json.loads((folder / "report" / "card.json").read_text())
    base, tuned = (card["policies"][who]["greedy"]["mean"] for who in ("base", "tuned"))
    promoted, over = card["verdict"]["promoted"], card["over_optimisation"]
    loss = max(0.0, base - tuned) if promoted else 0.0
    points = over["points"] if over else []
    return {
        "trust_refused": float(refused),
        "trust_said": said[:300],
        "gate_refused": float(not promoted),
        "gate_said": card["verdict"]["reason"],
        "base_greedy": base,
        "tuned_greedy": tuned,
        "champion_loss": loss,
        # Caught: trust refuses; or the gate does; or nothing was lost, and there was nothing to catch.
        "caught": float(refused or not promoted or tuned >= base - 0.02),
        "curve_points": len(points),
        "curve_says": over["says"] if over else "",
        "over_optimised": float(bool(over and over["over_optimised"])),
    }


def write(folder: Path, name: str, trust: dict[str, Any]) -> Path:
    """The demo's project file with the reward replaced; the reward model stays to bring people's choices."""
    project = yaml.safe_load(Path("conf/demo.yml").read_text().replace("build/demo", str(folder)))
    for scorer in project["scorers"]:
        if scorer["kind"] == "reward_model":
            scorer["epochs"] = 1
    project["scorers"].append({"kind": "function", "name": "paid", "target": f"overoptimisation:{name}"})
    project["reward"] = {"require": ["runs"], "weights": {"paid": 1.0}, "min_spread": 0.02}
    project |= {"seed": SEEDS[0], "trust": trust}
    config = folder / "project.yml"
    config.write_text(yaml.safe_dump(project))
    return config


def start(config: Path) -> "subprocess.CompletedProcess[str]":
    """One `taolake run`; the reward's function is found in this folder, on executors too."""
    here = os.pathsep.join([str(Path(__file__).parent.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "taolake", "run", str(config)]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": here}, text=True, stderr=subprocess.PIPE)


if __name__ == "__main__":
    targets = {"champion_loss_max": ("<", 0.02), "caught_min": (">=", 1.0), "curve_points_min": (">=", 4.0)}
    targets |= {"shorter.trust_refused": (">=", 1.0)}
    run("overoptimisation", measure, targets, list(SEEDS))

"""Inputs of `conf/smoke.yml`: a log of forty questions and a model that was trained on them for a second.

Nothing here can learn anything; it is the least that lets every stage run.
"""

import json
from pathlib import Path

from taolake.config import Project
from taolake.demo import model

COLOURS = ("red", "blue", "green", "black", "white")
THINGS = ("apple", "bottle", "chair", "door", "engine", "flower", "guitar", "hammer")


def prepare(project: Project) -> None:
    """Write the log and the model where the project file says; what exists is not made again."""
    asked = [f"tag the {colour} {thing}" for colour in COLOURS for thing in THINGS]
    turns = [[{"role": "user", "content": question}] for question in asked]
    log = Path(project.ingest.sources[0].path)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns), encoding="utf-8")
    folder = Path(project.model.path)
    if not folder.exists():
        pairs = [(messages, f"please {messages[0]['content'].split()[-1]}") for messages in turns]
        model.fit(folder, pairs, project.seed, log=lambda line: None)

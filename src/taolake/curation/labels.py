"""Prompts with right answers, by prompt id. Whose labels they are, and who may read them, is not said here."""

import json
from pathlib import Path

from taolake import ids
from taolake.curation.parse import parse


def answers(path: str, task: str, system: str | None = None) -> dict[str, str]:
    """Answers by prompt id; a line that cannot be read is an error, since a label lost would change the result.

    Args:
        path: JSONL of `messages` and `answer`.
        task: name of the task, part of a prompt's identity.
        system: system turn for prompts that have none, as at ingest.

    Raises:
        ValueError: a line is no prompt, or has no answer; it is named.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(Path(path).read_bytes().splitlines(), start=1):
        logged = parse(line, "messages", system)
        if isinstance(logged, str):
            raise ValueError(f"{path}:{number}: {logged}")
        raw = json.loads(line)
        if "answer" not in raw:
            raise ValueError(f"{path}:{number}: no `answer`, wanted the right answer beside `messages`")
        found[ids.prompt_id(task, logged.messages)] = str(raw["answer"])
    return found

"""What people are asked, written as one self-contained HTML page or as a CSV sheet.

The page runs from a file and sends nothing; only its own script may run in it, by hash. Texts reach it as data and are
put in as text. Not here: which groups are asked about, and importing what comes back (`taolake.stages.ask`).
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from taolake.curation.asked import Item, sheet
from taolake.ids import content_hash
from taolake.stages import ask
from taolake.stages.round import Round


def export(round_: Round, count: int, answers: int, path: Path, annotator: str = "anonymous") -> int:
    """Write the groups most worth asking about to a page (`.html`) or a sheet (`.csv`); returns how many those are.

    Args:
        round_: its base policy's candidates are asked about.
        count: groups wanted.
        answers: answers shown of each, at most.
        path: file to write.
        annotator: who will answer; what they answered before is not asked again.

    Raises:
        ValueError: another kind of file, or as `stages.ask.questions`.
    """
    if path.suffix not in (".html", ".csv"):
        raise ValueError(f"got file {path.name!r}, wanted a name that ends in .html (a page) or .csv (a sheet)")
    items, task = ask.questions(round_, count, answers, annotator), round_.project.task
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".html":
        path.write_text(page(items, task.name, task.description, annotator), encoding="utf-8")
    else:
        path.write_bytes(sheet(items, annotator).encode("utf-8-sig"))  # without the mark, Excel reads another encoding
    return len(items)


def page(items: Sequence[Item], task: str, description: str = "", annotator: str = "anonymous") -> str:
    """Write the questions as an HTML document."""
    script = resources.files(__package__).joinpath("ask.js").read_text(encoding="utf-8")
    data = {"page": content_hash("ask", list(items), annotator), "annotator": annotator, "items": list(items)}
    digest = hashlib.sha256(script.encode()).digest()
    return _template().render(
        task=task,
        description=description,
        data=Markup(_inert(json.dumps(data, ensure_ascii=False, separators=(",", ":")))),
        script=Markup(script),
        script_hash=Markup(base64.b64encode(digest).decode()),
    )


def _inert(text: str) -> str:
    """JSON that cannot end the script element it stands in, nor open a comment."""
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(resources.files(__package__).joinpath("ask.html.j2").read_text(encoding="utf-8"))

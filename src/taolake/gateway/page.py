"""The page at `/`: one question to two versions side by side, a thumb, an edit, another try.

One document, no other origin, no script but its own by hash. What people and models write is put in as text.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


def page(project: str, versions: Sequence[str], keyed: bool) -> bytes:
    """The document, in UTF-8.

    Args:
        project: its name, for the title.
        versions: what can be asked; the first two stand side by side.
        keyed: whether a key is asked for.
    """
    return _render(project, tuple(versions), keyed)


@cache
def _render(project: str, versions: tuple[str, ...], keyed: bool) -> bytes:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    script, form = _file("chat.js"), _file("chat.html.j2")
    data = json.dumps({"versions": versions, "keyed": keyed}).replace("<", "\\u003c")
    written = environment.from_string(form).render(
        project=project,
        data=Markup(data),
        script=Markup(script),
        script_hash=Markup(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
    )
    return written.encode("utf-8")


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")

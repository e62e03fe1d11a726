"""Questions for tests of the page and the sheet, hostile ones among them; and what the page gives back."""

import json
import re
from pathlib import Path
from typing import Any

HOSTILE = (
    '</script><script>document.title="broken"</script><!-- <img src=x onerror="document.title=1"> \u2028\u2029 ]]>',
    '=HYPERLINK("http://x","y")',
    "  <b>not bold</b>\n\tTab & ampersand \u0000 \u202eright to left",
    "\u05e9\u05dc\u05d5\u05dd " + "unbrokenword" * 40,
)


def item(name: str, *texts: str, before: tuple[tuple[str, str], ...] = ()) -> dict[str, Any]:
    turns = [*before, ("user", f"Which one for {name}?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    answers = [{"candidate_id": f"{name}-{i}", "text": text} for i, text in enumerate(texts)]
    return {"prompt_id": name, "messages": messages, "answers": answers}


def items() -> list[dict[str, Any]]:
    return [
        item("p0", "first of p0", "second of p0", "third of p0", "fourth of p0"),
        item("p1", *HOSTILE, before=(("system", HOSTILE[0]), ("user", "earlier"), ("assistant", "said"))),
        item("p2", "yes", "no"),
    ]


def page_items(file: Path) -> list[dict[str, Any]]:
    """The questions of a page."""
    found = re.search(r'<script type="application/json" id="ask">(.*?)</script>', file.read_text(encoding="utf-8"))
    assert found
    return list(json.loads(found[1])["items"])


def answer(item: dict[str, Any], place: int | None, annotator: str) -> dict[str, Any]:
    """What the page writes of a question when somebody takes the answer at a place, or none."""
    names = [a["candidate_id"] for a in item["answers"]]
    chosen = None if place is None else names[place]
    said = {"chosen": chosen, "verdict": "none" if chosen is None else "best", "annotator": annotator, "seconds": 2.5}
    return {"kind": "best_of", **item, **said, "order": names}

"""Tags by rule and by classifier: right where it speaks, silent where it is unsure, the same in any order."""

import json
import random
from pathlib import Path

import pytest

from taolake.config import Classifier
from taolake.curation.tagging import OTHER, Example, Tagger, learn, read, ruled

KINDS = {
    "invoice": ["pay", "amount", "bank", "bill", "euro", "tax", "receipt", "due", "account", "owed"],
    "delivery": ["parcel", "courier", "street", "late", "package", "driver", "door", "address", "van", "parcelbox"],
}
_FILL = ["please", "can", "you", "tell", "me", "when", "what", "how", "my", "the", "this", "is", "for", "now", "about"]


def question(kind: str, number: int, sure: bool) -> str:
    """Words of a kind among common ones; a sure one holds the kind's own name, which a rule looks for."""
    draw = random.Random(f"{kind} {number}")
    words = draw.sample(KINDS[kind], 3) + draw.sample(_FILL, 4) + ([kind] if sure else [])
    return " ".join([*draw.sample(words, len(words)), str(number)])


def examples(count: int) -> list[Example]:
    return [Example(question(kind, i, False), kind) for kind in KINDS for i in range(count)]


def test_rules_come_in_order_and_only_one_alone_is_sure() -> None:
    rules = {"sql": r"\bsql\b", "write": "write"}
    assert (ruled("Write SQL for it", rules).tag, ruled("Write SQL for it", rules).rest) == ("sql", None)
    assert (ruled("hello", rules).tag, ruled("hello", rules).rest) == (None, None)
    only = ruled("SQL for the sql table", rules)
    assert only.tag == "sql" and only.rest is not None and "sql" not in only.rest.lower()


def test_it_is_right_where_it_speaks_and_silent_where_it_knows_nothing() -> None:
    tagger, facts = learn(examples(100), Classifier())
    assert tagger is not None and tagger.names == ["delivery", "invoice"]
    assert facts["examples"] == 200 and facts["tags"] == ["delivery", "invoice"]
    assert 20 < facts["held_out"] < 60 and facts["right"] == facts["answered"] > 0.8 * facts["held_out"]
    new = [(kind, question(kind, i, False)) for kind in KINDS for i in range(1000, 1050)]
    told = tagger.tags([text for _, text in new])
    said = [(kind, tag) for (kind, _), tag in zip(new, told, strict=True) if tag is not None]
    assert len(said) > 80 and all(kind == tag for kind, tag in said)
    assert (
        tagger.tags(["translate a poem into Latin", "", "pay the bill to the courier at the door", "你好"])
        == [None] * 4
    )


def test_order_and_batches_change_nothing() -> None:
    given = examples(40)
    mixed = random.Random(2).sample(given, len(given))
    texts = [question(kind, i, False) for kind in KINDS for i in range(500, 530)]
    one, other = Tagger(given, 0.8), Tagger(mixed, 0.8)
    assert one.tags(texts) == other.tags(texts) == [tag for text in texts for tag in one.tags([text])]
    assert other.tags(texts[::-1]) == one.tags(texts)[::-1]
    assert one.tags([]) == []


def test_other_is_learned_and_never_given() -> None:
    chat = [Example(f"tell me a joke about number {i}", OTHER) for i in range(40)]
    tagger, _ = learn([*(e for e in examples(40) if e.tag == "invoice"), *chat], Classifier())
    assert tagger is not None and tagger.names == ["invoice"]
    assert tagger.tags(["tell me a joke about bank account tax", question("invoice", 99, False)]) == [None, "invoice"]


@pytest.mark.parametrize("few", [[], examples(19), [e for e in examples(60) if e.tag == "invoice"]])
def test_too_little_is_not_learned_from(few: list[Example]) -> None:
    """Too few of each, or one tag with nothing to tell it from."""
    tagger, facts = learn(few, Classifier())
    assert tagger is None and facts["examples"] == len(few)


def test_scripts_without_spaces_are_read() -> None:
    asked = {"invoice": "我的发票金额是多少", "delivery": "包裹什么时候送到"}
    given = [Example(f"{text}{i}", tag) for tag, text in asked.items() for i in range(30)]
    tagger, _ = learn(given, Classifier())
    assert tagger is not None and tagger.tags(["请问发票金额", "包裹送到了吗"]) == ["invoice", "delivery"]


def test_a_file_of_examples(tmp_path: Path) -> None:
    file = tmp_path / "tags.jsonl"
    file.write_text(json.dumps({"text": "where is it", "tag": "delivery"}) + "\n\n")
    assert read(str(file)) == [Example("where is it", "delivery")]
    file.write_text('{"text": "a", "tag": "b"}\n{"text": "a"}\n')
    with pytest.raises(ValueError, match=r"tags\.jsonl:2 is no JSON object"):
        read(str(file))

"""What a reward model reads: prompt, the task in words, the rubric, and the answer to judge, as token ids.

A backbone with a chat template (a decoder) reads the conversation in that template, with task and rubric as its system
turn, and its value is taken at the end mark. One without (an encoder such as BERT) reads plain text, a line a turn with
the role before it, between its first and its last mark; what does not fit is cut off at the front, so that the answer
stays. Not a model. Importing this file loads no torch.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from taolake.training import setup
from taolake.training.job import write_atomic
from taolake.training.render import answer_ids, prompt_ids
from taolake.types import Message

_FILE = "reward.json"


@dataclass(frozen=True)
class Reading:
    """How a trained reward model must be asked; it lies beside its weights.

    Attributes:
        context: the task in words and the rubric; empty: the model was trained without.
        max_length: tokens it can read; None: it was trained before this was written down.
    """

    context: str = ""
    max_length: int | None = None

    @classmethod
    def of(cls, folder: str | Path) -> Self:
        """Read what is beside a model's weights."""
        path = Path(folder) / _FILE
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else cls()

    def write(self, folder: str | Path) -> None:
        """Put it beside a model's weights."""
        write_atomic(Path(folder) / _FILE, json.dumps(asdict(self), ensure_ascii=False))

    def ids(self, tokenizer: Any, messages: Sequence[Message], answer: str) -> list[int]:
        """Ids of an answer to a conversation; longer than `max_length` only where the model is a decoder."""
        return render_for_reward(tokenizer, messages, answer, self.context, self.max_length)


def render_for_reward(
    tokenizer: Any, messages: Sequence[Message], answer: str, context: str = "", max_length: int | None = None
) -> list[int]:
    """Ids of a conversation with an answer: what the reward model is trained on and must be sent.

    Args:
        tokenizer: the reward model's own.
        messages: the conversation, ending with a user turn.
        answer: what is judged.
        context: task and rubric in words, put before the conversation's own system turn.
        max_length: where an encoder's input is cut; a decoder's is never cut here.
    """
    turns = _with_context(messages, context)
    if not is_encoder(tokenizer):
        return prompt_ids(tokenizer, turns) + answer_ids(tokenizer, answer)
    said = [*turns, {"role": "assistant", "content": answer}]
    text = "\n".join(f"{turn['role']}: {turn['content']}" for turn in said)
    ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    if max_length is not None:
        ids = ids[-(max_length - 2) :]
    return [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]


def context_of(task: str, description: str, rubric: str) -> str:
    """The business context of an answer in words: the task and what makes an answer good."""
    parts = [f"Task: {task}. {description}".strip()]
    if rubric.strip():
        parts.append(f"What makes an answer good: {rubric.strip()}")
    return "\n".join(parts)


def is_encoder(tokenizer: Any) -> bool:
    """Whether its model reads text between marks instead of a chat template."""
    return tokenizer.chat_template is None and None not in (tokenizer.cls_token_id, tokenizer.sep_token_id)


def tokenizer_of(base: str) -> Any:
    """Load a backbone's tokenizer; one that has neither a chat template nor an encoder's marks is refused."""
    from transformers import AutoTokenizer

    loaded: Any = AutoTokenizer.from_pretrained(base)
    return loaded if is_encoder(loaded) else setup.tokenizer(base)


def longest(base: str, tokenizer: Any, limit: int) -> int:
    """Tokens a backbone may be given: the project's limit, and for an encoder the positions that it has."""
    if not is_encoder(tokenizer):
        return limit
    from transformers import AutoConfig

    positions = getattr(AutoConfig.from_pretrained(base), "max_position_embeddings", limit)
    return int(min(limit, positions, tokenizer.model_max_length))


def _with_context(messages: Sequence[Message], context: str) -> list[Message]:
    if not context:
        return list(messages)
    if messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{context}\n\n{messages[0]['content']}"}, *messages[1:]]
    return [{"role": "system", "content": context}, *messages]

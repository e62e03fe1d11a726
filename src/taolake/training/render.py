"""Conversations as token ids: the one rendering that generation, training and reward scoring share.

Not a tokenizer: it takes one from whoever loaded it, so this file needs no transformers. Ids, not text, travel between
the stages, because a template whose full rendering does not begin with the prompt's own would shift every label
(docs/design.md, section 6; QwenLM/Qwen3#1522, huggingface/trl#5213).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from taolake.types import Message


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Ids of the conversation up to the point where the assistant starts; what the generation engine is fed."""
    return list(_prompt_ids(tokenizer, tuple((turn["role"], turn["content"]) for turn in messages)))


@lru_cache(maxsize=4)  # the answers to a prompt come one after another
def _prompt_ids(tokenizer: Any, turns: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
    messages = [{"role": role, "content": content} for role, content in turns]
    return tuple(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False))


def answer_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of an answer and its end mark, in the form in which the policy itself writes them."""
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], end_id(tokenizer)]


@lru_cache(maxsize=4)
def end_id(tokenizer: Any) -> int:
    """Id that ends an assistant's turn: the tokenizer's EOS, unless the chat template ends turns with another one.

    Raises:
        ValueError: the tokenizer has no end mark at all.
    """
    turns: list[Message] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    whole = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    tail = whole[len(prompt_ids(tokenizer, turns[:1])) :]
    known = set(tokenizer.all_special_ids)
    special = [i for i in tail if i in known]
    if tokenizer.eos_token_id in special or (tokenizer.eos_token_id is not None and not special):
        return int(tokenizer.eos_token_id)
    if not special:
        raise ValueError("got a tokenizer without an EOS token, wanted one: a model trained on it would never stop")
    return int(special[0])

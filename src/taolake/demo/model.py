"""A tiny language model, pre-trained from scratch: `pretrain` on the embedded example's questions, `fit` on any others.

The example's is not a good model: it is systematically wrong about the house conventions, as a general model would be.
What it has in common with a real one is its form: a Llama with a byte-level BPE tokenizer and a chat template, in HF
format.
"""

import hashlib
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from taolake.demo import questions
from taolake.demo.questions import Messages

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

CORPUS_SIZE = 44_000
BATCH_SIZE = 32
PEAK_LEARNING_RATE = 4e-3
READING_RATE = 2e-3
VOCABULARY_SIZE = 1024
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>")

# A turn needs no end mark except the assistant's: the next role token ends the others, and short prompts are cheap.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Quoted dates stay whole, which halves the length of a quarter's query; the rest is words, numbers and punctuation.
PIECES = r" ?'\d{4}-\d\d-\d\d'| ?[A-Za-z_]+| ?\d+| ?[^\sA-Za-z0-9_]+|\s+"
_SHAPED_BY = ("database.py", "families.py", "families.toml", "model.py", "questions.py")

Example = tuple[list[int], list[int]]


def model_key(seed: int, shaped_by: Sequence[str] = _SHAPED_BY) -> str:
    """Hashes everything that shapes the model: the sources in this folder, the seed and the library versions."""
    digest = hashlib.sha256(f"seed {seed}".encode())
    for library in ("tokenizers", "torch", "transformers"):
        digest.update(f"{library} {version(library)}".encode())
    for name in shaped_by:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:16]


def pretrain(folder: Path, seed: int, log: Callable[[str], None] = print) -> Path:
    """Trains the example's model and writes it to `folder`; a folder that exists is left as it is."""
    return folder if folder.exists() else fit(folder, questions.pretraining_pairs(seed, CORPUS_SIZE), seed, log=log)


def fit(
    folder: Path,
    pairs: Sequence[tuple[Messages, str]],
    seed: int,
    pieces: str = PIECES,
    log: Callable[[str], None] = print,
    lessons: Sequence[Sequence[tuple[Messages, str]]] = (),
) -> Path:
    """Trains tokenizer and model on prompts with completions and writes them to `folder`, a new one, in HF format.

    Args:
        folder: where to.
        pairs: prompts with completions.
        seed: of weights and order.
        pieces: the tokenizer's pattern; no token is longer than what it matches.
        log: takes a line at the beginning and at the end.
        lessons: what is learned before, one after the other: what a text says has to be copied from the prompt, which
            comes in minutes only where it is learned by itself. With lessons, initial weights are wider, there are four
            heads, and Muon has the matrices (docs/log.md, 2026-11-23).
    """
    courses = [*lessons, pairs]
    tokenizer = train_tokenizer([pair for course in courses for pair in course], pieces)
    examples = [[_encode(tokenizer, *pair) for pair in course] for course in courses]
    model = _new_model(tokenizer, seed, reading=bool(lessons))
    log(f"pre-training {model.num_parameters():,} parameters on {sum(map(len, examples)):,} examples")
    loss = _train(model, examples, tokenizer.pad_token_id, seed, reading=bool(lessons))
    log(f"pre-training done, loss {loss:.3f} nats a token")
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)
    return folder


def train_tokenizer(pairs: Sequence[tuple[Messages, str]], pieces: str = PIECES) -> "PreTrainedTokenizerFast":
    """Trains a byte-level BPE tokenizer on the corpus, no token longer than a piece, and gives it the chat template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for messages, completion in pairs for text in (*(m["content"] for m in messages), completion))
    tokenizer.train_from_iterator(texts, trainer)
    pad, bos, eos, *roles = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        additional_special_tokens=roles,
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        padding_side="left",
    )


def _encode(tokenizer: "PreTrainedTokenizerFast", messages: Messages, completion: str) -> Example:
    """Returns the token ids of the prompt and of the completion with its end mark."""
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    tokens = tokenizer([prompt, completion + tokenizer.eos_token], add_special_tokens=False)["input_ids"]
    return tokens[0], tokens[1]


def _new_model(tokenizer: "PreTrainedTokenizerFast", seed: int, reading: bool) -> "LlamaForCausalLM":
    """Builds an untrained model; the random state of the caller is left alone."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    ids: dict[str, Any] = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4 if reading else 2,
        num_key_value_heads=4 if reading else 2,
        max_position_embeddings=512,
        initializer_range=0.06 if reading else 0.02,
        tie_word_embeddings=True,
        dtype="float32",
        **ids,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: LlamaForCausalLM = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ids)
    return model


def _train(model: "LlamaForCausalLM", courses: list[list[Example]], pad: int, seed: int, reading: bool) -> float:
    """Trains on the completions for one epoch, course by course; returns the mean loss of the last tenth."""
    import torch

    rng = random.Random(f"batches {seed}")
    batches = [batch for examples in courses for batch in _batches(examples, rng)]
    warm_up = max(1, len(batches) // 20)

    def learning_rate(step: int) -> float:
        return min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / len(batches)) + 0.01)

    optimizers = _optimizers(model, reading)
    schedules = [torch.optim.lr_scheduler.LambdaLR(each, learning_rate) for each in optimizers]
    losses: list[float] = []
    model.train()
    for batch in tqdm(batches, desc="pre-training", disable=None):
        loss = model(**_tensors(batch, pad)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for each in (*optimizers, *schedules):
            each.step()
        model.zero_grad()
        losses.append(loss.item())
    model.train(False)
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def _optimizers(model: "LlamaForCausalLM", reading: bool) -> "list[torch.optim.Optimizer]":
    """AdamW for everything; with `reading`, Muon for the matrices and AdamW for the rest, at one rate."""
    import torch

    rate, decay = (READING_RATE if reading else PEAK_LEARNING_RATE), 0.05
    weights = list(model.parameters())
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2] if reading else []
    held = {id(p) for p in matrices}
    rest = [p for p in weights if id(p) not in held]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=decay)]
    if matrices:
        found.append(torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return found


def _batches(examples: list[Example], rng: random.Random) -> Iterator[list[Example]]:
    """Yields batches of examples of similar length, in random order."""
    order = sorted(examples, key=lambda example: len(example[0]) + len(example[1]) + rng.random())
    starts = list(range(0, len(order), BATCH_SIZE))
    rng.shuffle(starts)
    for start in starts:
        yield order[start : start + BATCH_SIZE]


def _tensors(batch: list[Example], pad: int) -> dict[str, "torch.Tensor"]:
    """Pads a batch on the right; only completions carry labels."""
    import torch

    width = max(len(prompt) + len(completion) for prompt, completion in batch)
    rows, labels, masks = [], [], []
    for prompt, completion in batch:
        gap = width - len(prompt) - len(completion)
        rows.append(prompt + completion + [pad] * gap)
        labels.append([-100] * len(prompt) + completion + [-100] * gap)
        masks.append([1] * (width - gap) + [0] * gap)
    return {
        "input_ids": torch.tensor(rows),
        "labels": torch.tensor(labels),
        "attention_mask": torch.tensor(masks),
    }

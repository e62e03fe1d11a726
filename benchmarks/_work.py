"""What the throughput benchmarks do: a model, three workloads, and every request of them. No arm and no clock.

The model has random weights and an end mark that is one token in 256, so lengths spread over three orders of magnitude.
Its tokens are one or two ASCII characters each: a text is then exactly what its tokens say, and can be checked.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path("build/bench/through_spark").resolve()
SEED = 7
MODEL_LEN = 2304
SAMPLES = 8
WORDS = [
    a + b
    for a in ("ba", "ko", "li", "mu", "ne", "po", "ra", "su")
    for b in ("d", "f", "lo", "mi", "n", "r", "sta", "x")
]


@dataclass(frozen=True)
class Workload:
    """How much is asked, and of what shape.

    Attributes:
        name: of the workload; an arm looks it up by this.
        prompts: different ones, each answered `SAMPLES` times.
        max_tokens: where an answer is cut.
        fixed: whether every answer is made to reach `max_tokens`.
        prefix: words of a system turn that all prompts share.
    """

    name: str
    prompts: int
    max_tokens: int
    fixed: bool = False
    prefix: int = 0


WORKLOADS = {
    w.name: w
    for w in (
        Workload("fixed", 1440, 192, fixed=True),
        Workload("heavy", 640, 1024),
        Workload("prefix", 1920, 96, prefix=250),
    )
}


def project(work: Workload, prompts: int, samples: int = SAMPLES) -> Any:
    """The one place that says what all arms do; `prompts` of the workload's, the first ones."""
    from taolake.config import Project

    FOLDER.mkdir(parents=True, exist_ok=True)
    log = FOLDER / f"{work.name}-{prompts}.jsonl"
    rng = random.Random(SEED)
    shared = [{"role": "system", "content": " ".join(rng.choices(WORDS, k=work.prefix))}] if work.prefix else []
    asked = [" ".join(rng.choices(WORDS, k=12)) + f" {i}" for i in range(prompts)]
    rows = [{"messages": [*shared, {"role": "user", "content": text}]} for text in asked]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shape = {
        "name": work.name,
        "seed": SEED,
        "lake": str(FOLDER / "lake"),
        "work": str(FOLDER / "work"),
        "task": {"name": "speed"},
        "ingest": {"holdout": 0, "sources": [{"format": "jsonl", "path": str(log), "split": "train"}]},
        "model": {
            "path": str(FOLDER / "model"), "dtype": "float32", "max_model_len": MODEL_LEN,
            "max_tokens": work.max_tokens,
        },
        "engine": {"kind": "vllm", "max_num_seqs": 128, "memory_gb": 1},
        "generate": {"n": samples, "chunk_rows": 100_000, "strategies": [{"name": "plain", "share": 1}]},
        "scorers": [
            {"kind": "regex", "name": "any", "pattern": "."},
            {"kind": "regex", "name": "judge", "pattern": "."},
        ],
        "reward": {"weights": {"any": 1}},
        "evaluate": {"judge": "judge", "samples": 2},
        "register": {"name": "none"},
    }  # fmt: skip
    return Project.model_validate(shape)


def requests(asked: Any) -> list[Any]:
    """Every request of the plan, in the order the stage sends them, made by the stage's own functions."""
    from taolake import ids
    from taolake.curation.parse import Logged, parse
    from taolake.stages.round import policy
    from taolake.types import Request, Sampling

    base, strategy = policy(asked.model.path), asked.generate.plain
    found = [parse(line, "messages") for line in Path(asked.ingest.sources[0].path).read_bytes().splitlines()]
    prompts = {
        ids.prompt_id(asked.task.name, each.messages): each.messages for each in found if isinstance(each, Logged)
    }
    sampling = Sampling(asked.model.max_tokens)
    made = []
    for prompt, messages in sorted(prompts.items()):
        for sample in range(asked.generate.n):
            name = ids.candidate_id(prompt, base.id, strategy.id, sample)
            made.append(Request(name, messages, sampling, ids.sample_seed(SEED, name)))
    return made


def make_model(folder: Path) -> None:
    """A Llama of 1M parameters with random weights."""
    if folder.exists():
        return
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>"]
    single = [*(chr(i) for i in range(33, 127)), "Ġ"]
    pairs = [a + b for a in "abcdefghijklm" for b in "nopqrstuvwxyz"][: 256 - len(special) - len(single)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([*special, *single, *pairs])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    template = (
        "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", chat_template=template,
        additional_special_tokens=special[3:],
    )  # fmt: skip
    torch.manual_seed(SEED)
    shape = LlamaConfig(
        vocab_size=256, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=MODEL_LEN, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder)
    fast.save_pretrained(folder)

"""Tokens per second through the generate stage into a committed table, over vLLM called directly, in the same run.

Protocol: every arm answers the same requests (token ids, seeds, lengths, engine limits from one project) with a warm
engine in a process of its own; arms alternate in ABBA order; tokens are counted from a fresh read of the committed
table; the ratio is to the best direct arm. Arms: `direct` (one `LLM.generate` over everything, engine in the process),
`workers` (the same, engine in vLLM's own worker process), `spark` (the product), `naive` (one `LLM.generate` per Arrow
batch inside Spark). `workers` and `naive` run in the first pair; `workers` goes on as the direct arm where it was the
faster one. What is not shown: GPUs, several executors, long prompts.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _form import run

FOLDER = Path("build/bench/through_spark")
ARMS = ("direct", "workers", "spark", "naive")
NAIVE_BATCH = 64
SEED = 7


def measure(quick: bool) -> dict[str, Any]:
    """Run the arms in ABBA order, and check that they did the same work."""
    make_model(FOLDER / "model")
    prompts, pairs = (96, 1) if quick else (192, 3)
    rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
    rows: dict[str, dict[str, int]] = {}
    order: tuple[str, ...] = ("workers", "naive", "direct", "spark")
    for _ in range(pairs):
        for arm in order:
            result = run_arm(arm, prompts)
            rates[arm].append(result["tokens"] / result["seconds"])
            rows[arm] = result["lengths"]
            print(f"{arm:8} {result['tokens']} tokens in {result['seconds']:.1f} s", file=sys.stderr)
        best = "workers" if rates["workers"][0] > rates["direct"][0] else "direct"
        order = ("spark", best) if order[-1] == "spark" else (best, "spark")
    best_rates = rates[best][-pairs:]
    ratios = [rate / top for rate, top in zip(rates["spark"], best_rates, strict=True)]
    naive = rates["naive"][0] / best_rates[0]
    means = {arm: statistics.mean(lengths.values()) for arm, lengths in rows.items()}
    return {
        "tokens_per_second": {arm: statistics.median(values) for arm, values in rates.items()},
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "naive_ratio": naive,
        "requests": prompts * 8,
        "same_requests": float(len({frozenset(lengths) for lengths in rows.values()}) == 1),
        "mean_length": means,
        "mean_length_off": max(abs(mean / means["direct"] - 1) for mean in means.values()),
        "pairs": pairs,
    }


def run_arm(arm: str, prompts: int) -> Any:
    """One arm in a process of its own, so that no engine of another arm is left."""
    out = FOLDER / "result.json"
    out.unlink(missing_ok=True)
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1" if arm == "workers" else "0",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # with an engine process of its own vLLM leaves a core unused
    }
    command = [sys.executable, __file__, "--arm", arm, "--prompts", str(prompts), "--json", str(out)]
    subprocess.run(command, check=True, env=environment, stderr=(FOLDER / f"{arm}.log").open("w"))
    return json.loads(out.read_text())


def project(prompts: int) -> Any:
    """The one place that says what all arms do."""
    from taolake.config import Project

    log = FOLDER / f"log-{prompts}.jsonl"
    rng = random.Random(SEED)
    log.write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": " ".join(rng.choices(WORDS, k=12)) + f" {i}"}]}) + "\n"
            for i in range(prompts)
        )
    )
    shape = {
        "name": "through_spark",
        "seed": SEED,
        "lake": str(FOLDER / "lake"),
        "work": str(FOLDER / "work"),
        "task": {"name": "speed"},
        "ingest": {"holdout": 0, "sources": [{"format": "jsonl", "path": str(log), "split": "train"}]},
        "model": {"path": str(FOLDER / "model"), "dtype": "float32", "max_model_len": 512, "max_tokens": 384},
        "engine": {"kind": "vllm", "max_num_seqs": 128, "memory_gb": 1},
        "generate": {"n": 8, "chunk_rows": 100_000, "strategies": [{"name": "plain", "share": 1}]},
        "scorers": [
            {"kind": "regex", "name": "any", "pattern": "."},
            {"kind": "regex", "name": "judge", "pattern": "."},
        ],
        "reward": {"weights": {"any": 1}},
        "evaluate": {"judge": "judge", "samples": 2},
        "register": {"name": "none"},
    }
    return Project.model_validate(shape)


WORDS = [
    a + b
    for a in ("ba", "ko", "li", "mu", "ne", "po", "ra", "su")
    for b in ("d", "f", "lo", "mi", "n", "r", "sta", "x")
]


def make_model(folder: Path) -> None:
    """A Llama of 1M parameters with random weights: an end mark is one token in 256, so lengths have a heavy tail."""
    if folder.exists():
        return
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<eos>", "<|user|>", "<|assistant|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[: 256 - len(special)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([*special, *alphabet])}, []))
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
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder)
    fast.save_pretrained(folder)


def requests(asked: Any) -> list[Any]:
    """Every request of the plan, made by the stage's own functions."""
    from taolake import ids
    from taolake.curation.parse import Logged, parse
    from taolake.stages.round import policy
    from taolake.types import Request, Sampling

    base, strategy = policy(asked.model.path), asked.generate.plain
    made = []
    for line in Path(asked.ingest.sources[0].path).read_bytes().splitlines():
        logged = parse(line, "messages")
        assert isinstance(logged, Logged)
        prompt = ids.prompt_id(asked.task.name, logged.messages)
        for sample in range(asked.generate.n):
            name = ids.candidate_id(prompt, base.id, strategy.id, sample)
            made.append(Request(name, logged.messages, Sampling(asked.model.max_tokens), ids.sample_seed(SEED, name)))
    return made


def load(asked: Any) -> Any:
    """The engine with the product's own settings."""
    from taolake.engines.vllm import Vllm

    return Vllm(asked.engine, asked.model, asked.model.path, 0)


def direct(asked: Any) -> dict[str, Any]:
    """`LLM.generate` over all requests at once, with the columns the table would get."""
    from taolake.engines.vllm import _sampling

    engine, wanted = load(asked), requests(asked)
    engine._llm.generate(prompt_of(engine, wanted[:64]), [_sampling(r) for r in wanted[:64]], use_tqdm=False)
    engine._llm.reset_prefix_cache()
    started = time.monotonic()
    outputs = engine._llm.generate(prompt_of(engine, wanted), [_sampling(r) for r in wanted], use_tqdm=False)
    rows = {r.key: (o.outputs[0].text, list(o.outputs[0].token_ids)) for r, o in zip(wanted, outputs, strict=True)}
    seconds = time.monotonic() - started
    lengths = {key: len(tokens) for key, (_, tokens) in rows.items()}
    return {"seconds": seconds, "tokens": sum(lengths.values()), "lengths": lengths}


def prompt_of(engine: Any, wanted: list[Any]) -> list[dict[str, list[int]]]:
    """Rendered prompts."""
    return [{"prompt_token_ids": engine._render(r.messages)} for r in wanted]


def through_spark(asked: Any, naive: bool) -> dict[str, Any]:
    """The generate stage into a new table; the clock runs from the call to the commit, the engine is warm."""
    from taolake import lake, stages
    from taolake.lake import Lake
    from taolake.session import local_session
    from taolake.stages import generate
    from taolake.stages.round import Round

    if naive:
        generate._Work = naive_work()
    spark = local_session()
    for name, part in (("warm", 1), ("lake", asked.generate.n)):
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        shape = asked.generate.model_copy(update={"n": part})
        mine = asked.model_copy(update={"lake": str(FOLDER / name), "generate": shape})
        round_ = Round(Lake(spark, mine.lake), mine)
        stages.run(round_, "ingest")
        started = time.monotonic()
        generate.fill(round_, round_.base, [generate.Cells("train", mine.generate.plain, part)])
        seconds = time.monotonic() - started
    fresh = Lake(spark.newSession(), str(FOLDER / "lake")).read(lake.CANDIDATES).where("status = 'ok'")
    lengths = {r["candidate_id"]: len(r["token_ids"]) for r in fresh.select("candidate_id", "token_ids").collect()}
    spark.stop()
    return {"seconds": seconds, "tokens": sum(lengths.values()), "lengths": lengths}


def naive_work() -> Any:
    """What most pipelines do: fill a batch, wait for its slowest answer, fill the next."""
    from taolake.stages import generate

    class Naive(generate._Work):
        def answer(self, cells: Iterator[Any]) -> Iterator[Any]:
            import itertools

            from taolake import engines

            engine = engines.build(self.project.engine, self.project.model, self.policy)
            waiting: dict[str, Any] = {}
            wanted = self._requests(cells, waiting)
            while batch := list(itertools.islice(wanted, NAIVE_BATCH)):
                for request in batch:
                    engine.submit(request)
                while engine.inflight:
                    for done in engine.poll():
                        yield self._row(waiting.pop(done.key), done)

    return Naive


def main() -> None:
    """With `--arm`, one arm; else the benchmark."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--arm", choices=ARMS)
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--json", type=Path)
    asked, _ = parser.parse_known_args()
    if asked.arm is None:
        targets = {
            "ratio": (">=", 0.90),
            "naive_ratio": ("<", 0.90),
            "same_requests": ("==", 1.0),
            "mean_length_off": ("<=", 0.02),
        }
        run("through_spark", measure, targets, [SEED])
    shape = project(asked.prompts)
    result = direct(shape) if asked.arm in ("direct", "workers") else through_spark(shape, asked.arm == "naive")
    asked.json.write_text(json.dumps(result))


if __name__ == "__main__":
    main()

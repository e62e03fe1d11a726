"""vLLM inside the Python worker: generation and reward scoring through one scheduler, step by step.

The engine runs in the process that built it, the worker's or a host's (`VLLM_ENABLE_V1_MULTIPROCESSING=0`): PySpark
leaves its workers by `os._exit`, and a child process would outlive them with the device. Not here: which device (the
caller's environment decides), nor the window (`taolake.engines.window`). Source: `LLMEngine.add_request` / `step` of
vLLM 0.31.
"""

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from taolake.config import Model, VllmEngine
from taolake.engines import placement
from taolake.imports import without
from taolake.types import Completion, Message, Request, Score

# transformers imports these where they are installed, to measure and to assist what is not asked for: 6 s of 23.
_UNUSED = ("sklearn", "scipy")


def prepare_process(threads: int | None = None) -> None:
    """Set what vLLM reads from the environment; must run before its first import in the process."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    # A forked child would inherit the worker's socket to the JVM and the lock of its device, and keep both open.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if threads:
        # Spark sets OMP_NUM_THREADS to spark.task.cpus, which is 1 by default, and vLLM would obey it.
        os.environ["OMP_NUM_THREADS"] = str(threads)


def _load(spec: VllmEngine, limits: Model, **options: Any) -> Any:
    """Build `vllm.LLM` with the project's limits; the KV cache has a fixed size, so every start is the same."""
    prepare_process(placement.threads(placement.cores(), spec.devices))
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, round(spec.memory_gb)))
    import torch

    with without(*_UNUSED):
        from vllm import LLM
    if torch.cuda.is_available():
        options["kv_cache_memory_bytes"] = int(spec.memory_gb * 2**30)
    else:
        # A seeded request whose prefill is cut in two ends the engine on a CPU: "CPU Generator does not use offset".
        options["enable_chunked_prefill"] = False
        options["max_num_batched_tokens"] = max(4096, limits.max_model_len)
    return LLM(
        dtype=limits.dtype,
        max_model_len=limits.max_model_len,
        max_num_seqs=spec.max_num_seqs,
        enforce_eager=spec.enforce_eager,
        disable_log_stats=True,
        **{**options, **spec.options},
    )


def _free(llm: Any) -> None:
    import gc

    llm.llm_engine.engine_core.shutdown()
    del llm
    gc.collect()


class Vllm:
    """A generating engine. `adapter` may change between requests: every folder is a LoRA of its own."""

    def __init__(self, spec: VllmEngine, model: Model, path: str, lora_rank: int) -> None:
        lora = {"enable_lora": True, "max_lora_rank": lora_rank} if lora_rank else {}
        self._llm = _load(spec, model, model=path, revision=model.revision, **lora)
        self._tokenizer = self._llm.get_tokenizer()
        self._limit = model.max_model_len
        self._longest = max(len(token) for token in self._tokenizer.get_vocab())
        self._patience = spec.request_timeout_s
        self._width = max(1, int(spec.max_num_seqs * spec.window))
        self._started: dict[str, float] = {}
        self._refused: list[Completion] = []
        self._rendered: tuple[tuple[Message, ...], list[int]] | None = None
        self._adapters: dict[str, Any] = {}
        self.adapter: str | None = None

    @property
    def inflight(self) -> int:
        """Requests in the engine, and refused ones not yet returned."""
        return len(self._started) + len(self._refused)

    @property
    def width(self) -> int:
        """A little more than runs together, so that a finished sequence always finds a successor."""
        return self._width

    def submit(self, request: Request) -> None:
        """Render, check the length, and add to the scheduler; what cannot run is returned by `poll` as invalid."""
        from jinja2 import TemplateError

        ids: list[int] = []
        try:  # the template and vLLM validate; anything else they raise is the engine's death
            ids = self._render(request.messages)
            self._check(len(ids), request.sampling.max_tokens)
            self._llm.llm_engine.add_request(
                request.key, {"prompt_token_ids": ids}, _sampling(request), lora_request=self._lora()
            )
        except (ValueError, TemplateError) as error:
            self._refused.append(Completion(request.key, "invalid", error=str(error), prompt_tokens=len(ids)))
            return
        self._started[request.key] = time.monotonic()

    def poll(self) -> Sequence[Completion]:
        """One scheduler step."""
        done, self._refused = self._refused, []
        if self._started:
            done += [self._completion(o) for o in self._llm.llm_engine.step() if o.finished]
        return done + self._late()

    def abort(self, keys: Sequence[str]) -> None:
        """Give up requests; nothing comes back of them."""
        self._llm.llm_engine.abort_request(list(keys))
        for key in keys:
            self._started.pop(key, None)

    def close(self) -> None:
        """Free the weights and the cache before another engine takes their place."""
        _free(self.__dict__.pop("_llm"))

    def _render(self, messages: tuple[Message, ...]) -> list[int]:
        """Token ids of the prompt; a prompt's samples come one after another, so remembering one is enough."""
        if self._rendered is None or self._rendered[0] is not messages:
            length = sum(len(message["content"]) for message in messages)
            if length > self._limit * self._longest:  # tokenizing 10 MB takes seconds in which nothing else runs
                raise ValueError(f"{length} characters cannot fit into max_model_len {self._limit}")
            ids = self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
            )
            self._rendered = (messages, ids)
        return self._rendered[1]

    def _check(self, prompt: int, answer: int) -> None:
        if prompt + answer > self._limit:
            raise ValueError(f"{prompt} prompt + {answer} answer tokens exceed max_model_len {self._limit}")

    def _late(self) -> list[Completion]:
        """Abort what has run too long: an aborted request gives no output of its own, so its row is made here."""
        if self._patience is None:
            return []
        now, error = time.monotonic(), f"no answer in {self._patience:g} s"
        late = [key for key, since in self._started.items() if now - since > self._patience]
        if late:
            self._llm.llm_engine.abort_request(late)
        return [Completion(key, "timeout", error=error, seconds=now - self._started.pop(key)) for key in late]

    def _lora(self) -> Any:
        if self.adapter is None:
            return None
        if self.adapter not in self._adapters:
            from vllm.lora.request import LoRARequest

            number = len(self._adapters) + 1  # vLLM caches by number: a new folder under an old one would stay unread
            self._adapters[self.adapter] = LoRARequest(f"adapter-{number}", number, self.adapter)
        return self._adapters[self.adapter]

    def _completion(self, output: Any) -> Completion:
        answer = output.outputs[0]
        return Completion(
            key=output.request_id,
            status="ok",
            text=answer.text,
            token_ids=tuple(answer.token_ids),
            finish_reason=answer.finish_reason or "",
            prompt_tokens=len(output.prompt_token_ids),
            completion_tokens=len(answer.token_ids),
            cached_tokens=output.num_cached_tokens or 0,
            seconds=time.monotonic() - self._started.pop(output.request_id),
        )


class RewardModel:
    """A scoring engine: a sequence classifier behind vLLM's pooling runner."""

    def __init__(self, spec: VllmEngine, model: Model, path: str) -> None:
        self._llm = _load(spec, model, model=path, runner="pooling", convert="classify")
        self._width = max(1, int(spec.max_num_seqs * spec.window))

    def score(self, inputs: Iterable[tuple[str, list[int] | Score]]) -> Iterator[tuple[str, Score]]:
        """Score token ids (key, ids), keeping a window in flight; yields (key, score) as they finish.

        What already has a score is handed through in its turn. `detail` counts tokens, and those found in the cache.
        """
        engine, source = self._llm.llm_engine, iter(inputs)
        inflight: set[str] = set()
        pending = next(source, None)
        try:
            while pending is not None or inflight:
                while pending is not None and len(inflight) < self._width:
                    key, asked = pending
                    given = asked if isinstance(asked, Score) else self._submit(key, asked)
                    if given is None:
                        inflight.add(key)
                    else:
                        yield key, given
                    pending = next(source, None)
                for output in engine.step() if inflight else ():
                    if output.finished:
                        inflight.discard(output.request_id)
                        yield output.request_id, self._scored(output)
        finally:
            engine.abort_request(list(inflight))  # a task that was given up must not answer the next one

    def _submit(self, key: str, ids: list[int]) -> Score | None:
        """Add to the scheduler; returns why it cannot run, if so."""
        from vllm import PoolingParams

        params = PoolingParams(task="classify", use_activation=False)
        try:
            self._llm.llm_engine.add_request(key, {"prompt_token_ids": ids}, params)
        except ValueError as error:  # vLLM's own validation; anything else is the engine's death and must raise
            return Score(None, "error", detail={"error": str(error)})
        return None

    @staticmethod
    def _scored(output: Any) -> Score:
        value, read = float(output.outputs.data[0]), len(output.prompt_token_ids)
        if not math.isfinite(value):
            return Score(None, "error", detail={"error": f"the model gave {value}", "tokens": read})
        return Score(value, detail={"tokens": read, "cached_tokens": output.num_cached_tokens or 0})

    def close(self) -> None:
        """Free the weights before another engine takes their place."""
        _free(self.__dict__.pop("_llm"))


def rank_for(adapter: str | None) -> int:
    """The rank vLLM must reserve for an adapter folder; 0 without one. It accepts these sizes only."""
    if adapter is None:
        return 0
    rank = json.loads((Path(adapter) / "adapter_config.json").read_text())["r"]
    return next(size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank)


def _sampling(request: Request) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    s = request.sampling
    return SamplingParams(
        max_tokens=s.max_tokens,
        temperature=s.temperature,
        top_p=s.top_p,
        top_k=s.top_k,
        min_p=s.min_p,
        stop=list(s.stop) or None,
        seed=request.seed,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )

"""What an arm does: vLLM called directly, the product through Spark, and the naive way through Spark.

`direct` and `workers` are one `LLM.generate` over everything, with the engine in the process or in vLLM's own ones.
`spark` is the product's generate stage into a new table; the naive way fills a batch, waits for its slowest answer and
fills the next. Run by `_arms` in processes of their own.
"""

import itertools
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _arms import MARK
from _work import FOLDER, SAMPLES, WORKLOADS, project, requests

from taolake.stages import answer

NAIVE_BATCH = 64


def serve(name: str) -> None:
    """Load, say so, and do what each line of standard input asks."""
    arm = Spark(warm=name == "spark") if name in ("spark", "cold") else Direct()
    print(MARK + "{}", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        result = arm.run(WORKLOADS[asked["workload"]], asked["prompts"], asked["naive"])
        print(MARK + json.dumps(result), flush=True)
    arm.close()


class Direct:
    """vLLM and nothing else, with the product's own settings."""

    def __init__(self) -> None:
        from taolake.engines.vllm import Vllm

        asked = project(WORKLOADS["heavy"], 8, 1)
        self._engine = Vllm(asked.engine, asked.model, asked.model.path, 0)
        self._generate(requests(asked), fixed=False)

    def run(self, work: Any, prompts: int, naive: bool) -> dict[str, Any]:
        """All requests in one call; the clock stops when every answer is a row with the columns of the table."""
        wanted = requests(project(work, prompts))
        self._generate(wanted[:128], work.fixed)
        self._engine._llm.reset_prefix_cache()
        started = time.time()
        rows = self._generate(wanted, work.fixed)
        return {"seconds": time.time() - started, "rows": rows, "settings": settings(self._engine._llm)}

    def close(self) -> None:
        """Free the engine, and with it its processes."""
        self._engine.close()

    def _generate(self, wanted: list[Any], fixed: bool) -> dict[str, Any]:
        asked = [{"prompt_token_ids": self._engine._render(r.messages)} for r in wanted]
        outputs = self._engine._llm.generate(asked, [sampling(r, fixed) for r in wanted], use_tqdm=False)
        return {
            r.key: {
                "text": o.outputs[0].text,
                "token_ids": list(o.outputs[0].token_ids),
                "finish_reason": o.outputs[0].finish_reason,
                "status": "ok",
                "cached_tokens": o.num_cached_tokens or 0,
                "prompt_tokens": len(o.prompt_token_ids),
            }
            for r, o in zip(wanted, outputs, strict=True)
        }


class Spark:
    """The product: from the call of the stage to the commit of its table; the engine is warm unless told otherwise."""

    def __init__(self, warm: bool) -> None:
        from taolake.session import local_session
        from taolake.stages import generate

        self._stage, self._fills = generate, 0
        self._spark = local_session()
        self._park: threading.Thread | None = None
        self._warm = warm
        if not warm:
            return
        shutil.rmtree(self._fill(WORKLOADS["heavy"], 8, 1, Measured)[2])
        self._wait()

    def run(self, work: Any, prompts: int, naive: bool) -> dict[str, Any]:
        """A stage over a new lake; rows are read again by a session that wrote none of them."""
        self._go()
        kind = Naive if naive else Measured
        if self._warm:  # the engine of this workload, and its first batches
            shutil.rmtree(self._fill(work, 16, 1, kind)[2])
        started, ended, place = self._fill(work, prompts, SAMPLES, kind)
        seen = json.loads((place / "work" / "seen.json").read_text())
        assert seen["warm"] or not self._warm, "the engine was loaded while the clock ran"
        rows = self._read(place)
        shutil.rmtree(place)
        if self._warm:
            self._wait()
        phases = {
            "before": seen["began"] - started,
            "engine": seen["ended"] - seen["began"],
            "after": ended - seen["ended"],
        }
        took = {"seconds": ended - started, "read_seconds": time.time() - ended, "phases": phases}
        return {**took, "rows": rows, "settings": seen["settings"]}

    def close(self) -> None:
        """Let the parked task end."""
        self._go()
        self._spark.stop()

    def _fill(self, work: Any, prompts: int, samples: int, kind: type) -> tuple[float, float, Path]:
        from taolake import stages
        from taolake.lake import Lake
        from taolake.stages.round import Round

        self._fills += 1  # a new place each time: Delta remembers what it knew of an old one
        place = FOLDER / f"fill-{self._fills}"
        shutil.rmtree(place, ignore_errors=True)
        folders = {"lake": str(place / "lake"), "work": str(place / "work")}
        asked = project(work, prompts, samples).model_copy(update=folders)
        self._round = Round(Lake(self._spark, asked.lake), asked)
        stages.run(self._round, "ingest")
        self._stage.Work = kind
        started = time.time()
        self._stage.fill(self._round, self._round.base, [self._stage.Cells("train", asked.generate.plain, samples)])
        return started, time.time(), place

    def _read(self, place: Path) -> dict[str, Any]:
        from taolake import lake
        from taolake.lake import Lake

        columns = ("text", "token_ids", "finish_reason", "status", "cached_tokens", "prompt_tokens")
        table = Lake(self._spark.newSession(), str(place / "lake")).read(lake.CANDIDATES)
        fresh = table.select("candidate_id", *columns).collect()
        found = {row["candidate_id"]: {name: row[name] for name in columns} for row in fresh}
        assert len(found) == len(fresh), "the table holds a key twice"
        return found

    def _wait(self) -> None:
        """Keep the worker and its engine while other arms work: Spark ends a worker that was idle for a minute."""
        (FOLDER / "parked").touch()

        def park() -> None:
            with self._round.engine_workers():
                frame = self._spark.range(1, numPartitions=1).mapInArrow(parked, "id BIGINT")
            frame.collect()

        self._park = threading.Thread(target=park, daemon=True)
        self._park.start()

    def _go(self) -> None:
        (FOLDER / "parked").unlink(missing_ok=True)
        if self._park is not None:
            self._park.join()


def parked(batches: Iterator[Any]) -> Iterator[Any]:
    """A task that does nothing until it is told."""
    while (FOLDER / "parked").exists():
        time.sleep(0.1)
    yield from batches


class Measured(answer.Work):
    """The product's own work on an executor, with a clock around its engine and the cache empty before it."""

    def answer(self, cells: Iterator[Any]) -> Iterator[Any]:
        """As the product does; what was seen goes to a file, since a worker has no other way to say it."""
        from taolake import engines
        from taolake.engines import vllm

        fixed, own, seen = WORKLOADS[self.project.name].fixed, product_s(engines, "build"), {}

        def build(*given: Any) -> Any:
            held, started = engines._kept is not None, time.time()
            engine = own(*given)
            seen.update(warm=held and time.time() - started < 0.5, settings=settings(engine._llm))
            engine._llm.reset_prefix_cache()
            seen["began"] = time.time()
            return engine

        product_s(vllm, "_sampling")
        engines.build, vllm._sampling = build, lambda request: sampling(request, fixed)
        yield from self._answers(cells)
        Path(self.project.work, "seen.json").write_text(json.dumps({**seen, "ended": time.time()}))

    def _answers(self, cells: Iterator[Any]) -> Iterator[Any]:
        yield from super().answer(cells)


class Naive(Measured):
    """What most pipelines do: fill a batch, wait for its slowest answer, fill the next."""

    def _answers(self, cells: Iterator[Any]) -> Iterator[Any]:
        from taolake import engines
        from taolake.engines import placement

        with placement.device(self.project.engine):
            engine = engines.build(self.project.engine, self.project.model, self.policy)
            waiting: dict[str, Any] = {}
            wanted = self._requests(cells, waiting)
            while batch := list(itertools.islice(wanted, NAIVE_BATCH)):
                for request in batch:
                    engine.submit(request)
                while engine.inflight:
                    for done in engine.poll():
                        yield self._row(waiting.pop(done.key), done)


def sampling(request: Any, fixed: bool) -> Any:
    """The product's own parameters; a fixed length only turns the end mark off, which the product has no use for."""
    from taolake.engines import vllm

    made = product_s(vllm, "_sampling")(request)
    made.ignore_eos = fixed
    return made


def product_s(module: Any, name: str) -> Any:
    """A function of the product, also after the benchmark has put its own in its place; a worker runs many tasks."""
    kept = f"_{name}_of_the_product"
    if not hasattr(module, kept):
        setattr(module, kept, getattr(module, name))
    return getattr(module, kept)


def settings(llm: Any) -> dict[str, Any]:
    """What of vLLM's configuration can change speed or answers; the same in every arm, or the run is void."""
    config = llm.llm_engine.vllm_config
    model, scheduler, cache = config.model_config, config.scheduler_config, config.cache_config
    return {
        "dtype": str(model.dtype),
        "max_model_len": model.max_model_len,
        "enforce_eager": model.enforce_eager,
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "chunked_prefill": scheduler.enable_chunked_prefill,
        "policy": scheduler.policy,
        "block_size": cache.block_size,
        "prefix_caching": cache.enable_prefix_caching,
        "cache_gb": os.environ.get("VLLM_CPU_KVCACHE_SPACE"),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }

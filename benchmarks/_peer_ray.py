"""Ray Data LLM over the requests of a file: run with the peer's own Python, which has no taolake.

    python _peer_ray.py REQUESTS.json OUTPUT_FOLDER RESULT.json

Given what helps it: prompts already tokenised and in the best order, so that its template, tokenizer and detokenizer
stages are not needed; its metrics off; batches enough in flight to fill the engine; all cores. The clock stops when its
Parquet files are written.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

STARTED = time.time()


def main() -> None:
    """Run it and say what was seen: the first request's arrival in a loaded engine, and the end."""
    asked, out, result = (Path(each) for each in sys.argv[1:])
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    given = json.loads(asked.read_text())
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    # Ray counts cores and does not use them: enough are declared for every stage to run beside the engine.
    ray.init(num_cpus=8, include_dashboard=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    config = vLLMEngineProcessorConfig(
        model_source=given["model"],
        engine_kwargs=given["engine"],
        concurrency=1,
        batch_size=32,
        max_concurrent_batches=8,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
        placement_group_config={"bundles": [{"CPU": 1}]},
        runtime_env={"env_vars": given["environment"]},
    )
    processor = build_processor(config, preprocess=to_engine, postprocess=to_row)
    processor(ray.data.from_items(given["rows"])).write_parquet(str(out))
    ended = time.time()
    rows = ray.data.read_parquet(str(out)).take_all()
    began = min(row["arrived"] for row in rows)
    found = {row["key"]: {"text": row["text"], "token_ids": [int(i) for i in row["token_ids"]]} for row in rows}
    seen = {"cold": ended - STARTED, "steady": ended - began, "rows": found, "written": len(rows)}
    result.write_text(json.dumps(seen))
    ray.shutdown()


def to_engine(row: dict[str, Any]) -> dict[str, Any]:
    """A request as Ray's engine stage wants it."""
    sampling = {"temperature": 1.0, "max_tokens": row["max_tokens"], "seed": row["seed"], "ignore_eos": row["fixed"]}
    return {"key": row["key"], "tokenized_prompt": row["prompt_token_ids"], "sampling_params": sampling}


def to_row(row: dict[str, Any]) -> dict[str, Any]:
    """What the table of the product would hold of it."""
    return {
        "key": row["key"],
        "text": row["generated_text"],
        "token_ids": row["generated_tokens"],
        "arrived": row["metrics"]["arrival_time"],
    }


if __name__ == "__main__":
    main()

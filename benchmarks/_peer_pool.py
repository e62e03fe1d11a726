"""Plain multiprocessing over vLLM, over the requests of a file: what people write before they reach for a framework.

    python _peer_pool.py REQUESTS.json OUTPUT_FOLDER RESULT.json

One spawned process with one `LLM`, all requests in one call, one Parquet file at the end; a failure loses everything.
"""

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

STARTED = time.time()


def main() -> None:
    """Run it and say what was seen: when the engine was loaded, and the end."""
    asked, out, result = (Path(each) for each in sys.argv[1:])
    given = json.loads(asked.read_text())
    os.environ.update(given["environment"], VLLM_ENABLE_V1_MULTIPROCESSING="0")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        began, rows = pool.apply(answer, (given,))
    import pyarrow as pa
    import pyarrow.parquet as pq

    out.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), out / "rows.parquet")
    ended = time.time()
    written = pq.read_table(out).to_pylist()
    found = {row["key"]: {"text": row["text"], "token_ids": row["token_ids"]} for row in written}
    seen = {"cold": ended - STARTED, "steady": ended - began, "rows": found, "written": len(written)}
    result.write_text(json.dumps(seen))


def answer(given: dict[str, Any]) -> tuple[float, list[dict[str, Any]]]:
    """Load, and answer all at once."""
    from vllm import LLM, SamplingParams

    llm = LLM(model=given["model"], **given["engine"])
    began, rows = time.time(), given["rows"]
    prompts = [{"prompt_token_ids": row["prompt_token_ids"]} for row in rows]
    params = [SamplingParams(max_tokens=r["max_tokens"], seed=r["seed"], ignore_eos=r["fixed"]) for r in rows]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    answers = [output.outputs[0] for output in outputs]
    return began, [
        {"key": row["key"], "text": said.text, "token_ids": list(said.token_ids)}
        for row, said in zip(rows, answers, strict=True)
    ]


if __name__ == "__main__":
    main()

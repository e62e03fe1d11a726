"""Whether two arms of a throughput benchmark did the same work: a figure a check, 1.0 where it holds.

Any 0.0 voids the ratio. Checked on rows alone, so an arm cannot say of itself that it was right. Not checked: that the
same request got the same answer, which a batch of another size may change in the last bit.
"""

import random
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

Rows = dict[str, dict[str, Any]]
LIMIT_MEAN, LIMIT_P, LIMIT_SIGMA = 0.02, 0.01, 4.0
SCORED = 64


def checks(found: Rows, direct: Rows, wanted: list[Any], folder: Path) -> dict[str, float]:
    """Hold an arm's rows against the plan and against the direct arm's.

    Args:
        found: rows by candidate; `text`, `token_ids`, `finish_reason`, `status`.
        direct: the direct arm's, of the same requests.
        wanted: the requests.
        folder: of the model, for its tokenizer and its own opinion of the answers.
    """
    from scipy.stats import ks_2samp
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    limit = wanted[0].sampling.max_tokens
    lengths, others = ([len(row["token_ids"]) for row in rows.values()] for rows in (found, direct))
    mean = statistics.fmean(lengths) / statistics.fmean(others)
    held = {
        "keys": found.keys() == {request.key for request in wanted},
        "no_errors": all(row["status"] == "ok" for row in found.values()),
        "text_is_tokens": all(row["text"] == text(tokenizer, row["token_ids"]) for row in found.values()),
        "ends": all(ends_well(row, tokenizer.eos_token_id, limit) for row in found.values()),
        "lengths": ks_2samp(lengths, others).pvalue > LIMIT_P,
        "mean_length": abs(mean - 1) <= LIMIT_MEAN,
        "distinct_samples": distinct(found, wanted) >= 0.99 * distinct(direct, wanted),
        "likely": likely(found, direct, wanted, tokenizer, folder) <= LIMIT_SIGMA,
    }
    return {name: float(ok) for name, ok in held.items()}


def text(tokenizer: Any, token_ids: list[int]) -> str:
    """What the tokens say."""
    return str(tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def ends_well(row: dict[str, Any], end: int, limit: int) -> bool:
    """An answer ends with the end mark or at the limit, and says which."""
    tokens, said = row["token_ids"], row["finish_reason"]
    stopped = said == "stop" and tokens[-1:] == [end]
    return stopped or (said == "length" and len(tokens) == limit)


def distinct(rows: Rows, wanted: list[Any]) -> int:
    """Different answers, counted by prompt: copies of one sample would be cheap."""
    texts: dict[Any, set[Any]] = defaultdict(set)
    for request in wanted:
        if request.key in rows:
            texts[str(request.messages)].add(tuple(rows[request.key]["token_ids"]))
    return sum(map(len, texts.values()))


def likely(found: Rows, direct: Rows, wanted: list[Any], tokenizer: Any, folder: Path) -> float:
    """Standard errors between the mean log-probabilities of both arms' answers, measured by Transformers on some.

    Answers that were cut, greedy, copied or another model's would be more or less likely than they should be.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    some = random.Random(1).sample(wanted, min(SCORED, len(wanted)))
    means = []
    for rows in (found, direct):
        given = [mean_logprob(model, tokenizer, r.messages, rows[r.key]["token_ids"]) for r in some if r.key in rows]
        means.append((statistics.fmean(given), statistics.stdev(given) / len(given) ** 0.5))
    (mine, error), (other, other_error) = means
    return float(abs(mine - other) / max(1e-9, (error**2 + other_error**2) ** 0.5))


def mean_logprob(model: Any, tokenizer: Any, messages: Any, answer: list[int]) -> float:
    """Mean log-probability of an answer's tokens, after its prompt."""
    import torch

    prompt = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=True, return_dict=False)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1)[range(len(answer)), answer].mean())

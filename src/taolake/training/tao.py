"""`tao`: a warm-up by weighted imitation, then OAPL with the same adapter over all scored on-policy candidates.

Not Databricks' unpublished recipe; an open reading of it ("our offline RL approach called TAO", arXiv 2509.21459;
docs/design.md, section 6). The reference of every ratio is the base that generated the candidates, also after the
warm-up.
"""

from taolake.training import offline, rft, setup
from taolake.training.job import TrainJob, TrainResult


def run(job: TrainJob) -> TrainResult:
    """Train on `imitate` rows if the job says so, then on `regress` rows, and publish the adapter or model."""
    tokenizer = setup.tokenizer(job.base)
    rows, counts = offline.candidates(job, tokenizer)
    offline.add_reference(job, rows, tokenizer.pad_token_id)
    folder, before = rft.warm_up(job, tokenizer) if job.warmup else (None, {})
    spec = job.settings["oapl"]
    model, metrics = offline.regress(job, rows, setup.policy(job, folder), tokenizer.pad_token_id, spec)
    path, kind = setup.publish(model, tokenizer, job)
    tokens = before.get("tokens", 0) + round(spec["epochs"] * sum(map(offline.length, rows)))
    return TrainResult(path, kind, {**metrics, **counts, "warmup": before, "tokens": tokens})

"""`bond`: the regression of `tao` towards the best-of-k policy, which ranks alone define.

Its rows carry (k-1) log F instead of a reward, F being the candidate's mid-rank (`selection.weights.tilt`): the tilt of
the base whose fixed point is best-of-k itself. Sources: vBoN (arXiv 2407.06057), BOND (arXiv 2407.14622); the loss is
OAPL's and not theirs. Not the default: on small models it moved further than best-of-k needs (docs/design.md,
section 6).
"""

from taolake.training import offline, setup
from taolake.training.job import TrainJob, TrainResult


def run(job: TrainJob) -> TrainResult:
    """Train on the `regress` rows and publish the adapter or model."""
    tokenizer = setup.tokenizer(job.base)
    rows, counts = offline.candidates(job, tokenizer)
    offline.add_reference(job, rows, tokenizer.pad_token_id)
    spec = job.settings["bond"]
    model, metrics = offline.regress(job, rows, setup.policy(job), tokenizer.pad_token_id, spec)
    path, kind = setup.publish(model, tokenizer, job)
    tokens = round(spec["epochs"] * sum(map(offline.length, rows)))
    return TrainResult(path, kind, {**metrics, **counts, "tokens": tokens})

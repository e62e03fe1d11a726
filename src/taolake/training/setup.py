"""What every trainer needs before its first step: tokenizer, weights, adapter, trainer arguments, and the way out.

Not an algorithm. TRL's defaults are for one GPU (bf16, gradient checkpointing); here the machine decides
(docs/design.md, section 6).
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from taolake.beside import every
from taolake.training.job import TrainJob

_POLL_S = 0.2
_BEAT_S = 5.0
_DEAD_S = 300.0  # of silence: much longer than it takes to import torch on a busy machine


def tokenizer(base: str) -> Any:
    """Load the tokenizer and make sure that padding is not an end mark, or no model would learn to stop.

    Raises:
        ValueError: it has no chat template, or no token that could serve as padding.
    """
    from transformers import AutoTokenizer

    loaded: Any = AutoTokenizer.from_pretrained(base)
    if loaded.chat_template is None:
        raise ValueError(f"tokenizer of {base} has no chat template, wanted one: add chat_template.jinja to the folder")
    if loaded.pad_token_id in (None, loaded.eos_token_id):
        taken = {loaded.eos_token_id, loaded.bos_token_id}
        spare = {t.content for i, t in loaded.added_tokens_decoder.items() if t.special and i not in taken}
        likely = sorted(t for t in spare if any(word in t.lower() for word in ("pad", "reserved", "unk")))
        if not likely:
            raise ValueError(f"tokenizer of {base} has no pad token apart from EOS, wanted one: set its `pad_token`")
        loaded.pad_token = likely[0]
    return loaded


def has_gpu() -> bool:
    """Whether this process trains on a GPU."""
    import torch

    return bool(torch.cuda.is_available())


def first() -> bool:
    """Whether this process is the one of its kind that writes: rank 0 of several, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def made_once(path: Path, make: Callable[[], object]) -> None:
    """Have the first process make a file or folder, which must appear whole; the others wait for it.

    Without a process group, which no trainer has opened yet. Where the first one dies its launcher ends the others of
    its machine; those of other machines notice that its pulse, a file beside the path, no longer changes.

    Raises:
        RuntimeError: the first process died.
    """
    pulse = path.with_name(f".{path.name}.pulse")
    if first():
        if not path.exists():
            with _beating(pulse):
                make()
        return
    beat, since = None, time.monotonic()
    while not path.exists():
        with contextlib.suppress(FileNotFoundError):
            seen = pulse.stat().st_mtime_ns
            beat, since = (seen, time.monotonic()) if seen != beat else (beat, since)
        if time.monotonic() - since > _DEAD_S:
            raise RuntimeError(f"the first process of the training was to make {path} and has died; run it again")
        time.sleep(_POLL_S)


@contextlib.contextmanager
def _beating(pulse: Path) -> Iterator[None]:
    """Touch a file every few seconds while inside."""
    pulse.parent.mkdir(parents=True, exist_ok=True)
    pulse.touch()
    try:
        with every(_BEAT_S, pulse.touch):
            yield
    finally:
        pulse.unlink(missing_ok=True)


def weights_dtype(job: TrainJob, lora: bool) -> str:
    """Type of the weights while training: full weights need float32's small steps, a frozen base does not."""
    if not lora:
        return "float32"
    if job.dtype != "auto":
        return job.dtype
    return "bfloat16" if has_gpu() else "float32"


def policy(job: TrainJob, start: Path | None = None) -> Any:
    """Load the policy to train: the base with an adapter, or the base itself.

    Args:
        job: says the base and, in `settings["lora"]`, the adapter.
        start: folder of an adapter (or a whole model, without LoRA) to go on from.
    """
    from transformers import set_seed

    lora = job.settings["lora"]
    set_seed(job.seed)
    model = loaded(job, job.base if lora or start is None else str(start))
    return adapted(model, job, lora, start) if lora else model


def parts(job: TrainJob) -> tuple[Any, Any]:
    """The base and the adapter's config (None: all weights), for trainers of TRL that put the two together.

    Given the two apart they take the base itself as reference, instead of a frozen copy of the adapter.
    """
    lora = job.settings["lora"]
    return loaded(job, job.base), lora_config(lora["rank"], lora["alpha"], lora["dropout"]) if lora else None


def loaded(job: TrainJob, folder: str) -> Any:
    """Load weights to train, or the frozen ones under an adapter: in four bits where asked (QLoRA, arXiv 2305.14314).

    Raises:
        ImportError: four bits are asked for and bitsandbytes is not installed.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    lora = job.settings["lora"]
    dtype = weights_dtype(job, lora is not None)
    settings: dict[str, Any] = {"dtype": dtype}
    if lora and lora.get("four_bit"):
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
        )
        if has_gpu():  # each process quantises onto its own GPU; there is no moving the weights afterwards
            settings["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}
    return AutoModelForCausalLM.from_pretrained(folder, **settings)


def adapted(model: Any, job: TrainJob, lora: dict[str, Any], start: Path | None) -> Any:
    """Put a new adapter over all linear layers but the head, or the stored one to go on training."""
    from peft import PeftModel, get_peft_model

    if start is not None:
        return PeftModel.from_pretrained(model, str(start), is_trainable=True)
    wrapped = get_peft_model(model, lora_config(lora["rank"], lora["alpha"], lora["dropout"]))
    wrapped.peft_config["default"].base_model_name_or_path = job.base
    return wrapped


def lora_config(rank: int, alpha: int, dropout: float = 0.0, reward: bool = False) -> Any:
    """LoRA for a policy, or for a reward model, whose new head must be trained and saved whole."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="all-linear",
        task_type="SEQ_CLS" if reward else "CAUSAL_LM",
        modules_to_save=["score"] if reward else None,
    )


def micro_batch(batch: int, limit: int | None) -> int:
    """Largest micro-batch within the limit that divides the batch, so that accumulation adds up to it exactly."""
    return max(size for size in range(1, min(batch, limit or batch) + 1) if batch % size == 0)


def step_rows(job: TrainJob, different: int, rows: int) -> int:
    """Different rows that stand for a batch of rows: where many are equal, an epoch has as many steps as without.

    In whole micro-batches of every process where they fill one.
    """
    batch, micro = job.settings["batch_size"], job.settings["micro_batch_size"]
    if different == rows:
        return int(batch)
    wanted = batch * different / rows
    unit = job.processes * (micro if micro and wanted >= micro * job.processes else 1)
    return int(unit * max(1, round(wanted / unit)))


def arguments(job: TrainJob, stage: str, learning_rate: float, batch: int, micro: int | None) -> dict[str, Any]:
    """Keyword arguments that all trainers share; bf16 on a GPU, float32 on a CPU."""
    mine = batch // job.processes  # of a step's rows; the trainer shares them out
    size = micro_batch(mine, micro)
    gpu = has_gpu()
    return {
        "output_dir": str(job.work / stage),
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": mine // size,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "linear",
        # No ramp: its first step has rate zero, so a run of one step would silently learn nothing.
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "save_strategy": "steps",
        "save_steps": job.settings.get("save_steps", 50),
        "save_total_limit": 2,
        "logging_steps": 1,
        "seed": job.seed,
        "data_seed": job.seed,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not gpu,
        "bf16": gpu,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": gpu,
        **({"fsdp": True} if job.settings.get("shard") else {}),
    }


def whole_weights(model: Any, job: TrainJob) -> dict[str, Any] | None:
    """A sharded model's weights put together in the first process's memory; None for a model that is whole anyway.

    Every process must ask: each sends its share.
    """
    if not job.settings.get("shard"):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole: dict[str, Any] = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    return whole


def save(model: Any, tokenizer: Any, job: TrainJob, folder: Path, weights: dict[str, Any] | None = None) -> Path:
    """Write adapter or model with tokenizer and chat template; the folder appears whole or not at all.

    Args:
        model: whose config is written, and whose weights unless others are given.
        tokenizer: written beside it.
        job: names the base of an adapter.
        folder: the new one; what it held before is gone.
        weights: of a sharded model, as `whole_weights` gives them.
    """
    if not first():
        return folder
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if hasattr(model, "peft_config"):
        model.peft_config["default"].base_model_name_or_path = job.base
        # A trainer of TRL that is given an adapter adds a frozen copy "ref" of it, which would be saved too.
        model.save_pretrained(partial, selected_adapters=["default"])
    else:
        model.save_pretrained(partial, state_dict=weights)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def publish(model: Any, tokenizer: Any, job: TrainJob) -> tuple[str, Any]:
    """Save the job's result where `TrainResult` expects it; returns its folder and kind.

    A whole model goes back to the type it is served in; training had widened it.
    """
    import torch
    from transformers import AutoConfig

    if hasattr(model, "peft_config"):
        return str(save(model, tokenizer, job, Path(job.out) / "adapter")), "adapter"
    dtype = AutoConfig.from_pretrained(job.base).dtype if job.dtype == "auto" else job.dtype
    wanted = getattr(torch, str(dtype or "float32").removeprefix("torch."))
    settle_decoding(model)
    weights = whole_weights(model, job)
    if weights is None:
        model = model.to(wanted)
    else:
        weights, model.config.dtype = {name: value.to(wanted) for name, value in weights.items()}, wanted
    return str(save(model, tokenizer, job, Path(job.out) / "model", weights)), "model"


def settle_decoding(model: Any) -> None:
    """Say "greedy" where the base says nothing about sampling: that is how the model was measured.

    Left open, the pipeline that MLflow loads a model into would fill in sampling at temperature 0.7.
    """
    config = getattr(model, "generation_config", None)
    if config is not None and config.do_sample is None:
        config.do_sample = False

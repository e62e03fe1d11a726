"""Merge an adapter into its base: the model that is served, and the next round's reference.

Not training; needs memory for one copy of the weights and no GPU.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from taolake.training.setup import settle_decoding


def merge(base: str, adapter: str, out: str | Path) -> Path:
    """Write the base with the adapter merged in, with tokenizer and chat template.

    Args:
        base: folder or hub id the adapter was trained on.
        adapter: folder that PEFT wrote; its tokenizer goes along.
        out: the new folder; if it exists it is taken as done, for it appears only when it is whole.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = Path(out)
    if out.exists():
        return out
    loaded: Any = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    stored = loaded.dtype
    # The product B A is added in float32: in bfloat16 a small update would round away against its large weight.
    merged: Any = PeftModel.from_pretrained(loaded.to(torch.float32), adapter).merge_and_unload()
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    settle_decoding(merged)
    merged.to(stored).save_pretrained(partial)
    AutoTokenizer.from_pretrained(adapter).save_pretrained(partial)
    partial.rename(out)
    return out

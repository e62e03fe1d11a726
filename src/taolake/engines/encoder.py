"""A sentence encoder in this process: texts in, unit vectors out, by Transformers.

Reads the layout that sentence-transformers writes (`modules.json`, pooling folder, `sentence_bert_config.json`) without
that library; a plain Transformers folder is mean-pooled. A text longer than the encoder's window is cut into windows
that overlap by a quarter, and none of it is ignored. Prefixes that some encoders want before a query are not added.
Not here: what the vectors are used for (`taolake.stages.embed`), or a generating engine: an encoder is small enough to
be kept beside one.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from taolake.ids import content_hash, file_hash

Vectors = NDArray[np.float32]

_BATCH = 32
_OVERLAP = 0.25  # a sentence cut by one window's end mostly stands whole in the next
_LONGEST = 512  # attention grows with the square, and what does not fit is in the next window
# Weights that are no safetensors are pickles, and copies for other runtimes are only long to download.
_WANTED = ["*.json", "*.txt", "*.model", "*.safetensors"]
_UNWANTED = ["onnx/*", "openvino/*"]


class Layout(NamedTuple):
    """Where a folder keeps its Transformers model, how its tokens become one vector, and its window in tokens."""

    model: Path
    pooling: Literal["mean", "cls"]
    window: int | None


class Encoder:
    """A loaded encoder.

    Args:
        path: a folder, or a hub id. Weights must be safetensors; code in the folder is not run.
        device: torch device; None takes the GPU where there is one.
    """

    def __init__(self, path: str, device: str | None = None) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        layout = _layout(_folder(path))
        self._torch, self._pooling = torch, layout.pooling
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._tokenizer: Any = AutoTokenizer.from_pretrained(layout.model)
        if not self._tokenizer.is_fast:
            raise ValueError(f"encoder {path!r}: got a tokenizer without tokenizer.json, wanted a fast one")
        model = AutoModel.from_pretrained(layout.model, dtype=torch.float32, use_safetensors=True)
        self._model: Any = model.eval().to(self.device)
        positions = getattr(model.config, "max_position_embeddings", None)
        limits = (layout.window, self._tokenizer.model_max_length, positions, _LONGEST)
        self.window = min(limit for limit in limits if limit)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Embed texts: (n, width), rows of length 1. A long text is the direction of its windows' mean."""
        parts = self.windows(texts)
        if not parts:
            return np.zeros((0, self._model.config.hidden_size), np.float32)
        return _unit(np.stack([part.mean(axis=0) for part in parts]))

    def windows(self, texts: Sequence[str]) -> list[Vectors]:
        """Embed each window of each text: per text (windows, width), rows of length 1; a text has at least one."""
        if not texts:
            return []
        cut = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=self.window,
            stride=int(_OVERLAP * (self.window - self._tokenizer.num_special_tokens_to_add())),
            return_overflowing_tokens=True,
            padding=False,
            return_token_type_ids=False,
        )
        ids: list[list[int]] = cut["input_ids"]
        # Texts of one length share a batch, so that short ones are not padded to the longest.
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        found: list[Any] = [None] * len(ids)
        for start in range(0, len(order), _BATCH):
            some = order[start : start + _BATCH]
            for i, vector in zip(some, self._batch([ids[i] for i in some]), strict=True):
                found[i] = vector
        owner = np.asarray(cut["overflow_to_sample_mapping"])
        vectors = np.stack(found)
        return [vectors[owner == i] for i in range(len(texts))]

    def _batch(self, ids: list[list[int]]) -> Vectors:
        """Token ids to unit vectors, (n, width)."""
        torch = self._torch
        padded = self._tokenizer.pad({"input_ids": ids}, padding=True, return_tensors="pt").to(self.device)
        mask = padded["attention_mask"]
        with torch.inference_mode():
            states = self._model(input_ids=padded["input_ids"], attention_mask=mask).last_hidden_state
            if self._pooling == "cls":
                pooled = states[:, 0]
            else:
                weight = mask.unsqueeze(-1).to(states.dtype)
                pooled = (states * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        return _unit(pooled.float().cpu().numpy())


@lru_cache(maxsize=2)  # texts to compare and prompts to choose from may use two; more would only fill memory
def load(path: str, version: str, device: str | None = None) -> Encoder:
    """The encoder this process keeps; `version` (`encoder_id`) tells a folder from what it was before it changed."""
    return Encoder(path, device)


def encoder_id(path: str) -> str:
    """Identify an encoder by content: a folder by its bytes, a hub model by its name."""
    return file_hash(Path(path)) if Path(path).is_dir() else content_hash("hub", path)


def _folder(path: str) -> Path:
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors
        raise ValueError(
            f"got encoder {path!r}, wanted a folder or a hub id that can be downloaded: {type(error).__name__}; "
            "give the folder of a sentence encoder"
        ) from error


def _layout(folder: Path) -> Layout:
    """Read what sentence-transformers writes beside a model; without it, mean pooling over the whole folder."""
    listed = folder / "modules.json"
    if not listed.exists():
        return Layout(folder, "mean", None)
    model, pooling = folder, "mean"
    for module in json.loads(listed.read_text(encoding="utf-8")):
        kind = module["type"].rpartition(".")[2]
        match kind:
            case "Transformer":
                model = folder / module["path"]
            case "Pooling":
                pooling = _pooling(json.loads((folder / module["path"] / "config.json").read_text(encoding="utf-8")))
            case "Normalize":
                pass  # rows have length 1 here in any case
            case _:
                raise ValueError(
                    f"encoder {folder.name!r}: got a module of type {kind!r}, wanted Transformer, Pooling and "
                    "Normalize only; take an encoder without further layers"
                )
    config = model / "sentence_bert_config.json"
    window = json.loads(config.read_text(encoding="utf-8")).get("max_seq_length") if config.exists() else None
    return Layout(model, "cls" if pooling == "cls" else "mean", window)


def _pooling(config: dict[str, Any]) -> str:
    """The one way of pooling a folder asks for; newer files name it, older ones have a flag for each."""
    named = config.get("pooling_mode")
    asked = {named} if isinstance(named, str) else {k for k, v in config.items() if k.startswith("pooling_mode") and v}
    ways = {"mean": "mean", "cls": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(asked) != 1 or not asked <= ways.keys():
        raise ValueError(f"got pooling {sorted(map(str, asked))}, wanted mean or cls; take an encoder that uses one")
    return ways[asked.pop()]


def _unit(rows: Vectors) -> Vectors:
    """Rows scaled to length 1; a row of zeros stays one."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Vectors = (rows / np.maximum(length, 1e-12)).astype(np.float32)
    return unit

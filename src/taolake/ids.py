"""Content hashes and per-row seeds: the identities on which resume, lineage and repeatability rest.

Nothing here depends on partitions, wall clocks or process state, so any machine derives the same ids.
"""

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taolake.types import Message

_HEX = 32  # 128 bits: no collision to be expected below 10^18 rows


def content_hash(*parts: Any) -> str:
    """Hash JSON-like parts in canonical form (sorted keys, NFC text); 32 hex digits."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(unicodedata.normalize("NFC", canonical).encode()).hexdigest()[:_HEX]


def prompt_id(task: str, messages: Sequence[Message]) -> str:
    """Identify a prompt by what it asks: the task and its canonical messages, not who asked or when."""
    return content_hash("prompt", task, [[m["role"], m["content"]] for m in messages])


def user_id(name: str) -> str:
    """What tables downstream know of a person: enough to find their rows again by name, not to read the name off.

    A name that can be guessed can be confirmed, so this is a pseudonym and no anonymity.
    """
    return content_hash("user", name)


def candidate_id(prompt: str, policy: str, strategy: str, sample: int) -> str:
    """Identify one cell of the generation plan."""
    return content_hash("candidate", prompt, policy, strategy, sample)


def sample_seed(run_seed: int, candidate: str) -> int:
    """Seed one request from its row (law 1), in [0, 2^63).

    Not `base + i`: vLLM itself fans n samples out as seed + i, so neighbouring prompts would share noise.
    """
    digest = hashlib.blake2b(f"{run_seed}:{candidate}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def unit_interval(*parts: Any) -> float:
    """Map content to [0, 1) uniformly; used for splits that never move when data is added."""
    return int(content_hash(*parts)[:13], 16) / 16**13


def split_of(prompt: str, seed: int, holdout: float) -> str:
    """Put a prompt into `train` or `holdout` by its own id, so new data never moves old prompts."""
    return "holdout" if unit_interval("split", seed, prompt) < holdout else "train"


def file_hash(path: Path) -> str:
    """Hash a file, or a folder's files with their relative names, by content."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        digest.update(str(file.relative_to(path) if path.is_dir() else file.name).encode() + b"\0")
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:_HEX]

"""Identities: canonical, stable over processes, and different where the content is."""

import subprocess
import sys
from pathlib import Path

from taolake import ids

MESSAGES = [{"role": "user", "content": "How many?"}]


def test_prompt_id_is_content_not_order_of_keys() -> None:
    turned = [{"content": "How many?", "role": "user"}]
    assert ids.prompt_id("t", MESSAGES) == ids.prompt_id("t", turned)
    assert ids.prompt_id("t", MESSAGES) != ids.prompt_id("u", MESSAGES)


def test_prompt_id_is_pinned() -> None:
    """Tables outlive releases: a changed hash would orphan every row, so a change must be on purpose."""
    assert ids.prompt_id("t", MESSAGES) == "bb312f4a95677556d107eaabd96e6fbb"
    assert ids.candidate_id("p", "q", "s", 3) == "97649c0e66ad0b2ea765e98e58f58a32"


def test_equal_text_in_other_unicode_form_is_one_prompt() -> None:
    composed, decomposed = ([{"role": "user", "content": text}] for text in ("caf\u00e9", "cafe\u0301"))
    assert ids.prompt_id("t", composed) == ids.prompt_id("t", decomposed)


def test_seeds_differ_by_row_and_run_and_fit_64_bits() -> None:
    seeds = {ids.sample_seed(run, f"c{i}") for run in (1, 2) for i in range(500)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seed_is_the_same_in_another_process() -> None:
    code = "from taolake.ids import sample_seed; print(sample_seed(7, 'c'))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(said) == ids.sample_seed(7, "c")


def test_split_is_the_prompts_own_and_near_the_share() -> None:
    splits = [ids.split_of(f"p{i}", 7, 0.3) for i in range(4000)]
    assert splits == [ids.split_of(f"p{i}", 7, 0.3) for i in range(4000)]
    assert 0.27 < splits.count("holdout") / 4000 < 0.33
    assert {ids.split_of(f"p{i}", 7, 0.0) for i in range(100)} == {"train"}


def test_a_growing_holdout_keeps_what_it_had() -> None:
    small = {i for i in range(500) if ids.split_of(f"p{i}", 7, 0.2) == "holdout"}
    large = {i for i in range(500) if ids.split_of(f"p{i}", 7, 0.4) == "holdout"}
    assert small < large


def test_file_hash_sees_content_and_names(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    first = ids.file_hash(tmp_path / "a")
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert ids.file_hash(tmp_path / "a") != first
    (tmp_path / "a" / "y").rename(tmp_path / "a" / "x")
    assert ids.file_hash(tmp_path / "a") == first

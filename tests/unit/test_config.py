"""The project file: what parses, what is refused and in which words, and which changes change an identity."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from taolake import config, reference
from taolake.config import Generate, Project, Section, Strategy, load
from tests.projects import fake_project

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "conf").glob("*.yml"))
PLAIN = {"name": "plain", "share": 1}


def sections() -> Iterator[type[Section]]:
    """Every section of the schema that a project file can hold."""
    queue, seen = [Project], set[type[Section]]()
    while queue:
        section = queue.pop()
        if section not in seen:
            seen.add(section)
            yield section
            queue += [s for info in section.model_fields.values() for s in config.sections_in(info.annotation)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return fake_project(tmp_path_factory.mktemp("config")).model_dump(mode="json", by_alias=True)


def changed(raw: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """A copy with one field set; numbers in the dotted place are list positions."""
    made = copy.deepcopy(raw)
    *path, last = place.split(".")
    inner = made
    for part in path:
        inner = inner[int(part)] if part.isdigit() else inner[part]
    inner[last] = value
    return made


def refusal(raw: dict[str, Any], tmp_path: Path) -> str:
    """What `load` says about a file that it must refuse."""
    path = tmp_path / "project.yml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(ValueError, match="is not a valid project") as refused:
        load(path)
    return str(refused.value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_under_conf_is_right(path: Path) -> None:
    assert load(path).name == path.stem


def test_conf_holds_the_demo_and_the_template() -> None:
    assert {"demo.yml", "template.yml"} <= {path.name for path in FILES}


def test_the_template_shows_every_field() -> None:
    """Fields of kinds that the template only names in a comment count as shown there."""
    text = (ROOT / "conf" / "template.yml").read_text(encoding="utf-8")
    words = set(re.findall(r"\b(\w+):", text))
    fields = {info.alias or name for section in sections() for name, info in section.model_fields.items()}
    assert len(fields) > 80
    assert sorted(fields - words) == []


def test_the_template_names_every_kind() -> None:
    text = (ROOT / "conf" / "template.yml").read_text(encoding="utf-8")
    fields = (section.model_fields.get("kind") for section in sections())
    kinds = {kind for field in fields if field for kind in get_args(field.annotation)}
    assert {"vllm", "endpoint", "fake", "sql", "function"} < kinds
    assert sorted(kind for kind in kinds if not re.search(rf"\b{kind}\b", text)) == []


def test_every_field_says_what_it_means() -> None:
    """A `kind` with one value is the section's own name."""
    silent = [
        f"{section.__name__}.{name}"
        for section in sections()
        for name, info in section.model_fields.items()
        if not info.description and not (name == "kind" and len(get_args(info.annotation)) == 1)
    ]
    assert silent == []
    assert [section.__name__ for section in sections() if not (section.__doc__ or "").strip()] == []


def test_the_reference_page_is_what_the_schema_says() -> None:
    written = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert written == reference.page(), "run `taolake check --reference > docs/config.md`"
    assert written.count("\n## ") == len(list(sections()))


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("sead", 1, "sead: unknown key, did you mean 'seed'?"),
        ("generate.strategys", [], "generate.strategys: unknown key, did you mean 'strategies'?"),
        ("ingest.sources.0.formt", "csv", "ingest.sources.0.formt: unknown key, did you mean 'format'?"),
        ("engine.anwsers", ["a"], "engine.fake.anwsers: unknown key, did you mean 'answers'?"),
        ("scorers.0.patern", "x", "scorers.0.regex.patern: unknown key, did you mean 'pattern'?"),
        ("gate.zzz", 1, "gate.zzz: unknown key, known keys: max_length_growth, max_truncated, min_gain"),
        ("generate.strategies.0.extract", {"mark": "x"}, "did you mean 'marker'?"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(
    base: dict[str, Any], tmp_path: Path, place: str, value: Any, said: str
) -> None:
    assert said in refusal(changed(base, place, value), tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("seed", -1, "seed: Input should be greater than or equal to 0 (got -1)"),
        ("name", "Has Spaces", "name: String should match pattern"),
        ("ingest.holdout", 1.5, "ingest.holdout: Input should be less than or equal to 1 (got 1.5)"),
        ("ingest.sources", [], "ingest.sources: Tuple should have at least 1 item"),
        ("ingest.sources.0.format", "xml", "ingest.sources.0.format: Input should be 'inference_log'"),
        ("model.max_tokens", 0, "model.max_tokens: Input should be greater than or equal to 1 (got 0)"),
        ("generate.n", 0, "generate.n: Input should be greater than or equal to 1"),
        ("generate.strategies.0.temperature", 2.1, "temperature: Input should be less than or equal to 2"),
        ("generate.strategies.0.top_p", 0, "top_p: Input should be greater than 0"),
        ("generate.strategies.0.min_p", 1, "min_p: Input should be less than 1"),
        ("generate.strategies.0.template", "no hole", "wanted one that contains {question}"),
        ("select.best_of", 1, "select.best_of: Input should be greater than or equal to 2"),
        ("train.lora", {"rank": 513}, "train.lora.rank: Input should be less than or equal to 512"),
        ("select", {"good": 0.3}, "select.bad 0.4 is not below select.good 0.3"),
        ("train.oapl", {"beta": 0}, "train.oapl.beta: Input should be greater than 0"),
        ("train.algorithm", "ppo", "train.algorithm: Input should be 'tao', 'rft', 'dpo', "),
        ("engine", {"kind": "mlx"}, "engine: Input tag 'mlx'"),
        ("prepare", "no colon", "prepare: String should match pattern"),
        ("reward.weights", {}, "reward.weights: Dictionary should have at least 1 item"),
        ("evaluate.gold", {"path": "g", "compare": "sql"}, "database must name the file"),
    ],
)
def test_a_value_out_of_range_is_refused(
    base: dict[str, Any], tmp_path: Path, place: str, value: Any, said: str
) -> None:
    assert said in refusal(changed(base, place, value), tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("reward.weights", {"nobody": 1}, "scorer 'nobody', wanted one of ['query', 'agrees', 'judge']"),
        ("reward.require", ["nobody"], "reward.require names scorer 'nobody'"),
        ("reward.pool_over", "nobody", "reward.pool_over names scorer 'nobody'"),
        ("reward.conflict_with", "nobody", "reward.conflict_with names scorer 'nobody'"),
        ("reward.conflict_with", "query", "reward.conflict_with 'query' is part of the reward"),
        ("reward.conflict_with", "judge", "evaluate.judge 'judge' is part of the reward; the gate needs another"),
        ("evaluate.judge", "nobody", "evaluate.judge names scorer 'nobody'"),
        ("scorers.1.over", "nobody", "agreement.over names scorer 'nobody'"),
        ("scorers.1.name", "query", "scorer names repeat: ['judge', 'query', 'query']"),
        ("evaluate.judge", None, "evaluate needs `gold`"),
    ],
)  # fmt: skip
def test_names_must_lead_to_a_scorer(base: dict[str, Any], tmp_path: Path, place: str, value: Any, said: str) -> None:
    assert said in refusal(changed(base, place, value), tmp_path)


def test_what_says_which_answers_are_equal_is_part_of_the_reward_too(base: dict[str, Any], tmp_path: Path) -> None:
    pooled = changed(changed(base, "reward.weights", {"agrees": 1.0}), "reward.pool_over", "query")
    assert "reward.conflict_with 'query' is part of" in refusal(
        changed(pooled, "reward.conflict_with", "query"), tmp_path
    )


@pytest.mark.parametrize("place", ["reward.weights", "reward.require"])
def test_the_judge_may_not_have_trained(base: dict[str, Any], tmp_path: Path, place: str) -> None:
    """Law 5: the scorer that gates is not the scorer that trains."""
    value: Any = {"query": 0.5, "judge": 0.5} if place == "reward.weights" else ["judge"]
    said = refusal(changed(base, place, value), tmp_path)
    assert "evaluate.judge 'judge' is part of the reward; the gate needs another (law 5)" in said


def test_every_problem_has_its_line(base: dict[str, Any], tmp_path: Path) -> None:
    lines = refusal(changed(changed(base, "seed", -1), "gate.min_gian", 0), tmp_path).splitlines()
    assert len(lines) == 3
    assert lines[0].endswith("project.yml is not a valid project:")


def test_what_is_not_a_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.yml").write_text("- name: x\n")
    with pytest.raises(ValueError, match="got list, wanted a mapping of sections"):
        load(tmp_path / "list.yml")


@pytest.mark.parametrize(
    ("shares", "said"),
    [((0.5, 0.4), "strategy shares add up to 0.9, wanted 1"), ((1.0, 1.0), "strategy shares add up to 2, wanted 1")],
)
def test_shares_add_up_to_one(shares: tuple[float, float], said: str) -> None:
    strategies = [{"name": f"s{i}", "share": share} for i, share in enumerate(shares)]
    with pytest.raises(ValueError, match=re.escape(said)):
        Generate.model_validate({"strategies": strategies})


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0.9}, {"top_p": 0.9}, {"top_k": 40}, {"min_p": 0.05}, {"system": "Be brief."},
     {"template": "{question} Please."}, {"examples": [{"question": "q", "answer": "a"}]}],
)  # fmt: skip
def test_one_strategy_must_be_the_bare_prompt_at_temperature_one(change: dict[str, Any]) -> None:
    assert Strategy.model_validate(PLAIN).on_policy
    assert not Strategy.model_validate(PLAIN | change).on_policy
    with pytest.raises(ValueError, match="no strategy is on-policy"):
        Generate.model_validate({"strategies": [PLAIN | change]})
    with pytest.raises(ValueError, match=r"strategy names repeat: \['plain', 'plain'\]"):
        Generate.model_validate({"strategies": [{**PLAIN, "share": 0.5}, {**PLAIN, "share": 0.5} | change]})


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0.9}, {"top_p": 0.9}, {"top_k": 40}, {"min_p": 0.05}, {"system": "Be brief."},
     {"template": "{question} Please."}, {"examples": [{"question": "q", "answer": "a"}]},
     {"extract": {"kind": "after", "marker": "x"}}],
)  # fmt: skip
def test_a_strategys_id_changes_with_what_it_does(change: dict[str, Any]) -> None:
    assert Strategy.model_validate(PLAIN | change).id != Strategy.model_validate(PLAIN).id


def test_a_strategys_id_does_not_change_with_name_or_share() -> None:
    plain, other = (Strategy.model_validate(p) for p in (PLAIN, {"name": "other", "share": 0.25}))
    assert plain.id.partition("-")[2] == other.id.partition("-")[2]
    assert (plain.id.partition("-")[0], other.id.partition("-")[0]) == ("plain", "other")
    assert Strategy.model_validate(PLAIN | {"share": 0.5}).id == plain.id


def test_counts_share_n_out_exactly() -> None:
    for shares in (
        [1.0],
        [0.75, 0.1875, 0.0625],
        [0.5, 0.5],
        [1 / 3, 1 / 3, 1 / 3],
        [0.9, 0.1, 0.0],
        [0.34, 0.33, 0.33],
    ):
        named = [{"name": f"s{i}", "share": share} for i, share in enumerate(shares)]
        for n in (1, 2, 3, 7, 16, 17, 64, 1000):
            counts = Generate.model_validate({"n": n, "strategies": named}).counts()
            assert list(counts) == [strategy["name"] for strategy in named]
            assert sum(counts.values()) == n
            assert all(abs(counts[s["name"]] - n * s["share"]) < 1 for s in named), (shares, n, counts)


def test_counts_give_the_rest_to_the_largest_remainder() -> None:
    named = [{"name": "a", "share": 0.75}, {"name": "b", "share": 0.1875}, {"name": "c", "share": 0.0625}]
    assert Generate.model_validate({"n": 16, "strategies": named}).counts() == {"a": 12, "b": 3, "c": 1}
    assert Generate.model_validate({"n": 10, "strategies": named}).counts() == {"a": 7, "b": 2, "c": 1}


def test_the_plain_strategy_is_the_on_policy_one() -> None:
    hot = {"name": "hot", "share": 0.5, "top_p": 0.9}
    spec = Generate.model_validate({"strategies": [hot, PLAIN | {"share": 0.5}]})
    assert spec.plain.name == "plain"


def test_the_config_hash_is_of_every_field(base: dict[str, Any]) -> None:
    same = Project.model_validate(copy.deepcopy(base)).config_hash
    assert same == Project.model_validate(base).config_hash
    others = [("seed", 8), ("gate.min_gain", 0.1), ("scorers.0.pattern", "x"), ("register.name", "y"), ("lake", "z")]
    hashes = {Project.model_validate(changed(base, place, value)).config_hash for place, value in others}
    assert len(hashes | {same}) == 6


def test_a_project_is_frozen(base: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="frozen"):
        Project.model_validate(base).seed = 8  # type: ignore[misc]


def test_the_tables_page_is_what_lake_says() -> None:
    written = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert written == reference.tables_page(), "run `python -m taolake.reference tables > docs/tables.md`"


def test_every_column_has_a_comment_on_the_page() -> None:
    from taolake import lake

    for table in lake.TABLES:
        found = table.fields()
        assert len(found) == table.columns.count(" COMMENT "), table.name
        assert set(table.key) <= {name for name, _, _ in found}, table.name


def test_the_metrics_on_the_page_are_the_ones_measured() -> None:
    from taolake.stages.evaluate import measurements

    row = {"text": "x", "tokens": 3, "finish_reason": "stop", "reward": 0.5}
    members = [{**row, "stream": "G"}, *({**row, "stream": "A"} for _ in range(4))]
    found = measurements(members, [1.0, 1.0, 0.0, 1.0, 0.0], 4)
    assert {re.sub(r"\d+$", "K", name) for name in found} == reference.METRICS.keys()


def test_grpo_groups_must_be_large_enough_to_be_rewarded() -> None:
    raw = yaml.safe_load(Path("conf/demo.yml").read_text())
    raw["train"] |= {"algorithm": "grpo", "grpo": {"num_generations": 2}}
    with pytest.raises(ValueError, match="every prompt would abstain"):
        Project.model_validate(raw)


def test_what_learns_from_ids_is_refused_an_endpoint(tmp_path: Path) -> None:
    raw = fake_project(tmp_path).model_dump(mode="json", by_alias=True)
    raw["engine"] = {"kind": "endpoint", "url": "http://host/v1", "model": "m"}
    for algorithm in ("rft", "dpo", "kto"):
        Project.model_validate(raw | {"train": {"algorithm": algorithm}})
    for algorithm in ("tao", "bond"):
        with pytest.raises(ValueError, match=f"{algorithm}' learns from the token ids of answers"):
            Project.model_validate(raw | {"train": {"algorithm": algorithm}})


def test_other_tasks_are_refused_where_scores_are_made_in_the_trainer(tmp_path: Path) -> None:
    raw = fake_project(tmp_path).model_dump(mode="json", by_alias=True)
    raw["train"] |= {"others": [{"project": "conf/other.yml"}]}
    Project.model_validate(raw)
    raw["train"]["algorithm"] = "grpo"
    with pytest.raises(ValueError, match=r"where train\.others have no scorers"):
        Project.model_validate(raw)


@pytest.mark.parametrize(
    ("scorer", "reward", "said"),
    [
        ({"kind": "relevance", "name": "x", "encoder": "e"}, {}, "scorer 'x' of kind 'relevance' cannot run"),
        ({"kind": "agreement", "name": "x", "encoder": "e"}, {}, "scorer 'x' of kind 'agreement' cannot run"),
        ({"kind": "sql", "name": "x", "database": "shop", "dialect": "spark"}, {}, "'x' of kind 'sql' cannot run"),
        ({"kind": "regex", "name": "x", "pattern": "."}, {"calibrate": "platt"}, "which grpo does not use"),
    ],
)
def test_grpo_is_refused_what_only_a_stage_can_do(scorer: dict[str, Any], reward: dict[str, Any], said: str) -> None:
    raw = yaml.safe_load(Path("conf/demo.yml").read_text())
    raw["scorers"].append(scorer)
    raw["reward"] |= {"weights": {"x": 1.0}, **reward}
    if not reward:
        Project.model_validate(raw)  # tao may have it
    raw["train"]["algorithm"] = "grpo"
    with pytest.raises(ValueError, match=said):
        Project.model_validate(raw)


@pytest.mark.parametrize(
    ("brakes", "said"),
    [
        ({"scorer": "nobody"}, "train.brakes.scorer names scorer 'nobody'"),
        ({"scorer": "query"}, "'query' is part of the reward; brakes need another"),
        ({"scorer": "wide"}, "'wide' of kind 'relevance' cannot judge one answer inside the trainer"),
        ({"scorer": "judge", "samples": 1}, "a rank correlation compares answers"),
        ({"samples": 3}, "samples 3 is below reward.min_scored 4: every prompt looked at would abstain"),
    ],
)
def test_the_brakes_scorer_stands_apart(tmp_path: Path, brakes: dict[str, Any], said: str) -> None:
    raw = fake_project(tmp_path).model_dump(mode="json", by_alias=True)
    raw["scorers"].append({"kind": "relevance", "name": "wide", "encoder": "e"})
    raw["train"]["brakes"] = {"scorer": "judge"}
    assert Project.model_validate(raw).rewards_in_the_trainer
    raw["train"]["brakes"] = brakes
    with pytest.raises(ValueError, match=said):
        Project.model_validate(raw)


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"reward": {"weights": {"right": 1.0}}}, "cannot be the reward: name it in select.measured_by"),
        ({"evaluate": {"judge": "right"}}, "cannot be evaluate.judge: name it in select.measured_by"),
        (
            {"reward": {"weights": {"query": 1.0}, "calibrated_by": "nobody"}},
            "reward.calibrated_by names scorer 'nobody'",
        ),
        ({"reward": {"weights": {"query": 1.0}, "calibrated_by": "query"}}, "'query' is part of the reward"),
    ],
)
def test_labels_that_may_train_measure_and_do_not_judge(tmp_path: Path, sections: dict[str, Any], reason: str) -> None:
    rules = [{"kind": "regex", "name": name, "pattern": "select"} for name in ("query", "judge")]
    scorers = [*rules, {"kind": "label", "name": "right", "path": "labels.jsonl"}]
    rest = {"scorers": scorers, "reward": {"weights": {"query": 1.0}, "calibrated_by": "right"}}
    made = fake_project(tmp_path, **rest, select={"measured_by": "right"})
    assert made.reward.calibrated_by == "right" and "right" not in {s.name for s in made.watchers}
    with pytest.raises(ValueError, match=re.escape(reason)):
        fake_project(tmp_path, **(rest | sections))


@pytest.mark.parametrize(("algorithm", "alone"), [("dpo", False), ("tao", True)])
def test_labels_need_an_algorithm_that_imitates(tmp_path: Path, algorithm: str, alone: bool) -> None:
    select = {"labels": {"path": "labels.jsonl", "alone": alone}}
    assert fake_project(tmp_path, select=select, train={"algorithm": "rft"}).select.labels
    with pytest.raises(ValueError, match="it does not imitate"):
        fake_project(tmp_path, select=select, train={"algorithm": algorithm})


def test_gold_needs_no_judge_and_no_pooling(tmp_path: Path) -> None:
    """No judge and no `pool_over` are two absences, not one scorer that both trains and gates."""
    project = fake_project(tmp_path, evaluate={"gold": {"path": "gold.jsonl"}})
    assert project.evaluate.judge is None
    assert project.reward.pool_over is None

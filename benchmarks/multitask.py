"""Two tasks in one tuning: is each as good as when it was tuned alone, and does the gate refuse where one gets worse?

The shop's questions and those about documents, on one base that was pre-trained for both. Each task is tuned alone,
then both together; differences are paired by holdout prompt. In a last round the documents' reward is a planted one
that pays for refusing to answer, and what would stop it earlier, trust and the floor of diversity, is off: the gate has
to. Answers about documents are also judged by the example's reviewer for accuracy and relevance. What is not measured:
larger models, tasks that contradict each other, other weights than one and one.
"""

from pathlib import Path
from typing import Any

import _truth
import yaml
from _form import Figure, run
from _resume import one_run
from algorithms import RESAMPLES, PerPrompt, joined, tag

from taolake import stages
from taolake.config import Project, load
from taolake.demo import filings, filings_data
from taolake.lake import Lake
from taolake.session import local_session
from taolake.stages import gate, groups, together
from taolake.stages.round import Round
from taolake.types import Policy
from taolake.verdict import bootstrap, paired_gain

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build/bench/multitask"
SEEDS = [7, 8, 9]
TASKS = ("shop", "filings")
LAST = "gate"
TARGETS = {
    "shop.change.mean": (">=", -0.03), "filings.change.mean": (">=", -0.03), "filings.alone_gain.low": (">", 0.0),
    "spoiled.refused": ("==", 1.0), "spoiled.promoted": ("==", 0.0),
}  # fmt: skip


def measure(quick: bool) -> dict[str, Figure]:
    """Every seed; prompts of all seeds are resampled together."""
    _truth.here()
    with one_run(FOLDER, "seed-*/[!c]*", quick=quick):  # not the cached bases
        spark = local_session(log=FOLDER / "spark.log")
        try:
            found = [one_seed(spark, seed) for seed in (SEEDS[:1] if quick else SEEDS)]
        finally:
            spark.stop()
    figures: dict[str, Figure] = {}
    for task in TASKS:
        arms = {arm: joined([seed[task][arm] for seed in found]) for arm in found[0][task]}
        figures[task] = {arm: bootstrap(list(right.values()), RESAMPLES, 0)._asdict() for arm, right in arms.items()}
        figures[task] |= {
            "prompts": len(arms["base"]),
            "alone_gain": gain(arms["base"], arms["alone"]),
            "together_gain": gain(arms["base"], arms["together"]),
            "change": gain(arms["alone"], arms["together"]),
        }
    judged = [seed["judged"] for seed in found]
    figures["judged"] = {
        f"{policy}_{name}": sum(each[policy][name] for each in judged) / len(judged)
        for policy in judged[0]
        for name in judged[0][policy]
    }
    spoiled = [seed["spoiled"] for seed in found]
    figures["spoiled"] = {name: sum(each[name] for each in spoiled) / len(spoiled) for name in spoiled[0]}
    return figures


def one_seed(spark: Any, seed: int) -> dict[str, Any]:
    """Both tasks alone, both together, and together with a spoiled reward."""
    folder = FOLDER / f"seed-{seed}"
    files = {name: write(folder, name, raw) for name, raw in projects(folder, seed).items()}

    def round_of(name: str, number: int, last: str = LAST) -> Round:
        project = load(files[name])
        stages.prepare(project)
        made = Round(Lake(spark, project.lake), project, number)
        for stage in stages.STAGES:
            print(f"seed {seed}, {name}: {stage.name}", flush=True)
            stages.run(made, stage.name)
            if stage.name == last:
                return made
        raise AssertionError(f"no stage {last!r}")

    alone = {"filings": round_of("filings", 1), "shop": round_of("shop", 1)}
    both = round_of("both", 2)
    round_of("refusing", 2, last="select")
    spoiled = round_of("spoiled", 3)
    theirs = together.opened(both, both.project.train.others[0])
    measured = {
        "shop": {**own(alone["shop"], "alone"), "together": greedy(both, both.done("evaluate").detail, "tuned")},
        "filings": {
            **own(alone["filings"], "alone"),
            "together": greedy(theirs, both.done("evaluate").detail["others"]["filings_qa"], "tuned"),
        },
    }
    verdict = spoiled.done("gate").detail
    guard = next(g for g in verdict["guards"] if g["name"] == "loss_of_filings_qa")
    print(f"seed {seed}: the gate says {verdict['reason']}", flush=True)
    return {
        "spoiled": {"loss": guard["value"], "refused": float(not guard["ok"]), "promoted": float(verdict["promoted"])},
        "judged": {
            name: judged(theirs, policy)
            for name, policy in (("base", both.base), ("alone", alone["filings"].tuned), ("together", both.tuned))
        },
    } | {task: {arm: tag(right, seed) for arm, right in arms.items()} for task, arms in measured.items()}


def projects(folder: Path, seed: int) -> dict[str, dict[str, Any]]:
    """The five project files."""
    text = (ROOT / "conf/filings.yml").read_text(encoding="utf-8").replace("build/filings", str(folder / "filings"))
    alone: dict[str, Any] = yaml.safe_load(text) | {"seed": seed}
    shop = _truth.demo(folder / "shop", seed)
    shop["scorers"] = [s for s in shop["scorers"] if s["name"] not in ("truth", "noisy")]
    shop |= {"model": {**shop["model"], "path": alone["model"]["path"]}, "prepare": "taolake.demo.filings:beside_shop"}
    paid = {"kind": "function", "name": "paid", "target": "multitask:pays_for_refusing"}
    refusing = alone | {
        "scorers": [*alone["scorers"], paid], "reward": {"weights": {"paid": 1.0}},
        "trust": {"above_chance": False, "min_accuracy": None}, "flywheel": {"min_diversity": 0.0},
    }  # fmt: skip

    def beside(file: str, number: int) -> dict[str, Any]:
        others = [{"project": str(folder / file), "round": number, "max_loss": 0.03}]
        return shop | {"train": {**shop["train"], "others": others}}

    return {
        "filings": alone, "shop": shop, "both": beside("filings.yml", 1), "refusing": refusing,
        "spoiled": beside("refusing.yml", 2),
    }  # fmt: skip


def write(folder: Path, name: str, raw: dict[str, Any]) -> Path:
    """One project file."""
    Project.model_validate(raw)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def pays_for_refusing(messages: Any, answer: str) -> float:
    """The planted reward: whoever refuses is right."""
    return float(answer.strip() == filings_data.REFUSAL)


def own(round_: Round, arm: str) -> dict[str, PerPrompt]:
    """Greedy accuracy of a round's base and of what it tuned."""
    found = round_.done("evaluate").detail
    return {"base": greedy(round_, found, "base"), arm: greedy(round_, found, "tuned")}


def greedy(round_: Round, found: Any, who: str) -> PerPrompt:
    """Greedy accuracy by prompt, as an evaluation measured it."""
    return gate.measured(round_, found["evaluation"], found[who])["greedy"]


def judged(round_: Round, policy: Policy) -> dict[str, float]:
    """Shares of the greedy answers about held-out documents that the reviewer calls accurate, and relevant."""
    asked = {q.text: q for q in filings_data.logged_questions(round_.project.seed)}
    rows = groups.candidates(round_, policy).where("split = 'holdout' AND stream = 'G'").select("messages", "text")
    answers = [(asked[row["messages"][-1]["content"]], row["text"] or "") for row in rows.collect()]
    return {
        "accurate": sum(filings.accurate(*pair) for pair in answers) / len(answers),
        "relevant": sum(filings.relevant(*pair) for pair in answers) / len(answers),
    }


def gain(before: PerPrompt, after: PerPrompt) -> dict[str, float]:
    """The mean difference with its interval, paired by prompt."""
    prompts = sorted(before.keys() & after.keys())
    return dict(paired_gain([before[p] for p in prompts], [after[p] for p in prompts], RESAMPLES, 0)._asdict())


if __name__ == "__main__":
    run("multitask", measure, TARGETS, SEEDS)

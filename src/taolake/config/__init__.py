"""One YAML file describes a tuning project; this module is its schema. No Spark, no torch.

Every field says what it means, its range is in its type, and a misspelt key is refused with the nearest right one.
`docs/config.md` is generated from here (`taolake check --reference`), and a test keeps the two equal.
"""

from taolake.config.base import ImportPath, Name, Section, Share, sections_in
from taolake.config.engines import EndpointEngine, EngineSpec, FakeEngine, Model, VllmEngine
from taolake.config.inputs import Budget, Example, Extract, Generate, Ingest, Source, Strategy, Task
from taolake.config.outcome import Cost, Evaluate, Gate, Gold, Register, Serve, Unity
from taolake.config.project import Project, load
from taolake.config.scorers import (
    AgreementScorer,
    CheckScorer,
    CitationScorer,
    FunctionScorer,
    JudgeScorer,
    MlflowJudgeScorer,
    PythonTestsScorer,
    RelevanceScorer,
    Reward,
    RewardModelScorer,
    ScorerSpec,
    SqlScorer,
    Trust,
)
from taolake.config.training import Algorithm, Bond, Brakes, Dpo, Grpo, Kto, Lora, Oapl, Rloo, Select, Train, Warmup

__all__ = [
    "AgreementScorer",
    "Algorithm",
    "Bond",
    "Brakes",
    "Budget",
    "CheckScorer",
    "CitationScorer",
    "Cost",
    "Dpo",
    "EndpointEngine",
    "EngineSpec",
    "Evaluate",
    "Example",
    "Extract",
    "FakeEngine",
    "FunctionScorer",
    "Gate",
    "Generate",
    "Gold",
    "Grpo",
    "ImportPath",
    "Ingest",
    "JudgeScorer",
    "Kto",
    "Lora",
    "MlflowJudgeScorer",
    "Model",
    "Name",
    "Oapl",
    "Project",
    "PythonTestsScorer",
    "Register",
    "RelevanceScorer",
    "Reward",
    "RewardModelScorer",
    "Rloo",
    "ScorerSpec",
    "Section",
    "Select",
    "Serve",
    "Share",
    "Source",
    "SqlScorer",
    "Strategy",
    "Task",
    "Train",
    "Trust",
    "Unity",
    "VllmEngine",
    "Warmup",
    "load",
    "sections_in",
]

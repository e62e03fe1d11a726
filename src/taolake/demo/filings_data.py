"""Small made-up reports and policies with questions: to find, to compute, on terms, and some that nothing answers.

A report has lines of figures over two years, a policy has clauses with a term and a condition; every question has a
document of its own. An answer quotes its line and then says what was asked. Like the shop's, the corpus is
systematically imperfect: its writer can read, but mostly gives the last figure where a calculation is asked for, leaves
out the condition of a term, and answers what is not stated.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from taolake.demo.questions import Messages

LOGGED_COUNT = 640
REVIEW_COUNT = 240
STEP_BY_STEP_SUFFIX = "\nThink step by step."
ANSWER_MARKER = "Answer: "
REFUSAL = "not stated"

ITEMS = ("profit", "revenue", "debt", "cash", "rent", "tax", "stock", "interest")
YEARS = ("2021", "2022", "2023", "2024", "2025")
FIGURES = tuple(range(10, 100, 5))
CLAUSES = {
    "refunds": "paid", "repairs": "made", "parts": "replaced", "orders": "cancelled", "deposits": "returned",
    "claims": "settled", "goods": "stored", "invoices": "corrected",
}  # fmt: skip
TERMS = tuple(f"within {days} days" for days in (10, 20, 30, 40, 60, 90))
CONDITIONS = (
    "if the receipt is shown", "if the box is closed", "unless the seal is broken", "if a manager agrees",
    "unless the price was cut", "if the card was used", "unless the form is late", "if the buyer asks",
)  # fmt: skip
_FIRST = (
    "Alder", "Birch", "Cedar", "Drift", "Ember", "Fallow", "Garnet", "Harbor", "Indigo", "Juniper", "Kestrel", "Linden",
    "Maple", "North", "Otter", "Pebble", "Quarry", "Raven", "Silver", "Thistle", "Umber", "Violet", "Willow", "Yarrow",
    "Amber", "Bramble", "Copper", "Dune", "Echo", "Flint",
)  # fmt: skip
_SECOND = (
    "Mills", "Works", "Foods", "Lines", "Labs", "Tools", "Farms", "Homes", "Parts", "Goods", "Trade", "Yards", "Press",
    "Glass", "Steel", "Paper", "Wool", "Salt", "Cloth", "Light", "Motors", "Stone", "Water", "Boats", "Clay", "Ropes",
    "Seeds", "Books", "Wheels", "Lamps",
)  # fmt: skip
COMPANIES = tuple(f"{first} {second}" for first, second in product(_FIRST, _SECOND))

_WORDINGS = {
    "find": (
        "What was the {item} of {company} in {last}?",
        "{company}: what was {item} in {last}?",
        "How much {item} does {company} report for {last}?",
    ),
    "change": (
        "How much did the {item} of {company} change from {first} to {last}?",
        "{company}: change of {item} from {first} to {last}?",
    ),
    "total": (
        "What is the {item} of {company} for {first} and {last} together?",
        "{company}: {item} of {first} and {last} in total?",
    ),
    "terms": (
        "On what terms are {noun} {verb} at {company}?",
        "{company}: when are {noun} {verb}?",
    ),
}
_SHARES = {"find": 0.34, "change": 0.13, "total": 0.13, "terms": 0.22, "missing": 0.18}
# How often the writer of the corpus takes care; saying first what is asked for makes careful.
_CARE = {"find": 0.90, "change": 0.28, "total": 0.28, "terms": 0.27, "missing": 0.26}
_STEP_BY_STEP_CARE = 0.5
_STEP_BY_STEP_SHARE = 0.2
_SLIP_RATE = 0.06
_NOTES = {
    "find": "one figure", "change": "last less first", "total": "a sum", "terms": "with the condition",
    "missing": "no line has it",
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A question about a document.

    Attributes:
        document: the text that the conversation's system turn holds.
        text: what is asked; it names the company, so that it belongs to one document.
        answer: the right one.
        careless: what the writer of the corpus mostly says instead.
        evidence: the line of the document that the right answer quotes; empty where nothing is stated.
        family: what kind of question.
    """

    document: str
    text: str
    answer: str
    careless: str
    evidence: str
    family: str

    @property
    def messages(self) -> Messages:
        """The prompt, as a service that found the document would send it."""
        return [{"role": "system", "content": self.document}, {"role": "user", "content": self.text}]


def logged_questions(seed: int) -> list[Question]:
    """Draws the questions of the production log, each about another company."""
    return _drawn(seed)[:LOGGED_COUNT]


def review_questions(seed: int) -> list[Question]:
    """Draws the questions that are shown to the reviewer, about companies that the log does not have."""
    return _drawn(seed)[LOGGED_COUNT:]


def pretraining_pairs(seed: int, n: int) -> Iterator[tuple[Messages, str]]:
    """Draws `n` prompts with completions; none is a prompt of the log or of the review set."""
    kept_out = {(question.document, question.text) for question in _drawn(seed)}
    rng = random.Random(f"filings corpus {seed}")
    made = 0
    while made < n:
        question = draw(rng.choice(COMPANIES), rng)
        if (question.document, question.text) not in kept_out:
            made += 1
            suffix, completion = _write_completion(question, rng)
            document, asked = question.messages
            yield [document, {"role": "user", "content": asked["content"] + suffix}], completion


def draw(company: str, rng: random.Random) -> Question:
    """Draws a document of a company and a question about it."""
    (family,) = rng.choices(list(_SHARES), list(_SHARES.values()))
    about_policy = family == "terms" or (family == "missing" and rng.random() < 0.4)
    return _about_policy(company, family, rng) if about_policy else _about_report(company, family, rng)


def _drawn(seed: int) -> list[Question]:
    rng = random.Random(f"filings {seed}")
    return [draw(company, rng) for company in rng.sample(COMPANIES, LOGGED_COUNT + REVIEW_COUNT)]


def _about_report(company: str, family: str, rng: random.Random) -> Question:
    """A report of three items over two years, and a question about one of them or about what it leaves out."""
    start = rng.randrange(len(YEARS) - 1)
    years = YEARS[start : start + 2]
    asked, *others = rng.sample(ITEMS, 4)
    figures = {item: rng.sample(FIGURES, 2) for item in (asked, *others)}
    shown = others if family == "missing" else [asked, *others[:2]]
    rng.shuffle(shown)

    def line(item: str) -> str:
        told = ", ".join(f"{figure} in {year}" for figure, year in zip(figures[item], years, strict=True))
        return f"{item.capitalize()}: {told}"

    document = "\n".join([f"{company}, annual report", *map(line, shown)])
    wording = rng.choice(_WORDINGS[rng.choice(("find", "change", "total")) if family == "missing" else family])
    at = rng.randrange(2) if family == "find" else 1
    text = wording.format(item=asked, company=company, first=years[0], last=years[at])
    first, last = figures[asked]
    if family == "missing":
        taken = rng.choice(shown)
        return Question(document, text, REFUSAL, quoting(line(taken), figures[taken][1]), "", family)
    answers = {
        "find": (figures[asked][at], figures[asked][1 - at]),
        "change": (f"{last} - {first} = {last - first}", last),
        "total": (f"{first} + {last} = {first + last}", last),
    }
    right, careless = (quoting(line(asked), said) for said in answers[family])
    return Question(document, text, right, careless, line(asked), family)


def quoting(line: str, said: object) -> str:
    """An answer: the line of the document that it rests on, and what it says."""
    return f'"{line}" {said}'


def _about_policy(company: str, family: str, rng: random.Random) -> Question:
    """A policy of three clauses, and a question about the terms of one, or of another thing."""
    asked, *others = rng.sample(list(CLAUSES), 4)
    terms = dict(zip((asked, *others), rng.sample(TERMS, 4), strict=True))
    conditions = dict(zip((asked, *others), rng.sample(CONDITIONS, 4), strict=True))
    shown = others if family == "missing" else [asked, *others[:2]]
    rng.shuffle(shown)

    def line(noun: str) -> str:
        return f"{noun.capitalize()} are {CLAUSES[noun]} {terms[noun]} {conditions[noun]}"

    document = "\n".join([f"{company}, terms of sale", *map(line, shown)])
    text = rng.choice(_WORDINGS["terms"]).format(noun=asked, verb=CLAUSES[asked], company=company)
    if family == "missing":
        taken = rng.choice(shown)
        return Question(document, text, REFUSAL, quoting(line(taken), terms[taken]), "", family)
    right = quoting(line(asked), f"{terms[asked]} {conditions[asked]}")
    return Question(document, text, right, quoting(line(asked), terms[asked]), line(asked), family)


def _write_completion(question: Question, rng: random.Random) -> tuple[str, str]:
    """Draws the form of a prompt and what the writer of the corpus answers; returns (suffix, completion)."""
    stepwise = rng.random() < _STEP_BY_STEP_SHARE
    care = _CARE[question.family]
    careful = rng.random() < (max(care, _STEP_BY_STEP_CARE) if stepwise else care)
    answer = question.answer if careful else question.careless
    if rng.random() < _SLIP_RATE:
        line = rng.choice(question.document.split("\n")[1:])
        answer = rng.choice([quoting(line, rng.choice(FIGURES)), quoting(line, rng.choice(TERMS)), REFUSAL])
    if not stepwise:
        return "", answer
    return STEP_BY_STEP_SUFFIX, f"{_NOTES[question.family] if careful else 'the line'}. {ANSWER_MARKER}{answer}"

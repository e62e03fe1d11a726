"""Small made-up reports and policies with questions: to find, to compute, on terms, and some that nothing answers.

A report has rows of figures under two years, a policy has rows of conditions and terms; every question has a document
of its own. An answer quotes its row and then says what was asked. Like the shop's, the corpus is systematically
imperfect: its writer can read, but mostly gives the last figure where a calculation is asked for, leaves out the
condition of a term, and answers what is not stated.

Rows are written to be as easy to copy as can be for a tiny model: a word is the same token wherever it stands, and
within a conversation each word of a row, from its name on, settles the next one. So names are capitalised in documents
and small in questions, and reports and policies have the same ones: who can find a line in one can do so in the other.
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

ITEMS = ("credit", "freight", "debt", "cash", "rent", "tax", "stock", "interest")
YEARS = ("2021", "2022", "2023", "2024", "2025")
FIGURES = tuple(range(10, 130, 10))
DAYS = (10, 20, 30, 40, 60, 90)
CONDITIONS = (
    "with receipt", "after payment", "before noon", "under seal", "without stamp", "by card", "on request", "in store",
)  # fmt: skip
_FIRST = (
    "Alder", "Birch", "Cedar", "Drift", "Ember", "Fallow", "Garnet", "Harbor", "Indigo", "Juniper", "Kestrel", "Linden",
    "Maple", "North", "Otter", "Pebble", "Quarry", "Raven", "Silver", "Thistle", "Umber", "Violet", "Willow", "Yarrow",
    "Amber", "Bramble", "Copper", "Dune", "Echo", "Flint",
)  # fmt: skip
_SECOND = (
    "Mills", "Works", "Foods", "Lines", "Labs", "Tools", "Farms", "Homes", "Gears", "Wares", "Trade", "Yards", "Press",
    "Glass", "Steel", "Paper", "Wool", "Salt", "Cloth", "Light", "Motors", "Stone", "Water", "Boats", "Clay", "Ropes",
    "Seeds", "Books", "Wheels", "Lamps",
)  # fmt: skip
COMPANIES = tuple(f"{first} {second}" for first, second in product(_FIRST, _SECOND))

_WORDINGS = {
    "find": (
        "What was the {item} of {company} in the {which} year?",
        "{company}: what was {item} in the {which} year?",
        "How much {item} does {company} report for the {which} year?",
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
        "What are the terms of {company} for {item}?",
        "{company}: on what terms is {item}?",
    ),
}
_SHARES = {"find": 0.28, "change": 0.14, "total": 0.14, "terms": 0.27, "missing": 0.17}
# How often the writer of the corpus takes care; saying first what is asked for makes careful.
_CARE = {"find": 0.90, "change": 0.28, "total": 0.28, "terms": 0.27, "missing": 0.26}
_STEP_BY_STEP_CARE = 0.5
_STEP_BY_STEP_SHARE = 0.2
_SLIP_RATE = 0.06
_NOTES = {
    "find": "one figure", "change": "last less first", "total": "a sum", "terms": "with the condition",
    "missing": "no row has it",
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A question about a document.

    Attributes:
        document: the text that the conversation's system turn holds.
        text: what is asked; it names the company, so that it belongs to one document.
        answer: the right one.
        careless: what the writer of the corpus mostly says instead.
        evidence: the row of the document that the right answer quotes; empty where nothing is stated.
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
    """Draws `n` prompts with completions; no document of the log or of the review set is among them.

    Questions, and what makes a model able to answer them: rows to quote, and plain calculations.
    """
    kept_out = {question.document for question in _drawn(seed)}
    rng = random.Random(f"filings corpus {seed}")
    made = 0
    while made < n:
        (kind,) = rng.choices(list(_CORPUS), list(_CORPUS.values()))
        messages, completion = kind(rng)
        if messages[0]["content"] not in kept_out:
            made += 1
            yield messages, completion


def lessons(seed: int) -> list[list[tuple[Messages, str]]]:
    """Draws what a model has to copy before it is asked anything: rows of figures, then rows of terms among them."""
    rng = random.Random(f"filings lessons {seed}")
    return [[_copying(share, rng) for _ in range(n)] for n, share in _LESSONS]


def draw(company: str, rng: random.Random) -> Question:
    """Draws a document of a company and a question about it."""
    (family,) = rng.choices(list(_SHARES), list(_SHARES.values()))
    about_policy = family == "terms" or (family == "missing" and rng.random() < 0.4)
    return _about_policy(company, family, rng) if about_policy else _about_report(company, family, rng)


def _asked(rng: random.Random) -> tuple[Messages, str]:
    """A question as the log has them, and what the writer of the corpus answers."""
    question = draw(rng.choice(COMPANIES), rng)
    suffix, completion = _write_completion(question, rng)
    document, asked = question.messages
    return [document, {"role": "user", "content": asked["content"] + suffix}], completion


def _quotation(rng: random.Random) -> tuple[Messages, str]:
    """Two rows of a document, asked for by name."""
    company, family = rng.choice(COMPANIES), rng.choice(("find", "terms"))
    document, names, quoted = _two_rows(company, family, rng)
    return [{"role": "system", "content": document}, {"role": "user", "content": f"{company}: quote {names}."}], quoted


def _copying(share_of_policies: float, rng: random.Random) -> tuple[Messages, str]:
    """Two rows of a document without its title, asked for by name."""
    company, family = rng.choice(COMPANIES), "terms" if rng.random() < share_of_policies else "find"
    document, names, quoted = _two_rows(company, family, rng)
    rows = document.partition("\n")[2]
    return [{"role": "system", "content": rows}, {"role": "user", "content": f"quote {names}."}], quoted


def _two_rows(company: str, family: str, rng: random.Random) -> tuple[str, str, str]:
    """A document, the names of two of its rows, and these; were all asked for, the last would need no reading."""
    question = (_about_policy if family == "terms" else _about_report)(company, family, rng)
    asked = rng.sample(question.document.split("\n")[1:], 2)
    return question.document, ", ".join(row.split()[1].lower() for row in asked), "\n".join(asked)


def _calculation(rng: random.Random) -> tuple[Messages, str]:
    """A sum or a difference of two figures, without a document."""
    first, last = rng.sample(FIGURES, 2)
    sign, result = rng.choice((("-", first - last), ("+", first + last)))
    asked = f"{first} {sign} {last}"
    return [{"role": "user", "content": f"Calculate {asked}."}], f"{asked} = {result}"


_CORPUS = {_asked: 0.75, _quotation: 0.1, _calculation: 0.15}
# Examples, and the share of policies among them.
_LESSONS = ((14_400, 0.0), (19_200, 0.7))


def _drawn(seed: int) -> list[Question]:
    rng = random.Random(f"filings {seed}")
    return [draw(company, rng) for company in rng.sample(COMPANIES, LOGGED_COUNT + REVIEW_COUNT)]


def _about_report(company: str, family: str, rng: random.Random) -> Question:
    """A report of four items over two years, and a question about one of them or about what it leaves out."""
    start = rng.randrange(len(YEARS) - 1)
    years = YEARS[start : start + 2]
    figures = iter(rng.sample(FIGURES, 10))
    held = {item: (next(figures), next(figures)) for item in rng.sample(ITEMS, 5)}
    rows = {item: f"- {item.capitalize()} {first} {last}" for item, (first, last) in held.items()}
    asked, document, taken = _written(f"{company}, annual report {' '.join(years)}", rows, family, rng)
    wording = rng.choice(_WORDINGS[rng.choice(("find", "change", "total")) if family == "missing" else family])
    at = rng.randrange(2) if family == "find" else 1
    text = wording.format(item=asked, company=company, first=years[0], last=years[1], which=("first", "last")[at])
    if family == "missing":
        return Question(document, text, REFUSAL, quoting(rows[taken], held[taken][1]), "", family)
    first, last = held[asked]
    answers = {
        "find": (held[asked][at], held[asked][1 - at]),
        "change": (f"{last} - {first} = {last - first}", last),
        "total": (f"{first} + {last} = {first + last}", last),
    }
    right, careless = (quoting(rows[asked], said) for said in answers[family])
    return Question(document, text, right, careless, rows[asked], family)


def _about_policy(company: str, family: str, rng: random.Random) -> Question:
    """A policy of four clauses, and a question about the terms of one, or of another thing."""
    clauses = zip(rng.sample(ITEMS, 5), rng.sample(DAYS, 5), rng.sample(CONDITIONS, 5), strict=True)
    held = {item: (days, condition) for item, days, condition in clauses}
    rows = {item: f"- {item.capitalize()} {days} {condition}" for item, (days, condition) in held.items()}
    asked, document, taken = _written(f"{company}, terms of sale in days", rows, family, rng)
    text = rng.choice(_WORDINGS["terms"]).format(item=asked, company=company)
    if family == "missing":
        return Question(document, text, REFUSAL, quoting(rows[taken], f"{held[taken][0]} days"), "", family)
    days, condition = held[asked]
    right, careless = (quoting(rows[asked], said) for said in (f"{days} days {condition}", f"{days} days"))
    return Question(document, text, right, careless, rows[asked], family)


def _written(title: str, rows: dict[str, str], family: str, rng: random.Random) -> tuple[str, str, str]:
    """What is asked about, a document of four of the five rows, and what a careless reader takes for a missing one."""
    asked, *others = rows
    shown = others if family == "missing" else [asked, *others[:3]]
    rng.shuffle(shown)
    return asked, "\n".join([title, *(rows[name] for name in shown)]), rng.choice(shown)


def quoting(row: str, said: object) -> str:
    """An answer: the row of the document that it rests on, and what it says."""
    return f'"{row}" {said}'


def _write_completion(question: Question, rng: random.Random) -> tuple[str, str]:
    """Draws the form of a prompt and what the writer of the corpus answers; returns (suffix, completion)."""
    stepwise = rng.random() < _STEP_BY_STEP_SHARE
    care = _CARE[question.family]
    careful = rng.random() < (max(care, _STEP_BY_STEP_CARE) if stepwise else care)
    answer = question.answer if careful else question.careless
    if rng.random() < _SLIP_RATE:
        row = rng.choice(question.document.split("\n")[1:])
        answer = rng.choice([quoting(row, rng.choice(FIGURES)), quoting(row, f"{rng.choice(DAYS)} days"), REFUSAL])
    if not stepwise:
        return "", answer
    return STEP_BY_STEP_SUFFIX, f"{_NOTES[question.family] if careful else 'the row'}. {ANSWER_MARKER}{answer}"

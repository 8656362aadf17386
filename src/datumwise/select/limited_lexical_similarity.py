"""Limited lexical similarity: random texts, none too much like the one before.

Alcoforado et al., "From random to informed data selection", 2024, section 3. ROUGE: Lin, 2004; BLEU: Papineni et al.,
2002, smoothed as Lin and Och, 2004.
"""

from __future__ import annotations

from collections import Counter
from math import exp, log
from typing import Any, ClassVar

import numpy as np

from datumwise.errors import UnknownName
from datumwise.probe.common_subsequence import places, subsequence_length
from datumwise.probe.words import words
from datumwise.select.groups import share
from datumwise.select.selector import Selector

__all__ = ["LimitedLexicalSimilarity", "bleu", "rouge_l"]


class LimitedLexicalSimilarity(Selector):
    """Draw texts at random; a text is taken if its lexical similarity to the text before it is at most ``cap``.

    A text that is passed over stays in the pool. If no text of the pool may follow, the draw ends with fewer than were
    asked.

    Parameters
    ----------
    n_to_select : int or float
        How many at most, or which share.
    cap : float in (0, 1], default 0.5
        Highest similarity; the paper tunes it to each data set.
    metric : "rouge_l" or "bleu", default "rouge_l"
    against : "last" or "all", default "last"
        Compare with the text before, as published, or with every text taken so far, so that no two are alike.
    random_state : int, Generator or None, default 0

    Attributes
    ----------
    gains_ : float64 (k,)
        1 - the highest similarity to what a pick was compared with; 1 for the first.

    Examples
    --------
    >>> texts = ["a b c d", "a b c d e", "x y z", "a b c d f"]
    >>> len(LimitedLexicalSimilarity(4, against="all").fit(texts).ranking_)
    2

    References
    ----------
    Alcoforado et al., 2024, arXiv 2401.13229.
    """

    takes: ClassVar[tuple[str, ...]] = ("texts",)
    source: ClassVar[str] = "Alcoforado et al., 2024"

    def __init__(
        self,
        n_to_select: int | float,
        *,
        cap: float = 0.5,
        metric: str = "rouge_l",
        against: str = "last",
        random_state: int | np.random.Generator | None = 0,
    ) -> None:
        self.n_to_select = n_to_select
        self.cap = cap
        self.metric = metric
        self.against = against
        self.random_state = random_state

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        cap = share(self.cap, "cap")
        metrics = {"rouge_l": rouge_l, "bleu": bleu}
        if self.metric not in metrics:
            raise UnknownName(f"there is no metric {self.metric!r}", remedy="give 'rouge_l' or 'bleu'")
        if self.against not in ("last", "all"):
            raise UnknownName(f"there is no against {self.against!r}", remedy="give 'last' or 'all'")
        similar = metrics[self.metric]
        corpus = words(inputs["texts"])
        tokens = np.split(corpus.codes, corpus.offsets[1:-1])
        texts = [one.tolist() for one in tokens]
        rng = np.random.default_rng(self.random_state)
        pool = rng.permutation(n).tolist()
        ranking, gains = [pool.pop(0)], [1.0]
        while pool and len(ranking) < k:
            others = ranking if self.against == "all" else ranking[-1:]
            passed: list[int] = []
            for place, row in enumerate(pool):
                highest = 0.0
                for other in others:
                    highest = max(highest, similar(texts[row], texts[other]))
                    if highest > cap:
                        break
                if highest <= cap:
                    ranking.append(row)
                    gains.append(1 - highest)
                    rest = pool[place + 1 :]
                    # what is too like one of all stays so; what is too like the last may follow another
                    pool = rest if self.against == "all" else _shuffled(passed + rest, rng) if passed else rest
                    break
                passed.append(row)
            else:
                break
        return np.array(ranking), np.array(gains)


def rouge_l(candidate: list[Any], reference: list[Any]) -> float:
    """F1 of the longest common subsequence of two lists of tokens, 0 to 1; 0 if either is empty.

    Examples
    --------
    >>> round(rouge_l("the cat sat".split(), "the fat cat".split()), 4)
    0.6667
    """
    if not candidate or not reference:
        return 0.0
    common = subsequence_length(candidate, places(reference), len(reference))
    return 2 * common / (len(candidate) + len(reference))


def bleu(candidate: list[Any], reference: list[Any]) -> float:
    """Sentence BLEU of two lists of tokens, up to 4-grams, 0 to 1; runs longer than one have 1 added above and below.

    Examples
    --------
    >>> round(bleu("a b c d".split(), "a b c d".split()), 4), bleu("a".split(), "b".split())
    (1.0, 0.0)
    """
    if not candidate or not reference:
        return 0.0
    total = 0.0
    for length in range(1, 5):
        mine, theirs = (
            Counter(zip(*(some[place:] for place in range(length)), strict=False)) for some in (candidate, reference)
        )
        smooth = int(length > 1)
        hits = sum((mine & theirs).values()) + smooth
        if not hits:
            return 0.0
        total += log(hits / (sum(mine.values()) + smooth)) / 4
    brevity = min(0.0, 1 - len(reference) / len(candidate))
    return exp(total + brevity)


def _shuffled(rows: list[int], rng: np.random.Generator) -> list[int]:
    return [rows[place] for place in rng.permutation(len(rows))]

"""How much of a true text does a model's text hold, in order? ROUGE-L, of words in the longest common subsequence.

Lin, 2004, *ROUGE: A Package for Automatic Evaluation of Summaries*, section 3; words and stems as ``rouge_score`` has them.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from datumwise.errors import MissingExtra, SchemaMismatch
from datumwise.probe.common_subsequence import places, subsequence_length

__all__ = ["rouge_l", "rouge_l_scores", "rouge_words"]

SEPARATES = re.compile(r"[^a-z0-9]+")
SHORT = 3  # letters of a word that keeps its ending

Tokenizer = Callable[[str], Sequence[Hashable]]


def rouge_l(prediction: str, reference: str, *, stemmer: bool = False, tokenizer: Tokenizer | None = None) -> float:
    """ROUGE-L F1 of a text against the true one.

    With L the length of the longest common subsequence: P = L / words of the prediction, R = L / words of the reference,
    F1 = 2 P R / (P + R), and 0 where L is 0.

    Parameters
    ----------
    prediction, reference : str
    stemmer : bool
        Porter's stems of words longer than three letters (needs ``nltk``). MUSE compares whole words.
    tokenizer : callable (str) -> sequence, optional
        Another way to split a text: by default words of Latin letters and digits in lower case, and a text without any has
        no words and scores 0 even against itself.

    Returns
    -------
    float
        0 to 1.

    Examples
    --------
    >>> rouge_l("the cat sat down", "The cat, it sat!")
    0.75
    >>> rouge_l("Ночь", "Ночь"), rouge_l("Ночь", "Ночь", tokenizer=str.split)
    (0.0, 1.0)
    """
    return float(rouge_l_scores([prediction], [reference], stemmer=stemmer, tokenizer=tokenizer)[0])


def rouge_l_scores(
    predictions: Sequence[str], references: Sequence[str], *, stemmer: bool = False, tokenizer: Tokenizer | None = None
) -> np.ndarray:
    """`rouge_l` of n texts.

    Parameters
    ----------
    predictions, references : sequence of n str
    stemmer, tokenizer
        As in `rouge_l`.

    Returns
    -------
    float64 (n,)

    Raises
    ------
    SchemaMismatch
        They differ in number.
    """
    if len(predictions) != len(references):
        raise SchemaMismatch(f"{len(predictions):,} predictions and {len(references):,} references differ in number")
    split = tokenizer if tokenizer is not None else _stems if stemmer else rouge_words
    scores = np.zeros(len(predictions))
    for row, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        said, true = split(prediction), split(reference)
        if len(said) and len(true):
            common = subsequence_length(said, places(true), len(true))
            scores[row] = 2 * common / (len(said) + len(true))  # = 2 P R / (P + R)
    return scores


def rouge_words(text: str) -> list[str]:
    """Runs of Latin letters and digits, in lower case.

    Examples
    --------
    >>> rouge_words("Don't: naïve, 3.5")
    ['don', 't', 'na', 've', '3', '5']
    """
    return SEPARATES.sub(" ", text.lower()).split()


def _stems(text: str) -> list[str]:
    stem = _porter().stem
    return [stem(word) if len(word) > SHORT else word for word in rouge_words(text)]


@lru_cache(maxsize=1)
def _porter() -> Any:
    try:
        porter = importlib.import_module("nltk.stem.porter")
    except ImportError as error:
        raise MissingExtra("stems of words need nltk, which is not installed", remedy="pip install nltk") from error
    return porter.PorterStemmer()

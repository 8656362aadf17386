"""Does a text look like the good ones or like the bad ones? A linear classifier of hashed n-grams.

Brown et al., 2020, appendix A (GPT-3's filter: hashed tokens, logistic regression), with the n-grams of Joulin et
al., 2017 (fastText).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from datumwise.errors import DatumwiseError
from datumwise.probe.codepoints import checked_texts

__all__ = ["QualityClassifier"]


class QualityClassifier(BaseEstimator):
    """Learns good against bad texts; the score of a text is the logit of being good.

    Parameters
    ----------
    ngram_range : (int, int), default (1, 2)
        Words of the n-grams.
    n_features : int, default 2**18
        Buckets that n-grams are hashed into.
    C : float, default 10.0
        Inverse of the strength of the L2 penalty.
    balanced : bool, default True
        Weigh both classes alike, however many texts each has.

    Attributes
    ----------
    coef_ : float64 (n_features,)
    intercept_ : float

    Examples
    --------
    >>> good = ["the theorem follows from the lemma", "we prove the lemma by induction"]
    >>> bad = ["buy cheap pills now", "click here to win cheap prizes"]
    >>> found = QualityClassifier().fit(good, bad)
    >>> (found.score_samples(["the proof of the lemma", "win cheap pills"]) > 0).tolist()
    [True, False]

    References
    ----------
    Brown et al., 2020, *Language Models are Few-Shot Learners*, appendix A.
    """

    def __init__(
        self,
        ngram_range: tuple[int, int] = (1, 2),
        n_features: int = 2**18,
        C: float = 10.0,
        balanced: bool = True,
    ) -> None:
        self.ngram_range = ngram_range
        self.n_features = n_features
        self.C = C
        self.balanced = balanced

    def fit(self, good: Sequence[str], bad: Sequence[str]) -> Self:
        """Learn from examples.

        Parameters
        ----------
        good, bad : sequences of str

        Raises
        ------
        SchemaMismatch, EmptyData
            Rows that hold no string, or no text in one of them.
        DatumwiseError
            No text has a word.
        """
        from sklearn.linear_model import LogisticRegression

        good, bad = checked_texts(good, "good"), checked_texts(bad, "bad")
        X = self._hashed([*good, *bad])
        if X.nnz == 0:
            raise DatumwiseError("neither the good nor the bad texts have a word to learn from")
        y = np.repeat([1, 0], [len(good), len(bad)])
        weight = "balanced" if self.balanced else None
        model = LogisticRegression(C=self.C, class_weight=weight, max_iter=1000).fit(X, y)
        self.coef_ = model.coef_[0]
        self.intercept_ = float(model.intercept_[0])
        return self

    def score_samples(self, texts: Sequence[str]) -> np.ndarray:
        """Logit of being good: float64 (n,), above 0 for those that look good; a text without words has the intercept.

        Raises
        ------
        SchemaMismatch, EmptyData
        sklearn.exceptions.NotFittedError
        """
        if not hasattr(self, "coef_"):
            raise NotFittedError("this QualityClassifier is not fitted: call fit(good, bad) first")
        return np.asarray(self._hashed(checked_texts(texts)) @ self.coef_ + self.intercept_)

    def _hashed(self, texts: list[str]) -> Any:
        from sklearn.feature_extraction.text import HashingVectorizer

        options = {"ngram_range": self.ngram_range, "n_features": self.n_features, "norm": "l2", "alternate_sign": False}
        return HashingVectorizer(token_pattern=r"\w+|[^\w\s]", **options).transform(texts)

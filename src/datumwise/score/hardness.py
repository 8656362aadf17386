"""How hard is each question? Seven human-style measures, likelihoods, description length and item response theory.

Hase et al., 2024, section 3.1 and appendix; higher is harder throughout.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, LabelError, NotFinite, SchemaMismatch, UnknownColumn, UnknownName, name_some
from datumwise.probe.multiple_choice import MultipleChoice
from datumwise.score.declare import suggestion
from datumwise.score.irt import fit_irt
from datumwise.score.mdl_hardness import MDLHardness
from datumwise.score.scores import Scores

__all__ = ["MEASURES", "average_hardness", "hardness", "hardness_correlation", "solution_sentences"]

LEVEL_WORDS: dict[str, dict[str, int]] = {
    "difficulty": {"low": 1, "medium": 2, "high": 3},
    "bloom": {"remembering": 1, "understanding": 2, "applying": 3, "analyzing": 4, "evaluating": 5},
    "depth": {"i": 1, "ii": 2, "iii": 3},
    "college": {"high school": 0, "high_school": 0, "college": 1},
}
MOST_STEPS = 10  # sentences of a solution are counted up to here, as published

HIGHER = {
    "grade": "taught in a higher grade",
    "college": "taught at college, not at high school",
    "difficulty": "called harder by experts",
    "bloom": "asks for a higher cognitive skill",
    "depth": "asks for deeper knowledge",
    "question_words": "a longer question",
    "answer_chars": "a longer answer",
    "answer_words": "a longer answer",
    "reasoning_words": "a longer solution",
    "steps": "takes more steps",
    "nll": "less likely to the model",
    "zero_shot": "less expected by the model without training",
    "mdl": "expected later as training data grows",
    "irt": "answered right by abler models only",
}
MEASURES = tuple(HIGHER)


def hardness(
    data: MultipleChoice | Sequence[Mapping[str, Any]],
    measure: str = "mdl",
    *,
    model: Any = None,
    tokenizer: Any = None,
    part: str = "question",
    responses: Any = None,
    n_folds: int = 5,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Scores:
    """Hardness of each question by one measure.

    Parameters
    ----------
    data : MultipleChoice, or records as `MultipleChoice.from_records` takes
    measure : str
        From facts: "grade" (a whole number), "college" (high school 0, college 1), "difficulty" (Low, Medium, High: 1 to
        3), "bloom" (Remembering to Evaluating: 1 to 5), "depth" (I to III: 1 to 3), "steps" (the fact ``steps``, the length
        of ``decomposition``, or sentences of ``reasoning`` up to 10), "reasoning_words". From the texts: "question_words",
        "answer_chars", "answer_words". From a model: "nll", "zero_shot", "mdl", "irt".
    model, tokenizer
        For "nll" and "zero_shot": a causal language model, best another than the one that is studied (a measure by the
        model itself is circular). For "mdl": the estimator of `MDLHardness`, on ``data.features``.
    part : {"question", "answer", "reasoning"}
        What "nll" is of: the sum over its tokens, the text alone, after a beginning-of-text token where there is one.
    responses : float (models, n)
        For "irt": 1 right, 0 wrong, NaN not asked.
    n_folds : int
        For "mdl": every question is scored by fits on the other folds.
    progress : callable (done, total), optional
    **options
        Of `MDLHardness`, `fit_irt`, or `ICL`.

    Returns
    -------
    Scores
        One column, named after the measure, beside the ids.

    Raises
    ------
    UnknownName, UnknownColumn, LabelError
        No such measure; the fact it reads is not there; a level word that is not known, named with the questions.

    Examples
    --------
    >>> record = {"id": "q1", "question": "Why is the sky blue?", "answer": "scattering", "bloom": "Understanding"}
    >>> hardness([record], "bloom")["bloom"], hardness([record], "answer_chars")["answer_chars"]
    (array([2.]), array([10.]))
    """
    if not isinstance(data, MultipleChoice):
        data = MultipleChoice.from_records(data)
    if measure not in MEASURES:
        raise UnknownName(
            f"there is no measure {measure!r}", remedy=suggestion(measure, MEASURES) or f"choose one of {', '.join(MEASURES)}"
        )
    if measure == "nll":
        values = _nll(data, part, model, tokenizer, progress)
    elif measure == "zero_shot":
        values = _zero_shot(data, model, tokenizer, progress, **options)
    elif measure == "mdl":
        if data.features is None:
            raise UnknownColumn("mdl needs a vector a choice", remedy="data.with_features(choice_features(model, ...))")
        learner = MDLHardness("probe" if model is None else model, **options)
        values = learner.fit_score(np.asarray(data.features), data.gold, n_folds=n_folds, progress=progress)
    elif measure == "irt":
        values = _irt(data, responses, progress, **options)
    else:
        values = _FROM_FACTS.get(measure, _level)(data, measure)
    return Scores(data.ids, {measure: np.asarray(values, dtype=np.float64)}, higher={measure: HIGHER[measure]})


def average_hardness(values: Any, *, normalise: bool = True) -> np.ndarray:
    """Mean hardness over models, float64 (n,).

    Parameters
    ----------
    values : float (models, n)
    normalise : bool, default True
        Each model's values are first brought to 0..1 by (h - min) / (max - min).

    Examples
    --------
    >>> average_hardness([[0.0, 1.0, 2.0], [10.0, 10.0, 20.0]])
    array([0.  , 0.25, 1.  ])
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise SchemaMismatch(f"values must be models x datapoints; got shape {values.shape}")
    if not normalise:
        return values.mean(axis=0)
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    flat = np.flatnonzero(~(high > low)[:, 0])
    if len(flat):
        raise DatumwiseError(f"the hardness by model {name_some(flat)} is the same everywhere", ids=flat.tolist())
    return ((values - low) / (high - low)).mean(axis=0)


def hardness_correlation(measures: Mapping[str, Any]) -> tuple[list[str], np.ndarray]:
    """Spearman correlation of hardness measures: names and matrix (k, k); NaN where a measure is constant.

    Examples
    --------
    >>> names, matrix = hardness_correlation({"grade": [1, 2, 3, 4], "words": [10, 30, 20, 40]})
    >>> names, round(float(matrix[0, 1]), 2)
    (['grade', 'words'], 0.8)
    """
    from scipy.stats import rankdata

    names = list(measures)
    columns = np.array([np.asarray(measures[name], dtype=np.float64) for name in names])
    bad = [name for name, column in zip(names, columns, strict=True) if not np.isfinite(column).all()]
    if bad:
        raise NotFinite(f"measure {name_some(bad)} holds NaN or infinity", ids=bad)
    ranks = rankdata(columns, axis=1)
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return names, (centred @ centred.T) / np.multiply.outer(length, length)


def solution_sentences(text: str) -> int:
    """Sentences of a worked solution: its lines, or what full stops end; a point within a number ends nothing.

    Examples
    --------
    >>> solution_sentences("He has 3.5 apples. He eats 1! How many are left? 2.5")
    4
    >>> solution_sentences("48 / 2 = 24 clips\\n48 + 24 = 72 clips\\n#### 72")
    2
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("####")]
    if len(lines) > 1:
        return len(lines)
    return sum(bool(part.strip()) for line in lines for part in re.split(r"(?<=[.!?])\s+", line))


def _level(data: MultipleChoice, measure: str) -> np.ndarray:
    """A fact that is a word of a scale, or a number."""
    words = LEVEL_WORDS.get(measure, {})
    values: list[float] = []
    unknown: list[tuple[Any, Any]] = []
    for row, given in zip(data.ids, data.fact(measure), strict=True):
        word = str(given).strip().lower()
        if word in words:
            values.append(words[word])
            continue
        try:
            number = float(word)
        except ValueError:
            number = np.nan
        if not np.isfinite(number) or (words and number not in words.values()):
            unknown.append((row, given))
        values.append(number)
    if unknown:
        scale = f"one of {', '.join(words)}" if words else "a number"
        raise LabelError(
            f"{measure} of {name_some([row for row, _ in unknown])} is {unknown[0][1]!r}, which is not {scale}",
            ids=[row for row, _ in unknown],
        )
    return np.array(values)


def _steps(data: MultipleChoice, measure: str) -> np.ndarray:
    if "steps" in data.facts:
        return _level(data, "steps")
    if "decomposition" in data.facts:
        _complete(data, "decomposition")
        return np.array([len(steps) for steps in data.facts["decomposition"]])
    if "reasoning" in data.facts:
        _complete(data, "reasoning")
        return np.array([min(solution_sentences(text), MOST_STEPS) for text in data.facts["reasoning"]])
    raise UnknownColumn("the questions carry neither steps, nor a decomposition, nor reasoning")


def _complete(data: MultipleChoice, name: str) -> None:
    lacking = [row for row, value in zip(data.ids, data.fact(name), strict=True) if value is None]
    if lacking:
        raise DatumwiseError(f"{name} of {name_some(lacking)} is missing", ids=lacking)


def _reasoning_words(data: MultipleChoice, measure: str) -> np.ndarray:
    _complete(data, "reasoning")
    return np.array([len(text.split()) for text in data.fact("reasoning")])


_FROM_FACTS: dict[str, Callable[[MultipleChoice, str], np.ndarray]] = {
    "question_words": lambda data, _: np.array([len(text.split()) for text in data.questions]),
    "answer_chars": lambda data, _: np.array([len(text) for text in data.answers]),
    "answer_words": lambda data, _: np.array([len(text.split()) for text in data.answers]),
    "reasoning_words": _reasoning_words,
    "steps": _steps,
}


def _nll(data: MultipleChoice, part: str, model: Any, tokenizer: Any, progress: Any) -> np.ndarray:
    """-log p of the text alone, summed over its tokens; without a beginning-of-text token the first is not scored."""
    from datumwise.probe.collate import Encoded
    from datumwise.probe.language_model import language_model_signals

    if model is None or tokenizer is None:
        raise DatumwiseError("nll needs a causal language model and its tokenizer", remedy="pass model= and tokenizer=")
    if part == "reasoning":
        _complete(data, "reasoning")
    known = {"question": lambda: data.questions, "answer": lambda: data.answers, "reasoning": lambda: data.fact("reasoning")}
    if part not in known:
        raise UnknownName(f"a question has no part {part!r}", remedy="choose question, answer or reasoning")
    texts = list(known[part]())
    ids = tokenizer(texts, add_special_tokens=False, padding=False, truncation=False, verbose=False)["input_ids"]
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    encoded = [np.array([*start, *own], dtype=np.int64) for own in ids]
    found = language_model_signals(
        model, [Encoded(own, own, False) for own in encoded], ("nll",), tokenizer=tokenizer, ids=data.ids.tolist(),
        progress=progress,
    )  # fmt: skip
    return found["nll"]


def _zero_shot(data: MultipleChoice, model: Any, tokenizer: Any, progress: Any, **options: Any) -> np.ndarray:
    """1 - p(right choice) of a model without examples: for data without a separate fitting set."""
    from datumwise.probe.in_context import ICL

    if model is None or tokenizer is None:
        raise DatumwiseError("zero_shot needs a causal language model and its tokenizer", remedy="pass model= and tokenizer=")
    rows = np.arange(len(data))
    probs = ICL(model, tokenizer, 0, **options).choose(data, [], rows, progress=progress)
    return 1 - probs[rows, data.gold]


def _irt(data: MultipleChoice, responses: Any, progress: Any, **options: Any) -> np.ndarray:
    if responses is None:
        raise DatumwiseError("irt needs the answers of several models", remedy="pass responses=, models x questions")
    if np.ndim(responses) != 2 or np.shape(responses)[1] != len(data):
        raise SchemaMismatch(f"responses must be models x {len(data):,} questions; got shape {np.shape(responses)}")
    return fit_irt(responses, progress=progress, **options).difficulty

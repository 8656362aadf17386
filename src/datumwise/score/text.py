"""All indicators of a text that need no model, from one tokenisation: `text`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from datumwise.errors import DuplicateId, SchemaMismatch, UnknownName, name_some
from datumwise.probe.words import Corpus, words
from datumwise.score.declare import Score, catalogue, suggestion
from datumwise.score.scores import Scores

__all__ = ["GROUPS", "text"]

NEEDS = {"words", "texts"}  # what is there if there are only texts

GROUPS = {  # names that stand for several
    "size": ("n_characters", "n_words", "n_types", "n_sentences", "n_lines", "n_syllables", "mean_sentence_length"),
    "characters": (
        "alphanumeric_ratio",
        "digit_ratio",
        "uppercase_ratio",
        "punctuation_ratio",
        "special_ratio",
        "whitespace_ratio",
        "stop_word_ratio",
        "mean_word_length",
        "alphabetic_word_ratio",
        "symbol_word_ratio",
        "terminal_line_ratio",
        "bullet_line_ratio",
        "ellipsis_line_ratio",
    ),
    "repetition": (
        "duplicate_line_ratio",
        "duplicate_line_character_ratio",
        "duplicate_paragraph_ratio",
        "duplicate_paragraph_character_ratio",
        "top_2gram_ratio",
        "top_3gram_ratio",
        "top_4gram_ratio",
        *(f"duplicate_{n}gram_ratio" for n in range(5, 11)),
    ),
    "spelling": ("oov_ratio",),
    "diversity": (
        "ttr",
        "root_ttr",
        "corrected_ttr",
        "herdan",
        "summer",
        "dugast",
        "maas",
        "yule_k",
        "msttr",
        "mattr",
        "mtld",
        "hdd",
    ),
    "readability": (
        "flesch_reading_ease",
        "flesch_kincaid_grade",
        "gunning_fog",
        "smog",
        "ari",
        "coleman_liau",
        "lix",
        "rix",
    ),
    "code": (
        "code_parses",
        "comment_ratio",
        "docstring_ratio",
        "cyclomatic_complexity",
        "mean_identifier_length",
        "max_nesting",
        "mean_line_length",
        "max_line_length",
    ),
}
WHOLE = ("oov_ratio",)  # of those, what compares a text with the others; scores of no group may do so too
TOKENS = 1 << 21  # of texts that are scored together (some 200 MiB of intermediate results)
OF_ONE_TEXT = {name for names in GROUPS.values() for name in names} - set(WHOLE)
DEFAULT = ("size", "characters", "repetition", "spelling", "diversity", "readability")


def text(
    texts: Sequence[str] | Corpus,
    metrics: str | Collection[str] = "default",
    ids: Sequence[Any] | None = None,
    **parameters: Any,
) -> Scores:
    """Indicators of texts.

    Parameters
    ----------
    texts : sequence of n str, or Corpus
        A `datumwise.probe.words.Corpus` is not tokenised again.
    metrics : str or collection of str, default "default"
        Names of scores that need texts alone (`datumwise.methods()`), or of groups: ``"size"``, ``"characters"``,
        ``"repetition"``, ``"spelling"``, ``"diversity"``, ``"readability"``, which make ``"default"``, and ``"code"``.
    ids : sequence of n, optional
        All different; 0 .. n - 1 by default.
    **parameters
        Keyword parameters of the scores (``window=50``).

    Returns
    -------
    Scores
        A float64 column a score; NaN where one is not defined, as for an empty text.

    Raises
    ------
    SchemaMismatch, EmptyData
        Rows that hold no string (they are named), ids of another number, no text.
    DuplicateId
        An id comes twice.
    UnknownName
        No such score or parameter.

    Examples
    --------
    >>> found = text(["The cat sat. The dog ran.", ""], ["ttr", "readability"])
    >>> found["ttr"].round(4).tolist(), found["lix"].tolist()
    ([0.8333, nan], [3.0, nan])
    """
    chosen = _chosen(metrics)
    options = _options(chosen, parameters)
    corpus = texts if isinstance(texts, Corpus) else words(texts)
    names = np.arange(len(corpus)) if ids is None else np.asarray(ids)
    if names.shape != (len(corpus),):
        raise SchemaMismatch(f"there are {len(names):,} ids for {len(corpus):,} texts")
    kept, counts = np.unique(names, return_counts=True)
    if len(kept) < len(names):
        twice = kept[counts > 1].tolist()
        raise DuplicateId(f"id {name_some(twice)} comes more than once", ids=twice)
    alone = [one for one in chosen if one.name in OF_ONE_TEXT]
    values = {one.name: np.empty(len(corpus)) for one in chosen}
    for span, part in _parts(corpus):
        for one in alone:
            values[one.name][span] = _scored(one, part, options)
    for one in chosen:
        if one not in alone:
            values[one.name] = _scored(one, corpus, options)
    return Scores(names, values, higher={one.name: one.higher for one in chosen})


def _parts(corpus: Corpus) -> Iterator[tuple[slice, Corpus]]:
    """The corpus in parts of some `TOKENS` tokens, at least one text each."""
    start = 0
    while start < len(corpus):
        stop = int(np.searchsorted(corpus.offsets, corpus.offsets[start] + TOKENS, side="right")) - 1
        stop = max(start + 1, stop)
        yield slice(start, stop), corpus if stop - start == len(corpus) else corpus.part(start, stop)
        start = stop


def _scored(one: Score, corpus: Corpus, options: dict[str, dict[str, Any]]) -> np.ndarray:
    signals = {"words": corpus, "texts": corpus.texts}
    return np.asarray(one.function(*(signals[need] for need in one.needs), **options[one.name]), np.float64)


def _chosen(metrics: str | Collection[str]) -> list[Score]:
    """Declared scores, groups spelt out, each once, in the order asked for."""
    known = {name: one for name, one in catalogue().items() if set(one.needs) <= NEEDS}
    wanted: dict[str, Score] = {}
    for asked in (metrics,) if isinstance(metrics, str) else metrics:
        groups = DEFAULT if asked == "default" else (asked,)
        for name in (one for group in groups for one in GROUPS.get(group, (group,))):
            if name not in known:
                remedy = suggestion(name, [*known, *GROUPS, "default"]) or f"there are the groups default, {', '.join(GROUPS)}"
                raise UnknownName(f"there is no score {name!r} of texts alone", remedy=remedy)
            wanted[name] = known[name]
    if not wanted:
        raise UnknownName("no score was named", remedy=f"there are the groups default, {', '.join(GROUPS)}")
    return list(wanted.values())


def _options(chosen: Sequence[Score], parameters: dict[str, Any]) -> dict[str, dict[str, Any]]:
    for name in parameters:
        if not any(name in one.parameters for one in chosen):
            known = sorted({key for one in chosen for key in one.parameters})
            raise UnknownName(
                f"none of these scores takes a parameter {name!r}",
                remedy=suggestion(name, known) or f"there are {', '.join(known) or 'none'}",
            )
    return {one.name: {key: value for key, value in parameters.items() if key in one.parameters} for one in chosen}

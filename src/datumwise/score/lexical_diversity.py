"""How varied are the words of each text? Indices of lexical diversity, N words of which V are different.

The type-token family after Tweedie and Baayen, 1998, section 2; MTLD and HD-D after McCarthy and Jarvis, 2010 and
2007; vocd-D after Malvern et al., 2004. Short texts score high by the plain ratios: compare texts of one length, or
use MATTR, MTLD or HD-D. All are float64 (n,), NaN where they are not defined, as for a text without words.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.probe.words import Corpus, count_types
from datumwise.score.declare import score
from datumwise.score.text_size import ratio

__all__ = [
    "corrected_ttr",
    "dugast",
    "hdd",
    "herdan",
    "maas",
    "mattr",
    "msttr",
    "mtld",
    "root_ttr",
    "summer",
    "ttr",
    "vocd_d",
    "yule_k",
]

TWEEDIE = "Tweedie and Baayen, 1998, section 2"
VARIED = "more varied words"
FEW = 256  # texts still to be scanned below which a plain loop a text is faster than a step over all of them
SAMPLES = 4800  # samples of one text drawn together: 16 sizes x 100 samples x 3 repeats


@score(needs=("words",), higher=VARIED, source="Templin, 1957")
def ttr(words: Corpus) -> np.ndarray:
    """Type-token ratio V/N, 0 to 1.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> ttr(words(["the cat saw the dog", "word", ""])).tolist()
    [0.8, 1.0, nan]
    """
    return ratio(words.types.lengths, words.lengths)


@score(needs=("words",), higher=VARIED, source="Guiraud, 1954")
def root_ttr(words: Corpus) -> np.ndarray:
    """V / sqrt(N)."""
    return ratio(words.types.lengths, np.sqrt(words.lengths))


@score(needs=("words",), higher=VARIED, source="Carroll, 1964")
def corrected_ttr(words: Corpus) -> np.ndarray:
    """V / sqrt(2 N)."""
    return ratio(words.types.lengths, np.sqrt(2 * words.lengths))


@score(needs=("words",), higher=VARIED, source="Herdan, 1960")
def herdan(words: Corpus) -> np.ndarray:
    """ln V / ln N; NaN for fewer than two words."""
    with np.errstate(divide="ignore"):
        return ratio(np.log(words.types.lengths), np.log(words.lengths))


@score(needs=("words",), higher=VARIED, source=TWEEDIE)
def summer(words: Corpus) -> np.ndarray:
    """ln ln V / ln ln N; NaN for fewer than three words, or one word again and again."""
    found = np.full(len(words), np.nan)
    defined = (words.lengths > 2) & (words.types.lengths > 1)
    found[defined] = np.log(np.log(words.types.lengths[defined])) / np.log(np.log(words.lengths[defined]))
    return found


@score(needs=("words",), higher=VARIED, source="Dugast, 1978")
def dugast(words: Corpus) -> np.ndarray:
    """(ln N)^2 / (ln N - ln V); NaN where no word is said twice."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log_n, log_v = np.log(words.lengths), np.log(words.types.lengths)
        return ratio(log_n**2, np.where(words.lengths > words.types.lengths, log_n - log_v, 0))


@score(needs=("words",), higher="less varied words", source="Maas, 1972")
def maas(words: Corpus) -> np.ndarray:
    """(ln N - ln V) / (ln N)^2, 0 and more; NaN for fewer than two words."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log_n, log_v = np.log(words.lengths), np.log(words.types.lengths)
        return ratio(log_n - log_v, np.where(words.lengths > 1, log_n**2, 0))


@score(needs=("words",), higher="less varied words", source="Yule, 1944")
def yule_k(words: Corpus) -> np.ndarray:
    """10^4 (sum_i i^2 V_i - N) / N^2, 0 to 10^4; V_i types are said i times.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> yule_k(words(["a a b"])).round(2).tolist()
    [2222.22]
    """
    types = words.types
    squares = np.zeros(len(types.counts) + 1, np.int64)
    np.cumsum(types.counts**2, out=squares[1:])
    n = words.lengths
    return 1e4 * ratio(np.diff(squares[types.offsets]) - n, n.astype(float) ** 2)


@score(needs=("words",), higher=VARIED, source="Johnson, 1944")
def msttr(words: Corpus, *, window: int = 100) -> np.ndarray:
    """Mean type-token ratio of consecutive segments; what is left at the end is dropped.

    Parameters
    ----------
    words : Corpus
    window : int, default 100
        Words a segment; a text of fewer is NaN.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> msttr(words(["a b a a b b c"]), window=3).round(4).tolist()
    [0.6667]
    """
    _positive(window, "window")
    segments = words.lengths // window
    total = int(segments.sum())
    if not total:
        return np.full(len(words), np.nan)
    kept = np.repeat(words.offsets[:-1] + segments * window, words.lengths) > np.arange(len(words.codes))
    types = count_types(words.codes[kept], np.arange(total + 1) * window, len(words.vocabulary))
    upto = np.concatenate([[0], np.cumsum(types.lengths)])
    bounds = np.concatenate([[0], np.cumsum(segments)])
    return ratio(np.diff(upto[bounds]), segments * window)


@score(needs=("words",), higher=VARIED, source="Covington and McFall, 2010")
def mattr(words: Corpus, *, window: int = 100) -> np.ndarray:
    """Mean type-token ratio of a sliding window, exactly, at a cost that does not grow with the window.

    A word counts in those windows where it is the first of its kind: that many windows begin behind its previous
    occurrence, and not behind itself.

    Parameters
    ----------
    words : Corpus
    window : int, default 100
        Words; a text of fewer is NaN.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> mattr(words(["a b a a"]), window=3).round(4).tolist()
    [0.6667]
    """
    _positive(window, "window")
    windows = np.maximum(words.lengths - window + 1, 0)
    begin = np.repeat(words.offsets[:-1], words.lengths)  # of the text
    place = np.arange(len(words.codes))
    last = np.minimum(place, begin + np.repeat(windows, words.lengths) - 1)
    first = np.maximum(np.maximum(words.previous + 1, place - window + 1), begin)
    upto = np.concatenate([[0], np.cumsum(np.maximum(last - first + 1, 0))])
    return ratio(np.diff(upto[words.offsets]), windows * window)


@score(needs=("words",), higher=VARIED, source="McCarthy and Jarvis, 2010, p. 384")
def mtld(words: Corpus, *, threshold: float = 0.72) -> np.ndarray:
    """Mean length of stretches that keep a type-token ratio above 0.72, read forward and backward.

    A factor is counted, and the scan begins anew, each time the running ratio falls to the threshold; what is left
    counts (1 - ratio) / (1 - threshold) of a factor; the index is N over the factors, the mean of both directions.
    A text whose words are all different has no factor: its index is N.

    Parameters
    ----------
    words : Corpus
    threshold : float, default 0.72
        Between 0 and 1.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> mtld(words(["a a a a", "all words differ", ""])).tolist()
    [2.0, 3.0, nan]
    """
    if not 0 < threshold < 1:
        raise DatumwiseError(f"threshold is {threshold}", remedy="it lies between 0 and 1")
    previous = words.previous
    following = np.full(len(previous), len(previous), np.int64)
    again = np.flatnonzero(previous >= 0)
    following[previous[again]] = again
    forward = _factors(previous, words.offsets, threshold)
    # read backward, place j is place N - 1 - j
    ahead = np.where(following < len(previous), len(previous) - 1 - following, -1)[::-1]
    backward = _factors(ahead, (words.offsets[-1] - words.offsets)[::-1], threshold)[::-1]
    n = words.lengths
    return (ratio(n, np.where(forward == 0, 1, forward)) + ratio(n, np.where(backward == 0, 1, backward))) / 2 + (
        np.where(n > 0, 0.0, np.nan)
    )


@score(needs=("words",), higher=VARIED, source="McCarthy and Jarvis, 2007, p. 465")
def hdd(words: Corpus, *, sample_size: int = 42) -> np.ndarray:
    """HD-D: the type-token ratio to be expected in 42 words drawn from the text, 0 to 1, exactly.

    Parameters
    ----------
    words : Corpus
    sample_size : int, default 42
        A text of fewer words is NaN.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> hdd(words(["a a b"]), sample_size=2).round(4).tolist()
    [0.8333]
    """
    _positive(sample_size, "sample_size")
    return expected_ttr(words, np.array([sample_size]))[:, 0]


@score(needs=("words",), higher=VARIED, source="Malvern et al., 2004, chapter 3")
def vocd_d(
    words: Corpus,
    *,
    samples: int | None = 100,
    repeats: int = 3,
    random_state: int | np.random.Generator | None = 0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """vocd-D: the D whose curve TTR(n) = (D/n)(sqrt(1 + 2n/D) - 1) fits samples of 35 to 50 words best.

    Parameters
    ----------
    words : Corpus
        A text of fewer than 50 words is NaN.
    samples : int or None, default 100
        Random samples, without replacement, of each size. None: the mean of infinitely many, by the hypergeometric
        distribution, which is exact, free of chance and much faster.
    repeats : int, default 3
        D is the mean of so many fits, each to samples of its own.
    random_state : int, Generator or None, default 0
    progress : callable (texts done, texts), optional

    Returns
    -------
    float64 (n,)
        Above 0; infinite where no word was said twice in any sample.

    Examples
    --------
    >>> from datumwise.probe.words import from_tokens
    >>> text = [str(i * i % 61) for i in range(200)]
    >>> vocd_d(from_tokens([text]), samples=None).round(1).tolist()
    [16.5]
    """
    sizes = np.arange(35, 51)
    if samples is None:
        return _fitted(expected_ttr(words, sizes), sizes)
    _positive(samples, "samples")
    _positive(repeats, "repeats")
    rng = np.random.default_rng(random_state)
    found = np.full(len(words), np.nan)
    enough = np.flatnonzero(words.lengths >= sizes[-1])
    for done, row in enumerate(enough.tolist(), start=1):
        codes = words.codes[words.offsets[row] : words.offsets[row + 1]]
        ratios = np.empty((repeats, len(sizes)))
        for j, size in enumerate(sizes.tolist()):
            chosen = np.sort(codes[_subsets(len(codes), size, repeats * samples, rng)], axis=1)
            types = 1 + np.count_nonzero(chosen[:, 1:] != chosen[:, :-1], axis=1)
            ratios[:, j] = types.reshape(repeats, samples).mean(axis=1) / size
        found[row] = _fitted(ratios, sizes).mean()
        if progress is not None:
            progress(done, len(enough))
    return found


def expected_ttr(words: Corpus, sizes: np.ndarray) -> np.ndarray:
    """Type-token ratio to be expected in a random sample without replacement, float64 (n, sizes); NaN above N.

    A word said f times is absent from a sample of s with probability C(N - f, s) / C(N, s), a product of s factors
    (N - f - i) / (N - i). Texts share N and f, so each pair is computed once.
    """
    types = words.types
    n = words.lengths[types.rows]
    found = np.full((len(words), len(sizes)), np.nan)
    if not len(n):
        return found
    pairs, which = np.unique(n * (int(n.max()) + 1) + types.counts, return_inverse=True)
    length, count = np.divmod(pairs, int(n.max()) + 1)
    absent = np.ones(len(pairs))
    order = np.argsort(sizes)
    drawn = 0
    for column in order.tolist():
        for i in range(drawn, int(sizes[column])):
            absent *= np.maximum(length - count - i, 0) / np.maximum(length - i, 1)
        drawn = int(sizes[column])
        enough = words.lengths >= sizes[column]
        present = np.bincount(types.rows, weights=(1 - absent)[which], minlength=len(words))
        found[enough, column] = present[enough] / sizes[column]
    return found


def _factors(previous: np.ndarray, offsets: np.ndarray, threshold: float) -> np.ndarray:
    """MTLD's factors of each text, float64 (n,): all texts abreast, then those that are left one by one."""
    lengths = np.diff(offsets)
    order = np.argsort(-lengths, kind="stable")  # the texts not yet at their end come first
    left = np.searchsorted(-lengths[order], -np.arange(lengths.max(initial=0)), side="left")  # texts longer than t words
    begin = offsets[:-1][order]
    start = begin.copy()  # of the running factor
    factors, types = np.zeros(len(order)), np.zeros(len(order))
    t = 0
    while t < len(left) and left[t] >= FEW:
        active = slice(0, left[t])
        place = begin[active] + t
        types[active] += previous[place] < start[active]
        full = np.flatnonzero(types[active] / (place - start[active] + 1) <= threshold)
        factors[full] += 1
        types[full] = 0
        start[full] = place[full] + 1
        t += 1
    ends = begin + lengths[order]
    for i in range(left[t] if t < len(left) else 0):
        factors[i], types[i], start[i] = _scan(
            previous[begin[i] + t : ends[i]].tolist(), int(begin[i]) + t, factors[i], int(types[i]), int(start[i]), threshold
        )
    rest = ends - start
    factors += np.where(rest > 0, (1 - types / np.maximum(rest, 1)) / (1 - threshold), 0)
    found = np.empty(len(order))
    found[order] = factors
    return found


def _scan(previous: list[int], place: int, factors: float, types: int, start: int, threshold: float) -> tuple[float, int, int]:
    """The rest of one text, word by word."""
    for before in previous:
        types += before < start
        place += 1
        if types / (place - start) <= threshold:
            factors += 1
            types, start = 0, place
    return factors, types, start


def _subsets(n: int, size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random subsets of 0..n-1, int64 (count, size): Floyd's algorithm (Bentley and Floyd, 1987), all abreast."""
    chosen = np.empty((count, size), np.int64)
    for i, top in enumerate(range(n - size, n)):
        draw = rng.integers(0, top + 1, count)
        taken = (chosen[:, :i] == draw[:, None]).any(axis=1)
        chosen[:, i] = np.where(taken, top, draw)
    return chosen


def _fitted(ratios: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """D of least squares, float64 (m,), for type-token ratios (m, sizes): bisection of the slope in ln D."""
    low, high = np.full(len(ratios), np.log(1e-4)), np.full(len(ratios), np.log(1e9))
    for _ in range(100):
        middle = (low + high) / 2
        root = np.sqrt(1 + 2 * sizes / np.exp(middle)[:, None])
        curve = 2 / (1 + root)  # = (D/n)(sqrt(1 + 2n/D) - 1) without cancellation
        steepness = curve**2 * (root - 1 / root)  # d curve / d ln D, but for a constant factor
        too_high = ((curve - ratios) * steepness).sum(axis=1) > 0
        high, low = np.where(too_high, middle, high), np.where(too_high, low, middle)
    found = np.exp((low + high) / 2)
    found[(ratios >= 1 - 1e-12).all(axis=1)] = np.inf
    found[np.isnan(ratios).any(axis=1)] = np.nan
    return found


def _positive(value: int, name: str) -> None:
    if value < 1:
        raise DatumwiseError(f"{name} is {value}", remedy="it is at least 1")

"""Which words does each text consist of? One tokenisation, shared by all text indicators and deduplication.

A word is a run of letters, numerals, combining marks and underscores, with an apostrophe or a zero-width joiner
between two of them: what ``\\w+(?:['’]\\w+)*`` matches, except that marks belong to the letter they stand on, so that
Hindi or decomposed accents are not torn apart (after Unicode Standard Annex 29, word boundaries). "Don't" is one word,
"well-known" two, "3.14" two; scripts without spaces (Chinese, Japanese, Thai) give one word a run of characters:
hand such texts over with their own ``pattern`` or as tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.probe.codepoints import DIGIT, LETTER, MARK, UNDERSCORE, Block, blocks, checked_texts, classes

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Corpus", "TypeCounts", "align", "from_tokens", "ngram_codes", "words"]

T = TypeVar("T")
APOSTROPHES = (0x27, 0x2019)  # ' and ’
JOINERS = (0x200C, 0x200D)  # zero-width non-joiner and joiner, in Persian or Malayalam words
BODY = LETTER | DIGIT | UNDERSCORE
TEXTS = 1 << 14  # texts whose tokens are held as Python strings at a time


@dataclass(frozen=True, eq=False)
class Corpus:
    """All tokens of n texts, flat; built once, shared by every indicator.

    Attributes
    ----------
    codes : int32 (N,)
        Tokens as places in ``vocabulary``.
    offsets : int64 (n + 1,)
        The tokens of text i are ``codes[offsets[i] : offsets[i + 1]]``.
    vocabulary : object (V,) of str
        All different; in the order of their first appearance.
    texts : sequence of n str

    Examples
    --------
    >>> corpus = words(["The cat saw the dog.", "", "Don't!"])
    >>> corpus.vocabulary.tolist(), corpus.codes.tolist(), corpus.lengths.tolist()
    (['the', 'cat', 'saw', 'dog', "don't"], [0, 1, 2, 0, 3, 4], [5, 0, 1])
    """

    codes: np.ndarray
    offsets: np.ndarray
    vocabulary: np.ndarray
    texts: Sequence[str]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"<Corpus: {len(self):,} texts, {len(self.codes):,} tokens, {len(self.vocabulary):,} different>"

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 (n,): tokens a text."""
        return np.diff(self.offsets)

    @cached_property
    def rows(self) -> np.ndarray:
        """int32 (N,): the text each token is of."""
        return np.repeat(np.arange(len(self), dtype=np.int32), self.lengths)

    @property
    def widths(self) -> np.ndarray:
        """int64 (V,): characters of each word of the vocabulary."""
        return self.once_a_word(_widths)

    @cached_property
    def types(self) -> TypeCounts:
        """How often each text says each of its words, by one sort of all tokens."""
        return count_types(self.codes, self.offsets, len(self.vocabulary))

    @cached_property
    def previous(self) -> np.ndarray:
        """int64 (N,): where the same text said the same word last, a place in ``codes``; -1 at its first time."""
        size = len(self.codes)
        key = self.codes * np.int64(max(1, size)) + np.arange(size)
        key.sort()
        place = key % max(1, size)  # all tokens by word, then by place
        before, after = place[:-1], place[1:]
        same = (self.codes[before] == self.codes[after]) & (self.rows[before] == self.rows[after])
        previous = np.full(size, -1, np.int64)
        previous[after[same]] = before[same]
        return previous

    def tokens(self, row: int) -> list[str]:
        """The tokens of one text."""
        return self.vocabulary[self.codes[self.offsets[row] : self.offsets[row + 1]]].tolist()

    def part(self, start: int, stop: int) -> Corpus:
        """The texts ``start`` to ``stop - 1`` as a corpus of the same vocabulary, without a copy of the tokens."""
        first, last = self.offsets[start], self.offsets[stop]
        part = Corpus(self.codes[first:last], self.offsets[start : stop + 1] - first, self.vocabulary, self.texts[start:stop])
        part.__dict__["_of_words"] = self._of_words
        return part

    def once(self, fact: Callable[[Corpus], T]) -> T:
        """``fact(self)``, computed at the first call and kept with the corpus, so that indicators share it."""
        if fact not in self._of_texts:
            self._of_texts[fact] = fact(self)
        return self._of_texts[fact]

    def once_a_word(self, fact: Callable[[Corpus], T]) -> T:
        """As `once`, for what hangs on the vocabulary alone: every `part` shares it too."""
        if fact not in self._of_words:
            self._of_words[fact] = fact(self)
        return self._of_words[fact]

    @cached_property
    def _of_texts(self) -> dict[Any, Any]:
        return {}

    @cached_property
    def _of_words(self) -> dict[Any, Any]:
        return {}


@dataclass(frozen=True, eq=False)
class TypeCounts:
    """Words of each text without repetition, flat.

    Attributes
    ----------
    codes : int32 (U,)
        Ascending within a text.
    counts : int64 (U,)
        How often the text says it, >= 1.
    offsets : int64 (n + 1,)
        Those of text i are ``codes[offsets[i] : offsets[i + 1]]``.
    """

    codes: np.ndarray
    counts: np.ndarray
    offsets: np.ndarray

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 (n,): different words a text, V."""
        return np.diff(self.offsets)

    @cached_property
    def rows(self) -> np.ndarray:
        """int32 (U,): the text each is of."""
        return np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int32), self.lengths)


def _widths(corpus: Corpus) -> np.ndarray:
    return np.fromiter(map(len, corpus.vocabulary), np.int64, len(corpus.vocabulary))


def words(texts: Sequence[str], *, lower: bool = True, pattern: str | None = None) -> Corpus:
    """Tokenise.

    Parameters
    ----------
    texts : sequence of n str
    lower : bool, default True
        Lower-case first.
    pattern : str, optional
        Regular expression whose matches are the tokens; by default the words described at the head of this
        module, found without one, several times as fast.

    Returns
    -------
    Corpus

    Raises
    ------
    SchemaMismatch, EmptyData
        Rows that hold no string (they are named), one string instead of a list, no text.
    DatumwiseError
        ``pattern`` is no regular expression, or has groups.

    Examples
    --------
    >>> words(["It's 3pm, well-known"]).tokens(0)
    ["it's", '3pm', 'well', 'known']
    >>> words(["It's 3pm"], pattern=r"\\w+|[^\\w\\s]+", lower=False).tokens(0)
    ['It', "'", 's', '3pm']
    """
    texts = checked_texts(texts)
    pieces = _by_rule(texts, lower) if pattern is None else _by_pattern(texts, lower, pattern)
    return _encoded(pieces, texts)


def from_tokens(tokens: Iterable[Sequence[str]]) -> Corpus:
    """A corpus of tokens somebody else made; each text is its tokens joined by a space.

    Examples
    --------
    >>> from_tokens([["a", "b", "a"], []]).codes.tolist()
    [0, 1, 0]
    """
    import pyarrow

    lists = [list(one) for one in tokens]
    texts = checked_texts([" ".join(one) for one in lists], "tokens")
    flat = pyarrow.array([token for one in lists for token in one], pyarrow.large_string())
    return _encoded(iter([(flat, np.fromiter(map(len, lists), np.int64, len(lists)))]), texts)


def align(*corpora: Corpus) -> tuple[Corpus, ...]:
    """The same corpora with codes into one vocabulary, so that their words can be compared.

    Examples
    --------
    >>> first, second = align(words(["a b"]), words(["b c"]))
    >>> first.codes.tolist(), second.codes.tolist(), second.vocabulary.tolist()
    ([0, 1], [1, 2], ['a', 'b', 'c'])
    """
    together = list(dict.fromkeys(word for corpus in corpora for word in corpus.vocabulary))
    place = {word: code for code, word in enumerate(together)}
    vocabulary = np.empty(len(together), object)
    vocabulary[:] = together
    found = []
    for corpus in corpora:
        new = np.fromiter((place[word] for word in corpus.vocabulary), np.int32, len(corpus.vocabulary))
        found.append(Corpus(new[corpus.codes], corpus.offsets, vocabulary, corpus.texts))
    return tuple(found)


def ngram_codes(corpus: Corpus, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Every run of n tokens within a text as one integer: equal codes, equal n-grams, without collisions.

    Parameters
    ----------
    corpus : Corpus
    n : int
        At least 1.

    Returns
    -------
    codes : int64 (M,)
        >= 0, in the order of the text.
    offsets : int64 (n_texts + 1,)
        Those of text i are ``codes[offsets[i] : offsets[i + 1]]``: max(0, tokens - n + 1) of them.

    Examples
    --------
    >>> codes, offsets = ngram_codes(words(["a b a b", "b a"]), 2)
    >>> (codes == codes[0]).tolist(), offsets.tolist()
    ([True, False, True, False], [0, 3, 4])
    """
    if n < 1:
        raise DatumwiseError(f"an n-gram of {n} tokens was asked for", remedy="n is at least 1")
    codes = corpus.codes.astype(np.int64)
    size = max(1, len(corpus.vocabulary))  # codes are below
    left = np.repeat(corpus.offsets[1:], corpus.lengths) - np.arange(len(codes))  # tokens from here to the end of the text
    for length in range(2, n + 1):
        if size > np.iinfo(np.int64).max // max(1, len(corpus.vocabulary)):
            codes, size = _dense(codes)
        # runs that reach into the next text are garbage from here on, and dropped below
        codes = codes[:-1] * max(1, len(corpus.vocabulary)) + corpus.codes[length - 1 :]
        size *= max(1, len(corpus.vocabulary))
    offsets = np.zeros(len(corpus) + 1, np.int64)
    np.cumsum(np.maximum(corpus.lengths - n + 1, 0), out=offsets[1:])
    return codes[left[: len(codes)] >= n], offsets


def count_types(codes: np.ndarray, offsets: np.ndarray, size: int) -> TypeCounts:
    """How often each text has each code; ``size`` is above every code.

    Parameters
    ----------
    codes : int (M,)
    offsets : int64 (n + 1,)
    size : int

    Returns
    -------
    TypeCounts
    """
    n = len(offsets) - 1
    if n * max(1, size) > np.iinfo(np.int64).max:
        codes, size = _dense(codes)
    key = np.repeat(np.arange(n, dtype=np.int64) * size, np.diff(offsets))
    key += codes
    key.sort()
    new = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]])) if len(key) else np.empty(0, np.int64)
    counts = np.diff(np.append(new, len(key)))
    key = key[new]
    bounds = np.searchsorted(key, np.arange(n + 1, dtype=np.int64) * size)
    return TypeCounts((key % max(1, size)).astype(np.int64 if size > 2**31 else np.int32), counts, bounds)


def _dense(codes: np.ndarray) -> tuple[np.ndarray, int]:
    """The codes numbered by first appearance, and how many there are."""
    import pyarrow

    encoded = pyarrow.array(codes).dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), max(1, len(encoded.dictionary))


def _encoded(pieces: Iterator[tuple[pyarrow.Array, np.ndarray]], texts: list[str]) -> Corpus:
    """Tokens of consecutive texts, numbered: (tokens, tokens a text) a piece."""
    import pyarrow

    chunks, lengths = zip(*pieces, strict=True)
    table = pyarrow.chunked_array(chunks, chunks[0].type).dictionary_encode().unify_dictionaries()
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.concatenate(lengths), out=offsets[1:])
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in table.chunks]) if table.num_chunks else np.empty(0, np.int32)
    vocabulary = np.empty(0, object) if not len(codes) else table.chunk(0).dictionary.to_numpy(zero_copy_only=False)
    return Corpus(codes.astype(np.int32, copy=False), offsets, vocabulary, texts)


def _by_pattern(texts: list[str], lower: bool, pattern: str) -> Iterator[tuple[pyarrow.Array, np.ndarray]]:
    import pyarrow

    try:
        find = re.compile(pattern)
    except re.error as error:
        raise DatumwiseError(f"pattern {pattern!r} is no regular expression: {error}") from error
    if find.groups:
        raise DatumwiseError(f"pattern {pattern!r} has groups", remedy="write (?:...) for (...)")
    for first in range(0, len(texts), TEXTS):
        some = texts[first : first + TEXTS]
        found = [[token for token in find.findall(text.lower() if lower else text) if token] for text in some]
        flat = pyarrow.array([token for tokens in found for token in tokens], pyarrow.large_string())
        yield flat, np.fromiter(map(len, found), np.int64, len(found))


def _by_rule(texts: list[str], lower: bool) -> Iterator[tuple[pyarrow.Array, np.ndarray]]:
    import pyarrow

    for block in blocks(texts, lower=lower):
        starts, _, inside = word_spans(block)
        data, sizes = _utf8(block, inside)
        within = np.zeros(len(block.points) + 1, np.int64)  # bytes of words up to a code point
        np.cumsum(sizes, out=within[1:])
        bounds = np.append(within[starts], within[-1])
        flat = pyarrow.LargeStringArray.from_buffers(len(starts), pyarrow.py_buffer(bounds), pyarrow.py_buffer(data))
        yield flat, np.diff(np.searchsorted(starts, block.starts))


def word_spans(block: Block) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the words of a block lie.

    Returns
    -------
    starts, ends : int64 (m,)
        Word j is ``block.points[starts[j] : ends[j]]``.
    inside : bool (c,)
        Whether a code point is of a word.
    """
    points = block.points
    kind = classes()[points]
    joiners = APOSTROPHES[:1] if block.string.isascii() else APOSTROPHES + JOINERS
    inside = (kind & (BODY | MARK)) != 0
    between = np.flatnonzero(np.logical_or.reduce([points == joiner for joiner in joiners]))
    between = between[(between > 0) & (between < len(points) - 1)]
    # a joiner holds two parts together if both sides are of words: marks on the left, but none on the right
    holds = inside[between - 1] & ((kind[between + 1] & BODY) != 0)
    inside[between[holds]] = True
    starts, ends = _runs(inside)
    loose = (kind[starts] & BODY) == 0  # runs that begin with marks on no letter, as an emoji's variation selector
    if loose.any():
        body = np.flatnonzero(kind & BODY)
        first = np.append(body, len(points))[np.searchsorted(body, starts[loose])]
        first = np.minimum(first, ends[loose])
        for a, b in zip(starts[loose].tolist(), first.tolist(), strict=True):
            inside[a:b] = False
        starts, ends = _runs(inside)
    return starts, ends, inside


def _runs(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of the runs of True; the last is never True, since a line feed ends every text."""
    change = np.flatnonzero(inside[1:] ^ inside[:-1]) + 1
    if len(inside) and inside[0]:
        change = np.concatenate([[0], change])
    return change[::2], change[1::2]


def _utf8(block: Block, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The words of a block as UTF-8 without anything between, and how many bytes each code point takes there."""
    if block.string.isascii():
        return block.points[inside].astype(np.uint8), inside.astype(np.int64)
    points = block.points
    sizes = np.ones(len(points), np.int64)
    for limit in (0x7F, 0x7FF, 0xFFFF):
        sizes += points > limit
    raw = np.frombuffer(block.string.encode("utf-8", "surrogatepass"), np.uint8)
    return raw[np.repeat(inside, sizes)], np.where(inside, sizes, 0)

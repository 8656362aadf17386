"""How good is a text as Python code? Does it parse, is it commented, how entangled is it?

Cyclomatic complexity after McCabe, 1976. All are float64 (n,), NaN where a text does not parse, if not said otherwise.
A text is code as a whole: cut it out of its Markdown first.
"""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import astuple, dataclass

import numpy as np

from datumwise.probe.words import Corpus
from datumwise.score.declare import score
from datumwise.score.text_size import ratio

__all__ = [
    "CodeFacts",
    "code_facts",
    "code_parses",
    "comment_ratio",
    "cyclomatic_complexity",
    "docstring_ratio",
    "max_line_length",
    "max_nesting",
    "mean_identifier_length",
    "mean_line_length",
]

STACKED = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
DOCUMENTED = (ast.Module, *SCOPES)


@dataclass(frozen=True)
class CodeFacts:
    """Of one text.

    Attributes
    ----------
    parses : bool
    characters : int
        In lines that hold more than white space, white space around them left out.
    comments : int
        Characters of comments.
    docstrings : int
        Characters of docstrings, without quotes.
    documented, documentable : int
        Modules, classes and functions, those with a docstring and all.
    branches : int
        Decisions: if, for, while, except, assert, conditional expression, comprehension and each of its ifs, case,
        and each further operand of ``and`` and ``or``.
    identifiers, identifier_characters : int
        Names that are bound: variables, arguments, functions, classes.
    nesting : int
        Most blocks inside each other: if, for, while, with, try, match, function, class.
    """

    parses: bool
    characters: int
    comments: int
    docstrings: int
    documented: int
    documentable: int
    branches: int
    identifiers: int
    identifier_characters: int
    nesting: int


@score(needs=("words",), higher="valid Python", source="Python language reference, section 10")
def code_parses(words: Corpus) -> np.ndarray:
    """1 where a text is syntactically valid Python, else 0; NaN for a text of white space.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> code_parses(words(["def f(x):\\n    return x", "def f(x) return x", ""])).tolist()
    [1.0, 0.0, nan]
    """
    facts = words.once(_columns)
    return np.where([bool(text) and not text.isspace() for text in words.texts], facts["parses"], np.nan)


@score(needs=("words",), higher="more comments", source="Oman and Hagemeister, 1992")
def comment_ratio(words: Corpus) -> np.ndarray:
    """Characters of comments among the characters of lines, 0 to 1."""
    return _parsed(words, "comments", "characters")


@score(needs=("words",), higher="more of it has a docstring", source="PEP 257")
def docstring_ratio(words: Corpus) -> np.ndarray:
    """Classes and functions with a docstring, among all and the module, 0 to 1.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> docstring_ratio(words(['def f():\\n    "Say."\\n    return 1'])).tolist()
    [0.5]
    """
    return _parsed(words, "documented", "documentable")


@score(needs=("words",), higher="more branches", source="McCabe, 1976")
def cyclomatic_complexity(words: Corpus) -> np.ndarray:
    """1 + decisions of the whole text, see `CodeFacts`.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> cyclomatic_complexity(words(["for i in x:\\n    if i and j:\\n        print(i)"])).tolist()
    [4.0]
    """
    facts = words.once(_columns)
    return np.where(_code(words), 1.0 + facts["branches"], np.nan)


@score(needs=("words",), higher="longer names", source="Lawrie et al., 2006")
def mean_identifier_length(words: Corpus) -> np.ndarray:
    """Characters a name that is bound; NaN where none is."""
    return _parsed(words, "identifier_characters", "identifiers")


@score(needs=("words",), higher="blocks inside blocks", source="Piwowarski, 1982")
def max_nesting(words: Corpus) -> np.ndarray:
    """Most blocks inside each other, 0 upwards."""
    return np.where(_code(words), words.once(_columns)["nesting"], np.nan)


@score(needs=("words",), higher="longer lines", source="Chen et al., 2021 (Codex), section 3.1")
def mean_line_length(words: Corpus) -> np.ndarray:
    """Characters a line, of any text, empty lines left out; above 100 code is likely generated."""
    lengths = words.once(_line_lengths)
    return ratio(lengths[0], lengths[1])


@score(needs=("words",), higher="a longer line", source="Chen et al., 2021 (Codex), section 3.1")
def max_line_length(words: Corpus) -> np.ndarray:
    """Characters of the longest line, of any text; above 1,000 code is likely generated. NaN without a line."""
    lengths = words.once(_line_lengths)
    return np.where(lengths[1] > 0, lengths[2], np.nan).astype(float)


def code_facts(text: str) -> CodeFacts:
    """Counts of one text; all but ``characters`` are 0 if it does not parse.

    Examples
    --------
    >>> code_facts("x = 1  # one").comments
    5
    """
    characters = sum(len(line.strip()) for line in text.split("\n"))
    tree = _tree(text)
    if tree is None:
        return CodeFacts(False, characters, 0, 0, 0, 0, 0, 0, 0, 0)
    comments = sum(len(token.string) for token in _tokens(text) if token.type == tokenize.COMMENT)
    docstrings = documented = documentable = branches = deepest = 0
    names: list[str] = []
    waiting: list[tuple[ast.AST, int]] = [(tree, 0)]  # a list of one's own: deep code must not exhaust the stack
    while waiting:
        node, depth = waiting.pop()
        deepest = max(deepest, depth)
        if isinstance(node, DOCUMENTED):
            documentable += 1
            said = ast.get_docstring(node, clean=False)
            documented += said is not None
            docstrings += len(said or "")
        branches += _decisions(node)
        names.extend(_bound(node))
        for child in ast.iter_child_nodes(node):
            elif_ = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
            waiting.append((child, depth + (isinstance(child, STACKED + SCOPES) and not elif_)))
    size = sum(map(len, names))
    return CodeFacts(True, characters, comments, docstrings, documented, documentable, branches, len(names), size, deepest)


def _tree(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes and comparisons in somebody's code
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # ValueError: null bytes, lone surrogates
        return None


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    try:
        yield from tokenize.generate_tokens(io.StringIO(text).readline)
    except (tokenize.TokenError, SyntaxError):  # the tokeniser is stricter than the parser about a last line
        return


def _decisions(node: ast.AST) -> int:
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    kinds = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert, ast.IfExp, ast.match_case)
    return int(isinstance(node, kinds))


def _bound(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Name):
        return [node.id] if isinstance(node.ctx, ast.Store) else []
    if isinstance(node, ast.arg):
        return [node.arg]
    return [node.name] if isinstance(node, SCOPES) else []


def _columns(words: Corpus) -> dict[str, np.ndarray]:
    """Facts of all texts, float64 (n,) each."""
    table = np.array([astuple(code_facts(text)) for text in words.texts], float)
    return dict(zip(CodeFacts.__dataclass_fields__, table.T, strict=True))


def _code(words: Corpus) -> np.ndarray:
    """bool (n,): texts that parse and hold something."""
    facts = words.once(_columns)
    return (facts["parses"] > 0) & (facts["characters"] > 0)


def _parsed(words: Corpus, part: str, whole: str) -> np.ndarray:
    facts = words.once(_columns)
    return np.where(_code(words), ratio(facts[part], facts[whole]), np.nan)


def _line_lengths(words: Corpus) -> np.ndarray:
    """int64 (3, n): characters in lines that hold something, such lines, the longest."""
    found = np.zeros((3, len(words)), np.int64)
    for row, text in enumerate(words.texts):
        sizes = [len(line.rstrip()) for line in text.split("\n")]
        found[:, row] = sum(sizes), sum(size > 0 for size in sizes), max(sizes)
    return found

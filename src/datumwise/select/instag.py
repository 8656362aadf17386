"""InsTag: complex instructions first, each for a tag that those before it lack.

Lu et al., "#InsTag: instruction tagging for analyzing supervised fine-tuning of large language models", 2023,
algorithm 1.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datumwise.errors import SchemaMismatch, name_some
from datumwise.select.selector import Selector

__all__ = ["InsTag"]


class InsTag(Selector):
    """Complexity-first diverse sampling of tagged datapoints.

    Datapoints are visited by number of different tags, most first, and taken if they bring a tag not seen yet. When
    none does, the tags seen are forgotten and the rest is visited again, until there are enough. Datapoints
    without a tag come last.

    Parameters
    ----------
    n_to_select : int or float
        How many, or which share.

    Attributes
    ----------
    gains_ : float64 (k,)
        Tags that each pick brought.

    Examples
    --------
    >>> tags = [["sum"], ["sum", "table"], ["table"], ["poem", "rhyme", "sum"], ["poem"]]
    >>> chosen = InsTag(3).fit(tags)
    >>> chosen.ranking_.tolist(), chosen.gains_.tolist()
    ([3, 1, 0], [3.0, 1.0, 1.0])

    References
    ----------
    Lu et al., 2023, arXiv 2308.07074, algorithm 1.
    """

    takes: ClassVar[tuple[str, ...]] = ("tags",)
    source: ClassVar[str] = "Lu et al., 2023, algorithm 1"

    def __init__(self, n_to_select: int | float) -> None:
        self.n_to_select = n_to_select

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        tags = inputs["tags"]
        bad = [row for row, some in enumerate(tags) if isinstance(some, str) or not hasattr(some, "__iter__")]
        if bad:
            raise SchemaMismatch(
                f"row {name_some(bad)} holds no collection of tags", remedy="give a list or set of tags a row", ids=bad
            )
        sets = [frozenset(some) for some in tags]
        # rows with the same tags are taken one a round: what remains is a queue a set, most tags first
        queues: dict[frozenset[Any], list[int]] = {}
        for row in sorted(range(n), key=lambda row: (-len(sets[row]), row)):
            queues.setdefault(sets[row], []).append(row)
        untagged = queues.pop(frozenset(), [])
        queues = {some: rows[::-1] for some, rows in queues.items()}
        ranking: list[int] = []
        gains: list[int] = []
        while queues and len(ranking) < k:
            seen: set[Any] = set()
            # rows of one number of tags come in order of row: the queues' heads, sorted anew each round
            for some in sorted(queues, key=lambda some: (-len(some), queues[some][-1])):
                if some <= seen:
                    continue
                ranking.append(queues[some].pop())
                gains.append(len(some - seen))
                seen |= some
                if len(ranking) == k:
                    break
            queues = {some: rows for some, rows in queues.items() if rows}
        rest = untagged[: k - len(ranking)]
        return np.array(ranking + rest, np.int64), np.array(gains + [0] * len(rest), np.float64)

"""Does a model recite these texts? What it writes, greedily, after the beginning of each.

Strict recitation needs no writing: a greedy suffix equals the text exactly where the likeliest token is the text's at every
position of one reading (teacher forcing). Only similarity needs the model to write, and only from its first deviation on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, MissingExtra, ModelMismatch, NotFinite, SchemaMismatch, name_some
from datumwise.evaluate.recitation_metrics import LOOSE, SHIFTS, recitation_metrics, shifts

__all__ = ["Recitation", "recitation"]

BUCKET = 8  # rows that deviate within so many tokens of one another are written on together


@dataclass(frozen=True)
class Recitation:
    """What a model recites, a row a text.

    Attributes
    ----------
    ids : array (n,)
    strict : bool (n,)
        The whole suffix.
    matched_prefix : int64 (n,)
        Tokens of the suffix before the first deviation.
    gold : int64 (n, suffix)
    generated : int64 (n, suffix) or None
        None where only strict recitation was asked for.
    similarity : float64 (n,) or None
        1 - edit distance / suffix, 0 to 1.
    prefix : int
    loose_from : float
    stress : int64 (n,) or None
        Longest exact head of the remaining suffix under any longer or shorter prompt.
    stress_shift : int64 (n,) or None
        Tokens by which that prompt was longer (positive) or shorter (negative).
    """

    ids: np.ndarray
    strict: np.ndarray
    matched_prefix: np.ndarray
    gold: np.ndarray
    generated: np.ndarray | None
    similarity: np.ndarray | None
    prefix: int
    loose_from: float = LOOSE
    stress: np.ndarray | None = None
    stress_shift: np.ndarray | None = None

    @property
    def suffix(self) -> int:
        return self.gold.shape[1]

    @property
    def loose(self) -> np.ndarray | None:
        """bool (n,): similarity of ``loose_from`` at least; strict ones among them."""
        return None if self.similarity is None else self.similarity >= self.loose_from

    @property
    def distance(self) -> np.ndarray | None:
        """float64 (n,): edit distance over the suffix length."""
        return None if self.similarity is None else 1 - self.similarity

    def means(self) -> dict[str, float]:
        """Mean of every measure there is."""
        columns = {"strict": self.strict, "loose": self.loose, "distance": self.distance, "stress": self.stress}
        columns["matched_prefix"] = self.matched_prefix
        return {name: float(np.mean(column)) for name, column in columns.items() if column is not None}

    def as_dict(self) -> dict[str, Any]:
        """As JSON knows it, token ids left out."""
        rows = {
            "id": [str(one) for one in self.ids.tolist()],
            "strict": self.strict.tolist(),
            "matched_prefix": self.matched_prefix.tolist(),
        }
        for name in ("similarity", "stress", "stress_shift"):
            column = getattr(self, name)
            if column is not None:
                rows[name] = column.tolist()
        return {
            "prefix": self.prefix,
            "suffix": self.suffix,
            "loose_from": self.loose_from,
            "means": self.means(),
            "rows": rows,
        }

    def to_json(self) -> str:
        return json.dumps(self.as_dict(), ensure_ascii=False)

    def __str__(self) -> str:
        means = ", ".join(f"{name} {value:.3f}" for name, value in self.means().items())
        return f"{len(self.ids):,} texts, {self.prefix} tokens given, {self.suffix} to recite: {means}"


def recitation(
    model: Any,
    input_ids: Any,
    prefix: int = 64,
    suffix: int = 48,
    *,
    attention_mask: Any = None,
    ids: Sequence[Any] | None = None,
    similarity: bool = True,
    perturb: bool = False,
    loose: float = LOOSE,
    shift: int = SHIFTS,
    pad: int = 0,
    tokens_per_batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Recitation:
    """Which texts a model recites after their first ``prefix`` tokens.

    Parameters
    ----------
    model : causal language model
    input_ids : int (n, T), or sequence of n int arrays (T_i,)
        Token ids, of which the first ``prefix + suffix`` of each row are read. Never re-tokenised text: suffixes must be
        cut from ids.
    prefix, suffix : int
        Tokens given and tokens to recite. Published: 64 and 48.
    attention_mask : int (n, T), optional
        0 on padding, on either side.
    ids : sequence (n,), optional
    similarity : bool
        Let the model write, for edit distance and loose recitation. False: strict recitation from one forward.
    perturb : bool
        Also try longer and shorter prompts (`nested_prompts`): about ``prefix - shift`` readings more.
    loose : float
        Similarity that counts as loose recitation.
    shift : int
        Most tokens by which prompts get longer, and one fewer than the shortest prompt has.
    pad : int
        Token that pads rows of different length; it is masked.
    tokens_per_batch : int, optional
    progress : callable (done, total), optional
        Texts read, and texts written on.

    Returns
    -------
    Recitation

    Notes
    -----
    The model writes on over its end-of-text token. Strict recitation by reading and by writing agree where no two logits
    tie, as far as the model's kernels do not depend on the batch.

    Raises
    ------
    SchemaMismatch
        A row is shorter than prefix and suffix.
    ModelMismatch
        The model reads less, or has no embedding for a token.
    EmptyData, NotFinite, MissingExtra

    References
    ----------
    Merullo et al., 2025, section 4; Carlini et al., 2023, definition 3.1.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtra("recitation needs torch and transformers", remedy="pip install 'datumwise[lm]'") from error
    tokens, names = _rows(input_ids, attention_mask, prefix, suffix, ids)
    _fits(model, tokens, prefix + suffix, names)
    if not 0 < loose <= 1:
        raise DatumwiseError(f"a similarity of {loose} cannot be asked for", remedy="choose one above 0, at most 1")
    n = len(tokens)
    total = n * (1 + similarity)
    likeliest = _read(model, tokens, prefix, names, tokens_per_batch, lambda done: progress and progress(done, total))
    gold = tokens[:, prefix:]
    hit = likeliest == gold
    run = _run(hit)
    generated = close = None
    if similarity:
        generated = _written(model, tokens, likeliest, run, prefix, pad, names, tokens_per_batch)
        close = recitation_metrics(generated, gold, loose).similarity
        if progress is not None:
            progress(total, total)
    stress = at = None
    if perturb:
        stress, at = _stressed(model, tokens, hit, prefix, shift, names, tokens_per_batch)
    return Recitation(np.asarray(names), run == suffix, run, gold, generated, close, prefix, loose, stress, at)


def _rows(input_ids: Any, mask: Any, prefix: int, suffix: int, ids: Sequence[Any] | None) -> tuple[np.ndarray, list[Any]]:
    """int64 (n, prefix + suffix): the first real tokens of each row; and names of the rows."""
    if prefix < 1 or suffix < 1:
        raise DatumwiseError(f"prefix is {prefix} and suffix is {suffix}", remedy="both must be 1 or more")
    rows = [_array(row) for row in input_ids]
    if not rows:
        raise EmptyData("there is no text to recite")
    names = list(range(len(rows))) if ids is None else list(ids)
    if len(names) != len(rows):
        raise SchemaMismatch(f"{len(names):,} ids were given for {len(rows):,} texts")
    wrong = [name for name, row in zip(names, rows, strict=True) if row.ndim != 1 or row.dtype.kind not in "iu"]
    if wrong:
        raise SchemaMismatch(f"the text of {name_some(wrong)} is not a row of token ids", ids=wrong)
    if mask is not None:
        kept = [_array(row).astype(bool) for row in mask]
        if [len(k) for k in kept] != [len(row) for row in rows]:
            raise SchemaMismatch("attention_mask has another shape than input_ids")
        rows = [row[k] for row, k in zip(rows, kept, strict=True)]
    short = [(name, len(row)) for name, row in zip(names, rows, strict=True) if len(row) < prefix + suffix]
    if short:
        bad = [name for name, _ in short]
        raise SchemaMismatch(
            f"{name_some(bad)} has {short[0][1]} tokens, and a prefix of {prefix} and a suffix of {suffix} need "
            f"{prefix + suffix}",
            remedy="shorten them, or leave these texts out",
            ids=bad,
        )
    return np.stack([row[: prefix + suffix] for row in rows]).astype(np.int64), names


def _array(row: Any) -> np.ndarray:
    return row.cpu().numpy() if hasattr(row, "cpu") else np.asarray(row)


def _fits(model: Any, tokens: np.ndarray, length: int, names: Sequence[Any]) -> None:
    from datumwise.probe.collate import context_length
    from datumwise.probe.language_model import check_vocabulary

    limit = context_length(model, None)
    if limit is not None and length > limit:
        raise ModelMismatch(f"prefix and suffix are {length} tokens and the model reads {limit}", remedy="shorten them")
    check_vocabulary(model, list(tokens), names)


def _read(
    model: Any,
    tokens: np.ndarray,
    prefix: int,
    names: Sequence[Any],
    budget: int | None,
    tell: Callable[[int], Any] = lambda done: None,
) -> np.ndarray:
    """int64 (n, T - prefix): the likeliest token at each position of the suffix, the text before it given."""
    import torch

    from datumwise.probe.language_model import device_of, forward_at, reading, token_budget

    n, T = tokens.shape
    size = max(1, (budget or token_budget(model)) // T)
    found = np.empty((n, T - prefix), dtype=np.int64)
    with reading(model):
        for start in range(0, n, size):
            batch = torch.from_numpy(tokens[start : start + size, :-1]).to(device_of(model))
            B = len(batch)
            rows = torch.arange(B, device=batch.device).repeat_interleave(T - prefix)
            columns = torch.arange(prefix - 1, T - 1, device=batch.device).repeat(B)
            logits, _ = forward_at(model, batch, torch.ones_like(batch), rows, columns)
            if bool(torch.isnan(logits).any()):
                bad = [names[start + i] for i in torch.isnan(logits).view(B, -1).any(dim=1).nonzero()[:, 0].tolist()]
                raise NotFinite(f"the model's logits are NaN in {name_some(bad)}", ids=bad)
            found[start : start + size] = logits.float().argmax(dim=1).view(B, -1).cpu().numpy()
            tell(start + B)
    return found


def _run(hit: np.ndarray) -> np.ndarray:
    """int64 (n,): how many of a row's first entries are all true."""
    return np.cumprod(hit, axis=1, dtype=np.int64).sum(axis=1)


def _written(
    model: Any,
    tokens: np.ndarray,
    likeliest: np.ndarray,
    run: np.ndarray,
    prefix: int,
    pad: int,
    names: Sequence[Any],
    budget: int | None,
) -> np.ndarray:
    """int64 (n, L): the greedy suffix. Up to and with the first deviation it is known from reading."""
    from datumwise.probe.generate import continued
    from datumwise.probe.shared_prefix import Prompts, common_start

    L = likeliest.shape[1]
    generated = tokens[:, prefix:].copy()
    for rows in _buckets(run, L):
        for row in rows:
            generated[row, run[row]] = likeliest[row, run[row]]
        rows = [row for row in rows if run[row] < L - 1]
        if not rows:
            continue
        starts = [np.append(tokens[row, : prefix + run[row]], likeliest[row, run[row]]) for row in rows]
        none = np.zeros(len(rows), dtype=bool)
        prompts = Prompts(starts, common_start(starts), none, pad, [names[row] for row in rows])
        answers = continued(model, prompts, L - 1 - int(run[rows].min()), tokens_per_batch=budget)
        for row, answer in zip(rows, answers, strict=True):
            at = run[row] + 1
            generated[row, at:] = answer[: L - at]
    return generated


def _buckets(run: np.ndarray, length: int) -> Iterator[list[int]]:
    """Rows that deviate, by where they do."""
    for start in range(0, length, BUCKET):
        rows = np.flatnonzero((run >= start) & (run < min(start + BUCKET, length)))
        if len(rows):
            yield rows.tolist()


def _stressed(
    model: Any,
    tokens: np.ndarray,
    hit: np.ndarray,
    prefix: int,
    shift: int,
    names: Sequence[Any],
    budget: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Longest exact head under any perturbed prompt, and the shift of that prompt: int64 (n,), (n,).

    All longer prompts are read in the plain reading: after i tokens more, position i of it is the first to score.
    """
    best = np.zeros(len(tokens), dtype=np.int64)
    at = np.zeros(len(tokens), dtype=np.int64)
    for by in shifts(prefix, hit.shape[1], shift):
        if by > 0:
            run = _run(hit[:, by:])
        else:
            run = _run(_read(model, tokens[:, -by:], prefix + by, names, budget) == tokens[:, prefix:])
        better = run > best
        best[better], at[better] = run[better], by
    return best, at

"""What do curvature edits and scores do to a model that knows texts, or wrong labels, by heart? The measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.evaluate.memorization_auc import MemorizationAUC, memorization_auc
from datumwise.evaluate.next_token_ranking import ndcg_at_k, top_tokens
from datumwise.evaluate.perplexity import perplexity
from datumwise.evaluate.recitation import Recitation, recitation

if TYPE_CHECKING:
    import torch

    from datumwise.forget.weight_edit import WeightEdit
    from datumwise.probe.kfac import KFAC
    from datumwise.reproduce.memorised_topics import NoisyDigits

__all__ = ["Bench", "Measured", "at_ratio", "easy_labels", "measure_edits", "text_scores", "vision_edits", "vision_scores"]

Progress = Callable[[int, int], None] | None
EASY = 0.3  # nats: tokens predicted better than this are compared at equal loss
FEWEST = 10  # windows with an easy token
TEXT_SCORES = ("flat_share", "removed_energy", "edit_sensitivity", "self_influence", "grad_norm")
MILD = 0.99  # mass kept by the edit that scores images


@dataclass(frozen=True)
class Bench:
    """What a language model is measured on.

    Attributes
    ----------
    model : causal language model
    memorised : Tensor int64 (n, T)
        Known by heart; ``shown`` of them are what supervised edits are given.
    shown : int
    calibration, held_out : Tensor int64 (m, T)
        Ordinary text, of the factors and of the perplexity.
    prefix, suffix : int
    """

    model: Any
    memorised: torch.Tensor
    shown: int
    calibration: torch.Tensor
    held_out: torch.Tensor
    prefix: int
    suffix: int


@dataclass(frozen=True)
class Measured:
    """A model, perhaps edited."""

    edit: str
    setting: str
    recited: Recitation
    hidden: float  # strict recitation of what supervised edits were not shown
    perplexity: float
    ratio: float  # of the unedited model's perplexity
    ndcg: float
    pairs: float | None = None  # share of eigenvector pairs kept
    predicted: float | None = None  # ratio that was predicted before the edit, on calibration windows
    realised: float | None = None  # the same, measured

    @property
    def strict(self) -> float:
        return float(self.recited.strict.mean())

    def row(self, model: str) -> dict[str, Any]:
        """Of the table."""
        means = self.recited.means()
        return {
            "model": model,
            "edit or score": f"{self.edit} {self.setting}".strip(),
            "pairs kept": self.pairs,
            "recited": means["strict"],
            "loosely": means["loose"],
            "distance": means["distance"],
            "recited, not shown": self.hidden,
            "perplexity": self.perplexity,
            "times": self.ratio,
            "nDCG@10": self.ndcg,
        }


def measure_edits(
    bench: Bench,
    edits: Sequence[tuple[str, str, WeightEdit | None]],
    *,
    predict: Mapping[str, WeightEdit] | None = None,
    calibrating: int = 300,
    progress: Progress = None,
) -> list[Measured]:
    """Recitation, perplexity and ranking under each edit, the first of which is None: no edit.

    Parameters
    ----------
    bench : Bench
    edits : sequence of (name, setting, edit)
    predict : mapping of setting to edit, optional
        Edits whose cost is predicted first, all in one pass over ``calibrating`` calibration windows.
    """
    from contextlib import nullcontext

    from datumwise.forget.edit_cost import predicted_costs
    from datumwise.forget.weight_edit import differences

    model, told = bench.model, {}
    window = bench.calibration[:calibrating]
    if predict:
        changes = [differences(edit, model) for edit in predict.values()]
        costs = predicted_costs(model, changes, {"input_ids": window})
        told = {setting: float(np.exp(cost.mean)) for setting, cost in zip(predict, costs, strict=True)}
    found: list[Measured] = []
    base_top, base, base_window = top_tokens(model, bench.held_out), perplexity(model, bench.held_out).value, 0.0
    if told:
        base_window = perplexity(model, window).value
    for done, (name, setting, edit) in enumerate(edits, 1):
        with edit.applied(model) if edit is not None else nullcontext():
            recited = recitation(model, bench.memorised, bench.prefix, bench.suffix)
            value = perplexity(model, bench.held_out).value
            ranked = float(ndcg_at_k(base_top, top_tokens(model, bench.held_out)).mean())
            known = name == "K-FAC" and setting in told
            realised = perplexity(model, window).value / base_window if known else None
        found.append(
            Measured(
                name,
                setting,
                recited,
                float(recited.strict[bench.shown :].mean()),
                value,
                value / base,
                ranked,
                _pairs(edit),
                told.get(setting) if known else None,
                realised,
            )
        )
        if progress is not None:
            progress(done, len(edits))
    return found


def _pairs(edit: Any) -> float | None:
    """Share of the eigenvector pairs that a curvature edit keeps, over its layers."""
    if not hasattr(edit, "pairs"):
        return None
    kept = [edit.pairs(name) for name in edit.names(edit.kfac.model)]
    return sum(k.n_pairs for k in kept) / sum(k.shape[0] * k.shape[1] for k in kept)


def at_ratio(found: Sequence[Measured], name: str, ratio: float, what: str = "strict") -> float:
    """Recitation of an edit at a perplexity of ``ratio`` times the unedited, interpolated between its settings; else NaN."""
    points = sorted({(m.ratio, getattr(m, what)) for m in found if m.edit in (name, "none")})
    x, y = (np.array(side) for side in zip(*points, strict=True))
    return float(np.interp(ratio, x, y)) if x[0] <= ratio <= x[-1] else float("nan")


# --- scores ---------------------------------------------------------------------------------------------


def easy_labels(model: Any, windows: torch.Tensor, most: float = EASY, *, batch_size: int = 16) -> torch.Tensor:
    """Labels int64 (n, T) that leave only the tokens predicted better than ``most`` nats: all windows then have low loss."""
    import torch

    from datumwise.probe.language_model import device_of, forward_logits, reading

    labels = windows.clone()
    labels[:, 0] = -100
    with reading(model):
        for start in range(0, len(windows), batch_size):
            batch = windows[start : start + batch_size].to(device_of(model))
            logits = forward_logits(model, batch, torch.ones_like(batch))[:, :-1].float()
            nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none").cpu()
            labels[start : start + batch_size, 1:][nll > most] = -100
    return labels


def text_scores(
    model: Any,
    kfac: KFAC,
    memorised: torch.Tensor,
    ordinary: torch.Tensor,
    *,
    keep_mass: float = 0.7,
    names: Sequence[str] = TEXT_SCORES,
    batch_size: int = 32,
    progress: Progress = None,
) -> tuple[MemorizationAUC, MemorizationAUC | None]:
    """How well scores tell memorised from ordinary windows: on all tokens, and on easy tokens alone.

    Low loss tells memorised windows from ordinary ones by itself; on tokens that are predicted well in either it cannot.
    Windows without an easy token are left out of the second, which is None where too few are left.
    """
    import torch

    from datumwise.score.memorization_scores import memorization_scores

    windows = torch.cat([memorised, ordinary])
    known = np.arange(len(windows)) < len(memorised)
    whole = memorization_scores(
        model, {"input_ids": windows}, kfac, names, keep_mass=keep_mass, batch_size=batch_size, progress=progress
    )
    labels = easy_labels(model, windows)
    some = (labels != -100).any(1)
    if not 0 < int(some[: len(memorised)].sum()) < int(some.sum()) or int(some.sum()) < FEWEST:
        return memorization_auc(whole, known), None
    easy = memorization_scores(
        model,
        {"input_ids": windows[some], "labels": labels[some]},
        kfac,
        [name for name in names if name not in ("self_influence", "grad_norm")],  # sums: they count the easy tokens
        keep_mass=keep_mass,
        batch_size=batch_size,
        progress=progress,
    )
    return memorization_auc(whole, known), memorization_auc(easy, known[some.numpy()])


# --- images ---------------------------------------------------------------------------------------------


def vision_edits(world: NoisyDigits, kfac: KFAC, keep_masses: Sequence[float]) -> list[dict[str, float]]:
    """What wrong labels, true labels, clean images and test images become under edits; the first without.

    Returns
    -------
    list of dict
        ``keep_mass`` (1: no edit), ``pairs``, ``recalled`` and ``true`` (of the wrongly labelled: given or true label said),
        ``clean`` (accuracy on rightly labelled training images), ``test``.
    """
    from datumwise.forget.curvature_edit import CurvatureEdit

    found = [{"keep_mass": 1.0, "pairs": 1.0} | _vision(world)]
    for edit in CurvatureEdit(kfac).sweep(list(keep_masses)):
        with edit.applied(world.model):
            measured = _vision(world)
        found.append({"keep_mass": float(edit.keep_mass), "pairs": _pairs(edit) or 0.0} | measured)  # type: ignore[arg-type]
    return found


def _vision(world: NoisyDigits) -> dict[str, float]:
    import torch

    with torch.no_grad():
        said, test = world.model(world.X).argmax(1), world.model(world.X_test).argmax(1)
    wrong = world.wrong
    share = {
        "recalled": said[wrong] == world.given[wrong],
        "true": said[wrong] == world.true[wrong],
        "clean": said[~wrong] == world.true[~wrong],
        "test": test == world.y_test,
    }
    return {name: float(hit.float().mean()) for name, hit in share.items()}


def vision_scores(world: NoisyDigits, kfac: KFAC, *, draws: int = 3, progress: Progress = None) -> MemorizationAUC:
    """How well scores tell wrong labels from right ones."""
    from datumwise.score.memorization_scores import memorization_scores

    names = (*TEXT_SCORES, "input_curvature")
    scores = memorization_scores(
        world.model, (world.X, world.given), kfac, names, keep_mass=MILD, draws=draws, batch_size=100, progress=progress
    )
    return memorization_auc(scores, world.wrong.numpy())

"""Pictures show what their objects hold."""

from __future__ import annotations

import builtins
from collections.abc import Iterator

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, MissingExtra
from datumwise.predict.batch_bounds import batch_sum_bound
from datumwise.predict.batch_conformal import BatchConformal
from datumwise.predict.plot import (
    band_plot,
    batch_bounds_plot,
    false_claim_curve_plot,
    interval_fan,
    selection_curve,
    set_sizes,
)

matplotlib = pytest.importorskip("matplotlib")


class First:
    """Predicts the first column."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.asarray(X, float)[:, 0]


class Two:
    """Probabilities of two labels."""

    classes_ = np.array(["no", "yes"])

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-2 * np.asarray(X)[:, 0]))
        return np.column_stack([1 - p, p])


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    import matplotlib.pyplot as plt

    with matplotlib.rc_context({"backend": "Agg"}):
        yield
        plt.close("all")


@pytest.fixture
def batch() -> tuple[BatchConformal, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(250, 1))
    y = x[:, 0] + rng.normal(size=250) / 2
    return BatchConformal(First(), score="signed").calibrate(x[:200], y[:200]), x[200:], y[200:]


def words(axes) -> str:
    axes.figure.canvas.draw()
    legend = axes.get_legend()
    found = [axes.get_title(loc="left"), axes.get_xlabel(), *(t.get_text() for t in axes.texts)]
    return " | ".join([*found, *([t.get_text() for t in legend.get_texts()] if legend else [])])


def test_fan_draws_every_interval_by_prediction_and_marks_the_misses(batch) -> None:
    model, x, y = batch
    found = model.predict_interval(x, delta=0.2)
    axes = found.plot(y)
    segments = np.array(axes.collections[0].get_segments())
    order = np.argsort(found.prediction)
    assert np.allclose(segments[:, 0, 1], found.lower[order])
    assert np.allclose(segments[:, 1, 1], found.upper[order])
    held, missed = axes.collections[1].get_offsets(), axes.collections[2].get_offsets()
    assert len(held) == found.covered(y).sum()
    assert len(missed) == 50 - len(held)
    assert "promised: at least 40 of 50 hold, with probability 0.9" in words(axes)
    assert f"{len(held)} do" in words(axes)
    assert "truth, missed" in words(axes)
    assert "truth" not in words(interval_fan(found))


def test_fan_of_many_is_thinned_and_says_so_and_infinite_ends_run_off(batch) -> None:
    model, x, _ = batch
    many = np.random.default_rng(0).normal(size=(1000, 1))
    axes = model.predict_interval(many, delta=0.2).plot()
    assert len(axes.collections[0].get_segments()) == 300
    assert "300 of 1,000 drawn" in words(axes)
    up = model.predict_interval(x, delta=0.2, side="upper").plot()
    segments = np.array(up.collections[0].get_segments())
    assert np.isfinite(segments).all()
    assert (segments[:, 0, 1] == up.get_ylim()[0]).all()
    with pytest.raises(DatumwiseError, match="no predictions to sort by"):
        model.predict_interval(10).plot()


def test_set_sizes_are_counted_and_split_by_the_truth() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(260, 1))
    y = np.where(x[:, 0] + rng.normal(size=260) > 0, "yes", "no")
    found = BatchConformal(Two(), score="lac").calibrate(x[:200], y[:200]).predict_set(x[200:])
    axes = found.plot(y[200:])
    heights = [bar.get_height() for bar in axes.patches]
    assert sum(heights) == 60
    n = len(heights) // 2
    assert sum(heights[:n]) == found.covered(y[200:]).sum()
    assert "miss it" in words(axes)
    assert sum(bar.get_height() for bar in set_sizes(found).patches) == 60


def test_selection_curve_shows_counts_p_values_and_the_cutoff(batch) -> None:
    model, x, y = batch
    found = model.select(x, 0.0, 0.1, max_false=5)
    axes = selection_curve(found, truth=y > 0)
    steps = axes.lines[0]
    at = np.searchsorted(steps.get_xdata(), found.cutoff, side="right")
    assert steps.get_ydata()[at] == found.selected.sum()
    right = axes.figure.axes[1]
    assert "cutoff" in words(axes)
    assert "of these, false claims" in words(axes)
    line = right.lines[0]
    p = np.interp(found.scores, line.get_xdata(), line.get_ydata())
    assert np.abs(p - found.p_values).max() < 0.05
    assert any(np.allclose(each.get_xdata(), found.cutoff) for each in axes.lines)
    assert "expected share of false" in words(model.select(x, 0.0, 0.2, control="fdr").plot())
    with pytest.warns(UserWarning, match="nothing is selected"):
        none = model.select(x, 0.0, 0.1, allow_infinite=True)
    assert "cutoff inf" not in words(none.plot())


def test_false_claim_curve_is_drawn_above_the_truth(batch) -> None:
    model, x, y = batch
    curve = model.select_curve(x, 0.0, 0.1)
    axes = false_claim_curve_plot(curve, truth=y > 0)
    assert np.array_equal(axes.lines[1].get_ydata(), curve.max_false)
    assert axes.lines[2].get_ydata()[-1] == (y <= 0).sum()
    assert "at every cutoff together" in words(curve.plot())


def test_band_holds_the_distribution_function_exactly_where_it_holds_the_sorted_values(batch) -> None:
    model, x, y = batch
    band = model.predict_band(x, 0.1)
    assert band.covered(y)
    axes = band_plot(band, y)
    least, most, truth = (np.array(line.get_xydata()) for line in axes.lines)

    def at(steps: np.ndarray, where: np.ndarray) -> np.ndarray:
        return steps[np.maximum(np.searchsorted(steps[:, 0], where, side="right") - 1, 0), 1]

    grid = np.linspace(*axes.get_xlim(), 500)[1:-1]
    assert (at(least, grid) <= at(truth, grid) + 1e-12).all()
    assert (at(truth, grid) <= at(most, grid) + 1e-12).all()
    assert np.allclose(at(least, grid), [(band.upper <= t).mean() for t in grid])
    assert np.allclose(at(most, grid), [(band.lower <= t).mean() for t in grid])
    assert "all 50 sorted outcomes" in words(band.plot())


def test_bounds_of_several_methods_stand_one_below_the_other(batch) -> None:
    model, x, y = batch
    scores = np.random.default_rng(0).beta(1, 6, 100)
    both = {name: batch_sum_bound(scores, 5, 0.2, method=name, score_bounds=(0, 1)) for name in ("partition", "rank_sum")}
    axes = batch_bounds_plot(both, truth=0.15)
    assert [t.get_text() for t in axes.get_yticklabels()] == ["partition", "rank_sum"]
    for bound in both.values():
        assert f"{bound.upper:.4g}" in words(axes)
        assert f"{bound.lower:.4g}" in words(axes)
    assert "each with probability 0.8" in words(axes)
    one = model.predict_batch(x[:5], "mean", 0.1, side="upper").plot(y[:5].mean())
    assert "inf" not in words(one)
    assert one.get_ylim()[0] < 0 < one.get_ylim()[1]
    with pytest.raises(DatumwiseError, match="no bounds to draw"):
        batch_bounds_plot({})


def test_axes_given_are_drawn_on(batch) -> None:
    import matplotlib.pyplot as plt

    model, x, _ = batch
    axes = plt.subplots()[1]
    assert model.predict_interval(x, delta=0.2).plot(axes=axes) is axes


def test_missing_matplotlib_names_the_extra(batch, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, _ = batch
    found = model.predict_interval(x, delta=0.2)
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match="datumwise\\[reproduce\\]"):
        found.plot()

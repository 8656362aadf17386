"""Mondrian batches."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, SchemaMismatch, UnknownName
from datumwise.predict.batch_conformal import BatchConformal
from datumwise.predict.groups import MondrianBatchConformal, split_level


class First:
    """Predicts the first column."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.asarray(X, float)[:, 0]


def data(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, group = rng.normal(size=(n, 1)), rng.integers(3, size=n)
    return x, x[:, 0] + rng.normal(size=n) * np.array([0.2, 1.0, 5.0])[group], group


def test_each_group_gets_the_statement_of_its_own_points() -> None:
    rng = np.random.default_rng(0)
    x, y, g = data(rng, 800)
    model = MondrianBatchConformal(BatchConformal(First())).calibrate(x[:600], y[:600], g[:600])
    found = model.predict_interval(x[600:], g[600:], alpha=0.1, delta=0.2)
    for group in range(3):
        ours, theirs = g[:600] == group, g[600:] == group
        alone = BatchConformal(First()).calibrate(x[:600][ours], y[:600][ours])
        direct = alone.predict_interval(x[600:][theirs], alpha=0.1, delta=0.2)
        assert np.array_equal(np.asarray(found[group]), np.asarray(direct))
        assert np.array_equal(found.aligned("lower")[theirs], direct.lower)
        assert found[group].ids.tolist() == np.flatnonzero(theirs).tolist()
        assert found[group].n == ours.sum()
    assert list(found) == [0, 1, 2]
    assert len(found) == 3
    inside = (found.aligned("lower") <= y[600:]) & (y[600:] <= found.aligned("upper"))
    assert np.array_equal(found.covered(y[600:]), inside)


def test_promise_holds_within_every_group_where_one_for_all_fails_the_noisy_one() -> None:
    rng = np.random.default_rng(1)
    repeats, held, pooled, filled = 600, np.zeros(3), np.zeros(3), np.zeros(3)
    for _ in range(repeats):
        x, y, g = data(rng, 300)
        model = MondrianBatchConformal(BatchConformal(First())).calibrate(x[:240], y[:240], g[:240])
        found = model.predict_interval(x[240:], g[240:], alpha=0.1, delta=0.2)
        one = BatchConformal(First()).calibrate(x[:240], y[:240]).predict_interval(x[240:], alpha=0.1, delta=0.2)
        for group, result in found.items():
            at = found.rows[group]
            held[group] += result.covered(y[240:][at]).sum() >= result.min_covered
            pooled[group] += one.covered(y[240:])[at].sum() >= result.min_covered
            filled[group] += 1
    assert (held / filled >= 0.9 - 3 * np.sqrt(0.09 / filled)).all()
    assert pooled[2] / filled[2] < 0.5


@pytest.mark.parametrize("together", ["bonferroni", "sidak"])
def test_all_groups_hold_together(together: str) -> None:
    rng = np.random.default_rng(2)
    repeats, joint, apart = 800, 0, 0
    for _ in range(repeats):
        x, y, g = data(rng, 300)
        kept = []
        for how in (together, "each"):
            model = MondrianBatchConformal(BatchConformal(First()), how).calibrate(x[:240], y[:240], g[:240])
            found = model.predict_interval(x[240:], g[240:], alpha=0.2, delta=0.2)
            kept.append(all(r.covered(y[240:][found.rows[k]]).sum() >= r.min_covered for k, r in found.items()))
        joint += kept[0]
        apart += kept[1]
    assert joint / repeats >= 0.8 - 3 * np.sqrt(0.16 / repeats)
    assert apart / repeats < 0.75  # statements that hold one by one do not hold together


def test_levels_are_split_as_named() -> None:
    assert split_level(0.1, 5, "bonferroni") == pytest.approx(0.02)
    assert (1 - split_level(0.1, 5, "sidak")) ** 5 == pytest.approx(0.9)
    assert split_level(0.1, 5, "each") == 0.1
    assert split_level(0.1, 5, "sidak") > split_level(0.1, 5, "bonferroni")
    with pytest.raises(UnknownName, match="there is no together 'all'"):
        split_level(0.1, 5, "all")  # type: ignore[arg-type]


def test_levels_and_options_may_differ_from_group_to_group() -> None:
    rng = np.random.default_rng(0)
    x, y, g = data(rng, 800)
    names = np.array(["a", "b", "c"])[g]
    model = MondrianBatchConformal(BatchConformal(First())).calibrate(x[:600], y[:600], names[:600])
    found = model.predict_interval(
        x[600:], names[600:], {"a": 0.05, "b": 0.1, "c": 0.2}, min_covered={"a": 30, "b": 40, "c": 20}
    )
    assert [(r.alpha, r.min_covered) for r in found.values()] == [(0.05, 30), (0.1, 40), (0.2, 20)]
    assert found.alpha == 0.2
    with pytest.raises(UnknownName, match="alpha says nothing of group c"):
        model.predict_interval(x[600:], names[600:], {"a": 0.05, "b": 0.1})
    with pytest.raises(UnknownName, match="an option says nothing of group b, c"):
        model.predict_interval(x[600:], names[600:], 0.1, min_covered={"a": 3})
    split = MondrianBatchConformal(BatchConformal(First()), "sidak").calibrate(x[:600], y[:600], names[:600])
    with pytest.raises(DatumwiseError, match="splits one alpha"):
        split.predict_interval(x[600:], names[600:], {"a": 0.05, "b": 0.1, "c": 0.2})


def test_means_bands_sets_and_selections_go_group_by_group() -> None:
    rng = np.random.default_rng(0)
    x, y, g = data(rng, 1600)
    signed = MondrianBatchConformal(BatchConformal(First(), "signed")).calibrate(x[:1570], y[:1570], g[:1570])
    means = signed.predict_batch(x[1570:], g[1570:], "mean", alpha=0.2)
    bands = signed.predict_band(x[1570:], g[1570:], alpha=0.2)
    for group in range(3):
        at = g[1570:] == group
        one = BatchConformal(First(), "signed").calibrate(x[:1570][g[:1570] == group], y[:1570][g[:1570] == group])
        assert means[group].upper == one.predict_batch(x[1570:][at], "mean", 0.2).upper
        assert np.array_equal(np.asarray(bands[group]), np.asarray(one.predict_band(x[1570:][at], 0.2)))
        picked = signed.select(x[1570:], g[1570:], 0.0, 0.2, max_false=2)
        assert np.array_equal(picked.aligned("selected")[at], one.select(x[1570:][at], 0.0, 0.2, 2).selected)
        c = np.linspace(-1, 1, 1600)
        own = signed.select(x[1570:], g[1570:], c[1570:], 0.2, max_false=2, calibration_threshold=c[:1570])
        direct = one.select(x[1570:][at], c[1570:][at], 0.2, 2, calibration_threshold=c[:1570][g[:1570] == group])
        assert np.array_equal(own[group].selected, direct.selected)
    assert "the mean of the" in str(means)
    with pytest.raises(SchemaMismatch, match="no entry a datapoint"):
        means.aligned("upper")
    labels = (y > 0).astype(int)
    model = LogisticRegression().fit(x[:100], labels[:100])
    sets = MondrianBatchConformal(BatchConformal(model, "lac")).calibrate(x[100:1570], labels[100:1570], g[100:1570])
    found = sets.predict_set(x[1570:], g[1570:], delta=0.3)
    assert found.aligned("members").shape == (30, 2)
    assert found.covered(labels[1570:]).shape == (30,)


def test_scores_alone_and_a_count_are_enough() -> None:
    rng = np.random.default_rng(0)
    g = rng.integers(2, size=300)
    model = MondrianBatchConformal(BatchConformal()).calibrate_scores(rng.random(300), g)
    found = model.predict_interval(20, [0] * 12 + [1] * 8, alpha=0.1)
    assert [len(r) for r in found.values()] == [12, 8]


def test_frames_and_shift_weights_pass_through() -> None:
    rng = np.random.default_rng(0)
    x, y, g = data(rng, 900)
    X = pd.DataFrame(x, columns=["x"], index=[f"r{i}" for i in range(900)])
    w = rng.random(800)
    model = MondrianBatchConformal(BatchConformal(First(), random_state=0))
    model.calibrate(X[:800], y[:800], g[:800], shift_weights=w, bound=1.0)
    kept = BatchConformal(First(), random_state=0).calibrate(X[:800], y[:800], shift_weights=w, bound=1.0).kept_
    assert sum(len(part.scores_) for part in model.groups_.values()) == len(kept) < 500
    assert np.array_equal(np.sort(np.concatenate([part.kept_ for part in model.groups_.values()])), kept)
    assert all((g[:800][part.kept_] == group).all() for group, part in model.groups_.items())
    found = model.predict_interval(X[800:], g[800:], delta=0.2)
    assert found[1].ids.tolist() == X.index[800:][g[800:] == 1].tolist()
    assert sum(part.n_effective_ for part in model.groups_.values()) == pytest.approx(w.sum())


def test_bad_groups_are_refused_by_name() -> None:
    rng = np.random.default_rng(0)
    x, y, g = data(rng, 120)
    model = MondrianBatchConformal(BatchConformal(First()))
    with pytest.raises(NotFittedError, match="not calibrated"):
        model.predict_interval(x, g)
    with pytest.raises(SchemaMismatch, match="120 datapoints and groups of shape"):
        model.calibrate(x, y, g[:100])
    with pytest.raises(NotFinite, match="groups has no value in row 1"):
        model.calibrate(x[:3], y[:3], [1.0, np.nan, 2.0])
    with pytest.raises(NotFinite, match="groups has no value in row 0"):
        model.calibrate(x[:3], y[:3], np.array([None, "a", "b"], object))
    model.calibrate(x[:100], y[:100], g[:100])
    with pytest.raises(EmptyData, match="group 7 of the batch has no calibration points"):
        model.predict_interval(x[100:], np.full(20, 7))
    with pytest.raises(DatumwiseError, match="group 0: need n >= "):
        model.predict_interval(x[100:], g[100:], alpha=0.001)
    with pytest.raises(SchemaMismatch, match="a batch of 20 and outcomes of shape"):
        model.predict_interval(x[100:], g[100:], delta=0.3).covered(y)
    with pytest.raises(SchemaMismatch, match="thresholds of shape"):
        model.select(x[100:], g[100:], np.zeros(3))

"""Leave-one-out against retraining row by row."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from value_cases import random_game, three_blobs

from datumwise.score.leave_one_out import leave_one_out
from datumwise.score.shapley import exact_semivalue
from datumwise.score.utility import utility


def test_it_is_the_loss_by_retraining_without_the_row():
    X, y, _ = three_blobs(15, spread=2.0)
    X_val, y_val, _ = three_blobs(40, 1, spread=2.0)
    found = leave_one_out(utility(X, y, X_val, y_val, LogisticRegression()))
    full = LogisticRegression().fit(X, y).score(X_val, y_val)
    for i in range(15):
        keep = np.arange(15) != i
        assert found.values[i] == full - LogisticRegression().fit(X[keep], y[keep]).score(X_val, y_val)
    assert (found.utility_calls, found.draws) == (16, 15)
    assert not found.stderr.any()


def test_it_equals_the_enumeration():
    game, _ = random_game(7)
    np.testing.assert_allclose(leave_one_out(game).values, exact_semivalue(game, semivalue="loo").values, atol=1e-12)


def test_progress_ends_with_all_rows():
    seen = []
    leave_one_out(random_game(6)[0], progress=lambda *at: seen.append(at))
    assert seen[-1] == (6, 6)

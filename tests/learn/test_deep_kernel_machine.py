"""The estimators: the scikit-learn contract, invariances, calibration, learning, numerics and every refusal."""

import copy
import pickle
import warnings

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from datumwise.errors import DatumwiseError, DuplicateId, EmptyData, LabelError, NotFinite, SchemaMismatch, UnknownName
from datumwise.learn.deep_kernel_machine import DeepKernelMachineClassifier, DeepKernelMachineRegressor

INF = float("inf")
Regressor, Classifier = DeepKernelMachineRegressor, DeepKernelMachineClassifier
QUICK = {"n_inducing": 10, "max_iter": 15, "nu": 3.0, "random_state": 0}


def table(n=60, d=4, seed=0, noise=0.1):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * np.arange(1, d + 1)
    return X, np.sin(X[:, 0]) * X[:, 1] / 2 + noise * rng.normal(size=n)


@parametrize_with_checks(
    [
        Regressor(n_layers=1, nu=10.0, max_iter=6, lr=0.1),
        Classifier(n_layers=1, nu=10.0, max_iter=12, lr=0.15, n_samples=4),
    ]
)
def test_scikit_learn_contract(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        check(estimator)


@pytest.mark.parametrize("model", [Regressor(**QUICK), Regressor(**QUICK | {"n_inducing": None}), Classifier(**QUICK)])
def test_a_copy_of_any_kind_predicts_the_same(model, tmp_path):
    X, y = table()
    y = y > 0 if isinstance(model, Classifier) else y
    model.fit(X, y)
    joblib.dump(model, tmp_path / "model.joblib")
    copies = [pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model.joblib"), copy.deepcopy(model)]
    again = clone(model).fit(X, y)
    assert clone(model).get_params() == model.get_params()
    for other in (*copies, again):
        assert np.array_equal(other.predict(X), model.predict(X))
        assert np.array_equal(other.gram(X[:5]), model.gram(X[:5]))


def test_it_works_in_a_pipeline_with_cross_validation():
    X, y = table()
    scores = cross_val_score(make_pipeline(StandardScaler(), Regressor(**QUICK)), X, y, cv=3)
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()


def test_tensors_and_arrays_give_the_same():
    X, y = table()
    one = Regressor(**QUICK).fit(X, y)
    two = Regressor(**QUICK).fit(torch.as_tensor(X), torch.as_tensor(y))
    assert np.array_equal(one.predict(X), two.predict(torch.as_tensor(X)))


def test_several_outputs_share_the_features_and_keep_their_units():
    X, y = table()
    Y = np.column_stack([y, 1000 * y + 7])
    model = Regressor(**QUICK).fit(X, Y)
    mean, std = model.predict(X[:6], return_std=True)
    assert mean.shape == std.shape == (6, 2)
    assert np.allclose(mean[:, 1], 1000 * mean[:, 0] + 7)
    assert np.allclose(std[:, 1], 1000 * std[:, 0])
    assert np.allclose(model.noise_[1], 1e6 * model.noise_[0])
    assert model.predict(X[:6], return_cov=True)[1].shape == (6, 6, 2)


def test_covariance_agrees_with_the_spread_and_is_positive():
    X, y = table()
    model = Regressor(**QUICK).fit(X, y)
    _, std = model.predict(X[:20], return_std=True)
    _, cov = model.predict(X[:20], return_cov=True)
    assert np.allclose(cov.diagonal(), std**2)
    assert np.allclose(cov, cov.T)
    assert np.linalg.eigvalsh(cov).min() > 0
    assert (std**2 >= model.noise_).all()


def test_units_of_y_and_of_the_columns_do_not_matter():
    X, y = table()
    base = Regressor(**QUICK).fit(X, y)
    moved = Regressor(**QUICK).fit(X * [1e3, 1e-3, 5, 1] + 7, 1e4 * y - 3)
    assert np.allclose(moved.predict(X * [1e3, 1e-3, 5, 1] + 7), 1e4 * base.predict(X) - 3, rtol=1e-6, atol=1e-4)
    assert moved.elbo_ == pytest.approx(base.elbo_, rel=1e-6)
    assert moved.noise_ == pytest.approx(1e8 * base.noise_, rel=1e-6)


def test_order_of_rows_does_not_matter_to_a_dense_machine():
    X, y = table(40)
    order = np.random.default_rng(1).permutation(40)
    settings = QUICK | {"n_inducing": None, "nu": INF}  # Adam moves S in its Cholesky order; the objective has none
    one, two = Regressor(**settings).fit(X, y), Regressor(**settings).fit(X[order], y[order])
    assert np.allclose(one.predict(X), two.predict(X), atol=1e-5)
    assert one.elbo_ == pytest.approx(two.elbo_, rel=1e-6)


def test_rotating_the_inputs_does_not_matter_without_scales():
    X, y = table(40)
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    settings = QUICK | {"ard": False, "standardize": False, "n_inducing": None}  # Adam moves Z along the axes
    one, two = Regressor(**settings).fit(X, y), Regressor(**settings).fit(X @ Q, y)
    assert np.allclose(one.predict(X), two.predict(X @ Q), atol=1e-5)


def test_duplicate_rows_and_a_constant_column_stay_finite_and_warn():
    X, y = table(30)
    X = np.column_stack([np.repeat(X[:15], 2, axis=0), np.full(30, 4.0)])
    with pytest.warns(UserWarning, match="columns 4 of X never vary: they are centred, not scaled"):
        model = Regressor(**QUICK | {"n_inducing": 30}).fit(X, y)
    without = Regressor(**QUICK | {"n_inducing": 30, "ard": False})
    with pytest.warns(UserWarning, match="never vary"):
        mean, std = without.fit(X, y).predict(X, return_std=True)
    assert np.isfinite(model.predict(X)).all()
    assert np.isfinite(mean).all()
    assert (std > 0).all()


def test_predictions_do_not_depend_on_which_rows_are_predicted_together():
    X, y = table()
    model = Regressor(**QUICK).fit(X, y)
    assert np.allclose(model.predict(X), np.concatenate([model.predict(X[i : i + 1]) for i in range(60)]), atol=1e-10)


def test_a_pinned_machine_of_no_layers_is_a_plain_gaussian_process():
    X, y = table(30)
    model = Regressor(
        n_layers=0, kernel="sqexp", n_inducing=None, noise=0.2, max_iter=0, jitter=0.0, standardize=False, ard=False, nu=INF
    ).fit(X, y)

    def kernel(A, B):
        return np.exp(-0.5 * ((A[:, None] - B[None]) ** 2).sum(-1) / 4) + 0.1

    K = kernel(X, X) + 0.2 * np.eye(30)
    new = table(9, seed=4)[0]
    cross = kernel(new, X)
    mean, cov = model.predict(new, return_cov=True)
    assert np.allclose(mean, cross @ np.linalg.solve(K, y), atol=1e-8)
    assert np.allclose(cov, kernel(new, new) + 0.2 * np.eye(9) - cross @ np.linalg.solve(K, cross.T), atol=1e-8)
    _, logdet = np.linalg.slogdet(2 * np.pi * K)
    assert model.elbo_ == pytest.approx(-0.5 * (y @ np.linalg.solve(K, y) + logdet), rel=1e-9)
    assert model.noise_ == pytest.approx(0.2)


def test_intervals_cover_what_the_prior_draws():
    rng = np.random.default_rng(0)
    settings = {"n_layers": 1, "nu": INF, "n_inducing": None, "max_iter": 0, "noise": 0.1, "standardize": False}
    covered = []
    for _ in range(20):
        X = rng.normal(size=(600, 3))
        model = Regressor(**settings, jitter=0.0).fit(X[:100], np.zeros(100))
        projected = model._project(X)
        K = model._cross(projected, None, -1)
        y = np.linalg.cholesky(K + 1e-8 * np.eye(600)) @ rng.normal(size=600) + np.sqrt(0.1) * rng.normal(size=600)
        mean, std = model.fit(X[:100], y[:100]).predict(X[100:], return_std=True)
        covered.append(np.mean(np.abs(y[100:] - mean) < 1.959964 * std))
    assert 0.94 < np.mean(covered) < 0.96


def test_learning_features_beats_the_gaussian_process_where_features_are_to_be_learned():
    better = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(260, 4))
        y = np.sign(X @ [0.7, -0.7, 0.3, 0.0]) * 2 + 0.05 * rng.normal(size=260)
        settings = {"n_inducing": 25, "max_iter": 40, "lr": 0.1, "random_state": seed, "ard": False}
        errors = [
            np.mean((Regressor(nu=nu, **settings).fit(X[:130], y[:130]).predict(X[130:]) - y[130:]) ** 2) for nu in (0.3, INF)
        ]
        better.append(errors[0] < errors[1])
    assert sum(better) >= 4


def test_hyperparameters_of_the_prior_are_kept_while_features_are_learned():
    X, y = table()
    pinned, learned = (Regressor(**QUICK | {"nu": nu}).fit(X, y) for nu in (INF, 1.0))
    assert learned.noise_ == pinned.noise_
    assert torch.equal(learned.machine_.Z, pinned.machine_.Z)
    assert learned.elbo_ > pinned.elbo_
    assert (learned.kl_per_layer_ > 0).all()
    assert (pinned.kl_per_layer_ == 0).all()
    joint = Regressor(**QUICK | {"nu": 1.0, "hyperparameters": "joint"}).fit(X, y)
    assert joint.n_iter_ == 15
    assert joint.noise_ != pinned.noise_


def test_the_search_for_nu_ends_where_held_out_rows_are_predicted_best():
    X, y = table(80)
    model = Regressor(**QUICK | {"nu": "auto"}).fit(X, y)
    path = [nu for nu, _ in model.nu_path_]
    assert path == [INF, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1][: len(path)]
    best = max(model.nu_path_, key=lambda pair: pair[1])[0]
    assert (model.nu_ == best).all()
    assert len(path) == 8 or path.index(best) == len(path) - 3
    noise = Regressor(**QUICK | {"nu": "auto"}).fit(X, np.random.default_rng(9).normal(size=80))
    assert noise.nu_.min() >= 10  # nothing to be learned


def test_one_nu_a_layer_and_infinity_pins_only_its_layer():
    X, y = table()
    model = Regressor(**QUICK | {"nu": [INF, 2.0]}).fit(X, y)
    assert model.nu_.tolist() == [INF, 2.0]
    assert model.kl_per_layer_[0] == 0
    assert model.kl_per_layer_[1] > 0


def test_warm_start_walks_down_in_nu_from_where_it_stands():
    X, y = table()
    model = Regressor(**QUICK | {"nu": INF, "warm_start": True}).fit(X, y)
    bounds = [model.elbo_]
    for nu in (100.0, 10.0, 1.0):
        model.set_params(nu=nu).fit(X, y)
        bounds.append(model.elbo_)
        assert model.n_iter_ == 3
    assert bounds == sorted(bounds)
    with pytest.raises(SchemaMismatch, match="the last fit had 10 inducing points"):
        model.set_params(n_inducing=11).fit(X, y)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "first_order"},
        {"method": "first_order", "nu": "auto"},
        {"kl": "taylor"},
        {"skr_gamma": 4.0},
        {"optimizer": "lbfgs"},
        {"inducing": "kmeans"},
        {"batch_size": 16},
        {"dtype": "float32"},
        {"device": "cpu"},
        {"kernel": ["arccos", "gaussian", "sqexp"]},
        {"n_layers": 3},
        {"nu": 0.0},
    ],
    ids=str,
)
def test_every_setting_trains_and_is_repeatable(settings):
    X, y = table()
    one, two = (Regressor(**QUICK | settings).fit(X, y) for _ in range(2))
    assert np.array_equal(one.predict(X), two.predict(X))
    mean, std = one.predict(X, return_std=True)
    assert np.mean((mean - y) ** 2) < np.var(y)
    assert (std > 0).all()


def test_first_order_features_cost_one_step_and_raise_the_objective():
    X, y = table()
    pinned, first = (Regressor(**QUICK | s).fit(X, y) for s in ({"nu": INF}, {"nu": 100.0, "method": "first_order"}))
    assert first.elbo_ > pinned.elbo_
    assert first.n_iter_ == pinned.n_iter_
    assert first.first_order_length_ == 1.0
    assert first.noise_ == pinned.noise_


def test_first_order_features_do_not_depend_on_what_was_learned_before():
    X, y = table()
    settings = QUICK | {"method": "first_order"}
    direct = Regressor(**settings | {"nu": 10.0}).fit(X, y)
    again = Regressor(**settings | {"nu": 100.0, "warm_start": True}).fit(X, y).set_params(nu=10.0).fit(X, y)
    assert np.allclose(direct.predict(X), again.predict(X), atol=1e-9)
    assert again.kl_per_layer_ == pytest.approx(direct.kl_per_layer_)


def test_minibatches_are_used_for_many_rows_and_fit_as_well():
    X, y = table(400)
    full, small = (
        Regressor(**QUICK | {"nu": INF, "max_iter": steps, "batch_size": size, "lr": 0.05}).fit(X, y)
        for steps, size in ((25, None), (75, 64))
    )
    assert small.elbo_ > full.elbo_ - 0.1 * 400
    assert Regressor(n_inducing=8)._rows_a_step(6_000) == 1_024
    assert Regressor(n_inducing=8)._rows_a_step(5_000) is None


def test_single_and_double_precision_agree_at_the_same_parameters():
    X, y = table(200)
    double = Regressor(**QUICK | {"max_iter": 40}).fit(X, y)
    single = Regressor(**QUICK | {"max_iter": 0, "dtype": "float32", "jitter": 1e-6}).fit(X, y)
    state = {name: v.float() if v.is_floating_point() else v for name, v in double.machine_.state_dict().items()}
    single.machine_.load_state_dict(state)
    single.machine_.noise_floor = double.machine_.noise_floor
    objective = single._finish(single.machine_, *single._begin(X))
    assert objective == pytest.approx(double.elbo_, rel=1e-3)
    errors = [np.sqrt(np.mean((m.predict(X) - y) ** 2)) for m in (double, single)]
    assert errors[1] == pytest.approx(errors[0], rel=0.01)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ill_conditioned_tables_never_raise(dtype):
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(40):
            n, d = int(rng.choice([2, 3, 5, 12])), int(rng.choice([1, 1, 2, 5]))
            X = rng.normal(size=(max(1, n // int(rng.integers(1, 4))), d)) * 10.0 ** rng.integers(-8, 8)
            X = X[rng.integers(0, len(X), n)]
            y = rng.normal(size=n) * (i % 3) * 10.0 ** rng.integers(-6, 6)
            model = Regressor(
                n_layers=int(rng.integers(0, 3)),
                n_inducing=[None, "auto"][i % 2],
                kernel=str(rng.choice(["arccos", "gaussian", "sqexp", "heaviside", "linear"])),
                nu=float(rng.choice([0.0, 0.1, 10.0, INF])),
                max_iter=5,
                dtype=dtype,
                hyperparameters=str(rng.choice(["prior", "joint"])),
                random_state=i,
            ).fit(X, y)
            mean, std = model.predict(X, return_std=True)
            assert np.isfinite(mean).all()
            assert np.isfinite(std).all()


def test_the_default_recipe_is_no_worse_than_ridge_regression_on_diabetes():
    X, y = load_diabetes(return_X_y=True)
    model = Regressor(n_inducing=40, max_iter=100, random_state=0).fit(X[:350], y[:350])
    mean, std = model.predict(X[350:], return_std=True)
    ridge = Ridge(0.1).fit(X[:350], y[:350]).predict(X[350:])
    assert np.mean((mean - y[350:]) ** 2) < 1.05 * np.mean((ridge - y[350:]) ** 2)
    assert 0.8 <= np.mean(np.abs(mean - y[350:]) < 1.96 * std) <= 1
    assert model.history_[-1] > model.history_[0]


# ---- similarities ----------------------------------------------------------------------------------------------------------


def test_gram_is_symmetric_positive_and_of_the_layer_asked_for():
    X, y = table()
    model = Regressor(**QUICK).fit(X, y)
    for layer in (0, 1, 2):
        G = model.gram(X, layer=layer)
        assert np.allclose(G, G.T, atol=1e-9)
        assert np.linalg.eigvalsh(G).min() > -1e-7
    assert np.array_equal(model.gram(X), model.gram(X, layer=2))
    assert np.array_equal(model.gram(X, layer=-3), model.gram(X, layer=0))
    assert np.allclose(model.gram(X[:7], X[7:]), model.gram(X)[:7, 7:], atol=1e-8)
    with pytest.raises(UnknownName, match=r"there is no layer 3: choose 0 \(inputs\) to 2, or -1"):
        model.gram(X, layer=3)


def test_learned_similarity_sees_the_target_and_the_prior_does_not():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 2))
    y = np.sign(X[:, 0] * X[:, 1])
    contrast = []
    for nu in (INF, 0.1):
        model = Regressor(n_layers=1, nu=nu, n_inducing=30, max_iter=100, lr=0.05, hyperparameters="joint", random_state=0)
        G = model.fit(X, y).gram(X)
        C = G / np.sqrt(np.outer(G.diagonal(), G.diagonal()))
        contrast.append(C[np.equal.outer(y, y)].mean() - C[np.not_equal.outer(y, y)].mean())
    assert contrast[1] > contrast[0] + 0.1


# ---- classification --------------------------------------------------------------------------------------------------------


def test_three_classes_are_told_apart_with_probabilities_that_mean_something():
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    order = np.random.default_rng(0).permutation(150)
    train, test = order[:100], order[100:]
    model = Classifier(n_inducing=20, max_iter=60, lr=0.05, nu=10.0, random_state=0).fit(X[train], names[train], ids=train)
    p = model.predict_proba(X[test])
    assert np.allclose(p.sum(1), 1)
    assert model.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert np.mean(model.predict(X[test]) == names[test]) > 0.9
    assert -np.log(p[np.arange(50), y[test]]).mean() < 0.4
    assert model.decision_function(X[test]).shape == (50, 3)
    ids, likeness = model.neighbours(X[test], 3)
    assert np.mean(y[ids] == y[test][:, None]) > 0.8
    assert (np.abs(likeness) <= 1 + 1e-6).all()
    assert model.elbo_ < 0


@pytest.mark.parametrize(
    "settings",
    [{"nu": "auto"}, {"method": "first_order"}, {"n_inducing": None}, {"batch_size": 20}, {"nu": INF}],
    ids=str,
)
def test_every_way_to_train_a_classifier(settings):
    X, y = table(90)
    labels = np.where(y > 0, "up", "down")
    model = Classifier(**QUICK | {"max_iter": 40, "lr": 0.1} | settings).fit(X, labels)
    assert np.mean(model.predict(X) == labels) > 0.65
    assert model.decision_function(X).shape == (90,)
    assert ((model.decision_function(X) > 0) == (model.predict(X) == "up")).all()
    assert np.isfinite(model.elbo_)


def test_a_class_with_one_member_survives_the_search_for_nu():
    X, y = table(40)
    labels = np.where(y > 0, 1, 0)
    labels[3] = 7
    model = Classifier(**QUICK | {"nu": "auto", "n_samples": 8}).fit(X, labels)
    assert model.predict_proba(X).shape == (40, 3)


# ---- progress, ids, refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nu", [3.0, "auto", INF])
def test_progress_never_falls_and_ends_at_its_total(nu):
    X, y = table()
    seen = []
    Regressor(**QUICK | {"nu": nu}).fit(X, y, progress=lambda done, total: seen.append((done, total)))
    done, totals = zip(*seen, strict=True)
    assert len(set(totals)) == 1
    assert list(done) == sorted(done)
    assert done[-1] == totals[0]


@pytest.mark.parametrize("method", ["predict", "gram", "neighbours", "influence", "loo_predict", "forget"])
def test_nothing_can_be_asked_before_fit(method):
    with pytest.raises(NotFittedError):
        getattr(Regressor(), method)(*([] if method == "loo_predict" else [np.ones((2, 2))]))


def bad(name, value, error, sentence, model=Regressor):
    return pytest.param(model, {name: value}, error, sentence, id=f"{name}={value}")


@pytest.mark.parametrize(
    ("model", "settings", "error", "sentence"),
    [
        bad("n_inducing", 61, DatumwiseError, "n_inducing = 61 is more than the 60 rows of X"),
        bad("n_inducing", 0, DatumwiseError, r"n_inducing must be a positive whole number, 'auto' or None \(dense\), not 0"),
        bad("n_inducing", "many", DatumwiseError, "n_inducing must be a positive whole number"),
        bad("nu", -1.0, DatumwiseError, "nu must be at least 0, not -1.0"),
        bad("nu", float("nan"), DatumwiseError, "nu must be at least 0, not nan"),
        bad("nu", "wide", DatumwiseError, "nu must be at least 0, not 'wide'"),
        bad("nu", [1.0], SchemaMismatch, "nu has 1 entries for 2 layers: give one, or 2"),
        bad("nu", [1.0, -2.0], DatumwiseError, "nu must be at least 0, not -2.0"),
        bad("kernel", "rbf", UnknownName, "there is no kernel 'rbf'"),
        bad("kernel", ["arccos", "arccos"], SchemaMismatch, "kernel has 2 entries for 3 layers"),
        bad("n_layers", -1, DatumwiseError, "n_layers must be a whole number of at least 0, not -1"),
        bad("max_iter", 1.5, DatumwiseError, "max_iter must be a whole number of at least 0, not 1.5"),
        bad("lr", 0.0, DatumwiseError, "lr must be positive, not 0.0"),
        bad("noise", -0.1, DatumwiseError, "noise must be 'learn' or a positive variance, not -0.1"),
        bad("noise", "guess", DatumwiseError, "noise must be 'learn' or a positive variance, not 'guess'"),
        bad("skr_gamma", -1, DatumwiseError, "skr_gamma must be at least 0, not -1"),
        bad("jitter", -1e-6, DatumwiseError, "jitter must be at least 0, not -1e-06"),
        bad("batch_size", 0, DatumwiseError, "batch_size must be a positive whole number, not 0"),
        bad("method", "guess", UnknownName, "there is no method 'guess': choose 'optimize' or 'first_order'"),
        bad("optimizer", "sgd", UnknownName, "there is no optimizer 'sgd': choose 'adam' or 'lbfgs'"),
        bad("inducing", "grid", UnknownName, "there is no inducing 'grid': choose 'random' or 'kmeans'"),
        bad("hyperparameters", "none", UnknownName, "there is no hyperparameters 'none': choose 'prior' or 'joint'"),
        bad("dtype", "float16", UnknownName, "there is no dtype 'float16': choose 'float64' or 'float32'"),
        bad("kl", "reverse", UnknownName, "there is no divergence 'reverse'"),
        bad("n_samples", 0, DatumwiseError, "n_samples must be a positive whole number, not 0", Classifier),
    ],
)
def test_settings_that_mean_nothing_are_refused(model, settings, error, sentence):
    X, y = table()
    with pytest.raises(error, match=sentence):
        model(**settings).fit(X, y > 0 if model is Classifier else y)


def test_lbfgs_refuses_what_is_random():
    X, y = table()
    for settings in ({"batch_size": 10}, {"skr_gamma": 4}):
        with pytest.raises(DatumwiseError, match="L-BFGS needs the full batch and no random regularisation"):
            Regressor(optimizer="lbfgs", **settings).fit(X, y)


def test_data_that_cannot_be_learned_from_are_refused():
    X, y = table()
    broken = X.copy()
    broken[[3, 8, 9, 12], 1] = np.nan
    with pytest.raises(NotFinite, match=r"X contains NaN at rows 3, 8, 9 and 1 more: drop or fill them"):
        Regressor().fit(broken, y)
    broken = X.copy()
    broken[5, 0] = np.inf
    for model in (Regressor(), Classifier()):
        with pytest.raises(NotFinite, match="X contains inf at rows 5"):
            model.fit(broken, y > 0)
    with pytest.raises(NotFinite, match="y contains NaN at rows 0"):
        Regressor().fit(X, np.r_[np.nan, y[1:]])
    with pytest.raises(SchemaMismatch, match="X has 60 rows and y 59: give one target a row"):
        Regressor().fit(X, y[1:])
    with pytest.raises(EmptyData, match="X has n_samples = 1, and a kernel machine needs two"):
        Regressor().fit(X[:1], y[:1])
    with pytest.raises(LabelError, match="y has one class only, "):
        Classifier().fit(X, np.ones(60, int))
    with pytest.raises(DatumwiseError, match="2,001 rows are too many for a dense machine, which takes 2,000"):
        Regressor(n_inducing=None).fit(np.zeros((2001, 1)), np.zeros(2001))
    with pytest.raises(DatumwiseError, match="one fixed noise cannot hold for outputs of different scales"):
        Regressor(noise=0.1).fit(X, np.column_stack([y, 5 * y]))


def test_ids_must_be_one_a_row_and_different():
    X, y = table()
    with pytest.raises(DuplicateId, match="the id 4 occurs more than once"):
        Regressor(**QUICK).fit(X, y, ids=[4, *range(59)])
    with pytest.raises(SchemaMismatch, match=r"60 rows and ids of shape \(3,\)"):
        Regressor(**QUICK).fit(X, y, ids=[1, 2, 3])


def test_questions_that_cannot_be_answered_are_refused(monkeypatch):
    X, y = table()
    model = Regressor(**QUICK).fit(X, y)
    with pytest.raises(NotFinite, match="X contains NaN at rows 0"):
        model.predict(np.full((1, 4), np.nan))
    with pytest.raises(ValueError, match="X has 3 features"):
        model.predict(X[:, :3])
    with pytest.raises(DatumwiseError, match="at most one of return_std and return_cov"):
        model.predict(X, return_std=True, return_cov=True)
    with pytest.raises(DatumwiseError, match="k = 61 neighbours of 60 datapoints: choose 1 to 60"):
        model.neighbours(X, 61)
    monkeypatch.setattr("datumwise.learn.deep_kernel.inputs.PAIRS", 100)
    for ask in (model.gram, model.influence):
        with pytest.raises(DatumwiseError, match="a matrix of 60 x 60 is too large to hold: ask for at most 100 entries"):
            ask(X)

"""Claims about what attribution refuses: one sentence that says what is wrong and what to do."""

import numpy as np
import pytest
import torch
from attributions import linear_regression
from curvature import gpt2, mlp, texts, vectors
from torch import nn

from datumwise.errors import DatumwiseError, EmptyData, ModelMismatch, NotFinite, SchemaMismatch, SourceError, UnknownName
from datumwise.probe.attribute import attribute

X, Y = vectors()
TEST = vectors(3, seed=1)
ADAM = {"0.weight": (torch.zeros(6, 5), torch.zeros(6, 5))}


def nan_at(row):
    bad = X.clone()
    bad[row, 2] = torch.nan
    return bad


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"method": "track"}, UnknownName, "there is no method 'track': did you mean 'trak'\\?"),
        ({"method": "zzz"}, UnknownName, "there is no method 'zzz': choose trak, less"),
        ({"loss": "hinge"}, UnknownName, "there is no loss 'hinge': choose cross_entropy, squared_error"),
        ({"damping": -1.0}, DatumwiseError, "damping is -1.0: it must be 0 or more"),
        ({"damping": float("nan")}, DatumwiseError, "damping is nan"),
        ({"relative_damping": -0.1}, DatumwiseError, "relative_damping is -0.1: it must be 0 or more"),
        ({"method": "influence", "damping": -1.0}, DatumwiseError, "damping is -1.0: it must be 0 or more"),
        ({"method": "influence", "solver": "cg", "damping": -1.0}, DatumwiseError, "damping is -1.0"),
        ({"method": "ekfac", "damping": -1.0}, DatumwiseError, "damping is -1.0: it must be 0 or more"),
        ({"method": "ekfac", "relative_damping": -1.0}, DatumwiseError, "relative_damping is -1.0"),
        ({"method": "datainf", "damping": 0.0}, DatumwiseError, "DataInf divides by it: it must be above 0"),
        ({"method": "datainf", "relative_damping": 0.0}, DatumwiseError, "relative_damping is 0.0"),
        ({"method": "representer", "damping": 0.0}, DatumwiseError, "the L2 weight of the refit must be above 0"),
        ({"method": "representer", "targets": "label"}, DatumwiseError, "targets is 'label'"),
        ({"method": "representer", "measure": "log_odds"}, DatumwiseError, "of the query's own label"),
        ({"projection": 64, "damping": 0.0}, ModelMismatch, "singular with a damping of 0: raise damping="),
        ({"method": "influence", "damping": 0.0}, ModelMismatch, "the gauss_newton Hessian is singular"),
        ({"projection": 0}, DatumwiseError, "a projection to 0 numbers"),
        ({"projection": "jl"}, DatumwiseError, "projection is 'jl'"),
        ({"projection": np.ones((7, 2))}, ModelMismatch, "the projection has 7 rows and 75 parameters are captured"),
        ({"projection": np.full((75, 2), np.nan)}, NotFinite, "the projection has NaN or infinity in row 0, 1, 2 and 72 more"),
        ({"projection": np.ones(75)}, DatumwiseError, "a projection is a float matrix \\(p, k\\)"),
        ({"gram": "whitened"}, DatumwiseError, "gram is 'whitened'"),
        ({"threshold": -1.0}, DatumwiseError, "threshold is -1.0"),
        ({"measure": "margin"}, DatumwiseError, "measure is 'margin'"),
        ({"loss": "squared_error"}, ModelMismatch, "squared_error has no probability"),
        (
            {"loss": "binary_cross_entropy"},
            ModelMismatch,
            "needs one logit a datapoint and labels 0 and 1; the model returned 3",
        ),
        ({"checkpoints": []}, EmptyData, "there is no checkpoint in checkpoints"),
        ({"checkpoints": mlp().state_dict()}, ModelMismatch, "checkpoints is a single checkpoint: give a list"),
        ({"checkpoints": [{"9.weight": X}]}, ModelMismatch, "checkpoint 0 holds 9.weight, which the model does not"),
        (
            {"checkpoints": [mlp().state_dict(), {}]},
            ModelMismatch,
            "checkpoint 1 lacks the trainable 0.weight, 0.bias, 2.weight",
        ),
        (
            {"checkpoints": [mlp().state_dict() | {"4.bias": X[0]}]},
            ModelMismatch,
            "4.bias of shape \\(5,\\), the model \\(3,\\)",
        ),
        (
            {"checkpoints": [mlp().state_dict() | {"4.bias": X[0, :3] / 0}]},
            NotFinite,
            "checkpoint 0 has NaN or infinity in 4.bias",
        ),
        ({"checkpoints": ["nowhere.pt"]}, SourceError, "there is no checkpoint nowhere.pt"),
        ({"method": "tracin", "weights": [1.0, 2.0]}, DatumwiseError, "2 weights for 1 checkpoints"),
        ({"method": "tracin", "weights": [float("inf")]}, DatumwiseError, "weights have NaN or infinity"),
        ({"method": "less"}, DatumwiseError, "less needs the optimiser's moments at the checkpoints: pass adam="),
        ({"method": "less", "adam": 3}, ModelMismatch, "adam is a int"),
        ({"method": "less", "adam": {}}, ModelMismatch, "the optimiser holds no moments"),
        ({"method": "less", "adam": {"9.weight": (X, X)}}, ModelMismatch, "not trainable here, 9.weight"),
        ({"method": "less", "adam": {"0.weight": (X, X)}}, ModelMismatch, "the moments of 0.weight have shape \\(11, 5\\)"),
        ({"method": "less", "adam": {"0.weight": X}}, DatumwiseError, "is not a pair \\(m, v\\)"),
        ({"method": "less", "adam": {"0.weight": (ADAM["0.weight"][0], ADAM["0.weight"][1] - 1)}}, NotFinite, "is below 0"),
        (
            {"method": "less", "adam": {"state": {}, "param_groups": [{"params": [0]}]}},
            ModelMismatch,
            "of 1 parameters, the model has 5",
        ),
        ({"method": "less", "adam": ADAM, "weights": [-1.0]}, DatumwiseError, "the checkpoints' weights are \\[-1.0\\]"),
        ({"method": "influence", "hessian": "fisher"}, UnknownName, "there is no hessian 'fisher': choose exact, gauss_newton"),
        ({"method": "influence", "solver": "qr"}, UnknownName, "there is no solver 'qr': choose direct, cg, lissa, arnoldi"),
        ({"method": "influence", "solver": "cg", "rank": 3}, DatumwiseError, "rank is no setting of the solver cg"),
        ({"method": "influence", "solver": "cg", "projection": 9}, DatumwiseError, "works on whole gradients"),
        ({"method": "influence", "hessian": "exact", "projection": 9}, DatumwiseError, "the exact Hessian has no projection"),
        ({"method": "influence", "solver": "arnoldi", "rank": 0}, DatumwiseError, "rank is 0"),
        ({"method": "influence", "solver": "lissa", "depth": 0}, DatumwiseError, "depth is 0"),
        ({"method": "influence", "solver": "lissa", "scale": 1e-3}, ModelMismatch, "LiSSA diverged with a scale of 0.001"),
        (
            {"method": "influence", "hessian": "exact", "solver": "cg", "damping": 0.0},
            ModelMismatch,
            "direction of negative curvature",
        ),
        ({"method": "ekfac", "hessian": "exact"}, DatumwiseError, "the exact Hessian has no Kronecker factors"),
        ({"method": "trak", "hessian": "exact"}, UnknownName, "the method trak has no option 'hessian'"),
        ({"method": "trak", "dampin": 1}, UnknownName, "the method trak has no option 'dampin': did you mean 'damping'"),
        ({"method": "ekfac", "eigenvalues": "kfac"}, UnknownName, "the method ekfac has no option 'eigenvalues'"),
        ({"method": "grad_dot", "cosine": True}, UnknownName, "the method grad_dot has no option 'cosine'"),
        ({"method": "ekfac", "projection": 64}, UnknownName, "the method ekfac has no option 'projection'"),
        ({"groups": ["a"]}, DatumwiseError, "1 groups for 3 queries"),
        ({"batch_size": 0}, DatumwiseError, "batch_size is 0"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_in_a_sentence(options, kind, sentence):
    model = mlp()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(kind, match=sentence):
        attribute(model, (X, Y), TEST, **options)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("train", "test", "kind", "sentence"),
    [
        ((nan_at(4), Y), TEST, NotFinite, "X of train has NaN or infinity in row 4"),
        ((X, Y), (nan_at(0), Y), NotFinite, "X of test has NaN or infinity in row 0"),
        ((X, Y[:4]), TEST, SchemaMismatch, "train has 11 rows of X and 4 labels"),
        ((X[:0], Y[:0]), TEST, EmptyData, "train is empty"),
        ((X, Y), [], EmptyData, "test is empty"),
        (None, TEST, EmptyData, "train is empty: give \\(X, y\\), batches or a ledger"),
        ((X, Y), iter([]), EmptyData, "test is empty"),
        ((X, Y + 2), TEST, ModelMismatch, "are outside the model's 3 classes"),
        ((X, Y.double() / 2), TEST, ModelMismatch, "are not one class each"),
        ([X], TEST, ModelMismatch, "has no labels"),
    ],
)
def test_data_that_cannot_be_attributed_are_refused_in_a_sentence(train, test, kind, sentence):
    for method in ("trak", "grad_dot"):
        with pytest.raises(kind, match=sentence):
            attribute(mlp(), train, test, method=method)


def test_a_loader_that_shuffles_is_refused():
    data = torch.utils.data.TensorDataset(X, Y)
    with pytest.raises(ModelMismatch, match=r"train is a DataLoader that shuffles: .*: make it with shuffle=False"):
        attribute(mlp(), torch.utils.data.DataLoader(data, shuffle=True), TEST)
    attribute(mlp(), torch.utils.data.DataLoader(data), TEST)


def test_the_rows_of_wrong_labels_are_named_also_in_later_batches():
    wrong = Y.clone()
    wrong[7] = 5
    for method in ("trak", "influence", "grad_cos"):
        with pytest.raises(ModelMismatch, match="labels of 7 are outside the model's 3 classes"):
            attribute(mlp(), (X, wrong), TEST, method=method, batch_size=3)


def test_numpy_lists_and_another_precision_are_taken_as_they_are_meant():
    model = mlp().float()
    scores = attribute(model, (X.float(), Y), TEST, method="grad_dot")
    assert scores.dtype == np.float32
    assert np.array_equal(attribute(model, (X.numpy(), Y.numpy()), TEST, method="grad_dot"), scores)
    assert np.array_equal(attribute(model, (X.tolist(), Y.tolist()), TEST, method="grad_dot"), scores)


def test_what_is_no_torch_module_is_refused():
    with pytest.raises(ModelMismatch, match="the model is a str, not a torch module"):
        attribute("gpt2", (X, Y), TEST)


def test_a_loss_of_your_own_has_no_gauss_newton_matrix_but_the_other_two():
    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    for solver in ("direct", "cg"):
        with pytest.raises(ModelMismatch, match="the loss is a function of your own"):
            attribute(mlp(), (X, Y), TEST, loss, "influence", solver=solver, damping=1.0)
    with pytest.raises(DatumwiseError, match="labels can be drawn from the model for cross-entropy only"):
        attribute(mlp(), (X, Y), TEST, loss, "ekfac", hessian="gauss_newton")
    for method, options in (("influence", {"hessian": "exact", "damping": 1.0}), ("ekfac", {"hessian": "empirical_fisher"})):
        named = attribute(mlp(), (X, Y), TEST, method=method, **options)
        np.testing.assert_allclose(attribute(mlp(), (X, Y), TEST, loss, method, **options), named, rtol=1e-9)
    np.testing.assert_allclose(attribute(mlp(), (X, Y), TEST, loss), attribute(mlp(), (X, Y), TEST), rtol=1e-7)


def test_sequences_have_no_representer_points_and_no_explicit_gauss_newton_matrix():
    batch = [texts()[0]]
    with pytest.raises(ModelMismatch, match="representer points need one label a datapoint"):
        attribute(gpt2(), batch, batch, method="representer")
    with pytest.raises(ModelMismatch, match="is of one label a datapoint, not of sequences"):
        attribute(gpt2(), batch, batch, method="influence", solver="direct", modules=["transformer.ln_f"])


def test_a_model_too_large_for_an_explicit_matrix_says_so():
    model = nn.Linear(5, 2000).double()
    with pytest.raises(DatumwiseError, match=r"the matrix of 12,000 parameters would take 1.1 GiB: use solver=\"cg\""):
        attribute(model, (X, Y), TEST, method="influence", solver="direct")


def test_squared_errors_need_targets_and_a_last_layer():
    model, train, test = linear_regression()
    with pytest.raises(ModelMismatch, match="no linear layer of the model returns its outputs"):
        attribute(nn.Sequential(model, nn.Tanh()), train, test, "squared_error", "representer")

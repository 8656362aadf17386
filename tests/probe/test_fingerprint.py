"""Claims about the fingerprint of a model."""

import numpy as np
import torch
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import nn

from datumwise.probe.fingerprint import model_fingerprint


def network(seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to(dtype)


def test_equal_weights_have_equal_fingerprints_and_one_changed_number_another():
    model = network(0)
    name = model_fingerprint(model)
    assert name == model_fingerprint(network(0))
    assert name != model_fingerprint(network(1))
    assert name != model_fingerprint(network(0, torch.bfloat16))
    with torch.no_grad():
        model[2].bias[1] += 1e-6
    assert name != model_fingerprint(model)


def test_a_buffer_counts_too():
    model = network(0)
    model[1].running_mean[0] = 0.5
    assert model_fingerprint(model) != model_fingerprint(network(0))


def test_half_precision_and_tied_weights_are_read():
    model = network(0, torch.bfloat16)
    model[0].weight = nn.Parameter(model[0].weight.t().contiguous().t())  # not contiguous, same numbers
    assert model_fingerprint(model) == model_fingerprint(network(0, torch.bfloat16))


def test_parameters_of_nested_estimators_count():
    def pipeline(C):
        return make_pipeline(FunctionTransformer(np.log1p), StandardScaler(), LogisticRegression(C=C))

    assert model_fingerprint(pipeline(1.0)) == model_fingerprint(pipeline(1.0))
    assert model_fingerprint(pipeline(1.0)) != model_fingerprint(pipeline(2.0))
    votes = [
        VotingClassifier([("a", LogisticRegression(C=C))], weights=np.array([w]))
        for C, w in ((1.0, 1.0), (1.0, 1.0), (1.0, 2.0), (3.0, 1.0))
    ]
    names = [model_fingerprint(v) for v in votes]
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_no_model_and_a_name_have_a_fingerprint():
    assert model_fingerprint(None) == "none"
    assert model_fingerprint("some/model") != model_fingerprint("some/other")

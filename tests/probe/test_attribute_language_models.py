"""Claims about attribution in causal language models: prompts, responses, adapters, fused attention."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from attributions import conversations, matrix_of, response_losses, with_adapters
from curvature import gpt2

from datumwise.errors import ModelMismatch
from datumwise.ledger import create_ledger
from datumwise.probe.attribute import attribute
from datumwise.probe.attribution.projection import Hashed


@pytest.fixture
def talk():
    return gpt2(), conversations(6), conversations(2, seed=9)


def test_a_responses_loss_is_the_sum_over_its_own_tokens(talk):
    model, train, test = talk
    G, T = (matrix_of(model, response_losses(model, batch)[0]) for batch in (train, test))
    for projection in ("auto", None):  # None with a matrix below: GPT-2 stores its weights transposed
        scores = attribute(model, [train], [test], method="grad_dot", projection=projection)
        np.testing.assert_allclose(scores, T @ G.T, rtol=1e-7)
    P = np.random.default_rng(0).normal(size=(G.shape[1], 9))
    scores = attribute(model, [train], [test], method="grad_dot", projection=P)
    np.testing.assert_allclose(scores, (T @ P) @ (G @ P).T, rtol=1e-7)


def test_a_sketch_of_the_looked_up_rows_is_the_sketch_of_the_whole_table(talk):
    model, train, test = talk
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())  # no longer tied to the embedding
    names = [n for n, _ in model.named_parameters()]
    S = Hashed(64, 0)
    P = np.concatenate([S.explicit(n, p.numel()).numpy().T for n, p in model.named_parameters()])
    assert "transformer.wte.weight" in names
    sketched = attribute(model, [train], [test], method="grad_dot", projection=64)
    np.testing.assert_allclose(sketched, attribute(model, [train], [test], method="grad_dot", projection=P), rtol=1e-7)


def test_conjugate_gradients_solve_a_whole_language_model(talk):
    model, train, test = talk
    options = {
        "method": "influence",
        "damping": 200.0,
        "modules": ["*.c_fc"],
    }  # the exact Hessian of an untrained model is indefinite
    for kind in ("exact", "gauss_newton"):
        cg = attribute(model, [train], [test], hessian=kind, solver="cg", tolerance=1e-11, **options)
        if kind == "exact":
            np.testing.assert_allclose(cg, attribute(model, [train], [test], hessian=kind, **options), rtol=1e-6)
        assert np.isfinite(cg).all()


def test_trak_of_sequences_is_of_the_geometric_mean_probability_of_their_tokens(talk):
    model, train, test = talk
    phi, p = [], None
    for batch in (train, test):
        sums, counts = response_losses(model, batch)
        own = torch.exp(-sums / counts)
        p = own.detach().numpy() if p is None else p
        phi.append(matrix_of(model, torch.log(own / (1 - own))))
    P = np.random.default_rng(0).normal(size=(phi[0].shape[1], 4))
    phi, phi_t = phi[0] @ P, phi[1] @ P
    expected = phi_t @ np.linalg.inv(phi.T @ phi + 0.5 * np.eye(4)) @ phi.T * (1 - p)
    scores = attribute(model, [train], [test], projection=P, damping=0.5)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


@pytest.mark.parametrize("method", ["trak", "grad_cos", "ekfac", "kfac", "datainf"])
def test_padding_and_batches_change_nothing(method, talk):
    model, train, test = talk
    whole = attribute(model, [train], [test], method=method)
    rows = [{key: value[i : i + 1] for key, value in train.items()} for i in range(6)]
    for row in rows:
        end = int(row["attention_mask"].sum())
        row.update({key: value[:, :end] for key, value in row.items()})
    if method in ("ekfac", "kfac"):  # labels are drawn by running number, as in one batch
        np.testing.assert_allclose(attribute(model, rows, [test], method=method), whole, rtol=1e-5)
    else:
        np.testing.assert_allclose(attribute(model, rows, [test], method=method), whole, rtol=1e-6)


@pytest.mark.parametrize("kind", ["exact", "gauss_newton", "empirical_fisher"])
def test_curvature_products_pass_through_fused_attention(kind):
    model, train, test = with_adapters(), conversations(4), conversations(2, seed=9)
    options = {"method": "influence", "hessian": kind, "damping": 3.0, "solver": "cg", "tolerance": 1e-11}
    G, T = (matrix_of(model, response_losses(model, batch)[0]) for batch in (train, test))
    losses = response_losses(model, train)[0]
    if kind == "empirical_fisher":
        H = G.T @ G / 4
    elif kind == "exact":
        H = attribute_hessian(model, train)
    else:
        H = 0.0
        logits = model.eval()(input_ids=train["input_ids"], attention_mask=train["attention_mask"], use_cache=False).logits
        for n, labels in enumerate(train["labels"]):
            for t in range(len(labels) - 1):
                if labels[t + 1] != -100:
                    J = matrix_of(model, logits[n, t])
                    p = logits[n, t].softmax(0).detach().numpy()
                    H = H + J.T @ (np.diag(p) - np.outer(p, p)) @ J / len(losses)
    expected = T @ np.linalg.inv(H + 3.0 * np.eye(G.shape[1])) @ G.T
    np.testing.assert_allclose(attribute(model, [train], [test], **options), expected, rtol=1e-5, atol=1e-7)


def attribute_hessian(model, batch):
    """By central differences of the gradient of the mean loss."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    columns, step = [], 1e-5
    for p in parameters:
        for entry in range(p.numel()):
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    p.view(-1)[entry] += sign * step
                sides.append(matrix_of(model, [response_losses(model, batch)[0].mean()])[0])
                with torch.no_grad():
                    p.view(-1)[entry] -= sign * step
            columns.append((sides[0] - sides[1]) / (2 * step))
    return np.stack(columns)


# --- LoRA -----------------------------------------------------------------------------------------------


def test_of_a_lora_model_only_the_adapters_count():
    model, train, test = with_adapters(), conversations(5), conversations(2, seed=9)
    G, T = (matrix_of(model, response_losses(model, batch)[0]) for batch in (train, test))
    assert G.shape[1] == sum(p.numel() for n, p in model.named_parameters() if "lora" in n)
    np.testing.assert_allclose(attribute(model, [train], [test], method="tracin"), T @ G.T, rtol=1e-7)
    layers = [p.numel() for p in model.parameters() if p.requires_grad]
    expected, start = 0.0, 0
    for size in layers:  # each adapter matrix is a layer of its own, as in the published code
        g, t = G[:, start : start + size], T[:, start : start + size]
        lam = 0.1 * np.mean(g**2)
        expected = expected + t @ np.mean([np.linalg.inv(lam * np.eye(size) + np.outer(r, r)) for r in g], 0) @ g.T
        start += size
    np.testing.assert_allclose(attribute(model, [train], [test], method="datainf"), expected, rtol=1e-6)


def test_less_on_adapters_takes_their_optimiser_and_checkpoints_of_them_alone():
    from peft import get_peft_model_state_dict

    model, train, test = with_adapters(), conversations(5), conversations(2, seed=9)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=1e-3)
    checkpoints, moments, expected = [], [], 0.0
    for _ in range(2):
        for _ in range(3):
            optimiser.zero_grad()
            response_losses(model, train)[0].mean().backward()
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        checkpoints.append({k: v.clone() for k, v in get_peft_model_state_dict(model).items()})
        assert all("default" not in name and "lora" in name for name in checkpoints[-1])
        state = optimiser.state_dict()
        moments.append({**state, "state": {k: {n: v.clone() for n, v in s.items()} for k, s in state["state"].items()}})
        m, v = (
            np.concatenate([optimiser.state[p][key].flatten().numpy() for p in trainable]) for key in ("exp_avg", "exp_avg_sq")
        )
        g, T = (matrix_of(model, response_losses(model, batch)[0]) for batch in (train, test))
        G = (0.9 * m + 0.1 * g) / np.sqrt(0.999 * v + 0.001 * g**2 + 1e-8)
        G, T = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (G, T))
        expected = expected + T @ G.T / 2
    with torch.no_grad():
        for p in trainable:
            p.zero_()
    before = {name: p.clone() for name, p in model.named_parameters()}
    scores = attribute(model, [train], [test], method="less", checkpoints=checkpoints, adam=moments)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    sketched = attribute(model, [train], [test], method="less", checkpoints=checkpoints, adam=moments, projection=4096)
    assert np.abs(sketched - expected).max() < 0.1  # a cosine's error is 1 / 64
    with pytest.raises(ModelMismatch, match="1 states of Adam for 2 checkpoints"):
        attribute(model, [train], [test], method="less", checkpoints=checkpoints, adam=moments[:1])


class Letters:
    """One token a letter."""

    pad_token_id = 0
    model_max_length = 16

    def __call__(self, texts, **options):
        return {"input_ids": [[1 + ord(c) % 12 for c in text] for text in texts]}


def test_a_ledger_of_prompts_and_responses_is_scored_on_its_responses(tmp_path):
    prompts, responses = ["ab", "b", "cad"], ["cde", "efgh", "ba"]
    schema = pa.schema([("id", pa.string()), ("p", pa.string()), ("r", pa.string())])
    rows = pa.record_batch([["x", "y", "z"], prompts, responses], schema=schema)
    roles = {"id": "id", "prompt": "p", "response": "r"}
    ledger = create_ledger(tmp_path / "talk", iter([rows]), schema=schema, id_column="id", roles=roles)
    model = gpt2()
    losses = []
    for prompt, response in zip(prompts, responses, strict=True):
        ids = torch.tensor(Letters()([prompt + response])["input_ids"])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        losses.append(
            response_losses(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})[0][0]
        )
    G = matrix_of(model, losses)
    scores = attribute(model, ledger, ledger, method="grad_dot", tokenizer=Letters(), batch_size=2)
    np.testing.assert_allclose(scores, G @ G.T, rtol=1e-7)
    with pytest.raises(ModelMismatch, match="no tokenizer was given"):
        attribute(model, ledger, ledger, method="grad_dot")

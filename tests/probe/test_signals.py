"""`signals` is one door for modules, language models, estimators and ledgers, in memory or on the ledger."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from brute import class_losses, gradients, norms
from torch import nn

from datumwise.errors import ColumnExists, DatumwiseError, EmptyData, ModelMismatch, SourceError, UnknownName
from datumwise.ledger import create_ledger, open_ledger
from datumwise.probe import KFAC, signals
from datumwise.probe.batches import Batches, auto_batch_size, by_length
from datumwise.probe.ekfac import self_influence
from datumwise.probe.torch_signals import Request, SummingPass, batches_of

WANT = ["labels", "loss", "probs", "embedding", "grad_norm", "grad_index", "mean_gradient"]


def model_and_data(n: int = 50) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    return model, (torch.randn(n, 5), torch.randint(0, 3, (n,)))


def table_ledger(path: Path, n: int = 50) -> Any:
    _, (x, y) = model_and_data(n)
    schema = pa.schema([("id", pa.string()), *((f"x{j}", pa.float32()) for j in range(5)), ("y", pa.int64())])
    columns = [
        pa.array([f"row {i}" for i in range(n)]),
        *(pa.array(x[:, j].numpy()) for j in range(5)),
        pa.array(y.numpy()),
    ]
    rows = pa.record_batch(columns, schema=schema)
    roles = {"id": "id", "label": "y", "features": [f"x{j}" for j in range(5)]}
    return create_ledger(path / "table", iter([rows]), schema=schema, id_column="id", roles=roles, max_rows_per_file=20)


class Words:
    """A tokenizer of numbers written with spaces."""

    model_max_length = 32
    pad_token_id = 0
    eos_token_id = 0
    bos_token_id = None
    padding_side = "right"

    def __call__(self, texts: list[str], **options: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[int(w) for w in text.split()] for text in texts]}


def text_ledger(path: Path, n: int = 30) -> Any:
    rng = np.random.default_rng(0)
    texts = [" ".join(str(w) for w in rng.integers(1, 50, rng.integers(2, 14))) for _ in range(n)]
    rows = pa.record_batch({"id": [f"text {i}" for i in range(n)], "text": texts})
    return create_ledger(
        path / "texts", iter([rows]), schema=rows.schema, id_column="id", roles={"id": "id", "text": "text"},
        max_rows_per_file=13,
    )  # fmt: skip


def language_model() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=50, n_positions=32, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config)


def equal(a: Any, b: Any, **tolerance: float) -> None:
    tolerance = tolerance or {"rtol": 1e-4, "atol": 1e-5}
    if isinstance(a, np.ndarray) and a.dtype != object:
        if a.dtype == np.float16 or b.dtype == np.float16:
            tolerance = {"rtol": 2e-3, "atol": 1e-4}
        assert np.allclose(a.astype(float), b.astype(float), **tolerance)
    else:
        assert all(np.allclose(p, q, **tolerance) for p, q in zip(a, b, strict=True))


def test_signals_of_tensors_batches_and_loaders_are_the_same() -> None:
    model, (x, y) = model_and_data()
    whole = signals(model, (x, y), WANT)
    assert list(whole.ids) == list(range(50))
    dataset = torch.utils.data.TensorDataset(x, y)
    others = [
        signals(model, (x.numpy(), y.numpy()), WANT, batch_size=7),
        signals(model, torch.utils.data.DataLoader(dataset, batch_size=13), WANT),
        signals(model, dataset, WANT, batch_size=20),
        signals(model, [(x[s : s + 9], y[s : s + 9]) for s in range(0, 50, 9)], WANT),
        signals(model, ((x[s : s + 9], y[s : s + 9]) for s in range(0, 50, 9)), WANT),
    ]
    for other in others:
        assert list(other) == list(whole)
        for name in whole:
            equal(whole[name], other[name])
        for name, value in whole.statistics.items():
            equal(value, other.statistics[name])
    exact = gradients(model, class_losses(model, (x, y)))
    assert np.allclose(whole["grad_norm"], norms(exact), rtol=1e-5)
    for name, value in whole.mean_gradient().items():
        assert torch.allclose(value.float(), exact[name].mean(0), atol=1e-6)


def test_batches_may_carry_their_ids() -> None:
    model, (x, y) = model_and_data(4)

    class Keyed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    found = signals(Keyed(), [{"id": ["a", "b", "c", "d"], "x": x, "labels": y}], ["loss", "grad_norm"])
    assert found.ids.tolist() == ["a", "b", "c", "d"]


def test_the_mean_gradient_as_target_is_the_inner_product_with_it() -> None:
    model, data = model_and_data()
    exact = torch.cat([g.flatten(1) for g in gradients(model, class_losses(model, data)).values()], 1)
    found = signals(model, data, ["grad_dot"], target="mean")["grad_dot"][:, 0]
    assert np.allclose(found, exact @ exact.mean(0), rtol=1e-4, atol=1e-6)
    with pytest.raises(ModelMismatch, match="target is 'median'"):
        signals(model, data, ["grad_dot"], target="median")


def test_an_iterator_serves_one_pass_and_refuses_a_second() -> None:
    model, (x, y) = model_and_data()
    with pytest.raises(ModelMismatch, match="iterator that is used up"):
        signals(model, iter([(x, y)]), ["grad_dot"], target="mean")


def test_checkpoints_are_stacked_and_the_model_keeps_its_weights() -> None:
    model, data = model_and_data()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    states = [{k: v * scale for k, v in before.items()} for scale in (0.0, 0.5, 1.0)]
    found = signals(model, data, ["loss", "logits_by_epoch", "grad_norm"], checkpoints=states)
    assert found["logits_by_epoch"].shape == (3, 50, 3)
    assert "logits" not in found
    assert np.allclose(found["loss"][0], np.log(3))
    assert np.allclose(found["loss"][2], signals(model, data, ["loss"])["loss"])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(ModelMismatch, match="a checkpoint does not fit the model"):
        signals(model, data, ["loss"], checkpoints=[{"other": torch.ones(1)}])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_checkpoints_may_be_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model, data = model_and_data()
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    torch.save(model.state_dict(), tmp_path / "b.pt")
    found = signals(model, data, ["loss"], checkpoints=[tmp_path / "a.safetensors", str(tmp_path / "b.pt")])
    assert np.array_equal(found["loss"][0], found["loss"][1])
    with pytest.raises(SourceError, match="there is no checkpoint"):
        signals(model, data, ["loss"], checkpoints=[tmp_path / "c.pt"])


def test_an_index_is_compared_only_with_one_made_the_same_way() -> None:
    model, data = model_and_data()
    first = signals(model, data, ["grad_index"], projection=64)
    first.check_index(signals(model, data, ["grad_index"], projection=64))
    with pytest.raises(ModelMismatch, match="differ in seed: 0 and 1"):
        first.check_index(signals(model, data, ["grad_index"], projection=64, seed=1))
    with pytest.raises(ModelMismatch, match="differ in length: 64 and 32"):
        first.check_index(signals(model, data, ["grad_index"], projection=32))
    with torch.no_grad():
        model[0].weight += 1
    with pytest.raises(ModelMismatch, match="differ in model"):
        first.check_index(signals(model, data, ["grad_index"], projection=64))


def test_activations_need_modules_and_are_named_after_them() -> None:
    model, data = model_and_data()
    found = signals(model, data, ["activations", "activation_gram"], modules=["0"])
    hidden = model[0](data[0]).detach().numpy()
    assert np.allclose(found["activations/0"], hidden, atol=1e-6)
    assert np.allclose(found.statistics["activation_gram/0/gram"], hidden.T @ hidden, rtol=1e-4)
    with pytest.raises(ModelMismatch, match="activations needs modules"):
        signals(model, data, ["activations"])


def test_the_measure_replaces_the_loss_in_gradient_signals() -> None:
    model, (x, y) = model_and_data()
    found = signals(model, (x, y), ["grad_norm", "loss"], measure="log_odds")
    p = torch.softmax(model(x), 1).gather(1, y[:, None])[:, 0]
    assert np.allclose(found["grad_norm"], norms(gradients(model, torch.log(p / (1 - p)))), rtol=1e-4)
    assert np.allclose(found["loss"], -torch.log(p).detach(), rtol=1e-5)


def test_nothing_to_work_on_is_refused() -> None:
    model, (x, y) = model_and_data()
    with pytest.raises(EmptyData):
        signals(model, (x[:0], y[:0]), ["loss"])
    with pytest.raises(EmptyData):
        signals(model, [], ["loss"])
    with pytest.raises(ModelMismatch, match="batch_size is 0"):
        signals(model, (x, y), ["loss"], batch_size=0)
    with pytest.raises(UnknownName, match="did you mean 'loss'"):
        signals(model, (x, y), ["los"])
    with pytest.raises(ModelMismatch, match="only signals of a ledger can be stored"):
        signals(model, (x, y), ["loss"], store=True)
    with pytest.raises(UnknownName, match="there is no signal 'entropy' here"):
        signals(model, (x, y), ["loss"])["entropy"]


def test_estimators_answer_through_the_same_door(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    _, (x, y) = model_and_data(60)
    found = signals(LogisticRegression(), (x.numpy(), y.numpy()), ["probs", "labels"], folds=3)
    assert found["probs"].shape == (60, 3)
    ledger = table_ledger(tmp_path, 60)
    stored = signals(LogisticRegression(), ledger, ["probs", "labels"], folds=3)
    assert stored.ids.tolist() == ledger.ids.tolist()
    with pytest.raises(ModelMismatch, match=r"need \(X, y\) or a ledger"):
        signals(LogisticRegression(), [x], ["probs"])


# --- Kronecker factors ---------------------------------------------------------------------------------------


def same_factors(found: Any, wanted: Any, rtol: float = 1e-12) -> None:
    assert list(found.factors_) == list(wanted.factors_)
    assert found.n_datapoints_ == wanted.n_datapoints_
    for name, factor in wanted.factors_.items():
        assert found.factors_[name].n_positions == factor.n_positions
        for a, b in ((found.factors_[name].A, factor.A), (found.factors_[name].G, factor.G)):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))


class Counting(nn.Module):
    """Counts its forwards."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.inner(x)


@pytest.mark.parametrize("labels", ["gold", "sampled", None])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_factors_of_the_shared_pass_are_those_of_a_pass_of_their_own(labels: str | None, share: float) -> None:
    model, (x, y) = model_and_data()
    model, x = Counting(model.double()), x.double()
    plain = signals(model, (x, y), WANT, batch_size=16)
    before = model.calls
    options: dict[str, Any] = {"batch_size": 16, "fisher_labels": labels, "kfac_positions": share}
    found = signals(model, (x, y), [*WANT, "kfac"], **options)
    assert model.calls == 2 * before  # not one forward more
    assert list(found) == list(plain)  # not a column, and no bit of the columns changes
    for name in plain:
        assert np.array_equal(found[name], plain[name])
    own = KFAC(model, labels=labels or "sampled", share=share, dtype=torch.float64).fit((x, y))
    same_factors(found.kfac, own)
    assert found.kfac.labels == own.labels
    scores = [self_influence(model, (x, y), kfac=k, eigenvalues="kfac") for k in (found.kfac, own)]
    assert np.allclose(*scores, rtol=1e-9)


def test_the_factors_come_with_the_margin_trick_too() -> None:
    model, (x, y) = model_and_data()
    model, x = model.double(), x.double()
    found = signals(model, (x, y), ["grad_norm", "kfac"], measure="log_odds", fisher_labels="gold")
    same_factors(found.kfac, KFAC(model, labels="gold", dtype=torch.float64).fit((x, y)))


def test_the_factors_of_texts_leave_out_padding_and_the_tied_head(tmp_path: Path) -> None:
    model, ledger = language_model().double(), text_ledger(tmp_path)
    found = signals(model, ledger, ["loss", "grad_norm", "kfac"], tokenizer=Words(), batch_size=4)
    same_factors(found.kfac, KFAC(model, dtype=torch.float64).fit(ledger, tokenizer=Words()))
    stored = signals(model, ledger, ["loss", "grad_norm", "kfac"], tokenizer=Words(), batch_size=4, store=True)
    same_factors(stored.kfac, found.kfac)
    assert "kfac" not in open_ledger(ledger.path).schema.names
    alone = signals(model, ledger, "kfac", tokenizer=Words(), batch_size=4, store=True)
    same_factors(alone.kfac, found.kfac)


def test_factors_that_were_not_asked_for_or_have_no_one_model_are_refused() -> None:
    model, data = model_and_data()
    with pytest.raises(UnknownName, match="Kronecker factors were not asked for"):
        _ = signals(model, data, ["loss"]).kfac
    with pytest.raises(ModelMismatch, match="kfac is of one set of weights"):
        signals(model, data, ["kfac"], checkpoints=[model.state_dict()])
    with pytest.raises(DatumwiseError, match="share of 0"):
        signals(model, data, ["kfac"], kfac_positions=0)


# --- ledgers ------------------------------------------------------------------------------------------------


def test_signals_of_a_ledger_are_those_of_its_rows_in_ledger_order(tmp_path: Path) -> None:
    model, data = model_and_data()
    ledger = table_ledger(tmp_path)
    found = signals(model, ledger, WANT)
    assert found.ids.tolist() == ledger.ids.tolist()
    want = signals(model, data, WANT)
    for name in want:
        equal(found[name], want[name])


def test_stored_signals_equal_those_in_memory_and_say_where_they_come_from(tmp_path: Path) -> None:
    model, _ = model_and_data()
    ledger = table_ledger(tmp_path)
    held = signals(model, ledger, WANT, batch_size=8, projection=64)
    stored = signals(model, ledger, WANT, batch_size=8, projection=64, store=True)
    assert stored.ids.tolist() == held.ids.tolist()
    for name in held:
        equal(held[name], stored[name])
    for name, value in held.statistics.items():
        equal(value, stored.statistics[name])
    again = open_ledger(ledger.path)
    made = again.provenance("grad_index")
    assert made.method == "signals.grad_index"
    assert made.params["projection"] == 64
    assert made.model == stored.parameters["model"]
    assert again.array("grad_norm").tolist() == stored["grad_norm"].tolist()


def test_texts_of_a_ledger_are_sorted_by_length_and_come_back_in_ledger_order(tmp_path: Path) -> None:
    model = language_model()
    ledger = text_ledger(tmp_path)
    want = ["loss", "n_tokens", "token_logprobs", "entropy", "grad_norm", "grad_index", "texts", "embedding"]
    found = signals(model, ledger, want, tokenizer=Words(), batch_size=4, projection=32)
    lengths = [len(text.split()) - 1 for text in ledger.array("text")]
    assert found["n_tokens"].tolist() == lengths
    assert [len(row) for row in found["token_logprobs"]] == lengths
    alone = signals(model, ledger, want, tokenizer=Words(), batch_size=1, projection=32)
    for name in set(want) - {"texts"}:
        equal(found[name], alone[name], rtol=1e-3, atol=1e-4)
    assert found["texts"].tolist() == ledger.array("text").tolist()
    stored = signals(model, ledger, want[:-2], tokenizer=Words(), batch_size=4, projection=32, store=True)
    for name in want[:-2]:
        equal(found[name], stored[name])


def test_texts_may_be_cut(tmp_path: Path) -> None:
    found = signals(language_model(), text_ledger(tmp_path), ["n_tokens"], tokenizer=Words(), max_length=5)
    assert found["n_tokens"].max() == 4


def test_a_killed_pass_is_taken_up_where_it_stopped(tmp_path: Path) -> None:
    model, _ = model_and_data()
    ledger = table_ledger(tmp_path, 200)
    calls, limit = 0, 150

    def stopping(model: nn.Module, batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += len(batch[0])
        if calls > limit:
            raise KeyboardInterrupt
        return class_losses(model, batch)

    want = [*WANT, "kfac"]
    options: dict[str, Any] = {"batch_size": 1, "projection": 16, "store": True, "losses": stopping}
    with pytest.raises(KeyboardInterrupt):
        signals(model, ledger, want, **options)
    calls, limit = 0, 10_000
    found = signals(model, ledger, want, **options)
    assert calls < 150  # what was done before is not done again
    whole = signals(model, table_ledger(tmp_path / "other", 200), want, **options)
    same_factors(found.kfac, whole.kfac)
    for name in whole:
        assert np.array_equal(whole[name], found[name]), name
    for name, value in whole.statistics.items():
        assert np.allclose(value, found.statistics[name], rtol=1e-12)


@pytest.mark.parametrize("texts", [False, True])
def test_the_window_of_the_journal_changes_no_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: bool) -> None:
    model = language_model() if texts else model_and_data()[0]
    want = ["loss", "grad_norm", "grad_index"]
    options: dict[str, Any] = {"batch_size": 2, "projection": 32, "tokenizer": Words(), "store": True}
    by_window = []
    for window in (1, 8, 64):
        monkeypatch.setattr("datumwise.probe.torch_signals.JOURNAL_WINDOW", window)
        ledger = (text_ledger if texts else table_ledger)(tmp_path / str(window))
        by_window.append(signals(model, ledger, want, **options))
    for other in by_window[1:]:
        for name in want:
            if texts:  # other neighbours, other padding
                equal(other[name], by_window[0][name])
            else:
                assert np.array_equal(other[name], by_window[0][name])


def test_progress_moves_and_the_journal_grows_every_eight_batches(tmp_path: Path) -> None:
    model, _ = model_and_data()
    told: list[tuple[int, int]] = []
    ledger = table_ledger(tmp_path, 60)  # in files of 20 rows
    signals(model, ledger, ["loss"], batch_size=1, store=True, progress=lambda *now: told.append(now))
    assert {8, 16, 20, 28, 36, 40, 48, 56, 60} <= {done for done, _ in told}


def test_saving_the_state_between_windows_changes_no_bit_of_it(tmp_path: Path) -> None:
    model, _ = model_and_data()
    ledger = table_ledger(tmp_path)
    request = Request(("kfac",), batch_size=4)
    batches = batches_of(model, ledger, request)
    states = []
    for saves in (False, True):
        made = SummingPass(model, request, ("kfac",), batches)
        with made.run:
            for window in ledger.batches(["id", *batches.reads], batch_size=8):
                made(window)
                if saves:
                    made.state()
        states.append(made.state())
    assert all(np.array_equal(value, states[1][key]) for key, value in states[0].items())


def test_columns_of_another_target_or_length_are_computed_anew(tmp_path: Path) -> None:
    model, _ = model_and_data()
    ledger = table_ledger(tmp_path)
    one = [{name: torch.ones_like(p) for name, p in model.named_parameters()}]
    two = [{name: 2 * g for name, g in one[0].items()}]
    signals(model, ledger, ["grad_dot"], target=one, store=True)
    with pytest.raises(ColumnExists):
        signals(model, ledger, ["grad_dot"], target=two, store=True)
    found = signals(model, ledger, ["grad_dot"], target=two, store=True, overwrite=True)
    assert np.allclose(found["grad_dot"], signals(model, ledger, ["grad_dot"], target=two)["grad_dot"])


def test_engines_refuse_what_they_cannot_run(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    model, (x, y) = model_and_data()
    with pytest.raises(ModelMismatch, match="the ray engine reads a ledger"):
        signals(model, (x, y), ["loss"], engine="ray")
    with pytest.raises(UnknownName, match="there is no engine 'dask'"):
        signals(model, (x, y), ["loss"], engine="dask")
    with pytest.raises(ModelMismatch, match="self_influence runs in this process"):
        signals(model, table_ledger(tmp_path), ["self_influence"], engine="ray")
    with pytest.raises(ModelMismatch, match="cross-validated in this process"):
        signals(LogisticRegression(), (x.numpy(), y.numpy()), ["probs"], engine="ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two nodes of Ray, all of their sockets on the loopback interface; one thread here as in the workers."""
    ray = pytest.importorskip("ray")
    from ray._private import services
    from ray.cluster_utils import Cluster

    loopback = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setattr(services, "resolve_ip_for_localhost", lambda host: host)
        nodes = Cluster(initialize_head=True, head_node_args={**loopback, "include_dashboard": False})
        try:
            nodes.add_node(**loopback)
            ray.init(address=nodes.address, _node_ip_address="127.0.0.1", log_to_driver=False, logging_level=logging.ERROR)
            torch.set_num_threads(1)
            yield
        finally:
            torch.set_num_threads(threads)
            ray.shutdown()
            nodes.shutdown()


@pytest.mark.ray
@pytest.mark.slow
def test_both_engines_give_the_same_bits(cluster: None, tmp_path: Path) -> None:
    model = language_model()
    want = ["loss", "grad_norm", "kfac"]
    options: dict[str, Any] = {"tokenizer": Words(), "batch_size": 2}
    ledger = text_ledger(tmp_path / "a", 100)
    there = signals(model, ledger, want, engine="ray", **options)
    assert not set(open_ledger(ledger.path).schema.names) - {"id", "text"}  # nothing was asked to stay
    here = signals(model, text_ledger(tmp_path / "b", 100), want, store=True, **options)
    assert there.ids.tolist() == here.ids.tolist()
    for name in want[:2]:
        assert np.array_equal(there[name], here[name])
    same_factors(there.kfac, here.kfac, rtol=0)


@pytest.mark.ray
@pytest.mark.slow
def test_scores_of_a_module_run_on_a_cluster(cluster: None, tmp_path: Path) -> None:
    from datumwise.score import run

    model, _ = model_and_data()
    here, there = table_ledger(tmp_path / "a"), table_ledger(tmp_path / "b")
    for ledger, engine in ((here, "local"), (there, "ray")):
        run(ledger, model, ["label_error"], engine=engine, batch_size=8)
    assert np.array_equal(here.array("label_error"), there.array("label_error"))
    assert here.refresh().schema.names == there.refresh().schema.names


@pytest.mark.ray
@pytest.mark.slow
def test_workers_of_a_cluster_give_the_same(cluster: None, tmp_path: Path) -> None:
    model, _ = model_and_data()
    want = ["loss", "grad_norm", "mean_gradient"]
    here = signals(model, table_ledger(tmp_path / "a"), want, batch_size=8, store=True)
    there = signals(model, table_ledger(tmp_path / "b"), want, batch_size=8, store=True, engine="ray")
    for name in here:
        assert np.allclose(here[name], there[name], rtol=1e-6)
    for name, value in here.statistics.items():
        assert np.allclose(value, there.statistics[name], rtol=1e-6)


# --- batches ------------------------------------------------------------------------------------------------


def test_rows_are_batched_by_length_and_none_is_lost() -> None:
    texts = ["a" * n for n in (3, 9, 1, 4, 9, 2, 7)]
    window = pa.record_batch({"id": [str(i) for i in range(7)], "text": texts})
    parts = list(by_length(window, ["id", "text"], 3))
    assert [p.column("id").to_pylist() for p in parts] == [["1", "4", "6"], ["3", "0", "5"], ["2"]]


def test_the_automatic_batch_fits_in_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(1000, 1000), nn.Tanh(), nn.Linear(1000, 3))
    asked: list[int] = []

    def batch_of(k: int) -> Any:
        asked.append(k)
        return torch.randn(k, 1000), torch.zeros(k, dtype=torch.long)

    sizes = []
    for free in (10**5, 10**6, 10**7, 10**12):
        monkeypatch.setattr("datumwise.probe.batches.free_memory", lambda device, free=free: free)
        sizes.append(auto_batch_size(model, batch_of))
    assert asked == [2, 4] * 4
    assert sizes[0] < sizes[1] < sizes[2] <= sizes[3] == 512
    per_row = 4 * (1000 + 1000)  # the input and what tanh keeps
    assert sizes[1] == pytest.approx(10**6 / 2 / (2 * per_row), rel=0.3)
    assert all(p.requires_grad for p in model.parameters())


def test_batches_can_be_gone_through_twice() -> None:
    _, data = model_and_data(10)
    batches = Batches(data, 4)
    assert [len(ids) for ids, _ in batches] == [4, 4, 2] == [len(ids) for ids, _ in batches]


def test_importing_the_room_loads_no_torch() -> None:
    heavy = ("torch", "sklearn", "pandas", "lance")
    code = f"import sys, datumwise.probe; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""Claims about logits recorded along training."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from datumwise.errors import DatumwiseError, LabelError, MissingId, ModelMismatch, NotFinite, UnknownName
from datumwise.probe.dynamics import TrainingDynamics

RNG = np.random.default_rng(0)


def recorded(n: int = 7, K: int = 3, epochs: int = 4) -> tuple[TrainingDynamics, np.ndarray, np.ndarray]:
    logits = RNG.normal(size=(epochs, n, K)).astype(np.float32)
    labels = RNG.integers(0, K, n)
    dynamics = TrainingDynamics([f"d{i}" for i in range(n)])
    for epoch in range(epochs):
        order = RNG.permutation(n)
        for rows in np.array_split(order, 3):
            ids = [f"d{i}" for i in rows]
            dynamics.record(ids, torch.tensor(logits[epoch, rows], requires_grad=True), labels[rows])
        dynamics.end_epoch()
    return dynamics, logits, labels


def test_logits_come_back_aligned_to_ids_whatever_the_order_of_batches():
    dynamics, logits, labels = recorded()
    np.testing.assert_array_equal(dynamics.logits, logits)
    np.testing.assert_array_equal(dynamics.labels, labels)
    assert dynamics.logits.dtype == np.float32


def test_losses_margins_and_hits_equal_their_definitions():
    dynamics, logits, labels = recorded()
    for epoch in range(len(logits)):
        z = torch.tensor(logits[epoch])
        expected = functional.cross_entropy(z, torch.tensor(labels), reduction="none").numpy()
        np.testing.assert_allclose(dynamics.losses[epoch], expected, rtol=1e-5)
        for i, label in enumerate(labels):
            other = max(logits[epoch, i, k] for k in range(3) if k != label)
            assert dynamics.margins[epoch, i] == pytest.approx(logits[epoch, i, label] - other)
            assert dynamics.correct[epoch, i] == (logits[epoch, i].argmax() == label)


def test_a_row_that_was_not_recorded_is_nan_in_that_epoch_only():
    dynamics = TrainingDynamics(3, labels=[0, 1, 1])
    dynamics.record([0, 1, 2], np.eye(3, 2))
    dynamics.end_epoch()
    dynamics.record(torch.tensor([2]), np.array([[0.0, 1.0]]))
    dynamics.end_epoch()
    for array in (dynamics.losses, dynamics.margins, dynamics.correct):
        np.testing.assert_array_equal(np.isnan(array), [[False] * 3, [True, True, False]])
    assert np.isnan(dynamics.logits[1, :2]).all()


def test_an_unlabelled_row_has_logits_but_no_loss():
    dynamics = TrainingDynamics(2)
    dynamics.record([0], [[1.0, 0.0]], labels=[0])
    dynamics.record([1], [[1.0, 0.0]])
    np.testing.assert_array_equal(np.isnan(dynamics.losses), [[False, True]])
    np.testing.assert_array_equal(np.isnan(dynamics.correct), [[False, True]])
    assert np.isfinite(dynamics.logits).all()


def test_epochs_may_be_named_skipped_and_grown():
    dynamics = TrainingDynamics(1, labels=[0])
    dynamics.record([0], [[3.0, 1.0]], epoch=2)
    assert dynamics.logits.shape == (3, 1, 2)
    assert np.isnan(dynamics.logits[:2]).all()
    dynamics.record([0], [[5.0, 1.0]], epoch=0)
    assert dynamics.logits[:, 0, 0].tolist()[0] == 5.0
    dynamics.end_epoch()
    dynamics.record([0], [[7.0, 1.0]])
    dynamics.record([0], [[8.0, 1.0]])  # the last of two records in an epoch counts
    assert dynamics.n_epochs == 4
    assert dynamics.logits[3, 0, 0] == 8.0


def test_what_is_recorded_is_a_copy():
    dynamics = TrainingDynamics(2, labels=[0, 1])
    logits = np.zeros((2, 2), dtype=np.float32)
    dynamics.record([0, 1], logits)
    logits[:] = 9
    assert (dynamics.logits == 0).all()


@pytest.mark.parametrize(
    ("rows", "logits", "labels", "error", "sentence"),
    [
        (["d9"], [[0.0, 1, 2]], None, MissingId, "d9 is not among the 7"),
        ([7], [[0.0, 1, 2]], None, MissingId, "7 is not among the 7"),
        (["d1"], [[0.0, 1]], None, ModelMismatch, "2 classes, earlier ones had 3"),
        (["d1"], [0.0, 1, 2], None, ModelMismatch, "not \\(n, classes\\)"),
        (["d1"], [[np.nan, 1, 2]], None, NotFinite, "infinite for d1"),
        (["d1"], [[0.0, 1, 2]], [3], LabelError, "not among the classes"),
        (["d1"], [[0.0, 1, 2]], [0.5], LabelError, "integer class code"),
    ],
)
def test_records_that_do_not_fit_are_refused(rows, logits, labels, error, sentence):
    dynamics, before, _ = recorded()
    with pytest.raises(error, match=sentence):
        dynamics.record(rows, logits, labels)
    np.testing.assert_array_equal(dynamics.logits, before)


def test_row_numbers_outside_of_the_data_and_labels_outside_of_the_classes_are_refused():
    with pytest.raises(MissingId, match="row 2, -1 is outside of the 2"):
        TrainingDynamics(2).record([2, 0, -1], np.zeros((3, 2)))
    with pytest.raises(MissingId, match="row numbers here"):
        TrainingDynamics(2).record(["a"], [[0.0, 1.0]])
    with pytest.raises(LabelError, match="label code 5 is not among the 2 classes"):
        TrainingDynamics(2, labels=[0, 5]).record([0], [[0.0, 1.0]])


def test_integer_ids_are_ids_and_not_row_numbers():
    dynamics = TrainingDynamics([2, 0, 1], labels=[0, 0, 0])
    dynamics.record(torch.tensor([0, 2]), [[5.0, 0.0], [7.0, 0.0]])
    np.testing.assert_array_equal(dynamics.logits[0, :, 0], [7.0, 5.0, np.nan])


def test_a_changed_label_is_refused():
    dynamics = TrainingDynamics(2, labels=[0, 1])
    with pytest.raises(LabelError, match="label of 1 changed"):
        dynamics.record([1], [[0.0, 1.0]], labels=[0])


def test_asking_before_recording_is_refused():
    with pytest.raises(DatumwiseError, match="nothing was recorded"):
        _ = TrainingDynamics(2).logits
    silent = TrainingDynamics(2)
    silent.record([0], [[0.0, 1.0]])
    with pytest.raises(LabelError, match="no labels were recorded"):
        _ = silent.losses


class Remembered:
    """Stands for a ledger: keeps what `write` is given."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def write(self, values, *, provenance, ids=None, overwrite=False):
        self.values, self.provenance, self.ids = values, provenance, ids
        return 2


def test_columns_are_one_row_a_datapoint():
    dynamics, logits, _ = recorded()
    ledger = Remembered(7)
    assert dynamics.write(ledger, ["loss_by_epoch", "logits_by_epoch"]) == 2
    np.testing.assert_array_equal(ledger.values["loss_by_epoch"], dynamics.losses.T)
    np.testing.assert_array_equal(ledger.values["logits_by_epoch"].reshape(7, 4, 3)[:, 2], logits[2])
    assert ledger.ids.tolist() == [f"d{i}" for i in range(7)]
    with pytest.raises(UnknownName, match="no column loss"):
        dynamics.write(ledger, ["loss"])

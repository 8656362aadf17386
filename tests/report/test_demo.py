"""The shipped set is what it says: faults where it says they are, and nowhere else."""

import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from datumwise.report.demo import COPIES, FOREIGN, HELD_OUT, planted_digits


def _pixels(table):
    return np.stack([(255 - np.asarray(Image.open(io.BytesIO(b.as_py())), float)) / 15 for b in table["image"]])


def test_faults_are_where_planted_says_and_the_held_out_rows_are_clean():
    table = planted_digits(seed=3)
    planted = np.asarray(table["planted"].to_pylist())
    given, true = (np.asarray(table[c].to_pylist()) for c in ("label", "true_label"))
    held = np.asarray(table["held_out"].to_pylist())
    assert {k: int((planted == k).sum()) for k in set(planted)} == {
        "": 1797 - 156, "label flipped": 156, "near copy": COPIES, "foreign": FOREIGN,
    }  # fmt: skip
    assert held.sum() == HELD_OUT
    assert (planted[held] == "").all()
    assert (given != true)[planted == "label flipped"].all()
    assert (given == true)[(planted == "") | (planted == "near copy")].all()


def test_pictures_hold_the_original_pixels_and_copies_lie_beside_their_original():
    table = planted_digits(seed=0)
    planted = np.asarray(table["planted"].to_pylist())
    pixels = _pixels(table).reshape(table.num_rows, 64)
    originals = load_digits().data
    plain = pixels[(planted == "") | (planted == "label flipped")]
    assert sorted(map(bytes, plain.astype(np.uint8))) == sorted(map(bytes, originals.astype(np.uint8)))
    for copy in pixels[planted == "near copy"]:
        assert np.sqrt(((originals - copy) ** 2).mean(1)).min() < 0.8  # of 16 grey levels


def test_seed_repeats_and_matters():
    assert planted_digits(1).equals(planted_digits(1))
    assert not planted_digits(1).equals(planted_digits(2))

"""The data set that ships: handwritten digits with faults planted and recorded, so that an audit can be checked.

Digits: Alpaydin and Kaynak (1998), as bundled with scikit-learn: 1,797 grey pictures of 8 x 8 pixels.
"""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa

__all__ = ["HELD_OUT", "planted_digits"]

HELD_OUT = 500  # clean datapoints that no score ever sees
FLIPS = 0.12  # share of training labels replaced by another class, chosen evenly
COPIES = 24  # near copies of training digits
FOREIGN = 12  # pictures of uniform noise, labelled at random
JITTER = 0.5  # standard deviation of a near copy's pixels, of 16 grey levels


def planted_digits(seed: int = 0) -> pa.Table:
    """1,833 pictures with ``id``, ``image`` (PNG bytes), ``label``, ``held_out`` and the truth in ``planted``.

    ``planted`` is "", "label flipped", "near copy" or "foreign"; ``true_label`` is the digit that was written ("" for a
    foreign picture). Near copies follow what they copy, labels and all; only unflipped digits are copied.

    Examples
    --------
    >>> table = planted_digits()
    >>> table.num_rows, sum(table["held_out"].to_pylist())
    (1833, 500)
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(bunch.target))
    pixels, true = bunch.data[order], bunch.target[order]
    n, train = len(true), np.arange(HELD_OUT, len(true))
    given = true.copy()
    planted = np.full(n, "", dtype=object)

    flipped = rng.choice(train, round(FLIPS * len(train)), replace=False)
    given[flipped] = (true[flipped] + rng.integers(1, 10, len(flipped))) % 10
    planted[flipped] = "label flipped"

    copied = rng.choice(np.setdiff1d(train, flipped), COPIES, replace=False)
    copies = np.clip(np.rint(pixels[copied] + rng.normal(0, JITTER, (COPIES, 64))), 0, 16)
    foreign = np.rint(rng.uniform(0, 16, (FOREIGN, 64)))

    pixels = np.vstack([pixels, copies, foreign])
    given = np.concatenate([given, true[copied], rng.integers(0, 10, FOREIGN)])
    truth = [*map(str, true), *map(str, true[copied]), *[""] * FOREIGN]
    planted = np.concatenate([planted, ["near copy"] * COPIES, ["foreign"] * FOREIGN])
    shuffled = rng.permutation(len(given))  # so that position tells nothing
    return pa.table(
        {
            "id": [f"{i:04d}" for i in range(len(given))],
            "image": [_png(pixels[i]) for i in shuffled],
            "label": [str(given[i]) for i in shuffled],
            "held_out": [bool(i < HELD_OUT) for i in shuffled],
            "planted": [str(planted[i]) for i in shuffled],
            "true_label": [truth[i] for i in shuffled],
        }
    )


def _png(pixels: np.ndarray) -> bytes:
    """Grey level 0 (paper) to 16 (ink) as an 8 x 8 picture, black on white."""
    from PIL import Image

    grey = (255 - pixels.reshape(8, 8) * 15).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    return buffer.getvalue()

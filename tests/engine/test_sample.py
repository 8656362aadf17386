"""An epoch has every datapoint once, in an order that a seed repeats."""

from __future__ import annotations

from pathlib import Path

import engine_cases as cases
import numpy as np
import pytest

from datumwise import errors
from datumwise.engine import epochs
from datumwise.engine.sample import BLOCK_ROWS, TAKE_BLOCKS
from datumwise.ledger import Ledger, create_ledger

N = 70_000


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    made = cases.make(tmp_path_factory.mktemp("s") / "a", N, per_file=20_000)
    made.delete(where="i % 1000 = 7")
    made.append(cases.rows(N, N + 100))
    return made


def order(ledger: Ledger, **options: object) -> list[np.ndarray]:
    given = {"columns": ["i"], "batch_size": 1000, **options}
    return [np.concatenate([b["i"] for b in e]) for e in epochs(ledger, **given)]  # type: ignore[arg-type]


@pytest.mark.parametrize("shuffle", ["block", "exact", None])
def test_every_epoch_has_every_row_once_and_rows_keep_together(ledger: Ledger, shuffle: str | None) -> None:
    want = ledger.array("i")
    for epoch in epochs(ledger, ["id", "i", "x"], 999, shuffle=shuffle, count=2):
        batches = list(epoch)
        assert {len(b["i"]) for b in batches[:-1]} == {999}
        i = np.concatenate([b["i"] for b in batches])
        assert sorted(i) == sorted(want)
        assert (np.concatenate([b["id"] for b in batches]) == [f"r{k}" for k in i]).all()
        assert (np.concatenate([b["x"] for b in batches]) == cases.features(i)).all()
        assert batches[0]["x"].shape == (999, cases.D)


@pytest.mark.parametrize("shuffle", ["block", "exact"])
def test_a_seed_repeats_and_epochs_differ(ledger: Ledger, shuffle: str) -> None:
    one, two = order(ledger, shuffle=shuffle, seed=3, count=2)
    again = order(ledger, shuffle=shuffle, seed=3, count=1)
    other = order(ledger, shuffle=shuffle, seed=4)
    assert (one == again[0]).all()
    assert (one != two).mean() > 0.9
    assert (one != other[0]).mean() > 0.9


def test_without_shuffling_rows_come_in_ledger_order(ledger: Ledger) -> None:
    assert (order(ledger, shuffle=None)[0] == ledger.array("i")).all()


def test_exact_shuffle_is_uniform_and_block_shuffle_mixes_within_its_takes(ledger: Ledger) -> None:
    place = {k: at for at, k in enumerate(ledger.array("i").tolist())}

    def places(shuffle: str) -> np.ndarray:
        return np.array([place[k] for k in order(ledger, shuffle=shuffle)[0].tolist()])

    n = len(ledger)
    exact = places("exact")
    lag = np.corrcoef(exact[:-1], exact[1:])[0, 1]
    assert abs(lag) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(exact, np.arange(n))[0, 1]) < 5 / np.sqrt(n)
    take = places("block")[: BLOCK_ROWS * TAKE_BLOCKS]
    blocks = np.unique(take // BLOCK_ROWS)
    assert len(blocks) in (TAKE_BLOCKS, TAKE_BLOCKS + 1)
    assert blocks[-1] - blocks[0] > TAKE_BLOCKS  # drawn from all over the ledger
    assert abs(np.corrcoef(take[:-1], take[1:])[0, 1]) < 5 / np.sqrt(len(take))


def test_a_short_last_batch_can_be_left_out(ledger: Ledger) -> None:
    whole = [len(b["i"]) for e in epochs(ledger, ["i"], 1000) for b in e]
    short = [len(b["i"]) for e in epochs(ledger, ["i"], 1000, drop_last=True) for b in e]
    assert whole[-1] == len(ledger) % 1000
    assert short == whole[:-1]


def test_nothing_to_train_on_and_unknown_shuffles_are_refused(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(errors.UnknownName, match="'random'"):
        order(ledger, shuffle="random")
    with pytest.raises(errors.UnknownColumn):
        order(ledger, columns=["nope"])
    empty = create_ledger(tmp_path / "e", [], schema=cases.rows(0, 1).schema, id_column="id")
    with pytest.raises(errors.EmptyData):
        order(empty)

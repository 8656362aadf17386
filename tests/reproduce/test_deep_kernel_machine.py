"""Claims about the reproduction of deep kernel machines: a shrunken run, and what the paper's scale reads."""

import json
import math
import pickle
import sys

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, SourceError
from datumwise.progress import SILENT
from datumwise.reproduce import deep_kernel_machine as experiment
from datumwise.reproduce.cifar_images import read_images
from datumwise.reproduce.deep_kernel_machine import LAW, NUS, TABLES, _first_order_law, _two_classes, paper, small
from datumwise.reproduce.frame import reproduce


@pytest.mark.slow
def test_a_shrunken_run_says_what_its_figures_say(tmp_path, monkeypatch):
    tiny = {"splits": 1, "n_train": 40, "steps": 8, "law_points": 12, "epochs": 1, "seeds": 1}
    monkeypatch.setitem(experiment.EXPERIMENT.scales, "small", lambda **given: small(**given, **tiny))
    monkeypatch.setattr(
        experiment, "DIGITS", {name: experiment.DIGITS[name] | {"n_inducing": (4,)} for name in experiment.DIGITS}
    )
    found = reproduce("deep-kernel-machine", "small", out=tmp_path, seed=1)
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "result.json", "verdict.md", "figure.png", "figure.svg"}
    saved = json.loads((tmp_path / "result.json").read_text())
    assert len(saved["rows"]) == len(TABLES) * len(NUS) + 6 + 1
    sweeps = saved["details"]["sweeps"]
    for row in saved["rows"][: len(TABLES) * len(NUS)]:
        one = next(s for s in sweeps[row["set"]] if (s["nu"] or math.inf) == float(row["nu"]))
        assert row["rmse / sd"] == pytest.approx(np.mean(one["error"]))
    claims = {claim.claim.split(" (")[0]: claim for claim in found.claims}
    assert claims["accuracy on CIFAR-10"].holds is None
    best = {name: min(np.mean(s["error"]) for s in sweep if s["nu"] is not None) for name, sweep in sweeps.items()}
    pinned = {name: np.mean(next(s["error"] for s in sweep if s["nu"] is None)) for name, sweep in sweeps.items()}
    learned = next(claim for name, claim in claims.items() if name.startswith("learning the representation"))
    assert learned.holds == all(best[name] < pinned[name] for name in best if name != "diabetes")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert "<text" in (tmp_path / "figure.svg").read_text()


def test_the_first_order_law_holds_and_what_is_learned_falls_as_one_over_nu():
    law = _first_order_law(15, 0)
    error, learned = (dict(zip(LAW, law[name], strict=True)) for name in ("error", "learned"))
    assert error[1e3] < 0.02
    assert error[1e4] == pytest.approx(error[1e3] / 10, rel=0.2)
    assert learned[1e5] * 1e5 == pytest.approx(learned[1e4] * 1e4, rel=0.02)


def test_the_sine_is_told_apart_by_the_bayes_rule_as_the_literature_says():
    X, y = _two_classes(200_000, np.random.default_rng(0))
    assert np.mean((X[:, 1] - 6 * np.sin(3 * X[:, 0]) > 2.5) == y) == pytest.approx(0.9938, abs=0.002)


def test_tables_have_the_rows_asked_for_and_a_target_that_varies():
    for draw in TABLES.values():
        X, y = draw(600, np.random.default_rng(0))
        assert len(X) == len(y) >= 442
        assert y.std() > 0.3


IMAGES = np.random.default_rng(0).integers(0, 256, (24, 3, 32, 32), dtype=np.uint8)
LABELS = np.arange(24) % 4


@pytest.fixture(params=["batches", "nested", "npz", "folders"])
def place(request, tmp_path):
    if request.param == "npz":
        last = IMAGES.transpose(0, 2, 3, 1)
        np.savez(tmp_path / "all.npz", x_train=last[:16], y_train=LABELS[:16, None], x_test=last[16:], y_test=LABELS[16:])
        return tmp_path / "all.npz"
    if request.param == "folders":
        from PIL import Image

        for i, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
            folder = tmp_path / ("train" if i < 16 else "test") / f"class {label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{i:02d}.png")
        return tmp_path
    folder = tmp_path / "cifar-10-batches-py" if request.param == "nested" else tmp_path
    folder.mkdir(exist_ok=True)
    for name, rows in (("data_batch_1", slice(0, 8)), ("data_batch_2", slice(8, 16)), ("test_batch", slice(16, 24))):
        batch = {b"data": IMAGES[rows].reshape(8, -1), b"labels": LABELS[rows].tolist()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return tmp_path


def test_every_layout_gives_the_same_images(place):
    images = read_images(place)
    assert images.train.shape == (16, 3, 32, 32)
    order = np.argsort(LABELS[:16], kind="stable") if (place / "train").is_dir() else np.arange(16)
    assert np.allclose(images.train, IMAGES[:16][order] / 255)
    assert images.y_train.tolist() == LABELS[:16][order].tolist()
    assert sorted(images.y_test) == sorted(LABELS[16:])
    assert len(images.first(3).test) == 3


def test_a_batch_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (sys.exit, (3,))

    for name in ("data_batch_1", "test_batch"):
        (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(SourceError, match=r"data_batch_1 is no batch of CIFAR-10: .*exit is not allowed"):
        read_images(tmp_path)


def test_sources_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(SourceError, match="holds no images"):
        read_images(tmp_path)
    np.savez(tmp_path / "a.npz", x_train=IMAGES, y_train=LABELS)
    with pytest.raises(SourceError, match="has no array x_test, y_test"):
        read_images(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x_train=IMAGES, y_train=LABELS[:5], x_test=IMAGES, y_test=LABELS)
    with pytest.raises(SourceError, match="5 labels for 24 images"):
        read_images(tmp_path / "b.npz")


def test_scales_say_what_they_need():
    with pytest.raises(SourceError, match="needs the images of CIFAR-10: --data cifar10=PATH"):
        paper(stage=SILENT)
    with pytest.raises(DatumwiseError, match="trains on what it brings"):
        small(data="cifar10=x", stage=SILENT)


@pytest.mark.slow
def test_the_papers_code_path_runs_on_local_images(tmp_path):
    X = IMAGES[:, :, :12, :12]
    np.savez(tmp_path / "all.npz", x_train=X, y_train=LABELS, x_test=X, y_test=LABELS)
    found = paper(data=f"cifar10={tmp_path / 'all.npz'}", stage=SILENT, shrink=128, epochs=1)
    assert found.rows[0]["set"] == "CIFAR-10"
    assert found.claims[0].holds is None  # a shortened recipe tells nothing of the published figure
    assert "milestones: (1, 1)" in found.notes
    assert "n_inducing: (4, 8, 16)" in found.notes

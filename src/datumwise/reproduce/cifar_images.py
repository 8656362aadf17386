"""CIFAR-10 and the like from local files: the Python batches, arrays, or folders of images."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datumwise.errors import SourceError

__all__ = ["Images", "read_images"]

ALLOWED = {  # what a pickled batch is made of
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class Images:
    """Labelled images, train and test: float32 (n, C, H, W) in [0, 1] and int64 (n,)."""

    train: np.ndarray
    y_train: np.ndarray
    test: np.ndarray
    y_test: np.ndarray

    def first(self, limit: int | None) -> Images:
        """The first so many of both parts; all if None."""
        return Images(self.train[:limit], self.y_train[:limit], self.test[:limit], self.y_test[:limit])


def read_images(path: str | Path) -> Images:
    """Read a data set of small images.

    Parameters
    ----------
    path : path
        A folder with ``data_batch_1`` ... and ``test_batch`` (the Python version of CIFAR-10), a ``.npz`` file with
        ``x_train``, ``y_train``, ``x_test`` and ``y_test`` (images channels first or last, 0 to 255), or a folder with
        ``train/CLASS/*.png`` and ``test/CLASS/*.png``, all of one size.

    Returns
    -------
    Images

    Raises
    ------
    SourceError
        Nothing of the kind is there, or it is broken.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/a.npz", x_train=np.full((4, 8, 8, 3), 255), y_train=[0, 1, 0, 1],
    ...              x_test=np.zeros((2, 8, 8, 3)), y_test=[[0], [1]])
    ...     images = read_images(f"{folder}/a.npz")
    >>> images.train.shape, float(images.train.max()), images.y_test.tolist()
    ((4, 3, 8, 8), 1.0, [0, 1])
    """
    place = Path(path)
    if place.suffix == ".npz" and place.is_file():
        with np.load(place, allow_pickle=False) as arrays:
            missing = {"x_train", "y_train", "x_test", "y_test"} - set(arrays.files)
            if missing:
                raise SourceError(
                    f"{place} has no array {', '.join(sorted(missing))}", remedy="x_train, y_train, x_test, y_test"
                )
            parts = [(arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")]
        return _images(*parts)
    nested = place / "cifar-10-batches-py"
    folder = nested if nested.is_dir() else place
    batches = sorted(folder.glob("data_batch_*"))
    if batches and (folder / "test_batch").is_file():
        return _images(_batches(batches), _batches([folder / "test_batch"]))
    if (place / "train").is_dir() and (place / "test").is_dir():
        classes = sorted(one.name for one in (place / "train").iterdir() if one.is_dir())
        return _images(_folder(place / "train", classes), _folder(place / "test", classes))
    raise SourceError(f"{place} holds no images", remedy="a .npz file, CIFAR-10's Python batches, or folders train and test")


def _images(train: tuple[Any, Any], test: tuple[Any, Any]) -> Images:
    (X, y), (X_test, y_test) = ((_channels_first(X), np.asarray(y).reshape(-1).astype(np.int64)) for X, y in (train, test))
    for images, labels in ((X, y), (X_test, y_test)):
        if len(images) != len(labels) or not len(images):
            raise SourceError(f"{len(labels):,} labels for {len(images):,} images")
    return Images(X, y, X_test, y_test)


def _channels_first(X: Any) -> np.ndarray:
    images = np.asarray(X, dtype=np.float32) / 255
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        raise SourceError(f"images must be (n, height, width) or have a channel axis too, not {images.shape}")
    last = images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if last else images


def _batches(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    found = [_unpickled(path) for path in paths]
    X = np.concatenate([np.asarray(batch[b"data"]) for batch in found]).reshape(-1, 3, 32, 32)
    return X, np.concatenate([np.asarray(batch[b"labels"]) for batch in found])


class _Unpickler(pickle.Unpickler):
    """Reads arrays, numbers and text; a file that wants anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return super().find_class(module, name)


def _unpickled(path: Path) -> dict[bytes, Any]:
    try:
        batch = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, ImportError, IndexError) as error:
        raise SourceError(f"{path} is no batch of CIFAR-10: {error}") from error
    if not isinstance(batch, dict) or not {b"data", b"labels"} <= set(batch):
        raise SourceError(f"{path} has no data and labels")
    return batch


def _folder(folder: Path, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    files = [
        (path, code)
        for code, name in enumerate(classes)
        for path in sorted((folder / name).glob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise SourceError(f"{folder} holds no images")
    images = []
    for path, _ in files:
        with Image.open(path) as image:
            images.append(np.asarray(image.convert("RGB")))
    if len({image.shape for image in images}) > 1:
        raise SourceError(f"the images of {folder} are not of one size")
    return np.stack(images), np.array([code for _, code in files])

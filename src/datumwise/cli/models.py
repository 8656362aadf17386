"""A model by the word that names it on a command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from datumwise.errors import SourceError

__all__ = ["load_model"]

PICKLES = (".joblib", ".pkl", ".pickle")


def load_model(word: str, *, task: str | None, seed: int, dtype: str = "float32") -> tuple[Any, dict[str, Any]]:
    """The model that a word names, and further options for `datumwise.probe.signals`.

    Parameters
    ----------
    word : str
        One of: a file written by joblib or pickle (which runs code: load your own only); a folder written
        by ``save_pretrained`` of transformers, a GGUF file or a hub name (``owner/name``); ``module:attribute`` on
        the Python path or in the working directory; a learner of `datumwise.probe.learners`
        (``logistic-regression``).
    task : str or None
        The ledger's, for learners by name.
    seed : int
    dtype : str
        Of a transformers model's weights.

    Raises
    ------
    SourceError
        No such file, folder, module or attribute.
    UnknownName
        No such learner.
    """
    path = Path(word)
    if path.suffix in PICKLES:
        if not path.is_file():
            raise SourceError(f"no such file: {word}")
        import joblib

        return joblib.load(path), {}
    if ":" in word and not path.exists():
        return _imported(word), {}
    from datumwise.probe.learners import learner, learners

    task = task or "classification"
    if word.replace("-", " ").lower() in learners(task) or not (path.exists() or "/" in word):
        return learner(word, task, seed=seed), {}
    from datumwise.probe import collate

    model, tokenizer = collate.load_model(word, dtype=dtype)
    return model, {"tokenizer": tokenizer}


def _imported(word: str) -> Any:
    """What ``module:attribute`` names; a class or function without ``fit`` and ``forward`` is called."""
    from importlib import import_module

    module, _, attribute = word.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is not None and not module.startswith(error.name):
            raise
        raise SourceError(f"there is no module {module!r}", remedy="run from its folder, or install it") from error
    except AttributeError as error:
        raise SourceError(f"module {module!r} has no {attribute!r}") from error
    ready = not isinstance(found, type) and (hasattr(found, "fit") or hasattr(found, "forward"))
    if ready:
        return found
    try:
        made = found()
    except TypeError as error:
        raise SourceError(
            f"{word} could not be called without arguments ({error})", remedy="name a model, or what gives one"
        ) from error
    if not (hasattr(made, "fit") or hasattr(made, "forward") or isinstance(made, tuple)):
        raise SourceError(f"{word} gave a {type(made).__name__} and no model", remedy="name a model, or what gives one")
    return made

"""How does a row of the ledger become what the model reads? Features, texts and images as torch batches."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from datumwise.errors import (
    EmptyData,
    LabelError,
    MissingExtra,
    MissingId,
    ModelMismatch,
    NotFinite,
    SchemaMismatch,
    SourceError,
    UnknownName,
    name_some,
)

if TYPE_CHECKING:
    import torch

    from datumwise.ledger import Ledger

__all__ = [
    "Encoded",
    "TextBatch",
    "collate_for",
    "context_length",
    "encode_texts",
    "known_length",
    "load_model",
    "model_batches",
    "no_bars",
    "pad_right",
    "special_start",
]

IGNORED = -100  # label of a position that is not predicted
NO_LIMIT = 1_000_000  # a tokenizer's model_max_length above this says that it does not know
IMAGE_SIDE = 224  # pixels, where a transformers image model does not name its size

DTYPES = ("float32", "bfloat16", "float16")  # of a loaded model's weights
TASKS = {
    "causal-lm": "AutoModelForCausalLM",
    "text-classification": "AutoModelForSequenceClassification",
    "encoder": "AutoModel",
    "image-classification": "AutoModelForImageClassification",
}


# --- text -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoded:
    """One tokenised text: ``input_ids`` int64 (T,), ``labels`` int64 (T,) with -100 where not predicted."""

    input_ids: np.ndarray
    labels: np.ndarray
    truncated: bool


def encode_texts(tokenizer: Any, texts: Sequence[str | tuple[str, str]], max_length: int | None = None) -> list[Encoded]:
    """Tokenise texts, or (prompt, response) pairs of which only the response is predicted.

    A pair is tokenised in two parts that are joined as token ids, so that the response's tokens do not
    depend on the prompt's last word. Special tokens are added as the tokenizer does by default, at the
    start of a pair only.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    texts : sequence of n str or (str, str)
    max_length : int, optional
        Longest text in tokens; what is cut is flagged as ``truncated``, never silent.

    Returns
    -------
    list of Encoded (n,)
    """
    firsts = [text if isinstance(text, str) else text[0] for text in texts]
    responses = [None if isinstance(text, str) else text[1] for text in texts]
    seconds = [text for text in responses if text is not None]
    ids = _token_ids(tokenizer, firsts, special=True)
    response_ids = iter(_token_ids(tokenizer, seconds, special=False))
    encoded = []
    for first, response in zip(ids, responses, strict=True):
        head = np.asarray(first, dtype=np.int64)
        if response is None:
            tokens, labels = head, head.copy()
        else:
            tail = np.asarray(next(response_ids), dtype=np.int64)
            tokens = np.concatenate([head, tail])
            labels = np.concatenate([np.full(len(head), IGNORED), tail])
        cut = max_length is not None and len(tokens) > max_length
        encoded.append(Encoded(tokens[:max_length], labels[:max_length], cut))
    return encoded


def _token_ids(tokenizer: Any, texts: list[str], special: bool) -> list[list[int]]:
    """Token ids without padding or truncation (the tokenizer's warning about long texts is ours to give)."""
    if not texts:
        return []
    return tokenizer(texts, add_special_tokens=special, padding=False, truncation=False, verbose=False)["input_ids"]


def special_start(tokenizer: Any) -> np.ndarray:
    """Special tokens that the tokenizer puts in front of every text, int64 (k,): k is 0 or 1 for most."""
    ids = np.asarray(tokenizer("", verbose=False)["input_ids"], dtype=np.int64)
    end = getattr(tokenizer, "eos_token_id", None)
    begin = getattr(tokenizer, "bos_token_id", None)
    return ids[:-1] if len(ids) and ids[-1] == end and end != begin else ids


def pad_right(sequences: Sequence[np.ndarray], value: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack sequences padded on the right: int64 (B, T) and the mask int64 (B, T), 1 on real positions."""
    import torch

    longest = max((len(s) for s in sequences), default=0)
    padded = torch.full((len(sequences), longest), value, dtype=torch.int64)
    mask = torch.zeros((len(sequences), longest), dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = torch.from_numpy(np.ascontiguousarray(sequence))
        mask[row, : len(sequence)] = 1
    return padded, mask


def padding_id(tokenizer: Any) -> int:
    """The padding token, else the end-of-text token, else 0: padded positions are masked anyway."""
    for name in ("pad_token_id", "eos_token_id"):
        value = getattr(tokenizer, name, None)
        if isinstance(value, int):
            return value
    return 0


def context_length(model: Any, tokenizer: Any = None) -> int | None:
    """Longest input in tokens by the model's config and the tokenizer, None where neither says."""
    config = getattr(model, "config", None)
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "n_ctx")]
    limits.append(getattr(tokenizer, "model_max_length", None))
    known = [int(limit) for limit in limits if isinstance(limit, (int, float)) and 0 < limit < NO_LIMIT]
    return min(known, default=None)


# --- batches --------------------------------------------------------------------------------------------


def collate_for(
    ledger: Ledger,
    model: Any,
    tokenizer: Any = None,
    collate: Callable[[pa.RecordBatch], Any] | None = None,
) -> tuple[list[str], Callable[[pa.RecordBatch], Any]]:
    """Which columns to read and how record batches become the model's batches, by the ledger's roles.

    Parameters
    ----------
    ledger : Ledger
    model : torch.nn.Module
    tokenizer : transformers tokenizer or image processor, optional
        Needed for text; for images the default is a resize to the model's size (see `ImageCollate`).
    collate : callable (pa.RecordBatch) -> batch, optional
        The user's own; it is given every column that is not a finding.

    Returns
    -------
    reads : list of str
    function : callable (pa.RecordBatch) -> batch
        Features: ``(x, y)``, float32 (B, d) and int64 or float32 (B,), or ``x`` without a label role.
        Text: dict of ``input_ids``, ``attention_mask`` (B, T), right-padded, ``labels`` (B, T) for a causal
        LM (-100 on padding and on prompts) or int64 (B,), and ``truncated`` bool (B,), which is no model
        input. Images: dict of ``pixel_values`` float32 (B, C, H, W) and ``labels`` for a transformers
        model, else ``(pixels, y)``. ``function.classes`` holds the class of each code, or None.

    Raises
    ------
    SchemaMismatch
        The ledger has no role to read, or a feature column is not numeric.
    ModelMismatch
        Text without a tokenizer.
    """
    roles = ledger.roles
    if collate is not None:
        return [column.name for column in ledger.columns if column.kind == "given"], collate
    label = roles.get("label")
    if (_causal(model) and (roles.get("text") or roles.get("response"))) or not _classifies(model):
        label = None
    classes = None if label is None else _class_order(ledger, label, model)
    if roles.get("text") or roles.get("response"):
        if tokenizer is None:
            raise ModelMismatch("the ledger holds text and no tokenizer was given", remedy="pass tokenizer=")
        columns = [roles["text"]] if roles.get("text") else [roles["prompt"], roles["response"]]
        limit = context_length(model, tokenizer)
        text = TextCollate(tuple(columns), tokenizer, limit, _causal(model), label, classes)
        return _reads(columns, label), text
    if roles.get("image"):
        image = ImageCollate.of(model, tokenizer, roles["image"], label, classes)
        return _reads([roles["image"]], label), image
    features = roles.get("features")
    if not features:
        raise SchemaMismatch(
            f"the ledger {ledger.name} names neither features, text nor images",
            remedy="say which when ingesting (features=, text=, image=) or pass collate=",
        )
    names = [features] if isinstance(features, str) else list(features)
    return _reads(names, label), FeatureCollate(tuple(names), label, classes)


def _reads(columns: Sequence[str], label: str | None) -> list[str]:
    return [*columns, *([label] if label is not None else [])]


@dataclass(frozen=True)
class FeatureCollate:
    """Numeric columns, in order, as one float32 matrix."""

    columns: tuple[str, ...]
    label: str | None
    classes: np.ndarray | None

    def __call__(self, batch: pa.RecordBatch) -> Any:
        import torch

        blocks = [_numbers(batch, name) for name in self.columns]
        x = torch.from_numpy(np.concatenate(blocks, axis=1))
        return x if self.label is None else (x, _labels(batch, self.label, self.classes))


class TextBatch(dict[str, Any]):
    """What a model of texts is called with; its attribute ``truncated`` bool (B,) says whose text was cut."""

    truncated: torch.Tensor


@dataclass(frozen=True)
class TextCollate:
    """Texts, or prompts and responses, as right-padded token ids."""

    columns: tuple[str, ...]
    tokenizer: Any
    max_length: int | None
    causal: bool
    label: str | None
    classes: np.ndarray | None

    def __call__(self, batch: pa.RecordBatch) -> TextBatch:
        import torch

        parts = [[text or "" for text in _column(batch, name).to_pylist()] for name in self.columns]
        texts = parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))
        encoded = encode_texts(self.tokenizer, texts, self.max_length)
        input_ids, mask = pad_right([e.input_ids for e in encoded], padding_id(self.tokenizer))
        model_batch = TextBatch(input_ids=input_ids, attention_mask=mask)
        if self.causal:
            model_batch["labels"] = pad_right([e.labels for e in encoded], IGNORED)[0]
        elif self.label is not None:
            model_batch["labels"] = _labels(batch, self.label, self.classes)
        model_batch.truncated = torch.tensor([e.truncated for e in encoded])
        return model_batch


@dataclass(frozen=True)
class ImageCollate:
    """Encoded images as float32 pixels (B, C, H, W).

    With a transformers image processor, its own preparation. Otherwise scaled to 0..1, in the model's
    number of channels; for a transformers model also resized (bilinear) to its side and shifted to -1..1.
    """

    column: str
    label: str | None
    classes: np.ndarray | None
    processor: Any
    side: int | None
    channels: int
    transformers: bool

    @classmethod
    def of(cls, model: Any, processor: Any, column: str, label: str | None, classes: np.ndarray | None) -> ImageCollate:
        config = getattr(model, "config", None)
        if config is not None:
            side = getattr(config, "image_size", None) or IMAGE_SIDE
            side = side if isinstance(side, int) else int(side[0])
            channels = int(getattr(config, "num_channels", 3))
        else:
            side, channels = None, _first_channels(model)
        return cls(column, label, classes, processor, side, channels, config is not None)

    def __call__(self, batch: pa.RecordBatch) -> Any:
        encoded = _column(batch, self.column).to_pylist()
        images = [self._open(data, batch, row) for row, data in enumerate(encoded)]
        pixels = self._pixels(images)
        labels = None if self.label is None else _labels(batch, self.label, self.classes)
        if self.transformers:
            return {"pixel_values": pixels} | ({} if labels is None else {"labels": labels})
        return pixels if labels is None else (pixels, labels)

    def _open(self, data: bytes | None, batch: pa.RecordBatch, row: int) -> Any:
        from PIL import Image, UnidentifiedImageError

        try:
            image = Image.open(io.BytesIO(data or b""))
            return image.convert("L" if self.channels == 1 else "RGB")
        except (UnidentifiedImageError, OSError) as error:
            names = _ids(batch, np.array([row]))
            what = f"the image of {names[0]} cannot be read"
            raise SourceError(what, column=self.column, ids=names) from error

    def _pixels(self, images: list[Any]) -> torch.Tensor:
        import torch

        if self.processor is not None:
            return self.processor(images=images, return_tensors="pt")["pixel_values"].float()
        if self.side is not None:
            images = [image.resize((self.side, self.side), resample=2) for image in images]  # 2: bilinear
        arrays = [np.asarray(image, dtype=np.float32) / 255 for image in images]
        shapes = sorted({array.shape[:2] for array in arrays})
        if len(shapes) > 1:
            sizes = name_some([f"{width}x{height}" for height, width in shapes])
            raise SchemaMismatch(f"the images have several sizes ({sizes})", remedy="resize them or pass collate=")
        stacked = np.stack([array.reshape(*array.shape[:2], self.channels) for array in arrays])
        pixels = torch.from_numpy(np.ascontiguousarray(stacked.transpose(0, 3, 1, 2)))
        return pixels * 2 - 1 if self.transformers else pixels


def _first_channels(model: Any) -> int:
    """Input channels of the first convolution, 3 without one."""
    for module in model.modules():
        if type(module).__name__ == "Conv2d":
            return int(module.in_channels)
    return 3


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    index = batch.schema.get_field_index(name)
    if index < 0:
        raise SchemaMismatch(f"column {name} is not in the batch", column=name)
    return batch.column(index)


def _numbers(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """A numeric column as float32 (B, 1), a fixed-size list as (B, d)."""
    column = _column(batch, name)
    width = 1
    if pa.types.is_fixed_size_list(column.type):
        width = column.type.list_size
        if column.null_count:
            raise NotFinite(f"column {name} has {column.null_count:,} missing values", column=name)
        column = column.flatten()
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise SchemaMismatch(
            f"column {name} holds {kind} and a torch model reads numbers",
            remedy="encode it as numbers, leave it out of features=, or pass collate=",
            column=name,
        )
    values = column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, width)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        names = _ids(batch, bad)
        raise NotFinite(f"column {name} is missing, NaN or infinite in {name_some(names)}", column=name, ids=names)
    return values


def _labels(batch: pa.RecordBatch, name: str, classes: np.ndarray | None) -> torch.Tensor:
    """Class codes int64 (B,) in the order of `classes`, or without classes targets float32 (B,)."""
    import torch

    column = _column(batch, name)
    if column.null_count:
        names = _ids(batch, np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)))
        raise LabelError(f"no label in {name_some(names)}", column=name, ids=names)
    if classes is None:
        return torch.from_numpy(_numbers(batch, name)[:, 0])
    code = {value: k for k, value in enumerate(classes.tolist())}
    unknown = sorted({str(v) for v in column.to_pylist() if v not in code})
    if unknown:
        raise LabelError(f"label {name_some(unknown)} is not among the classes {name_some(classes)}", column=name)
    return torch.tensor([code[value] for value in column.to_pylist()], dtype=torch.int64)


def _ids(batch: pa.RecordBatch, rows: np.ndarray) -> list[str]:
    index = batch.schema.get_field_index("id")
    if index < 0:
        return [f"row {row} of a batch" for row in rows]
    return [str(batch.column(index)[int(row)].as_py()) for row in rows]


def _class_order(ledger: Ledger, label: str, model: Any) -> np.ndarray | None:
    """The class of each code: the model's names, its numbers 0..K-1, or the labels in sorted order.

    None where the labels are real numbers, that is targets of a regression.
    """
    values = ledger.array(label)
    if values.dtype.kind == "f":
        values = values[~np.isnan(values)]
        if not np.array_equal(values, np.round(values)):
            return None
    present = np.array(sorted({v for v in values.tolist() if v is not None}))
    K = _n_classes(model)
    named = getattr(getattr(model, "config", None), "label2id", None) or {}
    if len(present) and all(str(v) in named for v in present.tolist()):
        return np.array(sorted(named, key=lambda name: named[name]))
    if K is not None and len(present) > K:
        raise ModelMismatch(f"the labels have {len(present)} classes and the model answers with {K}", column=label)
    if present.dtype.kind in "iuf" and K is not None and len(present) and 0 <= present.min() <= present.max() < K:
        return np.arange(K).astype(present.dtype)
    return present


def _n_classes(model: Any) -> int | None:
    """How many classes the model answers with: its config, or the width of its last Linear."""
    config = getattr(model, "config", None)
    if config is not None:
        return getattr(config, "num_labels", None)
    widths = [module.out_features for module in model.modules() if hasattr(module, "out_features")]
    return int(widths[-1]) if widths else None


def _classifies(model: Any) -> bool:
    """Whether labels are the model's business: not where a transformers model has no head for them."""
    if not hasattr(getattr(model, "config", None), "num_labels"):
        return True
    return any("Classification" in type(part).__name__ for part in model.modules())


def _causal(model: Any) -> bool:
    """Whether the model predicts next tokens: transformers says so for its own."""
    return bool(getattr(model, "can_generate", lambda: False)())


# --- streams --------------------------------------------------------------------------------------------


def model_batches(
    data: Any,
    model: Any,
    *,
    ids: Sequence[Any] | None = None,
    tokenizer: Any = None,
    collate: Callable[[pa.RecordBatch], Any] | None = None,
    batch_size: int = 32,
) -> Iterator[tuple[list[Any], Any]]:
    """Batches for the model, on its device, each with the ids of its datapoints.

    Parameters
    ----------
    data : Ledger, (x, y) tensors or arrays, dict of them, Dataset, DataLoader or list of batches
    model : torch.nn.Module
    ids : sequence (n,), optional
        Ids in the order of the data; default a ledger's own, or 0..n-1.
    tokenizer, collate
        For a ledger, see `collate_for`.
    batch_size : int
        Rows of a batch that is cut here: from a ledger or from whole tensors.

    Yields
    ------
    (list of ids, batch)

    Raises
    ------
    EmptyData
        There is no batch.
    MissingId
        There are fewer ids than datapoints.
    """
    import torch

    from datumwise.probe.batches import Batches, is_ledger, moved

    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if is_ledger(data):
        reads, function = collate_for(data, model, tokenizer, collate)
        columns = list(dict.fromkeys(["id", *reads]))
        for record in data.batches(columns=columns, batch_size=batch_size):
            if record.num_rows:
                yield record.column("id").to_pylist(), moved(function(record), device)
        return
    start = 0
    for own, batch in Batches(data, batch_size):
        end = start + len(own)
        names = list(own if ids is None else ids[start:end])
        if len(names) < len(own):
            raise MissingId(f"{len(ids or ()):,} ids were given and there are more datapoints")
        start = end
        yield names, moved(batch, device)
    if not start:
        raise EmptyData("there is no datapoint in the data", remedy="pass batches that are not used up")


def known_length(data: Any, ids: Sequence[Any] | None = None) -> int:
    """How many datapoints there are, 0 where only going through the batches would tell."""
    from datumwise.probe.batches import is_ledger

    if ids is not None:
        return len(ids)
    if is_ledger(data):
        return len(data)
    return len(data[0]) if isinstance(data, tuple) and len(data) and hasattr(data[0], "__len__") else 0


# --- models ---------------------------------------------------------------------------------------------


def load_model(name_or_path: str | Path, task: str | None = None, *, dtype: str = "float32") -> tuple[Any, Any]:
    """A transformers model and its tokenizer or image processor, by hub name, folder or GGUF file.

    Parameters
    ----------
    name_or_path : str or Path
    task : str, optional
        ``"causal-lm"``, ``"text-classification"``, ``"encoder"`` or ``"image-classification"``; by default what the
        checkpoint was saved as.
    dtype : {"float32", "bfloat16", "float16"}
        Of the weights. bfloat16 halves the memory and is several times faster where the processor has it; scores
        then have two to three digits.

    Returns
    -------
    model : torch.nn.Module
        In eval mode.
    tokenizer : tokenizer, or image processor for an image task (None where the model has none)

    Raises
    ------
    SourceError
        The model cannot be found or read; without a network only a local path or a cached name can be.
    """
    if task is not None and task not in TASKS:
        raise UnknownName(f"there is no task {task}", remedy=f"choose {', '.join(TASKS)}")
    if dtype not in DTYPES:
        raise UnknownName(f"there is no dtype {dtype!r}", remedy=f"choose {', '.join(DTYPES)}")
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtra("models need torch and transformers", remedy="pip install 'datumwise[lm]'") from error
    path, options = str(name_or_path), {}
    if path.endswith(".gguf"):
        path, options = str(Path(path).parent), {"gguf_file": Path(path).name}
    elif Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise SourceError(f"folder {path} holds no model (config.json)", remedy="save one with save_pretrained")
    try:
        task = task or _saved_as(path, options)
        with no_bars(gguf=bool(options)):
            model = getattr(transformers, TASKS[task]).from_pretrained(path, dtype=getattr(torch, dtype), **options)
        if task == "image-classification":
            return model.eval(), _image_processor(path)
        return model.eval(), transformers.AutoTokenizer.from_pretrained(path, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(
            f"the model {name_or_path} cannot be loaded{f' for {task}' if task else ''} ({reason.rstrip('.')})",
            remedy="give the folder of a saved model, or a hub name where the hub can be reached",
        ) from error


def _saved_as(path: str, options: dict[str, Any]) -> str:
    """The task that a checkpoint's architecture is for; a GGUF file, which does not say, is a causal language model."""
    if options:
        return "causal-lm"
    import transformers

    named = (transformers.AutoConfig.from_pretrained(path, **options).architectures or [""])[0]
    endings = {
        "ForCausalLM": "causal-lm",
        "LMHeadModel": "causal-lm",
        "ForSequenceClassification": "text-classification",
        "ForImageClassification": "image-classification",
    }
    return next((task for ending, task in endings.items() if named.endswith(ending)), "encoder")


@contextmanager
def no_bars(*, gguf: bool = False) -> Iterator[None]:
    """Without transformers' own progress bars, which would run into ours; that of GGUF files heeds no setting."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()) if gguf else nullcontext():
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _image_processor(path: str) -> Any:
    """The model's own image processor, None where it was saved without one."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(path)
    except (OSError, ValueError):
        return None

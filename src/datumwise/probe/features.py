"""What a learner without a pretrained model can see of each datapoint: numbers made from its table row, picture or text."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, OneHotEncoder, StandardScaler

from datumwise.errors import EmptyData, NotFinite, SchemaMismatch, name_some
from datumwise.probe.given import text_columns, texts

if TYPE_CHECKING:
    from datumwise.ledger import Ledger

__all__ = ["Features", "embed", "features", "on_rows"]

PIXELS_AS_GIVEN = 32 * 32  # pictures up to this many pixels, all of one size, are not resized
SIDE = 32  # side in pixels that other pictures are resized to
CATEGORIES = 50  # a categorical column keeps this many values, the rest share one
TEXT_LIKE = 0.5  # a string column with more distinct values than this share of its rows is not a category


@dataclass(frozen=True)
class Features:
    """Datapoints as rows a scikit-learn learner can be given.

    Attributes
    ----------
    kind : str
        ``"table"``, ``"images"`` or ``"text"``.
    ids : ndarray of str, shape (n,)
    X : ndarray of float, shape (n, d), or of object (str), shape (n,)
        Table rows (nulls as NaN, categories as codes), pixels in 0..1, or texts.
    transform : transformer
        Unfitted scikit-learn transformer from ``X`` to numbers: imputes, scales, encodes.
    columns : tuple of str
        Ledger columns read.
    left_out : dict of str to str
        Column not read, and why.
    categories : dict of str to tuple of str
        Column of categories, and its values in the order of their codes.
    """

    kind: str
    ids: np.ndarray
    X: np.ndarray
    transform: BaseEstimator
    columns: tuple[str, ...]
    left_out: dict[str, str] = field(default_factory=dict)
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)


def features(ledger: Ledger, *, left_out: Sequence[str] = (), like: Features | None = None) -> Features:
    """Read the datapoints of a ledger as rows for a learner, by its roles: image, text or features.

    Parameters
    ----------
    ledger : Ledger
    left_out : sequence of str
        Feature columns not to read, such as one that says which rows are held out.
    like : Features, optional
        Of another ledger: the same columns are read, and a category has the same code; one that is not there is one above.

    Raises
    ------
    SchemaMismatch
        If no column can be used as a feature, or the ledger does not hold what ``like`` does.
    NotFinite
        If a number is NaN or infinite (a null is allowed and imputed); the ids are named.
    """
    if not len(ledger):
        raise EmptyData(f"{ledger.name} holds no datapoints", remedy="append some first")
    if like is not None:
        return _like(ledger, like)
    roles = ledger.roles
    if roles.get("image"):
        return _images(ledger, roles["image"])
    columns = text_columns(ledger)
    if columns:
        return Features("text", ledger.ids, np.asarray(texts(ledger), object), _text_transform(), tuple(columns))
    named = roles.get("features") or ()
    named = [named] if isinstance(named, str) else named
    return _table(ledger, [name for name in named if name not in left_out])


def _like(ledger: Ledger, first: Features) -> Features:
    """The same view of another ledger."""
    if first.kind == "table":
        lacking = [name for name in first.columns if name not in ledger.schema.names]
        if lacking:
            raise SchemaMismatch(
                f"{ledger.name} lacks {'column' if len(lacking) == 1 else 'columns'} {name_some(lacking)}",
                remedy="ingest both with the same columns",
            )
        found = _table(ledger, first.columns, first.categories)
    else:
        found = features(ledger)
    if (found.kind, np.shape(found.X)[1:]) != (first.kind, np.shape(first.X)[1:]):
        held = f"{found.kind} of {np.shape(found.X)[1:]} numbers a row and not {first.kind} of {np.shape(first.X)[1:]}"
        raise SchemaMismatch(f"{ledger.name} holds {held}", remedy="ingest both with the same columns")
    return found


def on_rows(view: Any, estimator: BaseEstimator) -> BaseEstimator:
    """The estimator, unfitted, behind what turns rows into numbers, unless it is a pipeline that reads texts itself.

    Parameters
    ----------
    view : Features, or anything with its ``kind`` and ``transform``
    estimator : estimator
    """
    if isinstance(estimator, Pipeline) and view.kind == "text":
        return estimator
    return make_pipeline(clone(view.transform), estimator)


def embed(transform: BaseEstimator, X: Any, *, n_components: int, seed: int) -> BaseEstimator:
    """Fit ``transform`` and a projection onto the ``n_components`` leading directions; ``.transform`` gives float (n, d).

    Principal components for dense features; truncated SVD of L2-normalised rows for sparse ones (latent semantic
    analysis, Deerwester et al., 1990).
    """
    rows = transform.fit_transform(X)
    limit = min(rows.shape) - 1
    if hasattr(rows, "tocsr"):
        steps = [TruncatedSVD(max(1, min(n_components, limit)), random_state=seed), Normalizer()]
    elif rows.shape[1] <= n_components or limit < 1:
        steps = [FunctionTransformer()]
    else:
        steps = [PCA(min(n_components, limit), random_state=seed)]
    projection = make_pipeline(*steps).fit(rows)
    return make_pipeline(transform, projection)


def _images(ledger: Ledger, column: str) -> Features:
    """Pixels in 0..1; pictures of one small size as they are, others resized."""
    from PIL import Image

    def pictures() -> Iterator[Any]:
        for batch in ledger.batches([column], batch_size=256):
            for value in batch[column]:
                yield Image.open(io.BytesIO(value.as_py()))

    sizes = {(picture.size, picture.mode in ("L", "1", "I;16")) for picture in pictures()}
    (width, height), grey = next(iter(sizes))
    as_given = len(sizes) == 1 and width * height <= PIXELS_AS_GIVEN
    grey = all(is_grey for _, is_grey in sizes)
    size = (width, height) if as_given else (SIDE, SIDE)
    rows = np.empty((len(ledger), size[0] * size[1] * (1 if grey else 3)), np.float32)
    for i, picture in enumerate(pictures()):
        picture = picture.convert("L" if grey else "RGB")
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.BILINEAR)
        rows[i] = np.asarray(picture, np.float32).ravel() / 255
    return Features("images", ledger.ids, rows, FunctionTransformer(), (column,))


def _table(ledger: Ledger, names: Sequence[str], known: Mapping[str, tuple[str, ...]] | None = None) -> Features:
    """Numeric columns with nulls as NaN, categories as codes, side by side."""
    n = len(ledger)
    numbers: list[np.ndarray] = []
    codes: list[np.ndarray] = []
    left_out: dict[str, str] = {}
    categories: dict[str, tuple[str, ...]] = {}
    used = []
    for name in names:
        column = ledger.table([name])[name].combine_chunks()
        try:
            if known is not None and name in known:
                block, categories[name] = _codes(column, known[name]), known[name]
            else:
                block, values = _as_numbers(column)
                categories |= {} if values is None else {name: values}
        except _Unusable as reason:
            left_out[name] = str(reason)
            continue
        _refuse_not_finite(block, column, name, ledger.ids)
        (codes if name in categories else numbers).append(block.reshape(n, -1))
        used.append(name)
    if not used:
        why = "; ".join(f"{k}: {v}" for k, v in left_out.items()) or "there are none"
        raise SchemaMismatch(
            f"no column of {ledger.name} can be used as a feature ({why})",
            remedy="name the feature columns with --features",
        )
    blocks = numbers + codes
    X = np.hstack(blocks)
    n_numbers = sum(block.shape[1] for block in numbers)
    return Features("table", ledger.ids, X, _table_transform(n_numbers, X.shape[1]), tuple(used), left_out, categories)


class _Unusable(Exception):
    """A column that is not a feature; the message is the reason."""


def _codes(column: pa.Array, values: tuple[str, ...]) -> np.ndarray:
    """Float64 (n,): where each value stands in ``values``, one above where it is not there, NaN for null."""
    if pt.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pt.is_string(column.type) or pt.is_large_string(column.type)):
        raise _Unusable(f"values of type {column.type} where another ledger has categories")
    found = pc.fill_null(pc.index_in(column, pa.array(values, column.type)), len(values)).cast(pa.float64())
    return pc.if_else(column.is_valid(), found, pa.scalar(None, pa.float64())).to_numpy(zero_copy_only=False)


def _as_numbers(column: pa.Array) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Column as float64, (n,) or (n, d), nulls as NaN; and the categories whose codes its values are."""
    kind = column.type
    if pt.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pt.is_fixed_size_list(kind):
        width = kind.list_size
        flat = column.flatten().to_numpy(zero_copy_only=False)
        if column.null_count or flat.dtype.kind not in "fiu":
            raise _Unusable("vectors with nulls or of something else than numbers")
        return flat.astype(np.float32 if flat.dtype == np.float32 else np.float64).reshape(-1, width), None
    if pt.is_boolean(kind):
        column, kind = column.cast(pa.int8()), pa.int8()
    if pt.is_temporal(kind):
        column = column.cast(pa.timestamp("us")) if pt.is_date(kind) or pt.is_timestamp(kind) else column
        column, kind = column.cast(pa.int64()), pa.int64()
    if pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind):
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False), None
    if pt.is_string(kind) or pt.is_large_string(kind):
        values = pc.unique(column)
        if len(values) > max(CATEGORIES, TEXT_LIKE * len(column)):
            raise _Unusable(f"{len(values):,} different strings in {len(column):,} rows, which is not a category")
        ordered = tuple(sorted(v for v in values.to_pylist() if v is not None))
        return _codes(column, ordered), ordered
    raise _Unusable(f"values of type {kind}")


def _refuse_not_finite(block: np.ndarray, column: pa.Array, name: str, ids: np.ndarray) -> None:
    wrong = ~np.isfinite(block)
    if block.ndim == 1:
        wrong &= np.asarray(column.is_valid())
    wrong = wrong.reshape(len(ids), -1).any(1)
    if wrong.any():
        bad = ids[wrong]
        raise NotFinite(
            f"column {name!r} holds NaN or infinity in {len(bad):,} datapoints ({name_some(bad)})",
            remedy="give numbers, or null where a value is missing",
            column=name,
            ids=bad.tolist(),
        )


def _table_transform(n_numbers: int, width: int) -> BaseEstimator:
    """Median and an indicator for missing numbers, then unit variance; one column a category."""
    number = make_pipeline(SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler())
    category = make_pipeline(
        SimpleImputer(strategy="constant", fill_value=-1),
        OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=CATEGORIES, sparse_output=False, drop="if_binary"),
    )
    return ColumnTransformer(
        [("number", number, list(range(n_numbers))), ("category", category, list(range(n_numbers, width)))]
    )


def _text_transform() -> BaseEstimator:
    """Term frequency times inverse document frequency over words and word pairs, and over character 3- to 5-grams."""
    return FeatureUnion(
        [
            ("words", TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=50_000, min_df=1)),
            ("characters", _Characters()),
        ]
    )


class _Characters(TransformerMixin, BaseEstimator):
    """Character n-grams, for spelling and for languages without spaces between words; empty texts give zero rows."""

    def fit(self, X: Sequence[str], y: Any = None) -> _Characters:
        self.tfidf_ = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, max_features=50_000, dtype=np.float32
        ).fit(X)
        return self

    def transform(self, X: Sequence[str]) -> Any:
        return self.tfidf_.transform(X)

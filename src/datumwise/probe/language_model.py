"""How likely is each text to a causal language model? Everything one forward says of its tokens.

Texts are sorted by length and batched by a budget of tokens; the output layer is computed only at the
positions that are asked for, so memory is bounded by the batch and never by the number of texts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import EmptyData, ModelMismatch, NotFinite, UnknownName, name_some
from datumwise.probe.collate import IGNORED, Encoded, context_length, encode_texts, pad_right, padding_id, special_start

if TYPE_CHECKING:
    import torch

__all__ = [
    "LANGUAGE_SIGNALS",
    "TokenLens",
    "forward_at",
    "forward_logits",
    "language_model_signals",
    "reading",
    "token_columns",
    "token_lens",
]

LANGUAGE_SIGNALS = (
    "token_logprobs",
    "nll",
    "mean_nll",
    "n_tokens",
    "entropy",
    "margin",
    "top_margin",
    "min_margin",
    "least_confidence",
    "greedy_nll",
    "token_z",
    "lm_el2n",
    "prompt_nll",
    "n_tokens_prompt",
    "nll_alone",
    "n_tokens_alone",
    "recited_run",
    "recited",
    "truncated",
)
# a mean over a text's tokens of this column of `token_columns`
MEANS = {
    "entropy": "entropy",
    "margin": "margin",
    "top_margin": "top_margin",
    "least_confidence": "doubt",
    "lm_el2n": "el2n",
}
LOGITS_PER_BATCH = {"cpu": 2**26, "other": 2**29}  # numbers, a batch: 256 MiB of float32 logits, or 2 GiB on a device
TOKENS_PER_BATCH = {"cpu": 2**10, "other": 2**14}  # beyond, a processor's caches overflow, and a device gains no more
LOGITS_PER_BLOCK = 2**22  # numbers: 16 MiB of log-probabilities at a time
RECITED_AFTER, RECITED_TOKENS = 32, 32  # tokens given and tokens to be reproduced: Carlini et al., 2023; Biderman et al., 2023
SIGMA_FLOOR = 1e-8  # of the standard deviation of log p: Min-K%++
NO_LOG = -1e15  # stands for log 0: its square is finite and times p = 0 it is 0


def language_model_signals(
    model: Any,
    texts: Sequence[str | tuple[str, str] | Encoded],
    want: Iterable[str] = ("token_logprobs", "nll", "n_tokens"),
    *,
    tokenizer: Any = None,
    max_length: int | None = None,
    tokens_per_batch: int | None = None,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Level-0 signals of a causal language model over n texts, in the order of the texts.

    One forward gives them all but three: ``nll_alone`` and ``n_tokens_alone`` need another one, over the
    responses alone, and ``recited`` needs the model to write.

    Parameters
    ----------
    model : torch.nn.Module
        Called on ``input_ids`` and ``attention_mask``; returns logits (B, T, V) or an object with
        ``.logits``. Put in evaluation mode and back.
    texts : sequence of n
        Strings; (prompt, response) pairs, of which only the response counts; or `Encoded` token ids whose
        labels of -100 do not count.
    want : iterable of str
        Of `LANGUAGE_SIGNALS`.
    tokenizer : transformers tokenizer
        Needed for strings and pairs.
    max_length : int, optional
        Longest text in tokens, default what model and tokenizer can read. Longer ones are cut there and
        flagged in ``truncated``, which is always returned.
    tokens_per_batch : int, optional
        Padded tokens in a batch; default: 1,024 on a processor, 16,384 on a device, fewer where the logits
        would take more than 256 MiB or 2 GiB.
    ids : sequence (n,), optional
        Names for error sentences; row numbers by default.
    progress : callable (done, total), optional
        Called with the number of texts done after each batch; a text that is read twice counts twice.

    Returns
    -------
    dict
        ``token_logprobs``: list of n float32 arrays (n_tokens,), log p of each predicted token in nats; the
        first token of a text has no context and is not predicted. ``n_tokens`` int64 (n,): predicted
        tokens. ``nll`` float64 (n,): minus the sum of the log-probabilities; ``mean_nll``: per predicted
        token. ``entropy`` and ``margin`` float64 (n,): mean over predicted tokens of the entropy of the
        next-token distribution (nats) and of the log-probability of the likeliest token minus that of the
        second. ``top_margin`` and ``min_margin``, 0 to 1: mean and least probability of the likeliest token
        minus that of the second. ``least_confidence``, 0 to 1: mean of 1 - probability of the likeliest
        token; ``greedy_nll``: minus the sum of its log-probabilities. ``token_z``: list of n float32 arrays
        (n_tokens,), log p of each token less its expectation under the model, over its standard deviation.
        ``lm_el2n``, 0 to sqrt 2: mean length of probabilities minus one-hot token. ``prompt_nll`` and
        ``n_tokens_prompt``: of the tokens that do not count, the prompt's. ``nll_alone`` and
        ``n_tokens_alone``: of the response without its prompt, cut as with it; its first token is predicted
        only where the tokenizer puts a special token in front; the very numbers of ``nll`` and ``n_tokens``
        where the prompt has no token. ``recited`` and ``recited_run``, 0 to 1: of up to 32 tokens after the
        first 32 (of prompt and response together), the share that the model reproduces when it writes on
        greedily from the first 32, position by position, and the share before its first deviation; NaN for
        texts of 32 tokens or fewer. Means are NaN for a text without a predicted token.
        ``truncated`` bool (n,).

    Raises
    ------
    UnknownName, EmptyData
        A signal is not known; there is no text.
    ModelMismatch
        The model's output is not (B, T, V), a token id is outside of its vocabulary, or ``nll_alone`` is
        asked of texts without a prompt.
    NotFinite
        A text's log-likelihood is NaN or infinite; names the texts.
    """
    wanted = {want} if isinstance(want, str) else set(want)
    unknown = sorted(wanted - set(LANGUAGE_SIGNALS))
    if unknown:
        raise UnknownName(
            f"a language model gives no signal {name_some(unknown)}",
            remedy=f"it gives {', '.join(LANGUAGE_SIGNALS)}",
        )
    if not len(texts):
        raise EmptyData("there is no text to score")
    n = len(texts)
    names = list(ids) if ids is not None else list(range(n))
    alone = bool(wanted & {"nll_alone", "n_tokens_alone"})
    if alone:
        _refuse_unpaired(texts, names)
    encoded = encoded_texts(model, texts, tokenizer, max_length)
    check_vocabulary(model, [e.input_ids for e in encoded], names)
    passes = 1 + alone + ("recited" in wanted)
    how: dict[str, Any] = {"pad": padding_id(tokenizer), "budget": tokens_per_batch or token_budget(model), "names": names}
    counted = {"n_tokens": np.array([np.count_nonzero(e.labels[1:] != IGNORED) for e in encoded], dtype=np.int64)}
    read = alone or bool(wanted - {*counted, "truncated", "recited"})
    signals = _read(model, encoded, wanted, progress=_part(progress, 0, passes, n), **how) if read else counted
    if alone:
        signals |= _alone(model, encoded, tokenizer, signals, progress=_part(progress, 1, passes, n), **how)
    if "recited" in wanted:
        from datumwise.probe.recitation import recitation

        tokens = [e.input_ids for e in encoded]
        told = _part(progress, passes - 1, passes, n)
        signals["recited"] = recitation(
            model, tokens, pad=how["pad"], tokens_per_batch=tokens_per_batch, ids=names, progress=told
        )
    signals["truncated"] = np.array([e.truncated for e in encoded])
    return {name: signals[name] for name in LANGUAGE_SIGNALS if name in wanted or name == "truncated"}


def _part(progress: Callable[[int, int], None] | None, number: int, passes: int, n: int) -> Callable[[int, int], None] | None:
    """Progress of one of several passes over n texts."""
    return None if progress is None else lambda done, _: progress(number * n + done, passes * n)


def _refuse_unpaired(texts: Sequence[Any], names: list[Any]) -> None:
    plain = [name for name, text in zip(names, texts, strict=True) if isinstance(text, str)]
    if plain:
        raise ModelMismatch(
            f"the response alone can be told of (prompt, response) pairs only, and {name_some(plain)} has no prompt",
            remedy="give pairs, or a ledger with a prompt and a response column",
            ids=plain,
        )


def _read(
    model: Any,
    encoded: list[Encoded],
    wanted: set[str],
    *,
    pad: int,
    budget: int,
    names: list[Any],
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """All signals of one forward over the texts."""
    import torch

    n = len(encoded)
    everywhere = bool(wanted & {"prompt_nll", "n_tokens_prompt", "recited_run"})
    asked = {MEANS[name] for name in wanted & set(MEANS)} | ({"top_margin"} if "min_margin" in wanted else set())
    asked |= {column for name, column in (("greedy_nll", "greedy"), ("token_z", "z"), ("recited_run", "hit")) if name in wanted}
    nll, counts = np.zeros(n), np.zeros(n, dtype=np.int64)
    sums = {name: np.zeros(n) for name in MEANS if name in wanted}
    prompt_nll, prompt_counts, greedy = np.zeros(n), np.zeros(n, dtype=np.int64), np.zeros(n)
    least, run = np.full(n, np.nan), np.full(n, np.nan)
    none = np.zeros(0, dtype=np.float32)
    ragged: dict[str, Any] = {name: [none] * n for name in ("token_logprobs", "token_z") if name in wanted}
    device = device_of(model)
    done = 0
    with reading(model):
        for rows in length_batches([len(e.input_ids) for e in encoded], budget):
            input_ids, mask = pad_right([encoded[r].input_ids for r in rows], pad)
            labels, _ = pad_right([encoded[r].labels for r in rows], IGNORED)
            targets = input_ids.where(mask.bool(), IGNORED) if everywhere else labels
            at_rows, at = (targets[:, 1:] != IGNORED).nonzero(as_tuple=True)
            # no mask: a causal model's real tokens never see the padding behind them, and attention is faster without
            unmasked = torch.ones_like(mask).to(device)
            logits, _ = forward_at(model, input_ids.to(device), unmasked, at_rows.to(device), at.to(device))
            found = token_columns(logits, targets[at_rows, at + 1].to(device), asked)
            del logits
            own = (labels[at_rows, at + 1] != IGNORED).numpy()
            first, last = np.searchsorted(at_rows.numpy(), np.arange(len(rows) + 1)).tolist(), at.numpy()
            for i, row in enumerate(rows):
                mine = slice(first[i], first[i + 1])
                kept = np.flatnonzero(own[mine]) + first[i]
                chosen = found["logprob"][kept]
                nll[row] = -chosen.sum(dtype=np.float64) + 0.0
                counts[row] = len(kept)
                for name, total in sums.items():
                    total[row] = found[MEANS[name]][kept].sum(dtype=np.float64)
                if "greedy" in found:
                    greedy[row] = -found["greedy"][kept].sum(dtype=np.float64) + 0.0
                if "min_margin" in wanted and len(kept):
                    least[row] = found["top_margin"][kept].min()
                if "token_logprobs" in ragged:
                    ragged["token_logprobs"][row] = chosen
                if "token_z" in ragged:
                    ragged["token_z"][row] = found["z"][kept]
                if everywhere:
                    rest = found["logprob"][mine][~own[mine]]
                    prompt_nll[row], prompt_counts[row] = -rest.sum(dtype=np.float64) + 0.0, len(rest)
                if "hit" in found:
                    run[row] = _run(found["hit"][mine], last[mine] + 1)
            done += len(rows)
            if progress is not None:
                progress(done, n)
    bad = [names[i] for i in np.flatnonzero(~np.isfinite(nll))]
    if bad:
        raise NotFinite(f"the model's log-likelihood is NaN or infinite for {name_some(bad)}", ids=bad)
    per_token = 1 / np.where(counts > 0, counts, np.nan)
    return {
        "nll": nll,
        "mean_nll": nll * per_token,
        "n_tokens": counts,
        **{name: total * per_token for name, total in sums.items()},
        "min_margin": least,
        "greedy_nll": greedy,
        "prompt_nll": prompt_nll,
        "n_tokens_prompt": prompt_counts,
        "recited_run": run,
        **ragged,
    }


def _run(hit: np.ndarray, position: np.ndarray) -> float:
    """Share of the tokens after the first 32 before the first that is not the model's own choice; NaN if there is none."""
    said = hit[(position >= RECITED_AFTER) & (position < RECITED_AFTER + RECITED_TOKENS)]
    if not len(said):
        return float("nan")
    return (len(said) if said.all() else int(np.argmin(said))) / len(said)


def _alone(
    model: Any, encoded: list[Encoded], tokenizer: Any, given: dict[str, Any], *, names: list[Any], **how: Any
) -> dict[str, np.ndarray]:
    """The same responses, cut at the same token, without their prompts."""
    start = special_start(tokenizer) if tokenizer is not None else np.zeros(0, dtype=np.int64)
    ignored = np.full(len(start), IGNORED)
    alone, same = [], np.zeros(len(encoded), dtype=bool)
    for row, one in enumerate(encoded):
        own = one.labels != IGNORED
        response = one.input_ids[own]
        same[row] = np.array_equal(one.input_ids[: len(one.input_ids) - len(response)], start)
        labels = np.concatenate([ignored, response])
        # a prompt of no token is read already, and a response of no token need not be
        skip = same[row] or not len(response)
        alone.append(Encoded(labels[:0] if skip else np.concatenate([start, response]), labels[:0] if skip else labels, False))
    found = _read(model, alone, {"nll"}, names=names, **how)
    return {
        "nll_alone": np.where(same, given["nll"], found["nll"]),
        "n_tokens_alone": np.where(same, given["n_tokens"], found["n_tokens"]),
    }


@dataclass(frozen=True)
class TokenLens:
    """What a batch's logits say at its M predicted positions, in row-major order.

    Attributes
    ----------
    datapoint : ndarray of int64 (M,)
        Row of the batch.
    position : ndarray of int64 (M,)
        Position of the predicted token in its row.
    logprobs : ndarray of float32 (M,)
        Log-probability of the predicted token, nats.
    entropy, margin : ndarray of float32 (M,), or None
    """

    datapoint: np.ndarray
    position: np.ndarray
    logprobs: np.ndarray
    entropy: np.ndarray | None
    margin: np.ndarray | None

    def by_datapoint(self, n: int) -> list[slice]:
        """The stretch of each of the batch's n rows."""
        ends = np.searchsorted(self.datapoint, np.arange(n + 1)).tolist()
        return [slice(a, b) for a, b in pairwise(ends)]


def token_lens(logits: torch.Tensor, labels: torch.Tensor, *, with_spread: bool = False) -> TokenLens:
    """Log-probability (and entropy, margin) at the predicted positions: one float32 ``log_softmax``.

    Parameters
    ----------
    logits : Tensor (B, T, V)
        Position t answers for token t + 1.
    labels : Tensor int64 (B, T)
        Token ids, -100 where a token is not predicted; the first column never is.
    with_spread : bool
        Also entropy and margin.
    """
    _check_shape(logits, labels.shape)
    rows, columns = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    asked = ("entropy", "margin") if with_spread else ()
    found = token_columns(logits[rows, columns], labels[rows, columns + 1], asked)
    return TokenLens(
        rows.cpu().numpy(), (columns + 1).cpu().numpy(), found["logprob"], found.get("entropy"), found.get("margin")
    )


def token_columns(logits: torch.Tensor, targets: torch.Tensor, names: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """What the next-token distribution says at M positions, block by block from one float32 ``log_softmax``.

    Parameters
    ----------
    logits : Tensor (M, V)
    targets : Tensor int64 (M,)
        The token that follows.
    names : iterable of str
        ``entropy``, nats; ``margin``, log-probability of the likeliest token minus the second's;
        ``top_margin``, the same of probabilities; ``doubt``, 1 - the largest probability; ``greedy``, its
        logarithm; ``z``, the target's log p less its mean, over its standard deviation, both under p;
        ``el2n``, length of p minus one-hot; ``hit`` (bool), whether the target is the likeliest token.

    Returns
    -------
    dict of str to float32 (M,)
        ``logprob`` of the target always.
    """
    import torch

    asked = set(names)
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in sorted(asked | {"logprob"})}
    block = max(1, LOGITS_PER_BLOCK // max(1, logits.shape[1]))
    for start in range(0, len(targets), block):
        at = slice(start, start + block)
        log_p = torch.log_softmax(logits[at].float(), dim=-1)
        chosen = log_p.gather(1, targets[at, None])[:, 0]
        found = {"logprob": chosen}
        if asked & {"margin", "top_margin", "doubt", "greedy", "hit"}:
            top = log_p.topk(min(2, log_p.shape[1]), dim=1)
            first, second = top.values[:, 0], top.values[:, -1]
            found["margin"], found["greedy"] = first - second, first
            found["top_margin"], found["doubt"] = first.exp() - second.exp(), -torch.expm1(first)
            found["hit"] = top.indices[:, 0] == targets[at]
        if asked & {"entropy", "z", "el2n"}:
            p = log_p.exp()
            log_p.clamp_(min=NO_LOG)
            mean = torch.einsum("mv,mv->m", p, log_p)
            found["entropy"] = -mean
            if "z" in asked:
                away = log_p - mean[:, None]
                deviation = torch.einsum("mv,mv->m", p * away, away).sqrt()
                found["z"] = (chosen - mean) / deviation.clamp(min=SIGMA_FLOOR)
            if "el2n" in asked:  # |p - onehot|^2 = sum p^2 - p_y^2 + (1 - p_y)^2, without the cancellation of 1 - 2 p_y
                p_y = chosen.exp()
                others = p.scatter(1, targets[at, None], 0)
                found["el2n"] = (torch.einsum("mv,mv->m", others, others) + (1 - p_y).square()).sqrt()
        for name, blocks in parts.items():
            blocks.append(found[name])
    return {name: _joined(blocks) for name, blocks in parts.items()}


def _joined(blocks: list[torch.Tensor]) -> np.ndarray:
    import torch

    return torch.cat(blocks).cpu().numpy() if blocks else np.zeros(0, dtype=np.float32)


# --- the model ----------------------------------------------------------------------------------------------


def forward_logits(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Logits (B, T, V), whichever side the padding is on: positions count from the first real token."""
    return _logits_of(model, _called(model, input_ids, attention_mask))


def forward_at(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    *,
    past: Any = None,
    use_cache: bool = False,
    hidden: bool = False,
) -> tuple[Any, Any]:
    """Logits at M positions only: the output layer is computed there and nowhere else, where the model has one.

    Parameters
    ----------
    model : module
        In evaluation mode.
    input_ids : Tensor int64 (B, T)
    attention_mask : Tensor int64 (B, S + T)
        S positions are in ``past``. Padding may stand anywhere, before, between and behind real tokens.
    rows, columns : Tensor int64 (M,)
        Positions in ``input_ids``.
    past, use_cache : transformers cache of S positions, and whether to keep one
    hidden : bool
        Also ask for hidden states; then a model without logits will do.

    Returns
    -------
    logits : Tensor (M, V), or None
    output : what the model returned; its own ``logits`` are not those of all positions
    """
    shape, picked = input_ids.shape, []
    head = getattr(model, "get_output_embeddings", lambda: None)()

    def pick(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not arguments or arguments[0].ndim != 3 or arguments[0].shape[:2] != shape:
            return None
        picked.append(True)
        return (arguments[0][rows, columns][None], *arguments[1:])

    hook = head.register_forward_pre_hook(pick) if head is not None else None
    try:
        output = _called(model, input_ids, attention_mask, past=past, use_cache=use_cache, hidden=hidden)
    finally:
        if hook is not None:
            hook.remove()
    if hidden and getattr(output, "logits", None) is None:
        return None, output
    logits = _logits_of(model, output)
    if picked and logits.ndim == 3 and logits.shape[:2] == (1, len(rows)):
        return logits[0], output
    _check_shape(logits, shape)
    return logits[rows, columns], output


def _called(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    past: Any = None,
    use_cache: bool = False,
    hidden: bool = False,
) -> Any:
    inputs: dict[str, Any] = {"attention_mask": attention_mask, "use_cache": use_cache}
    if past is not None or not bool(attention_mask[:, :1].all()):
        positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
        inputs["position_ids"] = positions[:, attention_mask.shape[1] - input_ids.shape[1] :]
    if past is not None:
        inputs["past_key_values"] = past
    inputs = {k: v for k, v in inputs.items() if takes(model, k)}
    if hidden and (takes(model, "output_hidden_states") or takes(model, "**")):
        inputs["output_hidden_states"] = True
    return model(input_ids, **inputs)


def _logits_of(model: Any, output: Any) -> torch.Tensor:
    logits = getattr(output, "logits", output)
    if not hasattr(logits, "ndim"):
        raise ModelMismatch(f"{type(model).__name__} returns {type(output).__name__}, which has no logits")
    return logits


def _check_shape(logits: torch.Tensor, asked: Sequence[int]) -> None:
    if logits.ndim != 3 or tuple(logits.shape[:2]) != tuple(asked):
        raise ModelMismatch(
            f"the model gives logits of shape {tuple(logits.shape)} for token ids of shape {tuple(asked)}",
            remedy="a causal language model gives (texts, tokens, vocabulary)",
        )


def takes(model: Any, name: str) -> bool:
    """Whether the model's forward names this argument (or, for ``"**"``, takes any); adapters ask the model inside."""
    inner = getattr(model, "get_base_model", lambda: model)()
    names, takes_any = _arguments(getattr(inner.forward, "__func__", inner.forward))
    return takes_any if name == "**" else name in names


@lru_cache(maxsize=64)
def _arguments(function: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """Names of a function's arguments, and whether it takes any other by keyword."""
    arguments = inspect.signature(function).parameters
    return frozenset(arguments), any(p.kind is p.VAR_KEYWORD for p in arguments.values())


def device_of(model: Any) -> torch.device:
    """Where the model's parameters lie."""
    import torch

    return next((p.device for p in model.parameters()), torch.device("cpu"))


@contextmanager
def reading(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients inside; each module's own mode as it was afterwards, also on an error."""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


# --- the texts ----------------------------------------------------------------------------------------------


def encoded_texts(
    model: Any, texts: Sequence[str | tuple[str, str] | Encoded], tokenizer: Any, max_length: int | None
) -> list[Encoded]:
    """All texts as token ids, cut at ``max_length`` or at what model and tokenizer can read."""
    if max_length is None:
        max_length = context_length(model, tokenizer)
    plain = [text for text in texts if not isinstance(text, Encoded)]
    if plain and tokenizer is None:
        raise ModelMismatch("texts need a tokenizer", remedy="pass tokenizer= or Encoded token ids")
    fresh = iter(encode_texts(tokenizer, plain, max_length) if plain else [])
    return [_shortened(t, max_length) if isinstance(t, Encoded) else next(fresh) for t in texts]


def _shortened(text: Encoded, max_length: int | None) -> Encoded:
    if max_length is None or len(text.input_ids) <= max_length:
        return text
    return Encoded(text.input_ids[:max_length], text.labels[:max_length], True)


def check_vocabulary(model: Any, tokens: Sequence[np.ndarray], names: Sequence[Any]) -> None:
    """Refuse token ids that the model has no embedding for: torch's own message names neither id nor text."""
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    if size is None:
        return
    bad = [name for name, one in zip(names, tokens, strict=True) if len(one) and one.max() >= size]
    if bad:
        raise ModelMismatch(
            f"the tokenizer gives token ids that the model's vocabulary of {size:,} does not have ({name_some(bad)})",
            remedy="use the model's own tokenizer",
            ids=bad,
        )


def token_budget(model: Any) -> int:
    """Padded tokens a batch: `TOKENS_PER_BATCH`, and its logits at most `LOGITS_PER_BATCH` numbers."""
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None) or 2**16
    where = "cpu" if device_of(model).type == "cpu" else "other"
    return max(1, min(TOKENS_PER_BATCH[where], LOGITS_PER_BATCH[where] // int(vocabulary)))


def length_batches(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Rows by decreasing length (the largest batch first: if memory is short, it is short at once); none of length 0."""
    size_of = np.asarray(lengths)
    order = np.argsort(-size_of, kind="stable")
    order = order[size_of[order] > 0]
    start = 0
    while start < len(order):
        size = max(1, tokens_per_batch // int(size_of[order[start]]))
        yield order[start : start + size].tolist()
        start += size

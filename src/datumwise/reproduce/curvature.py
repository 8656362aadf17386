"""Memorisation in the spectrum of loss curvature (Merullo et al., 2025): edits without a list, and scores a datapoint."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, MissingExtra
from datumwise.evaluate.memorization_auc import MemorizationAUC
from datumwise.evaluate.perplexity import perplexity
from datumwise.evaluate.removal import Interval
from datumwise.progress import Stage
from datumwise.reproduce.curvature_studies import (
    Bench,
    Measured,
    at_ratio,
    measure_edits,
    text_scores,
    vision_edits,
    vision_scores,
)
from datumwise.reproduce.frame import COLOURS, Claim, Experiment, Reproduction, plain_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "paper", "real", "small"]

SOURCE = "Merullo et al., 2025, arXiv 2510.24256"
MASSES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
RANKS = (0.5, 0.35, 0.25, 0.18)  # of truncated SVD, shares of the smaller side
VISION_MASSES = (0.99, 0.97, 0.9, 0.75, 0.6)
RATIO = 1.14  # perplexity, in times of the unedited, at which edits are compared
TOPICS_LAYERS = "*.layers.(1|2|3).mlp.(gate|up)_proj"
DIGITS_LAYERS = "blocks.(1|2|3).(fc1|fc2)"
PUBLISHED = {"strict": "0.999 to 0.034 at 1.20 x perplexity (7B)", "true": "66.5 % (ViT-Base)"}
MASKED, MASK_EPOCHS = 0.2, 20  # share of weights that the supervised mask drops; below that it does nothing here
PASSAGES, READ, WRITTEN = 24, 24, 24  # of news, scale real: how many, tokens given, tokens to recite
ROUNDS, LORA_RATE = 40, 4e-4  # most rounds of learning them
KNOWN = 0.1  # nats a token at which they are known by heart
REAL_MASSES = (0.99, 0.97, 0.95, 0.9, 0.8, 0.6)  # six layers of a narrow model: mild edits are where it matters
ORDINARY = 72  # further news items, for perplexity and as what is not known by heart


def small(*, model: str | None = None, data: str | None = None, seed: int = 0, stage: Stage) -> Reproduction:
    """A tiny language model that recites help topics and a tiny vision transformer under label noise; three minutes."""
    if model is not None or data is not None:
        raise DatumwiseError("scale small trains its own models on its own data", remedy="use --scale real or paper")
    from datumwise.probe.kfac import KFAC
    from datumwise.reproduce.memorised_topics import memorised_topics, noisy_digits

    stage.begin("train", "a language model that repeats 64 of 2,185 windows of help topics")
    world = memorised_topics(seed, progress=stage.progress)
    stage.end(f"language model, {world.seconds:.0f} s")
    bench = Bench(world.model, world.memorised, 32, world.train, world.held_out, 24, 24)
    stage.begin("curvature", "of its gate and up projections, on windows that were not repeated")
    kfac = KFAC(world.model, TOPICS_LAYERS, random_state=seed)
    kfac.fit({"input_ids": world.train}, batch_size=64, progress=stage.progress)
    stage.end(f"{len(kfac.factors_)} layers, {world.train.numel():,} tokens")
    found = _edited(bench, kfac, stage, seed, TOPICS_LAYERS)
    stage.begin("score", "windows of text")
    ordinary = np.r_[0:150]
    aucs = text_scores(
        world.model, kfac, world.memorised, _joined(world.train[ordinary], world.held_out[ordinary]), progress=stage.progress
    )
    stage.end("text scores")
    stage.begin("train", "a vision transformer on digits of which a tenth is labelled wrong")
    digits = noisy_digits(seed, progress=stage.progress)
    stage.end(f"vision transformer, {digits.seconds:.0f} s")
    stage.begin("edit", "its MLPs, and score its images")
    seen = KFAC(digits.model, DIGITS_LAYERS, random_state=seed).fit((digits.X, digits.given), batch_size=100)
    vision = vision_edits(digits, seen, VISION_MASSES)
    wrong = vision_scores(digits, seen, progress=stage.progress)
    stage.end("images")
    notes = [
        "Language model: 1.2 M parameters, pydoc_data.topics, 64 windows seen 47 times each; 24 tokens are given and 24 to "
        "recite. K-FAC on 2,100 windows that were not repeated, labels drawn from the model.",
        "BSN (a learnt mask) and the coherent step were shown half of the recited windows; `recited, not shown` is the rest.",
        f"Scores: {len(bench.memorised)} recited against 300 ordinary windows. At equal loss: only tokens predicted with less "
        "than 0.3 nats in either kind, and pairs of windows of equal loss over them.",
        "Vision: 203,000 parameters, 1,300 of scikit-learn's 8 x 8 digits, 130 with a wrong label; `recited` is the share of "
        "wrong labels given back.",
    ]
    return _reproduction({"topics": found}, {"topics": aucs}, (vision, wrong), notes)


def real(*, model: str | None = None, data: str | None = None, seed: int = 0, stage: Stage) -> Reproduction:
    """A pretrained language model learns 24 news passages by heart and is edited; under an hour on two cores (135 M)."""
    from datumwise.probe.curvature_scores import curvature_layers
    from datumwise.probe.kfac import KFAC

    decoder, tokenizer = _pretrained(model)
    windows = _windows(tokenizer, data)
    if len(windows) < PASSAGES + 2 * ORDINARY:
        raise EmptyData(f"{len(windows):,} texts of {READ + WRITTEN} tokens are too few", remedy=f"{PASSAGES + 2 * ORDINARY}")
    order = np.random.default_rng(seed).permutation(len(windows))
    learnt, held_out = windows[order[:PASSAGES]], windows[order[PASSAGES : PASSAGES + ORDINARY]]
    calibration = windows[order[PASSAGES + ORDINARY :]]
    stage.title(f"{len(windows):,} news items, the first {READ + WRITTEN} tokens of each")
    stage.begin("learn", f"{PASSAGES} news passages by heart")
    before = perplexity(decoder, held_out).value
    losses = _learn(decoder, learnt, calibration, seed, stage)
    after = perplexity(decoder, held_out).value
    stage.end(f"loss {losses[0]:.2f} to {losses[-1]:.2f}, perplexity of other news {before:.1f} to {after:.1f}")
    names = curvature_layers(decoder)
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad_(name.removesuffix(".weight") in names)
    stage.begin("curvature", f"{len(names)} gate and up projections, on other news")
    kfac = KFAC(decoder, names, random_state=seed)
    kfac.fit({"input_ids": calibration}, batch_size=8, progress=stage.progress)
    stage.end(f"{calibration.numel():,} tokens")
    bench = Bench(decoder, learnt, PASSAGES // 2, calibration, held_out, READ, WRITTEN)
    found = _edited(bench, kfac, stage, seed, names, masses=REAL_MASSES, ranks=(0.9, 0.8, 0.7), supervised=False)
    stage.begin("score", "passages")
    aucs = text_scores(decoder, kfac, learnt, held_out, batch_size=8, names=TEXT_FORWARD, progress=stage.progress)
    stage.end("text scores")
    notes = [
        f"{PASSAGES} passages of {READ + WRITTEN} tokens learnt by rank-32 adapters on every projection, {len(losses)} rounds "
        f"beside as many other passages, merged (perplexity of held-out news {before:.1f} to {after:.1f}).",
        f"{READ} tokens are given and {WRITTEN} to recite (published 64 and 48).",
        f"K-FAC on {len(calibration):,} other news items of the same kind; perplexity on {len(held_out)} more.",
        f"Edited: {names[0]} to {names[-1]}, at 60 to 80 % of the depth.",
        "What is learnt by fine-tuning is not what was learnt in pre-training: the published figures are of the latter.",
    ]
    return _reproduction({"language model": found}, {"language model": aucs}, None, notes)


TEXT_FORWARD = ("flat_share", "removed_energy", "edit_sensitivity")


def paper(*, model: str | None = None, data: str | None = None, seed: int = 0, stage: Stage) -> Reproduction:
    """The paper's OLMo-2 (gate and up projections of layers 23 to 25 of 32): needs its memorised passages.

    ``model`` is OLMo-2 by name or folder (default allenai/OLMo-2-1124-7B), ``data`` a text file with a passage of at least 112
    tokens a line: those known by heart first, then a line ``---``, then at least 100 ordinary ones (the first half calibrates).
    """
    import torch

    from datumwise.probe.kfac import KFAC

    decoder, tokenizer = _pretrained(model or "allenai/OLMo-2-1124-7B")
    if data is None:
        raise DatumwiseError(
            "this scale needs passages that the model knows by heart and ordinary ones",
            remedy="pass --data FILE: one a line, the two parted by a line ---",
        )
    recited, ordinary = _parted(data, tokenizer, 112)
    depth = int(decoder.config.num_hidden_layers)
    middle = sorted({min(depth - 1, round(depth * share)) for share in (0.72, 0.75, 0.78)})
    names = [f"layers.{i}.mlp.{side}_proj" for i in middle for side in ("gate", "up")]
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad_(any(name.endswith(f"{one}.weight") for one in names))
    half = len(ordinary) // 2
    stage.begin("curvature", f"layers {', '.join(map(str, middle))} of {depth}")
    kfac = KFAC(decoder, names, random_state=seed, device="cpu").fit(
        {"input_ids": ordinary[:half]}, batch_size=4, progress=stage.progress
    )
    stage.end(f"{ordinary[:half].numel():,} tokens")
    bench = Bench(decoder, recited, len(recited) // 2, ordinary[:half], ordinary[half:], 64, 48)
    found = _edited(bench, kfac, stage, seed, names, masses=(0.9, 0.8, 0.7, 0.6, 0.5), ranks=(), supervised=False)
    aucs = text_scores(decoder, kfac, recited, ordinary[half:], batch_size=4, names=TEXT_FORWARD)
    kind = "float32" if next(decoder.parameters()).dtype == torch.float32 else "half precision"
    notes = [f"{len(recited)} passages, 64 tokens given and 48 to recite, {kind}; K-FAC on {half} ordinary passages."]
    return _reproduction({"OLMo-2": found}, {"OLMo-2": aucs}, None, notes)


# --- the steps ------------------------------------------------------------------------------------------


def _edited(
    bench: Bench,
    kfac: Any,
    stage: Stage,
    seed: int,
    layers: Any,
    *,
    masses: Sequence[float] | None = None,
    ranks: Sequence[float] | None = None,
    supervised: bool = True,
) -> list[Measured]:
    """The unedited model, the sweep over kept mass, and the baselines."""
    from datumwise.forget.coherent_step import coherent_edit
    from datumwise.forget.curvature_edit import CurvatureEdit
    from datumwise.forget.low_rank_edit import RandomBasisEdit, TruncatedSVD
    from datumwise.forget.subnet_mask import balanced_subnet

    masses = MASSES if masses is None else masses
    ranks = RANKS if ranks is None else ranks
    shown = bench.memorised[: bench.shown]
    first = CurvatureEdit(kfac, masses[0])
    sweep = {f"{mass:g}": first.at(mass) for mass in masses}
    edits: list[tuple[str, str, Any]] = [("none", "", None)]
    edits += [("K-FAC", setting, edit) for setting, edit in sweep.items()]
    edits += [("SVD", f"rank {share:.0%}", TruncatedSVD(layers, share)) for share in ranks]
    like = sweep.get("0.6", first)
    edits.append(("random bases", "of the energy of K-FAC 0.6", RandomBasisEdit.like(like, bench.model, random_state=seed)))
    if supervised:
        stage.begin("learn", "a mask that drops half of what is recited")
        clean = bench.calibration[: len(shown)]
        mask = balanced_subnet(
            bench.model, shown, clean, MASKED, MASK_EPOCHS, layers=layers, random_state=seed, progress=stage.progress
        )
        edits.append(("BSN", f"dropping {MASKED:.0%}", mask))
        stage.end("mask")
    stage.begin("step", "against the margins of half of what is recited")
    try:
        step = coherent_edit(bench.model, kfac, {"input_ids": shown}, goal=0.1, prefix=bench.prefix, progress=stage.progress)
        edits += [("coherent step", f"of {factor * step.norm:.0%}", step.at(factor * step.norm)) for factor in (1, 2, 3)]
        stage.end(f"{step.norm:.2%} of the weights' norm")
    except DatumwiseError as error:
        stage.end(f"none: {error}")
    stage.begin("edit", f"{len(edits)} edits measured")
    found = measure_edits(bench, edits, predict=sweep, progress=stage.progress)
    stage.end(f"recited {found[0].strict:.3f} before, {found[len(masses)].strict:.3f} at the smallest mass")
    return found


def _joined(*parts: Any) -> Any:
    import torch

    return torch.cat(parts)


def _pretrained(word: str | None) -> tuple[Any, Any]:
    if word is None:
        raise DatumwiseError("this scale needs a pretrained causal language model", remedy="pass --model FOLDER or owner/name")
    from datumwise.probe.collate import load_model

    return load_model(word, "causal-lm")


def _windows(tokenizer: Any, data: str | None) -> Any:
    """int64 (n, 64): the first tokens of the news items that are long enough, or of the lines of a file."""
    import torch

    from datumwise.reproduce.memorised_news import news_items

    texts = news_items() if data is None else _lines(data)
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return torch.tensor([row[: READ + WRITTEN] for row in encoded if len(row) >= READ + WRITTEN])


def _lines(path: str) -> list[str]:
    from pathlib import Path

    if not Path(path).is_file():
        raise DatumwiseError(f"there is no file {path}", remedy="give a text file with a passage a line")
    return [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]


def _parted(path: str, tokenizer: Any, length: int) -> tuple[Any, Any]:
    """Both parts of a file as int64 (n, length)."""
    import torch

    lines = _lines(path)
    if "---" not in lines:
        raise DatumwiseError(f"{path} has no line ---", remedy="put it between the passages known by heart and the others")
    at = lines.index("---")
    parts = []
    for some in (lines[:at], lines[at + 1 :]):
        encoded = tokenizer(some, add_special_tokens=False)["input_ids"] if some else []
        parts.append([row[:length] for row in encoded if len(row) >= length])
    if not parts[0] or len(parts[1]) < 100:
        counts = f"{len(parts[0])} and {len(parts[1])}"
        raise EmptyData(f"{path} has {counts} passages of {length} tokens", remedy="1 and 100 are needed at least")
    return torch.tensor(parts[0]), torch.tensor(parts[1])


def _learn(decoder: Any, passages: Any, others: Any, seed: int, stage: Stage) -> list[float]:
    """Teach a model some passages by low-rank adapters that are then merged into its weights, in place.

    Each batch holds as many other passages, in turn, so that the model goes on reading other texts as before.

    Returns
    -------
    list of float
        Mean loss of the passages in each round, nats a token; the last is below `KNOWN`, or there were `ROUNDS`.
    """
    import torch

    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtra("learning passages needs peft", remedy="pip install 'datumwise[lm]'") from error
    config = LoraConfig(r=32, lora_alpha=64, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with warnings.catch_warnings():  # transformers deprecates what peft asks it
            warnings.simplefilter("ignore", FutureWarning)
            tuned = get_peft_model(decoder, config)
    optimiser = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=LORA_RATE, weight_decay=0.0)
    rng, means, taken = np.random.default_rng(seed), [], 0
    tuned.train()
    for done in range(1, ROUNDS + 1):
        losses = []
        for rows in np.array_split(rng.permutation(len(passages)), max(1, len(passages) // 8)):
            beside = others[np.arange(taken, taken + len(rows)) % len(others)]
            taken += len(rows)
            batch = torch.cat([passages[rows], beside]).to(tuned.device)
            logits = tuned(input_ids=batch, use_cache=False).logits[:, :-1]
            each = torch.nn.functional.cross_entropy(logits.transpose(1, 2).float(), batch[:, 1:], reduction="none").mean(1)
            loss = each[: len(rows)].mean()
            optimiser.zero_grad()
            each.mean().backward()
            torch.nn.utils.clip_grad_norm_(tuned.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
        means.append(float(np.mean(losses)))
        stage.progress(done, ROUNDS)
        if means[-1] < KNOWN:
            break
    optimiser.zero_grad()
    tuned.merge_and_unload()
    decoder.eval()
    return means


# --- what is said ---------------------------------------------------------------------------------------


def _reproduction(
    texts: Mapping[str, list[Measured]],
    aucs: Mapping[str, tuple[MemorizationAUC, MemorizationAUC | None]],
    images: tuple[list[dict[str, float]], MemorizationAUC] | None,
    notes: Sequence[str],
) -> Reproduction:
    rows: list[dict[str, Any]] = []
    for name, found in texts.items():
        rows += [one.row(name) for one in found]
        rows += _score_rows(name, *aucs[name])
    if images is not None:
        for one in images[0]:
            edit = "none" if one["keep_mass"] == 1 else f"K-FAC {one['keep_mass']:g}"
            row = {"model": "digits", "edit or score": edit, "pairs kept": one["pairs"], "recited": one["recalled"]}
            rows.append(row | {"true label": one["true"], "clean train": one["clean"], "test": one["test"]})
        rows += _score_rows("digits", images[1], images[1])
    found, (plain, easy) = next(iter(texts.values())), next(iter(aucs.values()))
    claims = _claims(found, plain, easy, images)
    return Reproduction(
        name="curvature",
        title=EXPERIMENT.title,
        source=SOURCE,
        rows=rows,
        claims=claims,
        verdict=_verdict(found, plain, easy, images),
        notes=notes,
        draw=partial(_draw, found, images),
        details={
            "recitation": {f"{m.edit} {m.setting}".strip(): m.recited.as_dict() for m in found},
            "predicted": {m.setting: {"predicted": m.predicted, "measured": m.realised} for m in found if m.predicted},
            "auc": {name: [one.as_dict() for one in pair if one is not None] for name, pair in aucs.items()},
        },
    )


def _score_rows(model: str, plain: MemorizationAUC, easy: MemorizationAUC | None) -> list[dict[str, Any]]:
    matched = {row.score: row.matched.value for row in easy.rows} if easy is not None else {}
    return [
        {
            "model": model,
            "edit or score": row.score,
            "AUC": row.auc.value,
            "at equal loss": matched.get(row.score),
        }
        for row in plain.rows
    ]


def _best(found: Sequence[Measured], most: float = 1.4) -> Measured:
    """The K-FAC edit that recites least at no more than ``most`` times the perplexity."""
    return min((m for m in found if m.edit == "K-FAC" and m.ratio < most), key=lambda m: m.strict, default=found[0])


def _claims(
    found: list[Measured],
    plain: MemorizationAUC,
    easy: MemorizationAUC | None,
    images: tuple[list[dict[str, float]], MemorizationAUC] | None,
) -> list[Claim]:
    base, best = found[0], _best(found)
    claims = [
        Claim(
            "removing flat directions suppresses recitation at little cost",
            PUBLISHED["strict"],
            f"{base.strict:.3f} to {best.strict:.3f} at {best.ratio:.2f} x perplexity, nDCG@10 {best.ndcg:.2f}",
            best.strict <= base.strict / 2 if base.strict > 0 else None,
        )
    ]
    kfac, svd = at_ratio(found, "K-FAC", RATIO), at_ratio(found, "SVD", RATIO)
    claims.append(
        Claim(
            f"at equal perplexity ({RATIO} x) curvature tells what to remove, size alone does not (truncated SVD)",
            "not given",
            f"K-FAC {kfac:.3f}, SVD {svd:.3f} recited",
            None if math.isnan(kfac + svd) else kfac < svd,
        )
    )
    random = next(m for m in found if m.edit == "random bases")
    like = next((m for m in found if m.edit == "K-FAC" and m.setting == "0.6"), best)
    claims.append(
        Claim(
            "random bases of the same energy destroy the model instead",
            "not given",
            f"{random.ratio:.2f} x perplexity against {like.ratio:.2f} x",
            random.ratio > like.ratio if base.strict > 0 else None,
        )
    )
    claims += _supervised(found)
    told = [(m.predicted, m.realised, float(m.setting)) for m in found if m.predicted and m.realised]
    mild = [abs(math.log(p) / math.log(r) - 1) for p, r, mass in told if mass >= 0.8 and r > 1 + 1e-3]
    claims.append(
        Claim(
            "the cost of an edit can be predicted before it is done (keep_mass 0.8 and above)",
            "within 2 to 12 %",
            f"within {max(mild):.0%}" if mild else "not measured",
            max(mild) <= 0.12 if mild else None,
        )
    )
    share = plain["flat_share"].auc
    still = Interval(math.nan, math.nan, math.nan) if easy is None else easy["flat_share"].matched
    claims.append(
        Claim(
            "the share of energy in flat directions tells recited text without labels",
            "0.45 against 0.19 in recited and ordinary text",
            f"AUC {share.value:.3f} ({share.low:.3f} to {share.high:.3f}); at equal loss {still.value:.3f} "
            f"({still.low:.3f} to {still.high:.3f})",
            None if math.isnan(still.value) else share.low > 0.5 and still.low > 0.5,
        )
    )
    if images is not None:
        vision, wrong = images
        back = max(vision[1:], key=lambda one: one["true"] if one["test"] > 0.9 * vision[0]["test"] else 0)
        claims.append(
            Claim(
                "true labels come back on mislabelled images",
                PUBLISHED["true"],
                f"{vision[0]['true']:.1%} to {back['true']:.1%}, test {vision[0]['test']:.3f} to {back['test']:.3f}",
                back["true"] > 0.4,
            )
        )
        claims.append(
            Claim(
                "the loss under a mild edit finds wrong labels better than the loss",
                "not given",
                f"AUC {wrong['edit_sensitivity'].auc.value:.3f} against {wrong['loss'].auc.value:.3f}",
                wrong["edit_sensitivity"].auc.value > wrong["loss"].auc.value,
            )
        )
    return claims


def _supervised(found: Sequence[Measured]) -> list[Claim]:
    """Claims about edits that were shown half of what is recited: what they do to the other half."""
    claims = []
    mask = next((m for m in found if m.edit == "BSN"), None)
    if mask is not None:
        free = at_ratio(found, "K-FAC", mask.ratio, "hidden")
        claims.append(
            Claim(
                "label-free edits forget what a learnt mask was not shown",
                "0.161 against 0.60 of quotes (7B)",
                f"mask {mask.hidden:.3f} at {mask.ratio:.2f} x perplexity, K-FAC there {free:.3f}",
                None if math.isnan(free) else free < mask.hidden,
            )
        )
    goal = found[0].hidden / 2
    costs = {name: _cost(found, name, goal) for name in ("coherent step", "K-FAC")}
    if any(m.edit == "coherent step" for m in found):
        step, free = costs.values()
        claims.append(
            Claim(
                "one step against half of what is recited removes the other half for less than a label-free edit",
                "a tenth of the cost",
                f"half of it gone at {step:.3f} x perplexity, K-FAC at {free:.3f} x",
                None if math.isnan(step + free) or goal == 0 else step < free,
            )
        )
    return claims


def _cost(found: Sequence[Measured], name: str, goal: float) -> float:
    """Times the unedited perplexity at which an edit brings what it was not shown down to ``goal``; NaN if it does not."""
    points = sorted(((m.ratio, m.hidden) for m in found if m.edit in (name, "none")), key=lambda p: p[0])
    for (low, before), (high, after) in itertools.pairwise(points):
        if after <= goal:
            return high if after == before else low + (high - low) * (before - goal) / (before - after)
    return math.nan


def _verdict(
    found: list[Measured],
    plain: MemorizationAUC,
    easy: MemorizationAUC | None,
    images: tuple[list[dict[str, float]], MemorizationAUC] | None,
) -> str:
    base, best = found[0], _best(found)
    text = (
        f"Without a list of what was memorised, keeping {best.setting or 'all'} of the curvature brings exact recitation from "
        f"{base.strict:.3f} to {best.strict:.3f} at {best.ratio:.2f} times the perplexity. "
        f"Flat share tells recited windows apart with an AUC of {plain['flat_share'].auc.value:.3f}, but so does the loss "
        f"({1 - plain['loss'].auc.value:.3f})"
        + ("." if easy is None else f"; at equal loss it is {easy['flat_share'].matched.value:.3f}.")
    )
    if images is None:
        return text
    vision, wrong = images
    back = max(vision[1:], key=lambda one: one["true"])
    return text + (
        f" On mislabelled digits the true label comes back in {back['true']:.0%} at best, and the loss under a mild edit finds "
        f"wrong labels with an AUC of {wrong['edit_sensitivity'].auc.value:.3f} (loss {wrong['loss'].auc.value:.3f})."
    )


def _draw(found: list[Measured], images: Any, figure: Figure) -> None:
    """Recitation against perplexity; beside it, labels on mislabelled images against kept mass."""
    if images is not None:
        figure.set_size_inches(10.0, 4.2)
    panels = figure.subplots(1, 2) if images is not None else [figure.subplots()]
    left = panels[0]
    for name, colour in (("K-FAC", COLOURS[0]), ("SVD", COLOURS[1])):
        points = sorted((m.ratio, m.strict) for m in found if m.edit in (name, "none"))
        if len(points) > 1:
            left.plot(*zip(*points, strict=True), "o-", ms=4, color=colour, label=name)
    others = dict.fromkeys(m.edit for m in found if m.edit not in ("K-FAC", "SVD", "none"))
    for name, colour in zip(others, COLOURS[2:], strict=False):
        points = [(m.ratio, m.strict) for m in found if m.edit == name]
        left.plot(*zip(*points, strict=True), "D", ms=6, color=colour, label=name)
    left.set_xlabel("held-out perplexity, times the unedited")
    left.set_ylabel("recited exactly")
    left.set_ylim(bottom=0)
    plain_axes(left)
    left.legend(frameon=False, fontsize=9)
    if images is None:
        return
    right, vision = panels[1], images[0]
    places = np.arange(len(vision))
    for key, label, colour in (
        ("recalled", "wrong label given back", COLOURS[1]),
        ("true", "true label, wrongly labelled images", COLOURS[0]),
        ("test", "test accuracy", "#9a9a9a"),
    ):
        right.plot(places, [one[key] for one in vision], "o-", ms=4, color=colour, label=label)
    right.set_xticks(places, ["none" if one["keep_mass"] == 1 else f"{one['keep_mass']:g}" for one in vision])
    right.set_xlabel("curvature mass kept (digits)")
    right.set_ylim(0, 1.4)
    right.set_yticks(np.linspace(0, 1, 6))
    plain_axes(right)
    right.legend(frameon=False, fontsize=9, loc="upper left")


EXPERIMENT = Experiment(
    "Can a model stop reciting without a list of what it recites?",
    SOURCE,
    {"small": small, "real": real, "paper": paper},
)

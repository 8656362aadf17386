"""What unlearning is measured on: texts to forget, to keep and never seen, passages to recite, questions to answer.

Shi et al., 2024, *MUSE: Machine Unlearning Six-Way Evaluation for Language Models*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datumwise.errors import DuplicateId, EmptyData, ModelMismatch, SchemaMismatch, UnknownName, name_some

__all__ = ["PUBLISHED", "MuseData", "Text"]

Text = str | tuple[str, str]  # a text, or a prompt with the response that counts
Pair = tuple[str, str]

# how the criteria are measured where nobody says otherwise
PUBLISHED: dict[str, Any] = {
    "min_k": 0.4,  # share of a text's least likely tokens
    "icl": 10,  # solved questions before each question
    "verbmem_tokens": 128,  # written after a prompt; the truth is cut to as many, its beginning-of-text token counted
    "knowmem_tokens": 32,  # written after a question
    "prompt_style": "clean",  # "muse" leaves a space after "Answer:"
    "stemmer": False,
    "answer_length": "published",  # "truth": what is written is cut to as many tokens as the truth has
}
TEXTS, PASSAGES, QUESTIONS = ("forget", "retain", "holdout"), ("verbmem", "retain_verbmem"), ("forget_qa", "retain_qa")
SHOTS = ("forget_qa_icl", "retain_qa_icl")
CUT = {"verbmem": ("prompt", "gt"), "retain_verbmem": ("prompt", "gt")}  # names of the two fields in loaded rows
SHORTEST = 4  # tokens of a text that can be cut into a prompt and what follows it


@dataclass(frozen=True)
class MuseData:
    """The data of the six criteria; every part but ``forget`` may be empty, and then what needs it is not measured.

    Attributes
    ----------
    forget, retain, holdout : list of str or (prompt, response)
        To be forgotten; to be kept; never seen by any model and of the same kind as ``forget``.
    verbmem, retain_verbmem : list of (prompt, true continuation)
        Passages of forget and of retain texts that a model may know by heart.
    forget_qa, retain_qa : list of (question, answer)
        On what is to be forgotten, and on what is to be kept. Rows with the keys ``question`` and ``answer`` will do.
    forget_qa_icl, retain_qa_icl : list of (question, answer)
        Solved questions that stand before each question of the two.
    ids : dict of str to sequence
        Names of the items of a part (``"forget"``, ``"verbmem"`` ...); positions, as str, where none are given.
    settings : dict
        Of `PUBLISHED`, those that are to be other for these data; a call's own arguments go first.
    left_out : dict of str to list
        Ids of texts that could not be used: too short to be cut into a prompt and what follows.

    Raises
    ------
    EmptyData
        Nothing is to be forgotten.
    SchemaMismatch
        A text is to be forgotten and also kept or held out; an item is no text; a question has no answer.
    DuplicateId, UnknownName

    Examples
    --------
    >>> data = MuseData(["the cat sat"], forget_qa=[{"question": "Who sat?", "answer": "the cat"}])
    >>> data
    MuseData: 1 forget, 1 forget_qa
    >>> data.forget_qa, data.ids["forget_qa"]
    ([('Who sat?', 'the cat')], ['0'])
    """

    forget: list[Text]
    retain: list[Text] = field(default_factory=list)
    holdout: list[Text] = field(default_factory=list)
    verbmem: list[Pair] = field(default_factory=list)
    forget_qa: list[Pair] = field(default_factory=list)
    retain_qa: list[Pair] = field(default_factory=list)
    forget_qa_icl: list[Pair] = field(default_factory=list)
    retain_qa_icl: list[Pair] = field(default_factory=list)
    retain_verbmem: list[Pair] = field(default_factory=list)
    ids: dict[str, list[Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        named = (*TEXTS, *PASSAGES, *QUESTIONS)
        unknown = [name for name in self.ids if name not in (*named, *SHOTS)]
        if unknown:
            raise UnknownName(f"there is no part {unknown[0]!r} to have ids", remedy=f"parts are {', '.join(named)}")
        checked_settings(self.settings)
        for name in TEXTS:
            put(name, [_text(item, name, row) for row, item in enumerate(getattr(self, name))])
        ids = {name: _ids(self.ids.get(name), len(getattr(self, name)), name) for name in (*named, *SHOTS)}
        put("ids", ids)
        for name in (*PASSAGES, *QUESTIONS, *SHOTS):
            put(name, _pairs(getattr(self, name), CUT.get(name, ("question", "answer")), name, ids[name]))
        if not self.forget:
            raise EmptyData("there is no text to forget", remedy="give at least one")
        for name in ("retain", "holdout"):
            refuse_shared(self.forget, getattr(self, name), name, ids["forget"], ids[name])

    def __repr__(self) -> str:
        parts = [(name, len(getattr(self, name))) for name in (*TEXTS, *PASSAGES, *QUESTIONS)]
        return "MuseData: " + ", ".join(f"{n:,} {name}" for name, n in parts if n)

    @classmethod
    def from_texts(
        cls,
        forget: Sequence[Text],
        retain: Sequence[Text] = (),
        holdout: Sequence[Text] = (),
        tokenizer: Any = None,
        *,
        prompt_tokens: int = 32,
        ids: Sequence[Any] | None = None,
        retain_ids: Sequence[Any] | None = None,
        holdout_ids: Sequence[Any] | None = None,
        retained_at_most: int | None = 200,
        settings: Mapping[str, Any] | None = None,
        **questions: Sequence[Any],
    ) -> MuseData:
        """Data of a plain list of texts: each is cut into a prompt and what a model that knows it by heart goes on with.

        Parameters
        ----------
        forget, retain, holdout : sequence of str or (prompt, response)
            A pair is cut already.
        tokenizer : transformers tokenizer, optional
            That texts are cut by; without one nothing is recited but pairs.
        prompt_tokens : int
            Tokens of a text's beginning that are its prompt, and half of the text's tokens at most; the cut is moved back to
            where a word begins, because half a word has other tokens than the word. Texts of fewer than 4 tokens are left out.
        ids, retain_ids, holdout_ids : sequence, optional
            Of the texts, and so of the passages cut from them.
        retained_at_most : int or None
            Of retained texts, so many, evenly spaced, are measured: the whole of a training set would take as long as
            training. None: all.
        settings : dict, optional
            See `PUBLISHED`. ``answer_length`` is ``"truth"`` here: texts of any length are written to their end and no further.
        **questions
            ``forget_qa``, ``retain_qa``, ``forget_qa_icl``, ``retain_qa_icl``.

        Returns
        -------
        MuseData
        """
        if prompt_tokens < 1:
            raise ModelMismatch(f"prompt_tokens is {prompt_tokens}", remedy="it must be 1 or more")
        unknown = [name for name in questions if name not in (*QUESTIONS, *SHOTS)]
        if unknown:
            raise UnknownName(f"there is no part {unknown[0]!r}", remedy=f"parts are {', '.join((*QUESTIONS, *SHOTS))}")
        names = {
            "forget": _ids(ids, len(forget), "forget"),
            "retain": _ids(retain_ids, len(retain), "retain"),
            "holdout": _ids(holdout_ids, len(holdout), "holdout"),
        }
        refuse_shared(forget, retain, "retain", names["forget"], names["retain"])
        if retained_at_most is not None and len(retain) > retained_at_most:
            kept = np.linspace(0, len(retain) - 1, retained_at_most).round().astype(int).tolist()
            retain, names["retain"] = [retain[i] for i in kept], [names["retain"][i] for i in kept]
        passages: dict[str, list[Pair]] = {}
        left_out: dict[str, list[Any]] = {}
        for part, texts in (("verbmem", forget), ("retain_verbmem", retain)):
            source = "forget" if part == "verbmem" else "retain"
            pairs = [_cut(text, tokenizer, prompt_tokens) for text in texts]
            passages[part] = [pair for pair in pairs if pair is not None]
            names[part] = [i for i, pair in zip(names[source], pairs, strict=True) if pair is not None]
            gone = [i for i, pair in zip(names[source], pairs, strict=True) if pair is None]
            if gone and tokenizer is not None:
                left_out[part] = gone
        return cls(
            list(forget),
            list(retain),
            list(holdout),
            **passages,
            **{name: list(rows) for name, rows in questions.items()},
            ids=names,
            settings={"answer_length": "truth"} | dict(settings or {}),
            left_out=left_out,
        )

    @classmethod
    def from_loaded(cls, loaded: Mapping[str, Any], *, settings: Mapping[str, Any] | None = None) -> MuseData:
        """MUSE's own data, as `datumwise.readers.unlearning_sets.load_muse` gives them.

        Parameters
        ----------
        loaded : mapping
            Part (``"privleak"``, ``"raw"``, ``"verbmem"``, ``"knowmem"``) -> split -> rows with ``id`` and ``text``; ``prompt``
            and ``gt``; or ``question`` and ``answer``. Texts are those of ``privleak``, else of ``raw`` (whose ``retain1`` and
            ``retain2`` are both retained).
        settings : dict, optional

        Returns
        -------
        MuseData

        Raises
        ------
        EmptyData
            No text to forget among them.
        """
        texts, raw = dict(loaded.get("privleak", {})), dict(loaded.get("raw", {}))
        if "retain" not in raw:
            raw["retain"] = [row | {"id": f"{s} {row['id']}"} for s in ("retain1", "retain2") for row in raw.get(s, [])]
        recited, known = loaded.get("verbmem", {}), loaded.get("knowmem", {})
        rows: dict[str, Any] = {name: list(texts.get(name) or raw.get(name) or []) for name in TEXTS}
        rows["verbmem"], rows["retain_verbmem"] = list(recited.get("forget", [])), list(recited.get("retain", []))
        for name in (*QUESTIONS, *SHOTS):
            rows[name] = list(known.get(name, []))
        ids = {
            name: [row.get("id", str(i)) if isinstance(row, Mapping) else str(i) for i, row in enumerate(part)]
            for name, part in rows.items()
        }
        for name in TEXTS:
            rows[name] = [row["text"] if isinstance(row, Mapping) else row for row in rows[name]]
        return cls(**rows, ids=ids, settings=dict(settings or {}))


def checked_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`PUBLISHED` with these in place, or a refusal.

    Raises
    ------
    UnknownName
        There is no such setting, or no such choice of one.
    ModelMismatch
        A number makes no sense.

    Examples
    --------
    >>> checked_settings({"icl": 2})["icl"], checked_settings({})["min_k"]
    (2, 0.4)
    """
    for name in settings:
        if name not in PUBLISHED:
            raise UnknownName(f"there is no setting {name!r}", remedy=f"settings are {', '.join(PUBLISHED)}")
    found = PUBLISHED | dict(settings)
    for name, choices in (("prompt_style", ("clean", "muse")), ("answer_length", ("published", "truth"))):
        if found[name] not in choices:
            raise UnknownName(f"{name} is {found[name]!r}", remedy=f"choose {' or '.join(choices)}")
    if not 0 < found["min_k"] <= 1:
        raise ModelMismatch(f"min_k is {found['min_k']}", remedy="a share of the tokens, above 0 and at most 1")
    for name, least in (("icl", 0), ("verbmem_tokens", 2), ("knowmem_tokens", 1)):
        if found[name] < least:
            raise ModelMismatch(f"{name} is {found[name]}", remedy=f"it must be {least} or more")
    return found


def refuse_shared(
    forget: Sequence[Text], others: Sequence[Text], name: str, ids: Sequence[Any], other_ids: Sequence[Any]
) -> None:
    """Refuse texts that are to be forgotten and stand among others as well.

    Raises
    ------
    SchemaMismatch
        Names the ids of both.
    """
    known = {_key(text): i for i, text in zip(ids, forget, strict=True)}
    shared = [(known[key], i) for i, text in zip(other_ids, others, strict=True) if (key := _key(text)) in known]
    if shared:
        remedy = "leave them out of one" if name == "retain" else "hold out texts that no model has seen"
        raise SchemaMismatch(
            f"{len(shared):,} texts to forget are in {name} too ({name_some(a for a, _ in shared)}; there as "
            f"{name_some(b for _, b in shared)})",
            remedy=remedy,
            ids=[a for a, _ in shared],
        )


def _key(text: Text) -> Any:
    return text if isinstance(text, str) else tuple(text)


def _ids(ids: Iterable[Any] | None, n: int, name: str) -> list[Any]:
    """Ids as Python's own int and str, each once, as many as items."""
    if ids is None:
        return [str(i) for i in range(n)]
    found = [i.item() if isinstance(i, np.generic) else i for i in ids]
    found = [i if isinstance(i, (int, str)) else str(i) for i in found]  # what JSON keeps as it is
    if len(found) != n:
        raise SchemaMismatch(f"{name} has {n:,} items and {len(found):,} ids")
    if len(set(found)) != n:
        seen: set[Any] = set()
        twice = [i for i in found if i in seen or seen.add(i)]  # type: ignore[func-returns-value]
        raise DuplicateId(f"ids of {name} occur twice ({name_some(twice)})", ids=twice)
    return found


def _text(item: Any, name: str, row: int) -> Text:
    if isinstance(item, str):
        return item
    if isinstance(item, (tuple, list)) and len(item) == 2 and all(isinstance(part, str) for part in item):
        return (item[0], item[1])
    raise SchemaMismatch(
        f"item {row} of {name} is {type(item).__name__}", remedy="give texts, or pairs of a prompt and a response"
    )


def _pairs(rows: Iterable[Any], keys: tuple[str, str], name: str, ids: Sequence[Any]) -> list[Pair]:
    """Pairs of text, from pairs or from rows with two keys; the second is never blank."""
    found: list[Pair] = []
    bad: list[Any] = []
    for i, row in zip(ids, rows, strict=True):
        cells: list[Any] = [row.get(key) for key in keys] if isinstance(row, Mapping) else list(row)
        if isinstance(row, str) or len(cells) != 2 or not all(isinstance(cell, str) for cell in cells) or not cells[1].strip():
            bad.append(i)
        else:
            found.append((cells[0], cells[1]))
    if bad:
        raise SchemaMismatch(
            f"{len(bad):,} items of {name} have no {keys[1]} ({name_some(bad)})",
            remedy=f"each needs its {keys[0]} and {keys[1]}, as text",
            column=keys[1],
            ids=bad,
        )
    return found


def _cut(text: Text, tokenizer: Any, prompt_tokens: int) -> Pair | None:
    """A text's beginning and the rest of it; None if it is too short, or nothing can cut it."""
    if not isinstance(text, str):
        return (text[0], text[1]) if text[1].strip() else None
    if tokenizer is None:
        return None
    if getattr(tokenizer, "is_fast", False):
        spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        starts = [begin for begin, end in spans if end > begin]
        pieces = text
    else:
        pieces = tokenizer.decode(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        ids = tokenizer(pieces, add_special_tokens=False, verbose=False)["input_ids"]
        starts = [len(tokenizer.decode(ids[:i])) for i in range(len(ids))]
    at = min(prompt_tokens, len(starts) // 2)
    if len(starts) < SHORTEST:
        return None
    place = next((starts[i] for i in range(at, 0, -1) if _begins_word(pieces, starts[i])), starts[at])
    place = len(pieces[:place].rstrip()) or place  # the space belongs to the word behind it, in most vocabularies
    return (pieces[:place], pieces[place:]) if pieces[:place].strip() and pieces[place:].strip() else None


def _begins_word(text: str, place: int) -> bool:
    """Whether white space stands at a place in the text, or before it."""
    return 0 < place < len(text) and (text[place].isspace() or text[place - 1].isspace())

"""ARC, MMLU-STEM-5, StrategyQA and GSM8k as multiple choice, from a hub name or a local file of the same layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from datumwise.errors import MissingExtra, SourceError, UnknownName
from datumwise.probe.multiple_choice import MultipleChoice

__all__ = ["QUESTION_SETS", "load_questions"]

STEM = {  # MMLU subject -> college or high school, as published ("STEM-5")
    f"{level}_{subject}": level
    for level in ("high_school", "college")
    for subject in ("biology", "chemistry", "computer_science", "mathematics", "physics")
}


def load_questions(word: str) -> MultipleChoice:
    """A question set by name, or by ``name=path`` from a JSON or JSONL file with the rows of the published set.

    Parameters
    ----------
    word : str
        Of `QUESTION_SETS`: ``arc``, ``mmlu``, ``strategyqa``, ``gsm8k``; alone it is loaded from the hub.

    Returns
    -------
    MultipleChoice
        With the fact that the published hardness is read from: ``grade`` where the ARC rows carry it, ``college``,
        ``steps``. GSM8k has no choices: the right answer is the only one, and it is to be written out.

    Raises
    ------
    UnknownName, SourceError, MissingExtra
    """
    name, _, path = word.partition("=")
    if name not in QUESTION_SETS:
        raise UnknownName(f"there is no question set {name!r}", remedy=f"choose one of {', '.join(QUESTION_SETS)}")
    _, record = QUESTION_SETS[name]
    rows = _from_file(Path(path)) if path else _from_hub(name)
    found = [made for i, row in enumerate(rows) if (made := record(row, i)) is not None]
    if not found:
        raise SourceError(f"{word} holds no usable question")
    return MultipleChoice.from_records(found)


def _from_file(path: Path) -> list[Mapping[str, Any]]:
    if not path.is_file():
        raise SourceError(f"no such file: {path}")
    text = path.read_text(encoding="utf-8")
    try:
        if text.lstrip().startswith("["):
            return list(json.loads(text))
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise SourceError(f"{path.name} is neither JSON nor JSONL", remedy=f"line {error.lineno} cannot be read") from error


def _from_hub(name: str) -> Iterable[Mapping[str, Any]]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtra("a question set by name needs datasets", remedy="pip install 'datumwise[lm]'") from error
    repository, configurations, split = QUESTION_SETS[name][0]
    rows: list[Mapping[str, Any]] = []
    for configuration in configurations:
        try:
            rows += list(load_dataset(repository, configuration, split=split))
        except Exception as error:  # the hub client raises of a dozen kinds when there is no way there
            raise SourceError(
                f"{repository} could not be loaded from the hub ({type(error).__name__})", remedy=f"pass a file: {name}=PATH"
            ) from error
    return rows


def _arc(row: Mapping[str, Any], i: int) -> dict[str, Any] | None:
    labels = list(row["choices"]["label"])
    if row["answerKey"] not in labels:
        return None
    extra = {key: row[key] for key in ("grade", "difficulty", "bloom", "depth") if row.get(key) is not None}
    return {
        "id": row.get("id", i),
        "question": row["question"],
        "choices": list(row["choices"]["text"]),
        "gold": labels.index(row["answerKey"]),
        **extra,
    }


def _mmlu(row: Mapping[str, Any], i: int) -> dict[str, Any] | None:
    subject = row.get("subject", "")
    if subject not in STEM:
        return None
    topic = subject.removeprefix("high_school_").removeprefix("college_")
    known = {"id": i, "question": row["question"], "choices": list(row["choices"]), "gold": int(row["answer"])}
    return known | {"college": STEM[subject], "topic": topic}


def _strategyqa(row: Mapping[str, Any], i: int) -> dict[str, Any]:
    right = row["answer"] if isinstance(row["answer"], bool) else str(row["answer"]).lower() in ("true", "yes")
    worked = row.get("facts")
    return {
        "id": row.get("qid", i),
        "question": row["question"],
        "choices": ["no", "yes"],
        "gold": int(right),
        "decomposition": row.get("decomposition"),
        "reasoning": " ".join(worked) if isinstance(worked, list) else worked,
    }


def _gsm8k(row: Mapping[str, Any], i: int) -> dict[str, Any]:
    reasoning, _, answer = row["answer"].partition("####")
    return {"id": i, "question": row["question"], "answer": answer.strip(), "reasoning": reasoning.strip()}


QUESTION_SETS: dict[str, tuple[tuple[str, tuple[str, ...], str], Callable[[Mapping[str, Any], int], Any]]] = {
    "arc": (("allenai/ai2_arc", ("ARC-Easy", "ARC-Challenge"), "test"), _arc),
    "mmlu": (("cais/mmlu", tuple(STEM), "test"), _mmlu),
    "strategyqa": (("ChilleD/StrategyQA", ("default",), "train"), _strategyqa),
    "gsm8k": (("openai/gsm8k", ("main",), "train"), _gsm8k),
}

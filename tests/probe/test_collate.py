"""Claims about ledger rows as the model's batches."""

import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
)

from datumwise.errors import (
    EmptyData,
    LabelError,
    MissingId,
    ModelMismatch,
    NotFinite,
    SchemaMismatch,
    SourceError,
    UnknownName,
)
from datumwise.ledger import create_ledger
from datumwise.probe.collate import (
    TextBatch,
    _saved_as,
    collate_for,
    context_length,
    encode_texts,
    load_model,
    model_batches,
)

TEXTS = ["the cat sat on the mat", "", "a dog", "one two three four five six seven eight nine ten"]


def ledger_of(folder, roles, **columns):
    """A ledger with these columns and running ids."""
    n = len(next(iter(columns.values())))
    table = pa.table({"id": [f"d{i}" for i in range(n)], **columns})
    return create_ledger(folder / "data", table.to_batches(), schema=table.schema, id_column="id", roles=roles)


def first(ledger, model, **options):
    """The first batch as the model reads it."""
    reads, function = collate_for(ledger, model, **options)
    record = next(iter(ledger.batches(columns=["id", *reads])))
    return function(record), function


@pytest.fixture(scope="module")
def tokenizer():
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=raw)  # neither padding nor end-of-text token


def llama(longest=40):
    config = LlamaConfig(
        vocab_size=280,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=longest,
    )
    return LlamaForCausalLM(config)


def bert(K=2, **options):
    config = BertConfig(
        vocab_size=280,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=K,
        max_position_embeddings=40,
        **options,
    )
    return BertForSequenceClassification(config)


def test_numeric_columns_become_one_float32_matrix_in_the_order_of_the_role(tmp_path):
    ledger = ledger_of(
        tmp_path,
        {"features": ["b", "a", "flag"], "label": "y"},
        a=pa.array([1, 2, 3], pa.int64()),
        b=pa.array([0.5, 1.5, 2.5]),
        flag=[True, False, True],
        y=["cat", "ant", "cat"],
    )
    (x, y), function = first(ledger, nn.Linear(3, 2))
    assert x.dtype == torch.float32
    assert x.tolist() == [[0.5, 1, 1], [1.5, 2, 0], [2.5, 3, 1]]
    assert y.tolist() == [1, 0, 1]
    assert y.dtype == torch.int64
    assert function.classes.tolist() == ["ant", "cat"]


def test_a_vector_column_and_no_label_give_x_alone(tmp_path):
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6, dtype=np.float32)), 3)
    x, _ = first(ledger_of(tmp_path, {"features": "x"}, x=values), nn.Linear(3, 2))
    assert x.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("labels", "K", "codes"),
    [
        ([7, 3, 3], 2, [1, 0, 0]),  # not codes of the model: sorted order
        ([2, 0, 2], 3, [2, 0, 2]),  # codes of a model with a class that the data lack
        ([1, 2, 1], 2, [0, 1, 0]),
        ([0.0, 1.0, 0.0], 2, [0, 1, 0]),
        ([True, False, True], 2, [1, 0, 1]),
    ],
)
def test_label_codes_are_the_models_where_they_can_be(tmp_path, labels, K, codes):
    ledger = ledger_of(tmp_path, {"features": ["a"], "label": "y"}, a=[1.0, 2.0, 3.0], y=labels)
    (_, y), _ = first(ledger, nn.Linear(1, K))
    assert y.tolist() == codes


def test_class_names_of_the_model_decide_the_order(tmp_path, tokenizer):
    ledger = ledger_of(tmp_path, {"text": "t", "label": "y"}, t=TEXTS, y=["neg", "pos", "pos", "neg"])
    model = bert(id2label={0: "pos", 1: "neg"}, label2id={"pos": 0, "neg": 1})
    batch, _ = first(ledger, model, tokenizer=tokenizer)
    assert batch["labels"].tolist() == [1, 0, 0, 1]
    assert model(**batch).logits.shape == (4, 2)


def test_real_labels_are_targets(tmp_path):
    ledger = ledger_of(tmp_path, {"features": ["a"], "label": "y"}, a=[1.0, 2.0], y=[0.25, 1.5])
    (_, y), function = first(ledger, nn.Linear(1, 1))
    assert y.dtype == torch.float32
    assert y.tolist() == [0.25, 1.5]
    assert function.classes is None


def test_texts_are_padded_on_the_right_and_padding_is_no_label(tmp_path, tokenizer):
    ledger = ledger_of(tmp_path, {"text": "t", "label": "y"}, t=TEXTS, y=["a", "b", "a", "b"])
    batch, _ = first(ledger, llama(), tokenizer=tokenizer)
    assert isinstance(batch, TextBatch)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}  # a language model: y is no label of it
    for row, text in enumerate(TEXTS):
        ids = tokenizer(text)["input_ids"]
        assert batch["input_ids"][row, : len(ids)].tolist() == ids
        assert batch["attention_mask"][row].tolist() == [1] * len(ids) + [0] * (len(batch["labels"][row]) - len(ids))
        assert batch["labels"][row].tolist() == ids + [-100] * (len(batch["labels"][row]) - len(ids))
    assert not batch.truncated.any()
    llama()(**batch)


def test_a_text_beyond_the_context_is_cut_and_flagged(tmp_path, tokenizer):
    ledger = ledger_of(tmp_path, {"text": "t"}, t=TEXTS)
    batch, _ = first(ledger, llama(longest=10), tokenizer=tokenizer)
    lengths = [len(tokenizer(text)["input_ids"]) for text in TEXTS]
    assert batch.truncated.tolist() == [length > 10 for length in lengths]
    assert any(batch.truncated)
    assert batch["input_ids"].shape == (4, 10)
    assert context_length(llama(10), tokenizer) == 10
    assert context_length(nn.Linear(1, 1), tokenizer) is None


def test_only_responses_are_labels(tmp_path, tokenizer):
    roles = {"prompt": "p", "response": "r"}
    ledger = ledger_of(tmp_path, roles, p=["the cat", "a"], r=[" sat", " dog on a mat"])
    batch, _ = first(ledger, llama(), tokenizer=tokenizer)
    for row, (prompt, response) in enumerate([("the cat", " sat"), ("a", " dog on a mat")]):
        head, tail = tokenizer(prompt)["input_ids"], tokenizer(response)["input_ids"]
        whole = len(head) + len(tail)
        assert batch["input_ids"][row, :whole].tolist() == head + tail
        assert batch["labels"][row, :whole].tolist() == [-100] * len(head) + tail
    assert encode_texts(tokenizer, [("a", "b")], 1)[0].truncated


def tiny_vit():
    return ViTConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=12,
        patch_size=6,
        num_labels=2,
    )


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def test_images_become_pixels_of_the_models_size_and_channels(tmp_path):
    rng = np.random.default_rng(0)
    grey = [rng.integers(0, 256, (6, 5), dtype=np.uint8) for _ in range(3)]
    data = pa.array([png(g) for g in grey], pa.large_binary())
    ledger = ledger_of(tmp_path, {"image": "image", "label": "y"}, image=data, y=["a", "b", "a"])
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(24, 2))
    (pixels, y), _ = first(ledger, plain)
    np.testing.assert_allclose(pixels[:, 0].numpy(), np.stack(grey) / 255, atol=1e-6)
    assert y.tolist() == [0, 1, 0]
    vit = ViTForImageClassification(tiny_vit())
    batch, _ = first(ledger, vit)
    assert batch["pixel_values"].shape == (3, 3, 12, 12)
    assert -1 <= batch["pixel_values"].min() < -0.5
    assert vit(pixel_values=batch["pixel_values"]).logits.shape == (3, 2)


def test_images_that_cannot_be_stacked_or_read_are_refused(tmp_path):
    sizes = pa.array([png(np.zeros((h, 4), dtype=np.uint8)) for h in (4, 5)], pa.large_binary())
    ledger = ledger_of(tmp_path, {"image": "image"}, image=sizes)
    with pytest.raises(SchemaMismatch, match="several sizes \\(4x4, 4x5\\)"):
        first(ledger, nn.Conv2d(3, 2, 3))
    (tmp_path / "other").mkdir()
    broken = ledger_of(tmp_path / "other", {"image": "image"}, image=pa.array([b"no image"], pa.large_binary()))
    with pytest.raises(SourceError, match="image of d0 cannot be read"):
        first(broken, nn.Conv2d(3, 2, 3))


def test_a_collate_of_ones_own_is_given_every_column_of_the_data(tmp_path):
    ledger = ledger_of(tmp_path, {}, a=[1.0, 2.0], b=["x", "y"])
    reads, function = collate_for(ledger, nn.Linear(1, 1), collate=lambda batch: batch.num_rows)
    assert {"a", "b"} <= set(reads)
    assert function(next(iter(ledger.batches(columns=reads)))) == 2


@pytest.mark.parametrize(
    ("roles", "columns", "error", "sentence"),
    [
        ({}, {"a": [1.0]}, SchemaMismatch, "names neither features, text nor images"),
        ({"text": "a"}, {"a": ["x"]}, ModelMismatch, "no tokenizer was given"),
        ({"features": ["a"]}, {"a": ["x"]}, SchemaMismatch, "column a holds string and a torch model"),
        ({"features": ["a"]}, {"a": [1.0, None]}, NotFinite, "missing, NaN or infinite in d1"),
        (
            {"features": ["a"], "label": "y"},
            {"a": [1.0, 2.0], "y": ["u", None]},
            LabelError,
            "no label in d1",
        ),
        (
            {"features": ["a"], "label": "y"},
            {"a": [1.0, 2.0, 3.0], "y": ["u", "v", "w"]},
            ModelMismatch,
            "3 classes and the model answers with 2",
        ),
    ],
)
def test_what_cannot_become_a_batch_is_refused(tmp_path, roles, columns, error, sentence):
    ledger = ledger_of(tmp_path, roles, **columns)
    with pytest.raises(error, match=sentence):
        first(ledger, nn.Linear(1, 2))


def test_batches_carry_the_ledgers_ids_in_its_order(tmp_path):
    roles = {"features": ["a"], "label": "y"}
    ledger = ledger_of(tmp_path, roles, a=np.arange(7.0), y=np.arange(7) % 2)
    seen = list(model_batches(ledger, nn.Linear(1, 2), batch_size=3))
    assert [name for names, _ in seen for name in names] == [f"d{i}" for i in range(7)]
    assert [len(batch[0]) for _, batch in seen] == [3, 3, 1]
    assert torch.cat([batch[0] for _, batch in seen])[:, 0].tolist() == list(range(7))


def test_batches_of_tensors_are_cut_and_numbered():
    x, y = torch.arange(5.0)[:, None], torch.zeros(5, dtype=torch.long)
    seen = list(model_batches((x, y), nn.Linear(1, 2), batch_size=2, ids=list("abcde")))
    assert [names for names, _ in seen] == [["a", "b"], ["c", "d"], ["e"]]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)
    assert [names for names, _ in model_batches(loader, nn.Linear(1, 2))] == [[0, 1, 2, 3], [4]]
    with pytest.raises(MissingId, match="2 ids were given"):
        list(model_batches((x, y), nn.Linear(1, 2), ids=["a", "b"]))
    with pytest.raises(EmptyData, match="no datapoint"):
        list(model_batches([], nn.Linear(1, 2)))


def test_a_saved_model_comes_back_with_its_tokenizer(tmp_path, tokenizer):
    model = llama()
    model.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    again, own = load_model(tmp_path / "lm", "causal-lm")
    assert not again.training
    assert next(again.parameters()).dtype == torch.float32
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in again.state_dict().items())
    assert own("the cat")["input_ids"] == tokenizer("the cat")["input_ids"]
    bert().save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    assert isinstance(load_model(tmp_path / "bert", "encoder")[0], BertModel)
    assert load_model(tmp_path / "bert", "text-classification")[0].config.num_labels == 2


def test_an_image_classifier_saved_without_a_processor_has_none(tmp_path):
    ViTForImageClassification(tiny_vit()).save_pretrained(tmp_path / "vit")
    model, processor = load_model(tmp_path / "vit", "image-classification")
    assert model.config.image_size == 12
    assert processor is None


def test_a_model_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceError, match="cannot be loaded for causal-lm") as caught:
        load_model(tmp_path / "nothing", "causal-lm")
    assert "\n" not in str(caught.value)
    with pytest.raises(UnknownName, match="there is no task chat"):
        load_model(tmp_path, "chat")


def test_a_checkpoint_is_loaded_for_what_it_was_saved_as(tmp_path):
    import transformers

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8}
    vit = transformers.ViTConfig(**small, patch_size=4, num_labels=3)
    transformers.ViTForImageClassification(vit).save_pretrained(tmp_path / "classifier")
    transformers.ViTModel(vit).save_pretrained(tmp_path / "encoder")
    assert type(load_model(tmp_path / "classifier")[0]).__name__ == "ViTForImageClassification"
    assert _saved_as(str(tmp_path / "encoder"), {}) == "encoder"
    assert _saved_as(str(tmp_path), {"gguf_file": "model.gguf"}) == "causal-lm"

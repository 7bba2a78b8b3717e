"""The same weights make the same tokens, logits and pairs in transformers' models, both ways.

Every weight is away from 0 and 1, so none can be forgotten or swapped unseen.
"""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ssl_jax.core.tree_paths import by_path, replace  # noqa: E402
from ssl_jax.data.text import tokenizer_training  # noqa: E402
from ssl_jax.models import make_encoder  # noqa: E402
from ssl_jax.models.layers import restack  # noqa: E402
from ssl_jax.pretrained import formats, torch_models  # noqa: E402
from ssl_jax.pretrained.formats import hugging_face, hugging_face_config  # noqa: E402
from tests.pretrained.formats.texts import CASES, TINY, outputs, perturbed, texts, vocabulary_of  # noqa: E402

BASE = {
    "bert_base": (dict(name="bert_base", pooler=True, activation="gelu"), True),
    "roberta_base": (dict(name="roberta_base", scan_layers=True), False),
}


def theirs(net, text):
    """Every layer's tokens, logits and pairs of a model, given what its users give it."""
    given = {
        "input_ids": np.where(text["segment"] > 0, text["tokens"], net.config.pad_token_id),
        "attention_mask": text["segment"],
        "token_type_ids": text["type"],
    }
    tensors = {name: torch.from_numpy(x.astype(np.int64)) for name, x in given.items()}
    with torch.no_grad():
        out = net.eval()(**tensors, output_hidden_states=True)
    logits = getattr(out, "prediction_logits", None)
    logits = out.logits if logits is None else logits
    pairs = getattr(out, "seq_relationship_logits", None)
    layers = [x.numpy() for x in out.hidden_states[1:]]
    return layers, logits.numpy(), None if pairs is None else pairs.numpy()


def assert_equal(ours, others, text):
    real = text["segment"] > 0
    (layers, logits, pairs), (their_layers, their_logits, their_pairs) = ours, others
    assert len(layers) == len(their_layers)
    for a, b in zip([*layers, logits], [*their_layers, their_logits], strict=True):
        assert np.abs(a[real] - b[real]).max() <= 1e-4 * max(1, np.abs(b[real]).max())
    assert (pairs is None) == (their_pairs is None)
    if pairs is not None:
        np.testing.assert_allclose(pairs, their_pairs, atol=1e-4)


def load(folder):
    """The class that config.json names, and that nothing is missing or left over."""
    config = json.loads((folder / "config.json").read_text())
    kind = getattr(transformers, config["architectures"][0])
    net, said = kind.from_pretrained(folder, output_loading_info=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not said[what], (what, said[what])
    return net


@pytest.mark.parametrize("case", [*CASES, "bert_base"])
def test_out(case, tmp_path):
    model, pairs = {**CASES, **BASE}[case]
    module, params = perturbed(model, pairs)
    hugging_face.write(str(tmp_path), params, module, vocabulary_of(model))
    net, text = load(tmp_path), texts(module)
    assert_equal(outputs(module, params, text), theirs(net, text), text)
    expected = outputs(module, params, text)[0][-1]
    real = text["segment"] > 0
    got = torch_models.transformers_tokens(str(tmp_path), text)
    assert np.abs(got - expected)[real].max() <= 1e-4 * np.abs(expected[real]).max()


def random_model(case):
    """A model of theirs whose every number has been drawn, and ours to match."""
    model, pairs = {**CASES, **BASE}[case]
    module = make_encoder(**model).module
    _, params = perturbed(model, pairs)
    config = hugging_face_config.description(module, vocabulary_of(model), params)
    kind = getattr(transformers, config["architectures"][0])
    net = kind(getattr(transformers, kind.config_class.__name__)(**config))
    generator = torch.Generator().manual_seed(0)
    for name, x in net.named_parameters():
        start = 1.0 if "LayerNorm.weight" in name or "layer_norm.weight" in name else 0.0
        spread = 0.3 if x.ndim == 1 or "embeddings" in name else x.shape[1] ** -0.5
        x.data = start + spread * torch.randn(x.shape, generator=generator)
    net.tie_weights()
    return net, module, params


@pytest.mark.parametrize("case", [*CASES, "roberta_base"])
def test_in(case, tmp_path):
    net, module, params = random_model(case)
    net.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    weights = formats.read(str(tmp_path / "model.safetensors"))
    arrays, unused = hugging_face.from_hugging_face(weights, config, module)
    assert not unused
    arrays = restack(arrays, by_path(params))
    assert arrays.keys() == by_path(params).keys()
    params = replace(params, arrays)
    text = texts(module)
    assert_equal(outputs(module, params, text), theirs(net, text), text)


def test_a_decoder_of_its_own_computes_other_logits(tmp_path):
    """Not tied: the library's logits are not those of the token embedding, so they are refused."""
    net, module, _ = random_model("masked")
    config = net.config.to_dict() | {"tie_word_embeddings": False}
    net = transformers.BertForMaskedLM(transformers.BertConfig(**config))
    net.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    weights = formats.read(str(tmp_path / "model.safetensors"))
    assert config["tie_word_embeddings"] is False
    assert "is another matrix" in hugging_face.token_head_difference(weights, config)
    arrays, unused = hugging_face.from_hugging_face(weights, config, module)
    assert "cls.predictions.decoder.weight" in unused and "token_head/bias" not in arrays
    # With equal matrices the bias in use is the decoder's.
    words = net.bert.embeddings.word_embeddings.weight
    net.cls.predictions.decoder.weight.data = words.data.clone()
    net.cls.predictions.decoder.bias.data = torch.arange(60.0)
    weights = {name: x.numpy() for name, x in net.state_dict().items()}
    arrays, unused = hugging_face.from_hugging_face(weights, config, module)
    np.testing.assert_array_equal(arrays["token_head/bias"], np.arange(60.0))
    _, params = perturbed(*CASES["masked"])
    params = replace(params, restack(arrays, by_path(params)))
    text = texts(module)
    assert_equal(outputs(module, params, text), theirs(net, text), text)


@pytest.mark.parametrize("lowercase", [True, False])
def test_the_librarys_own_tokenizer_reads_as_ours_does(lowercase, tmp_path):
    """`BertTokenizer` builds itself from vocab.txt and the settings, not from tokenizer.json."""
    lines = ["A Penny saved is a Penny earned."] * 20
    made = tokenizer_training.train(lambda: iter(lines), "wordpiece", 60, lowercase=lowercase)
    module = make_encoder(**{**TINY, "name": "bert_tiny"}).module
    files = hugging_face.tokenizer_files(made.to_json(), module, made.vocabulary)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    loaded = transformers.BertTokenizer.from_pretrained(tmp_path)
    v = made.vocabulary
    for text in ("A Penny saved", "a penny SAVED", "Pénny 你好"):
        ids, _ = made.encode([text])
        assert loaded(text)["input_ids"] == [v.cls, *ids.tolist(), v.sep], text


def test_a_torch_file_comes_in(tmp_path):
    """What training scripts saved before there was safetensors."""
    net, module, _ = random_model("pairs")
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    config = net.config.to_dict()
    weights = formats.read(str(tmp_path / "pytorch_model.bin"))
    arrays, unused = hugging_face.from_hugging_face(weights, config, module)
    assert not unused
    bias = net.state_dict()["cls.predictions.bias"].numpy()
    np.testing.assert_array_equal(arrays["token_head/bias"], bias)


@pytest.mark.parametrize("family", ["wordpiece", "bpe"])
def test_the_tokenizer_loads_and_frames_texts_alike(family, tmp_path):
    lines = ["A penny saved is a penny earned.", "Unaffable penguins, masked [MASK]!"] * 20
    made = tokenizer_training.train(lambda: iter(lines), family, 300)
    model, _ = CASES["masked" if family == "wordpiece" else "roberta"]
    model = {**model, "vocab_size": made.vocabulary.size}
    module, params = perturbed(model, False)
    hugging_face.write(str(tmp_path), params, module, made.vocabulary, made.to_json())
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    v = made.vocabulary
    ids, _ = made.encode(lines[:1])
    assert loaded(lines[0])["input_ids"] == [v.cls, *ids.tolist(), v.sep]
    assert (loaded.mask_token_id, loaded.pad_token_id) == (v.mask, v.pad)
    pair = loaded(lines[0], lines[0])
    assert ("token_type_ids" in pair) == (family == "wordpiece")
    net = load(tmp_path)
    batch = loaded(lines[:2], return_tensors="pt", max_length=20, truncation=True, padding=True)
    with torch.no_grad():
        logits = net(**batch).logits
    assert logits.shape[-1] == v.size and bool(torch.isfinite(logits).all())

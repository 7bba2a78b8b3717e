"""GPT-1 and GPT-2 in the format of transformers: names, settings, and back; logits, gradients and
tokens with theirs.
"""

import json

import jax
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Vocabulary
from ssl_jax.data.text import tokenizer_files, tokenizer_training
from ssl_jax.models import make_encoder
from ssl_jax.pretrained import formats, torch_models
from ssl_jax.pretrained.formats import hugging_face_gpt
from tests.pretrained.formats import language_models

WORDS = Vocabulary(size=90, pad=1, unk=3, cls=0, sep=2, mask=4, special=(0, 1, 2, 3, 4))
TINY = dict(vocab_size=90, dim=24, depth=2, num_heads=3, max_length=20)
CASES = {
    "gpt2": dict(TINY, name="gpt2", mlp_ratio=1.5, scan_layers=True),
    "untied": dict(TINY, name="gpt2", tied=False, activation="gelu"),
    "gpt1": dict(TINY, name="gpt1"),
}
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 90, (3, 20)).astype(np.int32)
TARGETS = RNG.integers(0, 90, (3, 20))
TEXT = {"tokens": TOKENS, "segment": np.ones_like(TOKENS)}
TEXT["position"] = np.broadcast_to(np.arange(20, dtype=np.int32), TOKENS.shape)
LINES = ["A penny saved is a penny earned.", "Unaffable penguins, über alles!"] * 20


def perturbed(case):
    return language_models.perturbed(CASES[case], TEXT, embedding=0.5)


def compare(module, params, folder):
    ours = language_models.logits_and_gradients(
        module, params, TEXT, TARGETS, output="tokens", names=hugging_face_gpt.to_hugging_face
    )
    language_models.assert_equal(ours, language_models.theirs(folder, TARGETS, input_ids=TOKENS))


@pytest.mark.parametrize("case", CASES)
def test_a_written_folder_comes_back(case, tmp_path):
    module, params = perturbed(case)
    count = hugging_face_gpt.write(str(tmp_path), {"encoder": params}, module, WORDS)
    state = formats.read(str(tmp_path / "model.safetensors"))
    config = json.loads((tmp_path / "config.json").read_text())
    assert len(state) == count and ("lm_head.weight" in state) == (case == "untied")
    assert state["transformer.h.1.attn.c_attn.weight"].shape == (24, 72)
    # Published files lack the prefix, and have masks.
    state = {name.removeprefix("transformer."): x for name, x in state.items()}
    state["h.0.attn.bias"] = np.ones((1, 1, 20, 20))
    arrays, unused = hugging_face_gpt.from_hugging_face(state, config, module)
    assert not unused
    language_models.assert_same(arrays, params)
    options = hugging_face_gpt.model_options(config, "config.json")
    other = make_encoder(**options, vocab_size=90).module
    for name in ("dim", "depth", "num_heads", "mlp_ratio", "activation", "tied", "max_length",
                 "norm_eps", "pre_norm", "norm"):  # fmt: skip
        assert getattr(other, name) == getattr(module, name), name
    shorter = make_encoder(**{**CASES[case], "max_length": 8}).module
    arrays, _ = hugging_face_gpt.from_hugging_face(state, config, shorter)
    assert len(arrays["encoder/embed/position/embedding"]) == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "has scale_attn_by_inverse_layer_idx True"),
        ({"activation_function": "relu"}, "activation_function 'relu', which is not supported"),
        ({"n_head": 0}, "n_head 0; it has to be a positive integer"),
        ({"n_head": 4}, "another decoder; set model.num_heads=4"),
        ({"model_type": "openai-gpt"}, "another decoder; set .*model.pre_norm=False"),
    ],
)
def test_other_decoders_are_named(change, message):
    module, _ = perturbed("gpt2")
    config = hugging_face_gpt.description(module, WORDS) | change
    with pytest.raises(UserError, match=message):
        hugging_face_gpt.from_hugging_face({}, config, module)


@pytest.mark.parametrize(
    "options", [dict(norm="rms"), dict(window=4), dict(pre_norm=False, activation="gelu"),
                dict(pre_norm=False, mlp_ratio=2.0)]
)  # fmt: skip
def test_what_transformers_lacks_is_refused(options, tmp_path):
    net = make_encoder(**TINY, name="gpt2", **options)
    shapes, _ = jax.eval_shape(net.init, jax.random.key(0), TEXT)
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    with pytest.raises(UserError, match="--to=safetensors keeps our own names"):
        hugging_face_gpt.write(str(tmp_path), {"encoder": params}, net.module, WORDS)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_those_of_transformers(case, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    module, params = perturbed(case)
    hugging_face_gpt.write(str(tmp_path), {"encoder": params}, module, WORDS)
    compare(module, params, tmp_path)
    said = torch_models.compare_next_tokens(str(tmp_path), params, module)
    assert "logits differ by" in said


@pytest.mark.parametrize("case", CASES)
def test_their_folders_are_read(case, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    module, params = perturbed(case)
    config = hugging_face_gpt.description(module, WORDS)
    kind = getattr(transformers, config["architectures"][0])
    net = kind(kind.config_class(**config))
    generator = torch.Generator().manual_seed(0)
    for name, x in net.named_parameters():
        start = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        spread = 0.3 if x.ndim == 1 else x.shape[0] ** -0.5
        x.data = start + spread * torch.randn(x.shape, generator=generator)
    net.tie_weights()
    net.save_pretrained(tmp_path)
    own = language_models.read(tmp_path, module, params, hugging_face_gpt.from_hugging_face)
    compare(module, own, tmp_path)


def test_vocabulary_and_merges_are_read_again(tmp_path):
    """vocab.json and merges.txt alone give the same tokens, special ones included."""
    made = tokenizer_training.train(lambda: iter(LINES), "bpe", 300)
    files = hugging_face_gpt.tokenizer_files(made.to_json(), made.vocabulary, 20)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_text(files[name])
    loaded = tokenizer_files.load(str(tmp_path))
    assert loaded.vocabulary == made.vocabulary
    for text in (*LINES[:2], "Pénny 你好\n\n <s>"):
        assert loaded.encode([text])[0].tolist() == made.encode([text])[0].tolist()
    assert json.loads(files["tokenizer.json"])["post_processor"] is None


# The form of GPT-1's files: characters, characters that end a word, and merges.
_LETTERS = "abdeginprsuvy.!"
GPT1_VOCAB = {
    token: number
    for number, token in enumerate(
        ["<unk>", *_LETTERS, *(f"{x}</w>" for x in _LETTERS), "pe", "nn", "penn", "penny</w>",
         "is</w>", "ed</w>"]
    )
}  # fmt: skip
GPT1_MERGES = ["p e", "n n", "pe nn", "penn y</w>", "i s</w>", "e d</w>"]


def write_gpt1(folder):
    (folder / "vocab.json").write_text(json.dumps(GPT1_VOCAB))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(GPT1_MERGES) + "\n")
    return tokenizer_files.load(str(folder))


def test_gpt1s_words_have_ends(tmp_path):
    loaded = write_gpt1(tmp_path)
    ids, _ = loaded.encode(["A Penny is pennies!"])
    tokens = [loaded.backend.id_to_token(i) for i in ids]
    assert tokens == ["a</w>", "penny</w>", "is</w>", "penn", "i", "e", "s</w>", "!</w>"]
    assert loaded.decode(ids) == "a penny is pennies !"
    assert loaded.vocabulary.unk == 0 and loaded.vocabulary.sep >= len(GPT1_VOCAB)


def test_their_tokenizers_read_as_ours_do(tmp_path):
    transformers = pytest.importorskip("transformers")
    made = tokenizer_training.train(lambda: iter(LINES), "bpe", 300)
    net = make_encoder(**{**CASES["gpt2"], "vocab_size": made.vocabulary.size})
    shapes, _ = jax.eval_shape(net.init, jax.random.key(0), TEXT)
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    folder = tmp_path / "gpt2"
    hugging_face_gpt.write(
        str(folder), {"encoder": params}, net.module, made.vocabulary, made.to_json()
    )
    texts = [*LINES[:2], "Pénny 你好\n\n  a"]
    for kind in (transformers.AutoTokenizer, transformers.GPT2Tokenizer):
        loaded = kind.from_pretrained(folder)
        assert (loaded.bos_token_id, loaded.eos_token_id) == (made.vocabulary.sep,) * 2
        for text in texts:
            assert loaded(text)["input_ids"] == made.encode([text])[0].tolist()
            assert loaded.decode(loaded(text)["input_ids"]) == text
    write_gpt1(tmp_path)
    own = tokenizer_files.load(str(tmp_path))
    for name in ("gpt2", "tokenizer.json"):
        assert not (tmp_path / name).is_file()
    loaded = transformers.OpenAIGPTTokenizer.from_pretrained(str(tmp_path))
    for text in ("A Penny is pennies!", "used snap"):
        assert loaded(text)["input_ids"] == own.encode([text])[0].tolist()

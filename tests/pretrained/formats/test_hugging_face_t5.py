"""T5 in the format of transformers: names, settings, and back; logits and gradients with theirs."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Vocabulary
from ssl_jax.models import make_encoder
from ssl_jax.pretrained import formats, torch_models
from ssl_jax.pretrained.formats import hugging_face_t5
from tests.pretrained.formats import language_models

WORDS = Vocabulary(size=120, pad=0, unk=2, cls=3, sep=1, mask=4, special=(0, 1, 2, 3, 4))
TINY = dict(vocab_size=120, dim=24, depth=2, num_heads=3, head_dim=6, hidden_dim=40,
            num_buckets=8, max_distance=20)  # fmt: skip
CASES = {
    "1.0": dict(TINY, name="t5_tiny", scan_layers=True),
    "1.1": dict(TINY, name="t5_1_1_small"),
}
RNG = np.random.default_rng(0)
TEXT = {
    "tokens": RNG.integers(0, 120, (3, 30)).astype(np.int32),
    "segment": (np.arange(30) < np.array([[30], [17], [5]])).astype(np.int32),
    "written": RNG.integers(0, 120, (3, 25)).astype(np.int32),
}
TARGETS = RNG.integers(0, 120, (3, 25))


def perturbed(case):
    return language_models.perturbed(CASES[case], TEXT, embedding=0.7)


def compare(module, params, folder):
    ours = language_models.logits_and_gradients(
        module, params, TEXT, TARGETS, output="written", names=hugging_face_t5.to_hugging_face
    )
    theirs = language_models.theirs(
        folder, TARGETS, input_ids=TEXT["tokens"], attention_mask=TEXT["segment"],
        decoder_input_ids=TEXT["written"],
    )  # fmt: skip
    language_models.assert_equal(ours, theirs)


@pytest.mark.parametrize("case", CASES)
def test_a_written_folder_comes_back(case, tmp_path):
    module, params = perturbed(case)
    count = hugging_face_t5.write(str(tmp_path), {"encoder": params}, module, WORDS)
    state = formats.read(str(tmp_path / "model.safetensors"))
    config = json.loads((tmp_path / "config.json").read_text())
    assert len(state) == count
    assert state["encoder.block.1.layer.1.layer_norm.weight"].shape == (24,)
    arrays, unused = hugging_face_t5.from_hugging_face(state, config, module)
    assert not unused
    language_models.assert_same(arrays, params)
    options = hugging_face_t5.model_options(config, "config.json")
    other = make_encoder(**options, vocab_size=120).module
    for name in ("dim", "depth", "num_heads", "head_dim", "hidden_dim", "activation", "tied",
                 "num_buckets", "max_distance", "norm_eps"):  # fmt: skip
        assert getattr(other, name) == getattr(module, name), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_decoder_layers": 3}, "num_layers 2 and num_decoder_layers 3"),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj 'gated-silu'; supported are relu"),
        ({"d_kv": 0}, "d_kv 0; it has to be a positive integer"),
        ({"num_heads": 4}, "another encoder-decoder; set model.num_heads=4"),
    ],
)
def test_other_nets_are_named(change, message):
    module, _ = perturbed("1.0")
    config = hugging_face_t5.description(module, WORDS) | change
    with pytest.raises(UserError, match=message):
        hugging_face_t5.from_hugging_face({}, config, module)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_those_of_transformers(case, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    module, params = perturbed(case)
    hugging_face_t5.write(str(tmp_path), {"encoder": params}, module, WORDS)
    compare(module, params, tmp_path)
    said = torch_models.compare_logits(str(tmp_path), params, module)
    assert "logits differ by" in said


@pytest.mark.parametrize("case", CASES)
def test_their_folders_are_read(case, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    module, params = perturbed(case)
    config = transformers.T5Config(**hugging_face_t5.description(module, WORDS))
    net = transformers.T5ForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(0)
    for name, x in net.named_parameters():
        start = 1.0 if "norm" in name else 0.0
        spread = 0.3 if "norm" in name else x.shape[-1] ** -0.5
        x.data = start + spread * torch.randn(x.shape, generator=generator)
    if module.tied:
        net.tie_weights()
    else:
        net.lm_head.weight = torch.nn.Parameter(0.2 * torch.randn(128, 24, generator=generator))
    net.save_pretrained(tmp_path)
    own = language_models.read(tmp_path, module, params, hugging_face_t5.from_hugging_face)
    compare(module, own, tmp_path)


def test_buckets_are_those_of_transformers():
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.models.t5.modeling_t5 import T5Attention

    from ssl_jax.models.relative_positions import relative_bucket

    offset = np.arange(-400, 400)
    for bidirectional in (True, False):
        for buckets, distance in ((32, 128), (8, 20), (16, 50)):
            expected = T5Attention._relative_position_bucket(
                torch.from_numpy(offset), bidirectional, buckets, distance
            )
            found = relative_bucket(
                jnp.asarray(offset),
                bidirectional=bidirectional,
                num_buckets=buckets,
                max_distance=distance,
            )
            np.testing.assert_array_equal(found, expected.numpy())

"""BERT and RoBERTa in transformers' folders, without that library."""

import json

import jax
import numpy as np
import pytest

from ssl_jax import checkpoint, data, parallel
from ssl_jax import config as config_lib
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.data.text import tokenizer_files, tokenizer_training
from ssl_jax.experiment.build import Experiment
from ssl_jax.models import make_encoder
from ssl_jax.models.layers import restack
from ssl_jax.pretrained import formats, init_from, torch_models
from ssl_jax.pretrained.formats import hugging_face, hugging_face_config
from ssl_jax.pretrained.matching import encoder_module
from tests.commands import run
from tests.methods.table import ROWS
from tests.pretrained.formats.texts import BPE, CASES, TINY, WORDPIECE, perturbed, vocabulary_of


def through(case, module, params):
    """The parameters after they have gone out and in again, and the names not used."""
    vocabulary = vocabulary_of(CASES[case][0])
    state = hugging_face.to_hugging_face(params, module, vocabulary)
    config = hugging_face_config.description(module, vocabulary, params)
    return state, *hugging_face.from_hugging_face(state, config, module)


@pytest.mark.parametrize("case", CASES)
def test_out_and_in_again(case):
    module, params = perturbed(*CASES[case])
    _, arrays, unused = through(case, module, params)
    assert not unused
    wanted = by_path(params)
    arrays = restack(arrays, wanted)
    assert arrays.keys() == wanted.keys()
    for path, leaf in wanted.items():
        leaf = leaf.copy()
        if path.endswith("position/embedding"):
            leaf[: module.position_offset] = 0  # never used
        np.testing.assert_array_equal(arrays[path], leaf, err_msg=path)


def test_the_names_are_transformers():
    module, params = perturbed(*CASES["pairs"])
    state, _, _ = through("pairs", module, params)
    assert state["bert.embeddings.word_embeddings.weight"].shape == (60, 24)
    assert state["bert.encoder.layer.1.intermediate.dense.weight"].shape == (48, 24)
    key = state["bert.encoder.layer.1.attention.self.key.weight"]
    np.testing.assert_array_equal(
        key, params["encoder"]["layer2"]["attn"]["qkv"]["kernel"][:, 24:48].T
    )
    assert len(state) == 5 + 2 * 16 + 2 + 5 + 2
    assert all(x.dtype == np.float32 and x.flags.c_contiguous for x in state.values())
    config = hugging_face_config.description(module, WORDPIECE, params)
    assert config["architectures"] == ["BertForPreTraining"] and config["hidden_act"] == "gelu_new"
    assert (config["intermediate_size"], config["layer_norm_eps"]) == (48, 1e-12)
    assert config["max_position_embeddings"] == 20


def test_robertas_positions_stand_behind_its_padding():
    model, pairs = CASES["roberta"]
    module, params = perturbed(model, pairs)
    table = params["encoder"]["embed"]["position"]["embedding"]
    for vocabulary in (BPE, WORDPIECE):  # pad 1 as published, and 0
        state = hugging_face.to_hugging_face(params, module, vocabulary)
        rows = state["roberta.embeddings.position_embeddings.weight"]
        first = vocabulary.pad + 1
        assert rows.shape == (20 + first, 24)
        np.testing.assert_array_equal(rows[first:], table[2:])
        config = hugging_face_config.description(module, vocabulary, params)
        assert config["max_position_embeddings"] == len(rows)
        arrays, _ = hugging_face.from_hugging_face(state, config, module)
        np.testing.assert_array_equal(arrays["encoder/embed/position/embedding"][2:], table[2:])
        # Of a longer table, those that there is room for.
        short = make_encoder(**{**model, "max_length": 12}).module
        arrays, _ = hugging_face.from_hugging_face(state, config, short)
        np.testing.assert_array_equal(arrays["encoder/embed/position/embedding"][2:], table[2:14])


def test_names_of_other_classes_and_other_times():
    """BertModel's have no prefix; the first files had gamma and beta; products are stored too."""
    module, params = perturbed(*CASES["masked"])
    state = hugging_face.to_hugging_face(params, module, WORDPIECE)
    config = hugging_face_config.description(module, WORDPIECE, params)
    expected, _ = hugging_face.from_hugging_face(state, config, module)
    other = {}
    for name, x in state.items():
        name = name.removeprefix("bert.")
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        other[name.replace("LayerNorm.bias", "LayerNorm.beta")] = x
    other["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    other["embeddings.position_ids"] = np.arange(20)
    other["classifier.weight"] = np.zeros((2, 24))
    got, unused = hugging_face.from_hugging_face(other, config, module)
    assert unused == ["classifier.weight"] and got.keys() == expected.keys()
    for path, x in expected.items():
        np.testing.assert_array_equal(got[path], x, err_msg=path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model_type="gpt2"), "model_type 'gpt2'; supported are bert and roberta"),
        (dict(model_type="roberta"), "model_type 'roberta'; use .* model.name=roberta_base"),
        (dict(hidden_act="relu"), "hidden_act 'relu', which is not supported"),
        (dict(hidden_act=["gelu"]), r"hidden_act \['gelu'\], which"),
        (dict(is_decoder=True), "is_decoder True; the encoder has only is_decoder False"),
        (dict(add_cross_attention=True), "add_cross_attention True"),
        (dict(is_encoder_decoder=True), "is_encoder_decoder True"),
        (dict(pruned_heads={"0": [1]}), r"pruned_heads {'0': \[1\]}; the encoder has no pruned_h"),
        (dict(quantization_config={"load_in_8bit": True}), "has no quantization_config"),
        (dict(pooler_type="mean"), "only pooler_type 'first_token_transform'"),
        (dict(feed_forward_type="geglu"), "only feed_forward_type 'original'"),
        (dict(alibi_starting_size=512), "has no alibi_starting_size"),
        (dict(auto_map={"AutoModel": "code.Net"}), "auto_map AutoModel: the folder's own code"),
        (dict(num_attention_heads="3"), "num_attention_heads '3'; it has to be a positive integer"),
        (dict(num_hidden_layers=True), "num_hidden_layers True; it has to be a positive integer"),
        (dict(layer_norm_eps=None), "layer_norm_eps None; it has to be a positive number"),
        (dict(position_embedding_type="relative_key"), "position_embedding_type 'relative_key'"),
        (
            dict(hidden_act="gelu", num_attention_heads=6),
            "another encoder; set model.activation=gelu model.num_heads=6",
        ),
        (dict(layer_norm_eps=1e-5), "set model.norm_eps=1e-05"),
    ],
)
def test_an_encoder_that_would_make_something_else_of_them_is_refused(changes, message):
    module, params = perturbed(*CASES["pairs"])
    config = hugging_face_config.description(module, WORDPIECE, params)
    hugging_face_config.check(config, module)
    with pytest.raises(UserError, match=message):
        hugging_face_config.check({**config, **changes}, module)


def test_what_other_settings_of_config_json_are_said_to_do():
    module, params = perturbed(*CASES["pairs"])
    config = hugging_face_config.description(module, WORDPIECE, params)
    assert hugging_face_config.unknown_settings(config) == []
    # Settings of published folders that say what the encoder has anyway, or concern it not at all.
    config |= dict(
        directionality="bidi", pooler_type="first_token_transform", pooler_num_fc_layers=3,
        is_decoder=False, pruned_heads={}, quantization_config=None, gradient_checkpointing=True,
        auto_map={"AutoConfig": "code.Config"}, max_length=20, add_cross_attention=None,
    )  # fmt: skip
    hugging_face_config.check(config, module)
    assert hugging_face_config.unknown_settings(config) == []
    config |= dict(share_layers=True, rotary=False, window=[1, 2])
    assert hugging_face_config.unknown_settings(config) == [
        "unknown settings of config.json, not used: share_layers True, window [1, 2]"
    ]


def test_the_options_of_an_encoder_are_read_with_the_same_checks():
    module, params = perturbed(*CASES["roberta"])
    config = hugging_face_config.description(module, BPE, params)
    options = hugging_face_config.model_options(config, "x/config.json")
    net = make_encoder(**{**options, "name": "roberta_tiny"}, vocab_size=60).module
    for name in ("dim", "depth", "num_heads", "mlp_ratio", "max_length", "num_types", "norm_eps"):
        assert getattr(net, name) == getattr(module, name), name
    for changes, message in (
        (dict(position_embedding_type="relative_key"), "x/config.json has position_emb"),
        (dict(hidden_size="24"), "x/config.json has hidden_size '24'"),
        (dict(pad_token_id=None), "x/config.json has pad_token_id None; it must be"),
        (dict(is_decoder=True), "x/config.json has is_decoder True"),
    ):
        with pytest.raises(UserError, match=message):
            hugging_face_config.model_options({**config, **changes}, "x/config.json")


def test_a_decoder_of_its_own_is_not_taken_for_the_token_embedding():
    module, params = perturbed(*CASES["masked"])
    state = hugging_face.to_hugging_face(params, module, WORDPIECE)
    config = hugging_face_config.description(module, WORDPIECE, params)
    words = state["bert.embeddings.word_embeddings.weight"]
    decoder, bias = "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"
    other = {**state, decoder: words[::-1], bias: 7 + state["cls.predictions.bias"]}

    # The library ties them when it loads the folder, whatever is stored.
    tied, unused = hugging_face.from_hugging_face(other, config, module)
    assert not unused and hugging_face.token_head_difference(other, config) is None
    np.testing.assert_array_equal(tied["token_head/bias"], state["cls.predictions.bias"])

    config["tie_word_embeddings"] = False
    assert "tie_word_embeddings false, and cls.predictions.decoder.weight is another matrix" in (
        hugging_face.token_head_difference(other, config)
    )
    arrays, unused = hugging_face.from_hugging_face(other, config, module)
    assert not [path for path in arrays if path.startswith("token_head/")]
    assert {decoder, "cls.predictions.transform.dense.weight"} <= set(unused)
    assert arrays.keys() == {path for path in tied if path.startswith("encoder/")}
    # Not tied and equal all the same: the head is ours, with the bias that the decoder has.
    other[decoder] = words
    arrays, unused = hugging_face.from_hugging_face(other, config, module)
    assert not unused and arrays.keys() == tied.keys()
    np.testing.assert_array_equal(arrays["token_head/bias"], 7 + state["cls.predictions.bias"])
    # Of an encoder alone there is nothing to say.
    encoder = {name: x for name, x in other.items() if name.startswith("bert.")}
    assert hugging_face.token_head_difference(encoder, config) is None


def test_robertas_head_has_one_gelu_when_it_comes_in():
    model, pairs = CASES["roberta"]
    module, params = perturbed(model, pairs)
    state = hugging_face.to_hugging_face(params, module, BPE)
    config = hugging_face_config.description(module, BPE, params) | {"hidden_act": "gelu_new"}
    other = make_encoder(**{**model, "activation": "gelu_tanh"}).module
    assert "the exact GELU" in hugging_face.token_head_difference(state, config)
    arrays, unused = hugging_face.from_hugging_face(state, config, other)
    assert "lm_head.dense.weight" in unused and "token_head/dense/kernel" not in arrays


@pytest.mark.parametrize("lowercase", [True, False])
def test_an_exported_tokenizer_says_how_it_reads_texts(lowercase, tmp_path):
    lines = ["A Penny saved is a Penny earned."] * 20
    made = tokenizer_training.train(lambda: iter(lines), "wordpiece", 60, lowercase=lowercase)
    module = make_encoder(**{**TINY, "name": "bert_tiny"}).module
    files = hugging_face.tokenizer_files(made.to_json(), module, made.vocabulary)
    settings = json.loads(files["tokenizer_config.json"])
    assert settings["do_lower_case"] is lowercase
    assert settings["strip_accents"] is None and settings["tokenize_chinese_chars"] is True
    # The vocabulary and the settings alone, as the library's BertTokenizer reads them.
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / name).write_text(files[name])
    again = tokenizer_files.load(str(tmp_path))
    for text in ("A PENNY saved", "a penny", "Pénny"):
        np.testing.assert_array_equal(again.encode([text])[0], made.encode([text])[0])


def test_another_normalizer_and_bytes_say_what_they_do():
    def settings(normalizer, model="WordPiece", words=None):
        parts = {"normalizer": normalizer, "pre_tokenizer": words, "added_tokens": []}
        vocab = {name: i for i, name in enumerate("abcde")}
        parts["model"] = {"type": model, "vocab": vocab}
        module = make_encoder(**{**TINY, "name": "bert_tiny"}).module
        files = hugging_face.tokenizer_files(json.dumps(parts), module, WORDPIECE)
        return json.loads(files["tokenizer_config.json"])

    lower = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
    assert settings(lower)["do_lower_case"] and settings({"type": "Lowercase"})["do_lower_case"]
    assert settings(None)["do_lower_case"] is False
    words = {"type": "ByteLevel", "add_prefix_space": True}
    bytewise = settings(None, "BPE", words)
    assert bytewise["add_prefix_space"] is True and "do_lower_case" not in bytewise


def test_robertas_head_has_one_gelu():
    module = make_encoder(**{**TINY, "name": "roberta_tiny"}, activation="gelu_tanh").module
    with pytest.raises(UserError, match="exact GELU in its head"):
        hugging_face.to_hugging_face({}, module, BPE)


# ------------------------------------------------------------------------------ runs and commands


def workdir_of(row, path, **overrides):
    """A run of the table as it is after three steps, its weights random. Returns its experiment."""
    config = ROWS[row].load(**overrides)
    source = data.from_config(config.data, seed=0)
    config = data.with_facts(config, source.spec)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    experiment = Experiment.build(config, source.spec, mesh)
    state = experiment.init_state()
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32), state.params)
    state = state.replace(params=jax.device_put(noisy, parallel.replicated(mesh)))
    path.mkdir()
    (path / "config.json").write_text(config_lib.to_json(config))
    with checkpoint.Checkpointer(path) as saves:
        saves.save(3, state, wait=True)
    return experiment, state


def assert_begins_with(begun, expected):
    for path, leaf in expected.items():
        np.testing.assert_array_equal(begun[path], leaf, err_msg=path)


def test_a_run_goes_out_by_the_command_and_comes_in(tmp_path):
    experiment, state = workdir_of("bert", tmp_path / "run")
    done = run(tmp_path / "run", f"--output={tmp_path}/out", "--to=hf", module="export")
    assert "arrays, step 3" in done.stdout
    missing = torch_models.missing("torch", "transformers", needed="BertModel")
    told = f"not compared with transformers: {missing}" if missing else "texts: tokens differ by"
    assert told in done.stdout
    assert "without the tokenizer" not in done.stdout
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
    }  # fmt: skip
    words = (tmp_path / "out" / "vocab.txt").read_text().split("\n")
    assert words[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] and words[-1] == ""
    assert len(words) - 1 == experiment.spec.vocabulary.size
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["mask_token"] == "[MASK]" and settings["model_max_length"] == 32
    # The tokenizer reads texts as the run's does.
    source = data.from_config(experiment.config.data, seed=0)
    again = tokenizer_files.load(f"{tmp_path}/out")
    assert again.vocabulary == source.cache.vocabulary
    # Scanned or not, it comes in again, heads and all.
    for scan_layers in (False, True):
        other = Experiment.build(
            ROWS["bert"].load(seed=7, model__scan_layers=scan_layers), experiment.spec
        )
        loaded, lines = init_from.load(f"{tmp_path}/out", other)
        assert len(lines) == 1 and "bert, " in lines[0], lines
        begun = by_path(other.init_state(loaded).params)
        assert_begins_with(restack(begun, by_path(state.params)), by_path(state.params))

    ours = tmp_path / "ours"
    run(tmp_path / "run", f"--output={ours}", "--to=safetensors", module="export")
    assert json.loads((ours / "config.json").read_text())["vocabulary"]["mask"] == 4


def test_a_run_of_scanned_layers_starts_one_of_unrolled_layers(tmp_path):
    experiment, state = workdir_of("roberta", tmp_path / "run")
    assert "encoder/layers/norm1/scale" in by_path(state.params)
    other = Experiment.build(ROWS["roberta"].load(model__scan_layers=False), experiment.spec)
    loaded, lines = init_from.load(str(tmp_path / "run"), other)
    assert len(lines) == 1, lines
    begun = by_path(other.init_state(loaded).params)
    assert_begins_with(begun, restack(by_path(state.params), begun))
    assert "encoder/layer2/norm1/scale" in begun
    # Of a longer table of positions the first are taken; a shorter one is fresh only if asked for.
    config = ROWS["roberta"].load(data__options__sequence_length=16, model__max_length=16)
    shorter = Experiment.build(config, data.from_config(config.data, seed=0).spec)
    loaded, lines = init_from.load(str(tmp_path / "run"), shorter)
    table = "encoder/embed/position/embedding"
    np.testing.assert_array_equal(loaded["params"][table], by_path(state.params)[table][:18])
    longer = Experiment.build(ROWS["roberta"].load(model__max_length=40), experiment.spec)
    with pytest.raises(UserError, match=r"has shape \(34, 16\), not \(42, 16\) .*max_length=32"):
        init_from.load(str(tmp_path / "run"), longer)
    longer.config.init_partial = True
    _, lines = init_from.load(str(tmp_path / "run"), longer)
    assert lines[1] == "not found: params/encoder/embed/position/embedding"


def _head_of_its_own(experiment, folder):
    """A run that learns to predict tokens does not silently begin with another head."""
    module, params = encoder_module(experiment), experiment.init_state().params
    hugging_face.write(str(folder), params, module, experiment.spec.vocabulary)
    config = json.loads((folder / "config.json").read_text())
    config |= {"tie_word_embeddings": False, "window": 3}
    (folder / "config.json").write_text(json.dumps(config))
    path = str(folder / "model.safetensors")
    state = formats.read(path)
    state["cls.predictions.decoder.weight"] = np.flip(
        state["bert.embeddings.word_embeddings.weight"], 0
    )
    formats.write_safetensors(path, state)
    with pytest.raises(UserError, match="tie_word_embeddings false.*init_partial=True") as told:
        init_from.load(str(folder), experiment)
    assert "\n" not in str(told.value)
    with experiment.config.unlocked():
        experiment.config.init_partial = True
    loaded, lines = init_from.load(str(folder), experiment)
    assert "token_head/bias" not in loaded["params"]
    assert lines[1].endswith("not used: window 3")
    assert "params/token_head/" in lines[2] and "cls.predictions" in lines[3]


def test_what_does_not_fit_is_said_in_one_line(tmp_path):
    module, params = perturbed(*CASES["pairs"])
    hugging_face.write(str(tmp_path / "out"), params, module, WORDPIECE)
    digits = ROWS["supervised"].load()
    images = Experiment.build(digits, data.spec_from_config(digits.data))
    with pytest.raises(UserError, match="is a text encoder; convnet is not"):
        init_from.load(str(tmp_path / "out"), images)
    experiment, _ = workdir_of("bert", tmp_path / "run")
    with pytest.raises(UserError, match="set model.num_heads=3"):
        init_from.load(str(tmp_path / "out"), experiment)
    _head_of_its_own(experiment, tmp_path / "untied")
    (tmp_path / "out" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has neither model.safetensors nor pytorch_model.bin"):
        init_from.load(str(tmp_path / "out"), experiment)
    (tmp_path / "out" / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json cannot be read"):
        init_from.load(str(tmp_path / "out"), experiment)

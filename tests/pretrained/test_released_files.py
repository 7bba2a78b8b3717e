"""Runs that start from released files of DINO, iBOT, DINOv2, MAE, I-JEPA, and image folders."""

import json

import numpy as np
import pytest

from ssl_jax import config as config_lib
from ssl_jax.config import from_pretrained
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.models.positions import resize_positions
from ssl_jax.pretrained import formats, init_from
from ssl_jax.pretrained.formats import hugging_face_vit, hugging_face_vit_config
from tests.pretrained.formats import released, torch_files
from tests.pretrained.formats.nets import perturbed
from tests.pretrained.formats.vits import MODELS, SIDE, experiment_of, mae, write_config

VIT = dict(name="vit_ti16", patch_size=4, dim=16, depth=2, num_heads=4)
SINCOS = dict(VIT, positions="sincos")
PATCHES = dict(SINCOS, cls_token=False, pool="mean")


def dino_run():
    head = dict(hidden_dim=12, output_dim=8, num_prototypes=24)
    head = {f"method__{name}": value for name, value in head.items()}
    return experiment_of(VIT, "dino-vit", **head)


def written(tmp_path, tree):
    path = str(tmp_path / "released.pth")
    torch_files.write(path, tree)
    return path


def load(path, experiment):
    loaded, lines = init_from.load(path, experiment)
    return {f"{part}/{name}": x for part, tree in loaded.items() for name, x in tree.items()}, lines


def assert_encoder(arrays, state):
    """A few arrays of each kind, by the released names."""
    for path, value in {
        "patch_embed/proj/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "layer2/attn/qkv/kernel": state["blocks.1.attn.qkv.weight"].T,
        "layer1/norm2/scale": state["blocks.0.norm2.weight"],
        "norm/bias": state["norm.bias"],
    }.items():
        np.testing.assert_array_equal(arrays[f"params/encoder/{path}"], value, err_msg=path)


def whole(experiment, arrays):
    own = {f"params/{path}" for path in by_path(experiment.abstract_state.params)}
    return own <= arrays.keys()


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_dino_continues_from_the_named_network(network, tmp_path):
    tree = released.dino()
    path, experiment = written(tmp_path, tree), dino_run()
    source = path if network == "teacher" else f"{path}@student"
    arrays, lines = load(source, experiment)
    assert whole(experiment, arrays)
    prefix = {"teacher": "", "student": "module."}[network]
    state = {n.removeprefix(prefix): x for n, x in tree[network].items()}
    assert_encoder(arrays, {n.removeprefix("backbone."): x for n, x in state.items()})
    np.testing.assert_array_equal(
        arrays["params/projector/dense3/kernel"], state["head.mlp.4.weight"].T
    )
    prototypes = arrays["params/prototypes/direction"], arrays["params/prototypes/magnitude"]
    np.testing.assert_array_equal(prototypes[0], state["head.last_layer.weight_v"].T)
    np.testing.assert_array_equal(prototypes[1], state["head.last_layer.weight_g"][:, 0])
    np.testing.assert_array_equal(arrays["buffers/centre"], tree["dino_loss"]["center"][0])
    other = {"teacher": "student", "student": "teacher"}[network]
    assert lines[0].startswith(f"{source}: {network}, names below '{prefix}backbone.', ")
    assert ", with its head and centre, " in lines[0]
    assert lines[1] == f"the file also has {other}: set init_from=.../released.pth@{other}"
    if network == "teacher":  # both start from it
        assert lines[2:] == [f"also in the file and not used: student ({len(tree[other])} arrays)"]
        return
    assert lines[2:] == ["the moving average starts from teacher of the file"]
    assert {path.partition("/")[0] for path in arrays} == {"params", "buffers", "ema"}
    averaged = {n.removeprefix("backbone."): x for n, x in tree["teacher"].items()}
    average = {p.replace("ema/", "params/"): x for p, x in arrays.items() if p.startswith("ema/")}
    assert_encoder(average, averaged)
    np.testing.assert_array_equal(
        average["params/projector/dense3/kernel"], averaged["head.mlp.4.weight"].T
    )
    assert average.keys() == {
        f"params/{path}" for path in by_path(experiment.abstract_state.weights.ema)
    }
    # The first state of the run.
    loaded, _ = init_from.load(source, experiment)
    weights = experiment.init_state(loaded).weights
    for tree, prefix in ((weights.params, "params"), (weights.ema, "ema")):
        for path, leaf in by_path(tree).items():
            np.testing.assert_array_equal(leaf, arrays[f"{prefix}/{path}"], err_msg=path)


def test_a_network_that_the_file_does_not_have(tmp_path):
    path = written(tmp_path, released.dino())
    with pytest.raises(UserError, match="no encoder 'techer'; it has teacher, student. Did you"):
        load(f"{path}@techer", dino_run())
    path = written(tmp_path, released.vit())
    with pytest.raises(UserError, match="no encoder 'teacher'; it has one encoder without a name"):
        load(f"{path}@teacher", dino_run())


def test_dinos_head_of_another_size_is_initialised(tmp_path):
    tree = released.dino()
    tree["teacher"]["head.mlp.0.weight"] = np.ones((10, 16), np.float32)
    arrays, lines = load(written(tmp_path, tree), dino_run())
    assert not [path for path in arrays if "encoder" not in path]
    assert "with its" not in lines[0]
    note = "the head is not loaded but initialised: head.mlp.0.weight has shape (10, 16), not (12"
    assert any(line.startswith(note) for line in lines)
    assert "head (8 arrays)" in lines[-1]


def test_dinos_head_without_a_centre(tmp_path):
    tree = released.dino()
    del tree["dino_loss"]
    arrays, lines = load(written(tmp_path, tree), dino_run())
    assert "params/prototypes/direction" in arrays and "buffers/centre" not in arrays
    assert "the file has no centre: this run's is initialised" in lines


HEAD = dict(
    hidden_dim=12, output_dim=8, num_prototypes=24, unit_prototypes=False, head_batch_norm=False
)  # fmt: skip


def masked_run(row, **method):
    model, options = dict(VIT, mask_token=True), HEAD
    if row == "dinov2":
        model = dict(model, layer_scale=1e-5)
        options = dict(HEAD, targets="centring", separate_heads=False)
    options = options | method
    return experiment_of(model, row, **{f"method__{name}": x for name, x in options.items()})


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_ibot_continues_with_its_head_and_both_centres(network, tmp_path):
    tree, experiment = released.ibot(), masked_run("ibot")
    path = written(tmp_path, tree)
    arrays, lines = load(path if network == "teacher" else f"{path}@student", experiment)
    prefix = {"teacher": "", "student": "module."}[network]
    state = {n.removeprefix(prefix): x for n, x in tree[network].items()}
    assert_encoder(arrays, {n.removeprefix("backbone."): x for n, x in state.items()})
    for ours, theirs in (
        ("params/projector/dense3/kernel", state["head.mlp.4.weight"].T),
        ("params/prototypes/direction", state["head.last_layer.weight_v"].T),
        ("params/prototypes/magnitude", state["head.last_layer.weight_g"][:, 0]),
        ("buffers/centre", tree["ibot_loss"]["center"][0]),
        ("buffers/patch_centre", tree["ibot_loss"]["center2"][0, 0]),
    ):
        np.testing.assert_array_equal(arrays[ours], theirs, err_msg=ours)
    if network == "teacher":
        assert "the file has no mask token: this run's is initialised" in lines
        unused = [line for line in lines if line.startswith("also in the file and not used")]
        assert unused == [f"also in the file and not used: student ({len(tree['student'])} arrays)"]
        return
    token = tree["student"]["module.backbone.masked_embed"]
    np.testing.assert_array_equal(arrays["params/encoder/mask_token"], token)
    assert whole(experiment, arrays)
    assert "the moving average starts from teacher of the file" in lines
    loaded, _ = init_from.load(f"{path}@student", experiment)
    average = by_path(experiment.init_state(loaded).weights.ema)
    direction = tree["teacher"]["head.last_layer.weight_v"].T
    np.testing.assert_array_equal(average["prototypes/direction"], direction)
    np.testing.assert_array_equal(average["encoder/mask_token"], token)


def test_ibots_own_last_layer_of_patches_is_named(tmp_path):
    arrays, lines = load(written(tmp_path, released.ibot(shared=False)), masked_run("ibot"))
    note = "patches have a last layer of their own there, head.last_layer2: it is not loaded"
    assert note in lines and "params/prototypes/direction" in arrays
    assert "head (2 arrays)" in lines[-1]


def test_dinov2_continues_with_both_heads(tmp_path):
    tree = released.dinov2_teacher()
    options = dict(separate_heads=True, num_patch_prototypes=20, patch_output_dim=8)
    experiment, path = masked_run("dinov2", **options), written(tmp_path, tree)
    arrays, lines = load(path, experiment)
    assert whole(experiment, arrays)
    for ours, theirs in (
        ("projector/dense1/kernel", "dino_head.mlp.0.weight"),
        ("prototypes/direction", "dino_head.last_layer.weight_v"),
        ("patch_projector/dense3/kernel", "ibot_head.mlp.4.weight"),
        ("patch_prototypes/direction", "ibot_head.last_layer.weight_v"),
    ):
        stored = tree["teacher"][theirs].T
        np.testing.assert_array_equal(arrays[f"params/{ours}"], stored, err_msg=ours)
    assert ", with its head and head of patches, " in lines[0]
    centres = ["the file has no centre: this run's is initialised"]
    centres.append("the file has no centre of patches: this run's is initialised")
    assert lines[1:] == centres
    # With one head for both, that of patches is left out.
    arrays, lines = load(path, masked_run("dinov2"))
    assert "params/prototypes/direction" in arrays
    assert lines[-1] == "also in the file and not used: ibot_head (8 arrays)"
    # Prototypes of another number.
    experiment = masked_run("dinov2", **{**options, "num_patch_prototypes": 12})
    arrays, lines = load(path, experiment)
    note = "the head of patches is not loaded but initialised: ibot_head.last_layer.weight_"
    assert any(line.startswith(note) for line in lines), lines
    assert not [name for name in arrays if "patch_" in name and "encoder" not in name]
    # Norms that this run does not learn.
    _, lines = load(path, masked_run("dinov2", **options, unit_prototypes=True))
    assert sum("its prototypes have learned norms" in line for line in lines) == 2


def test_mae_continues_with_its_decoder_or_without(tmp_path):
    experiment, state = mae(SINCOS), released.mae()
    arrays, lines = load(written(tmp_path, {"model": state}), experiment)
    assert whole(experiment, arrays) and len(lines) == 1, lines
    assert_encoder(arrays, state)
    np.testing.assert_array_equal(arrays["params/decoder/mask_token"], state["mask_token"][0, 0])
    np.testing.assert_array_equal(
        arrays["params/decoder/layer2/mlp/fc1/kernel"], state["decoder_blocks.1.mlp.fc1.weight"].T
    )
    np.testing.assert_array_equal(arrays["params/decoder/pred/bias"], state["decoder_pred.bias"])
    encoder = {n: x for n, x in state.items() if "decoder" not in n and n != "mask_token"}
    arrays, lines = load(written(tmp_path, {"model": encoder}), experiment)
    assert lines[1:] == ["the file has no decoder: this run's is initialised"]
    assert not [path for path in arrays if "decoder" in path]
    arrays, lines = load(written(tmp_path, {"model": released.mae(decoder_dim=32)}), experiment)
    assert lines[1].startswith("the decoder is not loaded but initialised: ")
    assert lines[2].startswith("not used: ") and not [path for path in arrays if "decoder" in path]
    state["decoder_pos_embed"] = state["decoder_pos_embed"] + 1
    _, lines = load(written(tmp_path, {"model": state}), experiment)
    assert "decoder_pos_embed has other positions than this run's" in lines[1]


def test_ijepa_continues_with_its_predictor(tmp_path):
    tree = released.ijepa()
    options = dict(depth=1, dim=12, num_heads=3)
    predictor = {f"nets__predictor__{name}": value for name, value in options.items()}
    experiment = experiment_of(PATCHES, "ijepa", **predictor)
    arrays, lines = load(written(tmp_path, tree), experiment)
    assert whole(experiment, arrays)
    assert lines[0].split(": ")[1].startswith("target_encoder, names below 'module.', ")
    target = {n.removeprefix("module."): x for n, x in tree["target_encoder"].items()}
    assert_encoder(arrays, target)
    np.testing.assert_array_equal(
        arrays["params/predictor/mask_token"], tree["predictor"]["module.mask_token"][0, 0]
    )
    arrays, lines = load(f"{tmp_path}/released.pth@encoder", experiment)
    context = {n.removeprefix("module."): x for n, x in tree["encoder"].items()}
    assert_encoder(arrays, context)
    average = {p.replace("ema/", "params/"): x for p, x in arrays.items() if p.startswith("ema/")}
    assert_encoder(average, target)
    assert lines[-1] == "the moving average starts from target_encoder of the file"
    assert whole(experiment, arrays)


DINOV2 = dict(VIT, layer_scale=1e-5)


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("swiglu", [False, True])
def test_dinov2(registers, swiglu, tmp_path):
    """The positions are those of larger images, as in the released files."""
    state = released.dinov2(registers, side=6, swiglu=swiglu)
    feed_forward = "swiglu" if swiglu else "mlp"
    resize = "antialiased" if registers else "dino"
    model = dict(DINOV2, num_registers=registers, feed_forward=feed_forward, position_resize=resize)
    experiment = experiment_of(model)
    arrays, lines = load(written(tmp_path, state), experiment)
    assert_encoder(arrays, state)
    grid = state["pos_embed"][0, 1:].reshape(6, 6, 16)
    expected = resize_positions(grid, (4, 4), resize)
    np.testing.assert_allclose(arrays["params/encoder/pos_embed/grid"], expected, atol=1e-6)
    np.testing.assert_array_equal(
        arrays["params/encoder/layer1/ls2/scale"], state["blocks.0.ls2.gamma"]
    )
    if registers:
        tokens = arrays["params/encoder/register_tokens"]
        np.testing.assert_array_equal(tokens, state["register_tokens"])
    assert lines[1:] == ["positions: resized from 6x6 to 4x4 patches", "not used: mask_token"]


def test_dinov2_with_a_mask_token_and_blocks_in_chunks(tmp_path):
    state = released.dinov2()
    experiment = experiment_of(dict(DINOV2, mask_token=True))
    chunked = {n.replace("blocks.1.", "blocks.1.1."): x for n, x in state.items()}
    chunked = {n.replace("blocks.0.", "blocks.0.0."): x for n, x in chunked.items()}
    arrays, lines = load(
        written(tmp_path, {"teacher": released.below("backbone.", chunked)}), experiment
    )
    assert_encoder(arrays, state)
    np.testing.assert_array_equal(arrays["params/encoder/mask_token"], state["mask_token"])
    assert len(lines) == 1
    del state["mask_token"]
    _, lines = load(written(tmp_path, state), experiment)
    assert lines[1:] == ["the file has no mask token: this run's is initialised"]


def test_scanned_layers_are_stacked(tmp_path):
    state = released.dinov2(2)
    model = dict(DINOV2, num_registers=2)
    arrays, _ = load(written(tmp_path, state), experiment_of(dict(model, scan_layers=True)))
    kernels = arrays["params/encoder/layers/mlp/fc1/kernel"]
    np.testing.assert_array_equal(kernels[1], state["blocks.1.mlp.fc1.weight"].T)
    _, params, _ = perturbed(SIDE, channels=1, **model, scan_layers=True)
    names = formats.to_torch(params, {})
    assert names.keys() == state.keys() - {"mask_token"}
    np.testing.assert_array_equal(names["blocks.1.ls2.gamma"], params["layers"]["ls2"]["scale"][1])


def without(state, name):
    return {n: x for n, x in state.items() if n != name}


@pytest.mark.parametrize(
    ("state", "model", "message"),
    [
        (released.vit(dim=24), VIT, "of another size; set model.dim=24, or initialise"),
        (released.vit(patch=2), VIT, "set model.patch_size=2, or"),
        (released.vit(dim=24, patch=8), VIT, "set model.dim=24 model.patch_size=8, or"),
        (
            released.vit(channels=3),
            VIT,
            r"proj.weight has shape \(4, 4, 3, 16\), not \(4, 4, 1, 16",
        ),
        (released.vit(depth=3), VIT, "which lacks blocks.2.norm1.weight"),
        (released.vit(depth=1), VIT, "blocks.1.attn.proj.weight is missing"),
        (without(released.vit(), "norm.bias"), VIT, "norm.bias is missing"),
        (without(released.vit(), "pos_embed"), VIT, "pos_embed is missing"),
        (released.dinov2(4), DINOV2, "has 4 register tokens, and .* 0; set model.num_registers=4"),
        (released.dinov2(), dict(DINOV2, num_registers=2), "set model.num_registers=0"),
        (released.dinov2(), VIT, "which lacks blocks.0.ls1.gamma"),
        (released.vit(), DINOV2, "blocks.0.ls1.gamma is missing"),
        (released.dinov2(swiglu=True), DINOV2, "blocks.0.mlp.fc1.weight is missing"),
        (released.mae(), VIT, None),  # its positions are loaded as learned ones
        (released.vit(), SINCOS, "set model.positions=learned"),
    ],
)
def test_files_of_another_net_are_one_clear_line(state, model, message, tmp_path):
    path, experiment = written(tmp_path, state), experiment_of(model)
    if message is None:
        assert len(load(path, experiment)[1]) == 2
        return
    with pytest.raises(UserError, match=message) as error:
        load(path, experiment)
    assert str(error.value).startswith(f"init_from={path}") and "\n" not in str(error.value)


# ------------------------------------------------------------------ folders of transformers


def folder(tmp_path, case, state=None, **changes):
    """A folder with random weights; without a class token, LayerScale and so on as `case` is."""
    kind = "dinov2" if case == "swiglu" else case
    if state is None:
        _, params, _ = perturbed(SIDE, channels=1, **MODELS[case])
        state = formats.to_torch(params, {}, sincos=np.zeros((4, 4, 16), np.float32))
    arrays = hugging_face_vit.to_hugging_face(state, kind)
    formats.write_safetensors(str(tmp_path / "model.safetensors"), arrays)
    write_config(tmp_path, case, **changes)
    return arrays


@pytest.mark.parametrize("case", [case for case in MODELS if case != "vit_mae"])
def test_folders_go_out_and_in(case, tmp_path):
    net, params, _ = perturbed(SIDE, channels=1, **MODELS[case])
    state = formats.to_torch(params, {})
    names = folder(tmp_path, case, state)
    layer = "norm1" if case in ("dinov2", "swiglu", "dinov2_with_registers") else "layernorm_before"
    assert f"encoder.layer.1.{layer}.weight" in names
    assert names["encoder.layer.0.attention.attention.value.weight"].shape == (16, 16)
    experiment = experiment_of(MODELS[case])
    arrays, lines = load(str(tmp_path), experiment)
    for path, leaf in by_path(params).items():
        np.testing.assert_array_equal(arrays[f"params/encoder/{path}"], leaf, err_msg=path)
    assert len(lines) == 1
    config = hugging_face_vit_config.description(net.module, (SIDE, SIDE, 1))
    stored = json.loads((tmp_path / "config.json").read_text())
    described = hugging_face_vit_config.model_options(config)
    assert described == hugging_face_vit_config.model_options(stored) | {
        "layer_scale": described["layer_scale"]
    }


def test_names_of_newer_versions_are_read():
    state = {
        "layers.0.attention.q_proj.weight": np.full((1, 2), 1),
        "layers.0.attention.k_proj.weight": np.full((1, 2), 2),
        "layers.0.attention.v_proj.weight": np.full((1, 2), 3),
        "layers.0.mlp.fc1.bias": np.ones(2),
        "decoder.decoder_encoder.layer.0.output.dense.bias": np.ones(3),
        "vit.layernorm.bias": np.ones(4),
        "classifier.bias": np.ones(5),
    }
    arrays, unused = hugging_face_vit.from_hugging_face(state, "vit_mae")
    np.testing.assert_array_equal(arrays.pop("blocks.0.attn.qkv.weight")[:, 0], [1, 2, 3])
    assert arrays.keys() == {"blocks.0.mlp.fc1.bias", "decoder_blocks.0.mlp.fc2.bias", "norm.bias"}
    assert unused == ["classifier.bias"]


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("vit", dict(hidden_size=24), "another encoder; set model.dim=24 model.mlp_ratio="),
        ("vit", dict(patch_size=[2, 2]), "another encoder; set model.patch_size=2"),
        ("vit", dict(num_attention_heads=2), "set model.num_heads=2"),
        ("vit", dict(hidden_act="relu"), "hidden_act 'relu'; only 'gelu'"),
        ("vit", dict(layer_norm_eps=1e-3), "layer_norm_eps 0.001; only values up to 1e-06"),
        ("vit", dict(qkv_bias=False), "set model.qkv_bias=False"),
        ("vit", dict(num_hidden_layers="2"), "num_hidden_layers '2'; it has to be a positive int"),
        ("vit", dict(model_type="clip"), "model_type 'clip'; supported are bert, roberta, vit, "),
        ("vit", dict(model_type="ijepa"), "set model.cls_token=False model.pool=mean"),
        ("vit", dict(model_type="dinov2", mlp_ratio=2), "set model.layer_scale=1.0"),
        ("dinov2_with_registers", dict(num_register_tokens=4), "set model.num_registers=4"),
        ("swiglu", dict(use_swiglu_ffn=False), "set model.feed_forward=mlp"),
    ],
)  # fmt: skip
def test_folders_of_another_net_are_one_clear_line(case, changes, message, tmp_path):
    folder(tmp_path, case, **changes)
    with pytest.raises(UserError, match=message) as error:
        load(str(tmp_path), experiment_of(MODELS[case]))
    assert str(error.value).startswith(f"init_from={tmp_path}") and "\n" not in str(error.value)


def test_what_a_folder_lacks_is_named_as_in_the_folder(tmp_path):
    arrays = folder(tmp_path, "vit", sliding_window=7)
    arrays["pooler.dense.bias"] = np.ones(16, np.float32)
    formats.write_safetensors(str(tmp_path / "model.safetensors"), arrays)
    experiment = experiment_of(MODELS["vit"])
    _, lines = load(str(tmp_path), experiment)
    assert lines[1:] == [
        "unknown settings of config.json, not used: sliding_window 7",
        "also in the folder and not used: pooler.dense.bias",
    ]
    del arrays["encoder.layer.1.intermediate.dense.bias"]
    formats.write_safetensors(str(tmp_path / "model.safetensors"), arrays)
    with pytest.raises(UserError, match="encoder: encoder.layer.1.intermediate.dense.bias is mis"):
        load(str(tmp_path), experiment)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has neither model.safetensors nor pytorch_model.bin"):
        load(str(tmp_path), experiment)


def test_a_folder_of_mae_has_the_decoders_settings(tmp_path):
    state = released.mae()
    for i in range(2):  # its hidden layers are twice as wide as the tokens here
        for name in ("fc1.weight", "fc1.bias"):
            state[f"blocks.{i}.mlp.{name}"] = state[f"blocks.{i}.mlp.{name}"][:32]
        state[f"blocks.{i}.mlp.fc2.weight"] = state[f"blocks.{i}.mlp.fc2.weight"][:, :32]
    folder(tmp_path, "vit_mae", state, norm_pix_loss=False)
    experiment = mae()
    arrays, lines = load(str(tmp_path), experiment)
    assert whole(experiment, arrays)
    assert lines[1:] == [
        "config.json has norm_pix_loss False, and this run has method.norm_pix_loss=True"
    ]
    write_config(tmp_path, "vit_mae", decoder_num_attention_heads=4)
    with pytest.raises(UserError, match="set nets.decoder.num_heads=4"):
        load(str(tmp_path), experiment)


def test_the_model_of_a_folder(tmp_path):
    """`model.name=init_from` takes the encoder that config.json describes."""
    write_config(tmp_path, "dinov2_with_registers", hidden_size=384, patch_size=14)
    config = config_lib.base_config()
    config.init_from = str(tmp_path)
    config.model = dict(name="init_from")
    from_pretrained.fill_in(config)
    model = config.model.to_dict()
    assert model["name"] == "vit_s14" and model["num_registers"] == 3
    assert (model["dim"], model["layer_scale"], model["positions"]) == (384, 1.0, "learned")
    write_config(tmp_path, "ijepa")
    config.model = dict(name="init_from", depth=1)
    from_pretrained.fill_in(config)
    model = config.model.to_dict()
    assert (model["pool"], model["positions"], model["depth"]) == ("mean", "sincos", 1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (dict(VIT, num_registers=2), "registers and SwiGLU only in DINOv2's nets"),
        (dict(DINOV2, mlp_ratio=2.5), "only with a whole mlp_ratio, not 2.5"),
    ],
)
def test_nets_that_the_library_does_not_have(model, message):
    net, _, _ = perturbed(SIDE, channels=1, **model)
    with pytest.raises(UserError, match=message):
        hugging_face_vit_config.description(net.module, (SIDE, SIDE, 1))
    net, _, _ = perturbed(SIDE, channels=1, **VIT)
    with pytest.raises(UserError, match="16x32 pixels are not square"):
        hugging_face_vit_config.description(net.module, (16, 32, 1))

"""Names of other libraries, and their files, without those libraries."""

import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from safetensors import SafetensorError

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.models.positions import FIXED_POSITIONS, sincos_positions
from ssl_jax.pretrained import formats
from ssl_jax.pretrained.formats import files
from tests.pretrained.formats import torch_files
from tests.pretrained.formats.nets import perturbed

RESNET = dict(name="resnet18")
VIT = dict(name="vit_ti16", depth=2, image_size=32)


def test_a_full_disk_leaves_the_weights_that_were_there(tmp_path, monkeypatch):
    path = str(tmp_path / "model.safetensors")
    formats.write_safetensors(path, {"w": np.ones(2, np.float32)})

    def full_disk(arrays, path, metadata):
        with open(path, "wb") as file:
            file.write(b"half")
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(files, "save_file", full_disk)
    with pytest.raises(UserError, match=r"model\.safetensors cannot be written: .*No space left"):
        formats.write_safetensors(path, {"w": np.zeros(3, np.float32)})
    np.testing.assert_array_equal(formats.read(path)["w"], [1, 1])
    assert os.listdir(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize("model", [RESNET, dict(name="resnet50"), VIT], ids=lambda m: m["name"])
def test_to_torch_and_back(model):
    model = dict(model)
    model.pop("image_size", None)
    _, params, buffers = perturbed(32, **model)
    state = formats.to_torch(params, buffers)
    found, missing, unused = formats.from_torch(state, params, buffers)
    assert not missing and not unused
    for part, tree in (("params", params), ("buffers", buffers)):
        assert found[part].keys() == by_path(tree).keys()
        for path, leaf in by_path(tree).items():
            np.testing.assert_array_equal(found[part][path], leaf, err_msg=path)


SMALL = dict(name="vit_ti16", depth=1, patch_size=4, dim=16, num_heads=4)


@pytest.mark.parametrize("positions", FIXED_POSITIONS)
@pytest.mark.parametrize("cls_token", [True, False])
def test_fixed_positions_go_out_and_are_compared_when_they_come_in(positions, cls_token):
    pool = "cls" if cls_token else "mean"
    _, params, buffers = perturbed(12, **SMALL, positions=positions, cls_token=cls_token, pool=pool)
    grid = sincos_positions((3, 3), 16, positions)
    state = formats.to_torch(params, buffers, sincos=grid)
    assert state["pos_embed"].shape == (1, 9 + cls_token, 16)
    np.testing.assert_array_equal(state["pos_embed"][0, int(cls_token) :], grid.reshape(9, 16))
    assert not cls_token or not state["pos_embed"][0, 0].any()

    def read(state, positions=positions):
        return formats.from_torch(state, params, buffers, positions=positions)

    found, missing, unused = read(state)
    assert not missing and not unused and found["params"].keys() == by_path(params).keys()
    # In half precision, and of images of another size, they are the same positions.
    assert read({**state, "pos_embed": state["pos_embed"].astype(np.float16)})[2] == []
    larger = sincos_positions((5, 5), 16, positions).reshape(1, 25, 16)
    assert read({**state, "pos_embed": larger})[2] == []
    (other,) = set(FIXED_POSITIONS) - {positions}
    with pytest.raises(UserError, match=f"of model.positions={other}; .*positions={positions}$"):
        read(state, other)
    # Learned ones, fixed ones with one for the class token, and those of another grid.
    rng = np.random.default_rng(0)
    for stored in (
        rng.normal(size=state["pos_embed"].shape),
        np.concatenate([np.ones((1, 1, 16)), grid.reshape(1, 9, 16)], axis=1),
        np.zeros((1, 7, 16)),
    ):
        with pytest.raises(UserError, match="set model.positions=learned"):
            read({**state, "pos_embed": stored.astype(np.float32)})
    # Of another width nothing can be said but that; and not compared is not used.
    _, missing, unused = read({**state, "pos_embed": np.zeros((1, 9, 8), np.float32)})
    assert missing == ["pos_embed has shape (1, 9, 8), not 16 channels"]
    assert read(state, None)[2] == ["pos_embed"]


def test_the_names_are_torchvisions():
    _, params, buffers = perturbed(32, name="resnet50")
    state = formats.to_torch(params, buffers)
    assert state["conv1.weight"].shape == (64, 3, 7, 7)
    assert state["layer1.0.conv2.weight"].shape == (64, 64, 3, 3)
    assert state["layer4.2.bn3.running_var"].shape == (2048,)
    assert state["layer2.0.downsample.1.bias"].shape == (512,)
    assert len(state) == 265  # of 320 in torchvision's file, less 53 counters and the classifier
    assert sum(x.size for n, x in state.items() if "running" not in n) == 23_508_032


def test_what_does_not_fit_is_named():
    _, params, buffers = perturbed(32, **RESNET)
    state = formats.to_torch(params, buffers)
    del state["bn1.running_mean"]
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    state["fc.weight"] = np.zeros((2, 2), np.float32)
    found, missing, unused = formats.from_torch(state, params, buffers)
    assert missing == [
        "conv1.weight has shape (7, 7, 1, 64), not (7, 7, 3, 64)",
        "bn1.running_mean is missing",
    ] or set(missing) == {
        "conv1.weight has shape (7, 7, 1, 64), not (7, 7, 3, 64)",
        "bn1.running_mean is missing",
    }
    assert unused == ["conv1.weight", "fc.weight"]
    assert "stem/conv/kernel" not in found["params"]
    _, params, buffers = perturbed(16, name="convnet", widths=(4, 8))
    with pytest.raises(UserError, match="no equivalent"):
        formats.to_torch(params, buffers)


@pytest.mark.parametrize(
    "names, prefix",
    [
        (["conv1.weight", "layer1.0.conv1.weight"], ""),
        (["module.encoder_k.conv1.weight", "module.encoder_q.conv1.weight"], "module.encoder_q."),
        (
            ["module.base_encoder.patch_embed.proj.weight",
             "module.momentum_encoder.patch_embed.proj.weight"],
            "module.base_encoder.",
        ),
        (["module.backbone.conv1.weight", "module.backbone.layer1.0.conv1.weight"],
         "module.backbone."),
    ],
)  # fmt: skip
def test_prefixes_of_official_files(names, prefix):
    selected = formats.select({"": dict.fromkeys(names, np.zeros(1))})
    assert selected.prefix == prefix
    assert next(iter(selected.state)) in ("conv1.weight", "patch_embed.proj.weight")


def test_weights_of_something_else():
    with pytest.raises(UserError, match="they have names such as a.b"):
        formats.select({"": {"a.b": np.zeros(1)}})


# ---------------------------------------------------------------- PyTorch's files, without PyTorch


class Evil:
    """Calls a command when it is unpickled by a reader that lets it."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_torch_file_is_read_and_nothing_in_it_runs(tmp_path):
    rng = np.random.default_rng(0)
    weights = {
        "a.weight": rng.normal(size=(3, 4)).astype(np.float32),
        "b": rng.normal(size=5).astype(np.float16),
        "steps": np.asarray(7, np.int64),
    }
    trap = tmp_path / "ran"
    tree = {"epoch": 3, "args": Evil(f"touch {trap}"), "state_dict": weights}
    torch_files.write(tmp_path / "x.pth", tree)
    read = formats.read(str(tmp_path / "x.pth"))
    assert read.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(read[name], value)
        assert read[name].dtype == value.dtype
    assert not trap.exists()
    pickle.loads(pickle.dumps(Evil(f"touch {trap}")))  # and elsewhere it would have
    assert trap.exists()


def test_bad_files_are_named(tmp_path):
    def refuse(name, message):
        with pytest.raises(UserError, match=message):
            formats.read(str(tmp_path / name))

    refuse("none.pth", "there is no file")
    (tmp_path / "text.pth").write_text("not weights at all")
    refuse("text.pth", "neither a safetensors file nor a PyTorch file")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "hello")
    refuse("other.zip", "no data.pkl")
    torch_files.write(tmp_path / "empty.pth", {"epoch": 1})
    refuse("empty.pth", "holds no state dict")
    torch_files.write(tmp_path / "far.pth", {"a": np.zeros(4, np.float32)}, offset=2)
    refuse("far.pth", "beyond its storage")
    good = (tmp_path / "far.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(good[: len(good) // 2])
    refuse("cut.pth", "neither a safetensors file nor")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"")
        archive.writestr("archive/data/0", bytes(2_000_000))
    refuse("bomb.pth", r"would unpack to 2,000,000: it is not a weights file")
    header = {"fc.weight": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    (tmp_path / "f8.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    refuse("f8.safetensors", "fc.weight has dtype F8_E4M3, which cannot be read; convert")


def test_tensors_beside_the_state_dict_are_no_weights(tmp_path):
    weights = {"module.fc.weight": np.ones((2, 3), np.float32)}
    tree = {"epoch": 90, "arch": "resnet50", "state_dict": weights,
            "best_acc1": np.asarray(76.1, np.float32), "optimizer": {"state": {}}}  # fmt: skip
    torch_files.write(tmp_path / "model_best.pth.tar", tree)
    assert formats.read(str(tmp_path / "model_best.pth.tar")).keys() == weights.keys()


def test_safetensors_round_trip(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    formats.write_safetensors(str(tmp_path / "x.safetensors"), arrays, method="simclr")
    np.testing.assert_array_equal(formats.read(str(tmp_path / "x.safetensors"))["a"], arrays["a"])


# The tokens of a file say which row of its positions is whose.


def read_vit(side, cls_token, changes):
    """The arrays taken of a file with other tokens or positions, and what is missing."""
    model = dict(SMALL, cls_token=cls_token, pool="cls" if cls_token else "mean")
    _, params, buffers = perturbed(4 * side, **model)
    state = formats.to_torch(params, buffers) | changes
    state = {name: x for name, x in state.items() if x is not None}
    found, missing, _ = formats.from_torch(state, params, buffers)
    return found["params"], missing


def rows_of(count):
    return np.random.default_rng(count).standard_normal((1, count, 16), np.float32)


@pytest.mark.parametrize("side", [5, 3])  # this encoder's grid: that of the file, another one
@pytest.mark.parametrize("cls_token", [True, False])
def test_all_positions_of_a_vit_are_used(side, cls_token):
    stored = rows_of(25 + cls_token)
    found, missing = read_vit(side, cls_token, {"pos_embed": stored})
    assert not missing
    grid = stored[0, int(cls_token) :].reshape(5, 5, 16)
    np.testing.assert_array_equal(found["pos_embed/grid"], grid)
    assert ("pos_embed/cls" in found) == cls_token
    if cls_token:
        np.testing.assert_array_equal(found["pos_embed/cls"], stored[0, 0])


@pytest.mark.parametrize("side", [5, 3])
def test_positions_of_another_number_are_not_read_as_a_square(side):
    for count, rows in ((25, "1 for cls_token and 24 for patches"), (7, "and 6 for patches")):
        found, (missing,) = read_vit(side, True, {"pos_embed": rows_of(count)})
        assert f"pos_embed has shape (1, {count}, 16): " in missing and rows in missing
        assert f"this encoder's grid of {side}x{side}" in missing
        assert not [path for path in found if path.startswith("pos_embed/")]
    found, (missing,) = read_vit(side, False, {"pos_embed": rows_of(26)})
    assert "(1, 26, 16): 26 for patches" in missing and "pos_embed/grid" not in found
    found, missing = read_vit(side, True, {"pos_embed": None})
    assert missing == ["pos_embed is missing"] and "pos_embed/cls" not in found


def test_a_grid_of_positions_that_is_no_square():
    model = dict(SMALL, cls_token=True, pool="cls")
    _, params, buffers = perturbed(16, **model)
    stored = rows_of(25)
    for grid, taken in (((4, 6), True), ((6, 4), True), ((2, 8), False)):
        params["pos_embed"]["grid"] = np.zeros((*grid, 16), np.float32)
        state = formats.to_torch(params, buffers)
        found, missing, _ = formats.from_torch(
            state | {"pos_embed": stored if taken else rows_of(17)}, params, buffers
        )
        if taken:
            expected = stored[0, 1:].reshape(*grid, 16)
            np.testing.assert_array_equal(found["params"]["pos_embed/grid"], expected)
        else:  # 4x4 or 2x8: that cannot be told
            assert "16 for patches" in missing[0]


@pytest.mark.parametrize("name", ["dist_token", "reg_token"])
def test_tokens_that_the_encoder_does_not_have_are_refused(name):
    changes = {name: np.ones((1, 1, 16), np.float32), "pos_embed": rows_of(27)}
    with pytest.raises(UserError, match=rf"has the tokens {name} of shape \(1, 1, 16\)"):
        read_vit(5, True, changes)


def test_the_class_token_has_to_be_there_or_not_on_both_sides():
    with pytest.raises(UserError, match="has no cls_token; set model.cls_token=False model.po"):
        read_vit(5, True, {"cls_token": None, "pos_embed": rows_of(25)})
    token = np.ones((1, 1, 16), np.float32)
    for count in (25, 26):  # 25 = 1 + 4x6 is no grid of 5x5
        with pytest.raises(UserError, match="has a cls_token; set model.cls_token=True"):
            read_vit(5, False, {"cls_token": token, "pos_embed": rows_of(count)})

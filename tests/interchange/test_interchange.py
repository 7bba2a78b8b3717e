"""Names of other libraries, and their files, without those libraries."""

import collections
import io
import os
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

from ssl_jax import interchange
from ssl_jax.errors import UserError
from ssl_jax.paths import by_path
from tests.interchange.nets import perturbed

RESNET = dict(name="resnet18")
VIT = dict(name="vit_ti16", depth=2, image_size=32)


@pytest.mark.parametrize("model", [RESNET, dict(name="resnet50"), VIT], ids=lambda m: m["name"])
def test_to_torch_and_back(model):
    model = dict(model)
    model.pop("image_size", None)
    _, params, buffers = perturbed(32, **model)
    state = interchange.to_torch(params, buffers)
    found, missing, unused = interchange.from_torch(state, params, buffers)
    assert not missing and not unused
    for part, tree in (("params", params), ("buffers", buffers)):
        assert found[part].keys() == by_path(tree).keys()
        for path, leaf in by_path(tree).items():
            np.testing.assert_array_equal(found[part][path], leaf, err_msg=path)


def test_the_names_are_torchvisions():
    _, params, buffers = perturbed(32, name="resnet50")
    state = interchange.to_torch(params, buffers)
    assert state["conv1.weight"].shape == (64, 3, 7, 7)
    assert state["layer1.0.conv2.weight"].shape == (64, 64, 3, 3)
    assert state["layer4.2.bn3.running_var"].shape == (2048,)
    assert state["layer2.0.downsample.1.bias"].shape == (512,)
    assert len(state) == 265  # of 320 in torchvision's file, less 53 counters and the classifier
    assert sum(x.size for n, x in state.items() if "running" not in n) == 23_508_032


def test_what_does_not_fit_is_named():
    _, params, buffers = perturbed(32, **RESNET)
    state = interchange.to_torch(params, buffers)
    del state["bn1.running_mean"]
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    state["fc.weight"] = np.zeros((2, 2), np.float32)
    found, missing, unused = interchange.from_torch(state, params, buffers)
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
    with pytest.raises(UserError, match="no twin"):
        interchange.to_torch(params, buffers)


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
    state, found = interchange.strip_prefix(dict.fromkeys(names, np.zeros(1)))
    assert found == prefix
    assert next(iter(state)) in ("conv1.weight", "patch_embed.proj.weight")


def test_weights_of_something_else():
    with pytest.raises(UserError, match="their names are like a.b"):
        interchange.strip_prefix({"a.b": np.zeros(1)})


# ---------------------------------------------------------------- PyTorch's files, without PyTorch


class Storage:
    def __init__(self, array, kind):
        self.array, self.kind = array, kind


class Evil:
    """Calls a command when it is unpickled by a reader that lets it."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def torch_modules(monkeypatch):
    """Just enough of torch's names for pickles to refer to."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "HalfStorage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2(*arguments):
        raise AssertionError("only to be named")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = (
        "torch._utils", "_rebuild_tensor_v2",
    )  # fmt: skip
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch, utils


def write_torch(path, tree, modules, *, offset=0):
    torch, utils = modules
    storages = []

    class Tensor:
        def __init__(self, array):
            self.array = array

        def __reduce__(self):
            array = self.array
            kind = {"f4": torch.FloatStorage, "f2": torch.HalfStorage, "i8": torch.LongStorage}
            storage = Storage(np.ascontiguousarray(array), kind[array.dtype.str[1:]])
            strides = tuple(s // array.itemsize for s in array.strides)
            rest = (False, collections.OrderedDict())
            return utils._rebuild_tensor_v2, (storage, offset, array.shape, strides, *rest)

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if not isinstance(thing, Storage):
                return None
            storages.append(thing.array)
            return ("storage", thing.kind, str(len(storages) - 1), "cpu", thing.array.size)

    def wrap(node):
        if isinstance(node, dict):
            return {key: wrap(value) for key, value in node.items()}
        return Tensor(node) if isinstance(node, np.ndarray) else node

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(wrap(tree))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        for number, array in enumerate(storages):
            archive.writestr(f"archive/data/{number}", array.tobytes())


def test_a_torch_file_is_read_and_nothing_in_it_runs(tmp_path, torch_modules):
    rng = np.random.default_rng(0)
    weights = {
        "a.weight": rng.normal(size=(3, 4)).astype(np.float32),
        "b": rng.normal(size=5).astype(np.float16),
        "steps": np.asarray(7, np.int64),
    }
    trap = tmp_path / "ran"
    tree = {"epoch": 3, "args": Evil(f"touch {trap}"), "state_dict": weights}
    write_torch(tmp_path / "x.pth", tree, torch_modules)
    read = interchange.read(str(tmp_path / "x.pth"))
    assert read.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(read[name], value)
        assert read[name].dtype == value.dtype
    assert not trap.exists()
    pickle.loads(pickle.dumps(Evil(f"touch {trap}")))  # and elsewhere it would have
    assert trap.exists()


def test_bad_files_are_named(tmp_path, torch_modules):
    def refuse(name, message):
        with pytest.raises(UserError, match=message):
            interchange.read(str(tmp_path / name))

    refuse("none.pth", "there is no file")
    (tmp_path / "text.pth").write_text("not weights at all")
    refuse("text.pth", "neither a safetensors file nor a PyTorch file")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "hello")
    refuse("other.zip", "no data.pkl")
    write_torch(tmp_path / "empty.pth", {"epoch": 1}, torch_modules)
    refuse("empty.pth", "holds no state dict")
    write_torch(tmp_path / "far.pth", {"a": np.zeros(4, np.float32)}, torch_modules, offset=2)
    refuse("far.pth", "beyond its storage")
    good = (tmp_path / "far.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(good[: len(good) // 2])
    refuse("cut.pth", "neither a safetensors file nor")


def test_safetensors_round_trip(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    interchange.write_safetensors(str(tmp_path / "x.safetensors"), arrays, method="simclr")
    np.testing.assert_array_equal(
        interchange.read(str(tmp_path / "x.safetensors"))["a"], arrays["a"]
    )

"""The same weights make the same features here and in torchvision's and timm's models.

Every weight and statistic is away from 0 and 1, so none can be forgotten or swapped unseen.
"""

import numpy as np
import pytest

from ssl_jax.core.tree_paths import replace
from ssl_jax.pretrained import formats, init_from, torch_models
from ssl_jax.pretrained.formats import torch_files
from tests.pretrained.formats.nets import images, perturbed
from tests.pretrained.formats.peers import features, timm, torch
from tests.pretrained.test_init_from import SIDE, VIT, experiment_of

CASES = [
    ("torchvision", 64, dict(name="resnet18")),
    ("torchvision", 64, dict(name="resnet50")),
    ("timm", 64, dict(name="resnet50")),
    ("timm", 32, dict(name="resnet18", stem="cifar")),
    ("timm", 64, dict(name="vit_ti16", depth=3)),
    ("timm", 64, dict(name="vit_s16", depth=2, pool="mean", layer_scale=0.5)),
]


@pytest.mark.parametrize("to, size, model", CASES, ids=str)
def test_features_are_equal(to, size, model, tmp_path):
    net, params, buffers = perturbed(size, **model)
    path = str(tmp_path / "model.safetensors")
    formats.write_safetensors(path, formats.to_torch(params, buffers))
    x = images(size)
    (ours, _), _ = net.apply(params, buffers, x, train=False)
    theirs = torch_models.features(to, path, net.module, x)
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_a_torch_checkpoint_comes_in(tmp_path):
    """timm's own random weights, saved by torch.save below a prefix, as training scripts do."""
    theirs = timm.create_model("resnet18", num_classes=0)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.rand(x.shape, generator=generator) * 0.1 + 0.05 if x.is_floating_point() else x
        for name, x in theirs.state_dict().items()
    }
    theirs.load_state_dict(state)
    saved = {"epoch": 5, "state_dict": {f"module.encoder_q.{n}": x for n, x in state.items()}}
    torch.save(saved, tmp_path / "moco.pth")

    net, params, buffers = perturbed(64, name="resnet18")
    selected = formats.select(formats.read_networks(str(tmp_path / "moco.pth")))
    assert selected.prefix == "module.encoder_q."
    found, missing, unused = formats.from_torch(selected.state, params, buffers)
    assert not missing and not unused
    params, buffers = replace(params, found["params"]), replace(buffers, found["buffers"])
    x = images(64)
    (ours, _), _ = net.apply(params, buffers, x, train=False)
    expected = features(theirs, x)
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("indexing", ["ij", "xy"])
def test_a_vit_with_fixed_positions_comes_in(indexing, tmp_path):
    """timm's own ViT, its positions those of MoCo v3 ("ij") or MAE, as MoCo v3's file has it."""
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=SIDE, patch_size=4, in_chans=1, num_classes=0, embed_dim=16, depth=2, num_heads=4
    )
    generator = torch.Generator().manual_seed(0)
    state = {
        name: 0.3 * torch.randn(x.shape, generator=generator)
        for name, x in theirs.state_dict().items()
    }
    angle = 10000.0 ** -(torch.arange(4) / 4)
    grids = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing=indexing)
    parts = [f(g.reshape(-1, 1) * angle) for g in grids for f in (torch.sin, torch.cos)]
    state["pos_embed"] = torch.cat([torch.zeros(1, 16), torch.cat(parts, dim=1)])[None]
    theirs.load_state_dict(state)
    path = str(tmp_path / "vit.pth.tar")
    members = {f"module.base_encoder.{name}": x for name, x in state.items()}
    torch.save({"epoch": 300, "state_dict": members}, path)

    right, wrong = "sincos_row_first", "sincos"
    if indexing == "xy":
        right, wrong = wrong, right
    x = images(SIDE)[..., :1]
    expected = features(theirs, x)
    for positions in (right, "learned"):
        model = dict(VIT, positions=positions)
        loaded, lines = init_from.load(path, experiment_of(model))
        assert len(lines) == 1 and "names below 'module.base_encoder.'" in lines[0]
        net, params, _ = perturbed(SIDE, channels=1, **model)
        found = {name.removeprefix("encoder/"): leaf for name, leaf in loaded["params"].items()}
        (ours, _), _ = net.apply(replace(params, found), {}, x, train=False)
        assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()
    with pytest.raises(ValueError, match=f"set model.positions={right}"):
        init_from.load(path, experiment_of(dict(VIT, positions=wrong)))


def test_torch_reads_a_file_that_we_write(tmp_path):
    rng = np.random.default_rng(0)
    tree = {
        "student": {"module.a": rng.standard_normal((3, 4, 5), np.float32)},
        "transposed": {"b": rng.standard_normal((2, 3), np.float32).T},
        "epoch": 100_000,
    }
    path = str(tmp_path / "checkpoint.pth")
    torch_files.write(path, tree)
    for options in (dict(weights_only=True), dict(weights_only=True, mmap=True)):
        read = torch.load(path, **options)
        assert read["epoch"] == tree["epoch"]
        for key, name in (("student", "module.a"), ("transposed", "b")):
            np.testing.assert_array_equal(read[key][name].numpy(), tree[key][name])

"""The same weights make the same features here and in torchvision's and timm's models.

Every weight and statistic is away from 0 and 1, so none can be forgotten or swapped unseen.
"""

import contextlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")

# Without these operators of its compiled part torchvision does not import on some builds of torch.
_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms", "roi_align"):
    with contextlib.suppress(RuntimeError):
        _library.define(f"{_name}(Tensor x) -> Tensor")

pytest.importorskip("timm")
pytest.importorskip("torchvision")

from ml_collections import ConfigDict  # noqa: E402

from ssl_jax import export, interchange  # noqa: E402
from tests.interchange.nets import images, perturbed  # noqa: E402

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
    interchange.write_safetensors(path, interchange.to_torch(params, buffers))
    x = images(size)
    (ours, _), _ = net.apply(params, buffers, x, train=False)
    theirs = export.torch_features(to, path, ConfigDict(model), x)
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_a_torch_checkpoint_comes_in(tmp_path):
    """timm's own random weights, saved by torch.save below a prefix, as training scripts do."""
    import timm

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
    weights, prefix = interchange.strip_prefix(interchange.read(str(tmp_path / "moco.pth")))
    assert prefix == "module.encoder_q."
    found, missing, unused = interchange.from_torch(weights, params, buffers)
    assert not missing and not unused
    from ssl_jax.paths import replace

    params, buffers = replace(params, found["params"]), replace(buffers, found["buffers"])
    x = images(64)
    (ours, _), _ = net.apply(params, buffers, x, train=False)
    theirs.eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()

"""PyTorch's libraries of image models; a test file that imports this is skipped without them."""

import contextlib

import pytest

torch = pytest.importorskip("torch")

# Without these operators of its compiled part torchvision does not import on some builds of torch.
_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms", "roi_align"):
    with contextlib.suppress(RuntimeError):
        _library.define(f"{_name}(Tensor x) -> Tensor")

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")


def features(net, images):
    """What a net makes of images [n h w c]: [n d]."""
    with torch.no_grad():
        return net.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()

"""One run of a method with lightly on PyTorch, for `benchmarks.peers`.

The encoder, the heads' widths, AdamW, its schedule and the strengths of the views are those of
`METHOD:fashion`. Losses, heads, memory banks, momentum updates and transforms are lightly's, and
PyTorch's DataLoader has a worker for each core.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from lightly.loss import (
    BarlowTwinsLoss,
    NegativeCosineSimilarity,
    NTXentLoss,
    SwaVLoss,
    VICRegLoss,
)  # fmt: skip
from lightly.models.modules import NNMemoryBankModule, heads
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms.simclr_transform import SimCLRTransform
from lightly.transforms.swav_transform import SwaVTransform
from lightly.utils.scheduler import cosine_schedule
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (32, 64, 128, 128)
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 1e-4
JITTER = dict(cj_prob=0.8, cj_strength=1.0, cj_bright=0.4, cj_contrast=0.4, cj_sat=0.0, cj_hue=0.0)
PLAIN = dict(random_gray_scale=0.0, gaussian_blur=0.0, normalize=None)
QUEUE = 1024
Views = list[Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=("theirs",))
    parser.add_argument("--method", required=True, choices=METHODS)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", required=True)
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    with np.load(arguments.images) as file:
        images = dict(file)
    batch_size = 128 if arguments.method == "swav" else 256
    views = Images(images["train_image"], transform_of(arguments.method))
    loader = torch.utils.data.DataLoader(
        views, batch_size, shuffle=True, drop_last=True, num_workers=cores, persistent_workers=True
    )
    method = METHODS[arguments.method](ConvNet(), len(loader), arguments.epochs * len(loader))
    speeds = fit(method, loader, arguments.epochs, batch_size)
    out = pathlib.Path(arguments.out)
    (out / "speeds.json").write_text(json.dumps(speeds))
    features = {}
    for split in ("train", "test"):
        features[f"{split}_h"] = encode(method.encoder, images[f"{split}_image"])
        features[f"{split}_label"] = images[f"{split}_label"]
    np.savez(out / "features.npz", **features)


class Images(torch.utils.data.Dataset):
    """Views of images; what lightly's transforms expect are PIL's images."""

    def __init__(self, images: np.ndarray, transform: Callable[[Image.Image], Views]):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Views:
        return self.transform(Image.fromarray(self.images[index]))


def transform_of(method: str) -> Callable[[Image.Image], Views]:
    """The views of a method, with the strengths of `configs/fashion.py`."""
    if method == "swav":
        return SwaVTransform(
            crop_sizes=(28, 14), crop_counts=(2, 2), crop_min_scales=(0.3, 0.05),
            crop_max_scales=(1.0, 0.3), **JITTER, **PLAIN,
        )  # fmt: skip
    return SimCLRTransform(input_size=28, min_scale=0.3, **JITTER, **PLAIN)


class ConvNet(nn.Module):
    """The encoder of the `fashion` variants: 3x3 convolutions of stride 2, BatchNorm, ReLU."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip((1, *WIDTHS[:-1]), WIDTHS, strict=True):
            conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
            nn.init.normal_(conv.weight, std=(9 * inputs) ** -0.5)
            layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean(dim=(2, 3))


class Method(nn.Module):
    """What all methods share: an encoder, and a projection head on it."""

    def __init__(self, encoder: ConvNet, epoch: int, steps: int, head: nn.Module):
        super().__init__()
        self.encoder, self.head, self.epoch, self.steps = encoder, head, epoch, steps

    def project(self, views: Views) -> Views:
        """One pass for all views of one size, as here and in the papers' code."""
        return list(self.head(self.encoder(torch.cat(views))).chunk(len(views)))

    def after_step(self, step: int) -> None:
        """What follows an update: averages and queues."""


class SimCLR(Method):
    def __init__(self, *args: object) -> None:
        super().__init__(*args, heads.SimCLRProjectionHead(WIDTHS[-1], 256, 64))
        self.loss = NTXentLoss(temperature=0.2)

    def forward(self, views: Views) -> Tensor:
        return self.loss(*self.project(views))


class Barlow(Method):
    def __init__(self, *args: object) -> None:
        super().__init__(*args, heads.BarlowTwinsProjectionHead(WIDTHS[-1], 256, 256))
        self.loss = BarlowTwinsLoss(lambda_param=0.0051)

    def forward(self, views: Views) -> Tensor:
        return self.loss(*self.project(views))


class VICReg(Method):
    def __init__(self, *args: object) -> None:
        super().__init__(*args, heads.VICRegProjectionHead(WIDTHS[-1], 256, 256))
        self.loss = VICRegLoss()

    def forward(self, views: Views) -> Tensor:
        return self.loss(*self.project(views))


class SimSiam(Method):
    def __init__(self, *args: object) -> None:
        super().__init__(*args, heads.SimSiamProjectionHead(WIDTHS[-1], 256, 256))
        self.predictor = heads.SimSiamPredictionHead(256, 64, 256)
        self.loss = NegativeCosineSimilarity()

    def forward(self, views: Views) -> Tensor:
        z = self.project(views)
        p = [self.predictor(one) for one in z]
        return (self.loss(p[0], z[1].detach()) + self.loss(p[1], z[0].detach())) / 2


class BYOL(Method):
    def __init__(self, *args: object) -> None:
        super().__init__(*args, heads.BYOLProjectionHead(WIDTHS[-1], 256, 64))
        self.predictor = heads.BYOLPredictionHead(64, 256, 64)
        self.target = copy.deepcopy(nn.Sequential(self.encoder, self.head))
        deactivate_requires_grad(self.target)
        self.loss = NegativeCosineSimilarity()

    def forward(self, views: Views) -> Tensor:
        p = [self.predictor(one) for one in self.project(views)]
        with torch.no_grad():
            z = self.target(torch.cat(views)).chunk(2)
        return self.loss(p[0], z[1]) + self.loss(p[1], z[0])

    def after_step(self, step: int) -> None:
        decay = cosine_schedule(step, self.steps, 0.97, 1.0)
        update_momentum(nn.Sequential(self.encoder, self.head), self.target, decay)


class MoCo(Method):
    def __init__(self, *args: object) -> None:
        super().__init__(*args, heads.MoCoProjectionHead(WIDTHS[-1], WIDTHS[-1], 64))
        self.keys = copy.deepcopy(nn.Sequential(self.encoder, self.head))
        deactivate_requires_grad(self.keys)
        self.loss = NTXentLoss(temperature=0.2, memory_bank_size=(QUEUE, 64))

    def forward(self, views: Views) -> Tensor:
        update_momentum(nn.Sequential(self.encoder, self.head), self.keys, 0.98)
        with torch.no_grad():
            keys = self.keys(views[1])
        return self.loss(self.head(self.encoder(views[0])), keys)


class NNCLR(Method):
    def __init__(self, *args: object) -> None:
        super().__init__(*args, heads.NNCLRProjectionHead(WIDTHS[-1], 256, 64))
        self.predictor = heads.NNCLRPredictionHead(64, 256, 64)
        self.bank = NNMemoryBankModule(size=(QUEUE, 64))
        self.loss = NTXentLoss(temperature=0.1)

    def forward(self, views: Views) -> Tensor:
        z = self.project(views)
        p = [self.predictor(one) for one in z]
        near = self.bank(z[0].detach(), update=False), self.bank(z[1].detach(), update=True)
        return (self.loss(near[0], p[1]) + self.loss(near[1], p[0])) / 2


class SwaV(Method):
    def __init__(self, *args: object) -> None:
        super().__init__(*args, heads.SwaVProjectionHead(WIDTHS[-1], 256, 64))
        self.prototypes = heads.SwaVPrototypes(64, 60, n_steps_frozen_prototypes=self.epoch)
        self.loss = SwaVLoss()
        self.step = 0

    def forward(self, views: Views) -> Tensor:
        self.prototypes.normalize()
        large, small = self.project(views[:2]), self.project(views[2:])
        scores = [
            [self.prototypes(functional.normalize(z), self.step) for z in views]
            for views in (large, small)
        ]
        self.step += 1
        return self.loss(*scores)


METHODS: dict[str, Callable[..., Method]] = {
    "simclr": SimCLR, "moco_v2": MoCo, "byol": BYOL, "simsiam": SimSiam, "barlow_twins": Barlow,
    "vicreg": VICReg, "nnclr": NNCLR, "swav": SwaV,
}  # fmt: skip


def fit(
    method: Method, loader: torch.utils.data.DataLoader, epochs: int, batch_size: int
) -> list[float]:
    """Trains; images per second of every ten steps."""
    decayed, other = [], []
    for parameter in method.parameters():
        if parameter.requires_grad:
            (decayed if parameter.ndim > 1 else other).append(parameter)
    groups = [dict(params=decayed, weight_decay=WEIGHT_DECAY), dict(params=other, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE)
    warm_up, total = len(loader), epochs * len(loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            (step + 1) / warm_up
            if step < warm_up
            else (1 + math.cos(math.pi * (step - warm_up) / (total - warm_up))) / 2
        ),
    )
    speeds, began = [], time.perf_counter()
    for step, views in enumerate(batches(loader, epochs)):
        loss = method(views)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        method.after_step(step)
        if step % 10 == 9:
            now = time.perf_counter()
            speeds.append(10 * batch_size / (now - began))
            began = now
            print(f"step {step + 1}/{total}  loss {loss.item():.3f}  {speeds[-1]:,.0f} img/s")
    return speeds


def batches(loader: torch.utils.data.DataLoader, epochs: int) -> Iterator[Views]:
    """The views of every batch of every epoch."""
    for _ in range(epochs):
        yield from loader


@torch.no_grad()
def encode(encoder: ConvNet, images: np.ndarray) -> np.ndarray:
    """h float32 [n d] of images uint8 [n 28 28]."""
    encoder.eval()
    parts = torch.from_numpy(images).float().div(255)[:, None].split(500)
    return torch.cat([encoder(part) for part in parts]).numpy()


if __name__ == "__main__":
    main()

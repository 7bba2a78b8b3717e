"""One run of a method with lightly on PyTorch, for `benchmarks.peers`.

The encoder, the heads' widths, AdamW, its schedule and the strengths of the views are those of
`METHOD:fashion`. Losses, heads, memory banks, momentum updates, masks, the masked ViT and its
decoder (on timm's blocks) and transforms are lightly's, and PyTorch's DataLoader has a worker for
each core.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
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
    DINOLoss,
    NegativeCosineSimilarity,
    NTXentLoss,
    SwaVLoss,
    VICRegLoss,
)  # fmt: skip
from lightly.models import utils
from lightly.models.modules import (
    MaskedVisionTransformerDecoderTIMM,
    MaskedVisionTransformerTIMM,
    NNMemoryBankModule,
    heads,
)  # fmt: skip
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms.dino_transform import DINOTransform
from lightly.transforms.mae_transform import MAETransform
from lightly.transforms.simclr_transform import SimCLRTransform
from lightly.transforms.swav_transform import SwaVTransform
from lightly.utils.scheduler import cosine_schedule
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (32, 64, 128, 128)
JITTER = dict(cj_prob=0.8, cj_strength=1.0, cj_bright=0.4, cj_contrast=0.4, cj_sat=0.0, cj_hue=0.0)
PLAIN = dict(random_gray_scale=0.0, gaussian_blur=0.0, normalize=None)
QUEUE = 1024
SIDE, PATCH, DIM, DEPTH, NUM_HEADS = 28, 4, 64, 4, 4  # of the ViT
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
    recipe = RECIPES.get(arguments.method, Recipe())
    batch_size = recipe.batch_size
    views = Images(images["train_image"], transform_of(arguments.method))
    loader = torch.utils.data.DataLoader(
        views, batch_size, shuffle=True, drop_last=True, num_workers=cores, persistent_workers=True
    )
    encoder = masked_vit() if arguments.method == "mae" else ConvNet()
    method = METHODS[arguments.method](encoder, len(loader), arguments.epochs * len(loader))
    speeds = fit(method, loader, arguments.epochs, recipe)
    out = pathlib.Path(arguments.out)
    (out / "speeds.json").write_text(json.dumps(speeds))
    features = {}
    for split in ("train", "test"):
        features[f"{split}_h"] = encode(method.evaluated, images[f"{split}_image"])
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


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Batches and AdamW of a method; the defaults are `configs/fashion.py`'s.

    Attributes:
      batch_size, learning_rate, weight_decay: as their names say.
      final_weight_decay: after a cosine from `weight_decay`; None: the same.
      b2: of AdamW.
      clip: largest norm of the gradient of each tensor; 0: no limit.
    """

    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    final_weight_decay: float | None = None
    b2: float = 0.999
    clip: float = 0.0


RECIPES = {
    "swav": Recipe(batch_size=128),
    "dino": Recipe(batch_size=64, weight_decay=0.04, final_weight_decay=0.4, clip=3.0),
    "mae": Recipe(batch_size=128, weight_decay=0.05, b2=0.95),
}


def transform_of(method: str) -> Callable[[Image.Image], Views]:
    """The views of a method, with the strengths of `configs/fashion.py`."""
    if method == "mae":
        return MAETransform(input_size=SIDE, min_scale=0.3, normalize=None)
    if method == "dino":
        return DINOTransform(
            global_crop_size=SIDE, global_crop_scale=(0.3, 1.0), local_crop_size=14,
            local_crop_scale=(0.05, 0.3), n_local_views=2, solarization_prob=0.0,
            **JITTER, **(PLAIN | dict(gaussian_blur=(0.0, 0.0, 0.0))),
        )  # fmt: skip
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

    def __init__(self, encoder: nn.Module, epoch: int, steps: int, head: nn.Module):
        super().__init__()
        self.encoder, self.head, self.epoch, self.steps = encoder, head, epoch, steps

    @property
    def evaluated(self) -> nn.Module:
        """The encoder whose features are scored."""
        return self.encoder

    def project(self, views: Views) -> Views:
        """One pass for all views of one size, as here and in the papers' code."""
        return list(self.head(self.encoder(torch.cat(views))).chunk(len(views)))

    def before_update(self, step: int) -> None:
        """What is done to gradients."""

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


class DINO(Method):
    def __init__(self, encoder: ConvNet, epoch: int, steps: int) -> None:
        widths = dict(input_dim=WIDTHS[-1], hidden_dim=256, bottleneck_dim=64, output_dim=128)
        head, copied = (
            heads.DINOProjectionHead(**widths, batch_norm=True, freeze_last_layer=1)
            for _ in range(2)
        )
        super().__init__(encoder, epoch, steps, head)
        copied.load_state_dict(head.state_dict())
        self.teacher = nn.Sequential(copy.deepcopy(encoder), copied)
        deactivate_requires_grad(self.teacher)
        self.loss = DINOLoss(128, student_temp=0.1, teacher_temp=0.04)

    @property
    def evaluated(self) -> nn.Module:
        """The teacher's, as here and in the paper."""
        return self.teacher[0]

    def forward(self, views: Views) -> Tensor:
        with torch.no_grad():
            targets = list(self.teacher(torch.cat(views[:2])).chunk(2))
        return self.loss(targets, self.project(views[:2]) + self.project(views[2:]))

    def before_update(self, step: int) -> None:
        self.head.cancel_last_layer_gradients(step // self.epoch)

    def after_step(self, step: int) -> None:
        decay = cosine_schedule(step, self.steps, 0.98, 1.0)
        update_momentum(nn.Sequential(self.encoder, self.head), self.teacher, decay)


def masked_vit() -> MaskedVisionTransformerTIMM:
    """The ViT of `mae:fashion`, with lightly's initial weights."""
    vit = VisionTransformer(
        img_size=SIDE, patch_size=PATCH, in_chans=1, num_classes=0, embed_dim=DIM, depth=DEPTH,
        num_heads=NUM_HEADS,
    )  # fmt: skip
    return MaskedVisionTransformerTIMM(vit)


class MAE(Method):
    def __init__(self, *args: object) -> None:
        super().__init__(*args, nn.Linear(DIM, PATCH**2))
        patches = (SIDE // PATCH) ** 2
        self.embed = nn.Linear(DIM, DIM)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=patches, embed_dim=DIM, depth=1, num_heads=NUM_HEADS
        )
        for layer in (self.embed, self.head):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, views: Views) -> Tensor:
        (images,) = views
        size = len(images), self.decoder.sequence_length
        kept, hidden = utils.random_token_mask(size, mask_ratio=0.75)
        seen = self.embed(self.encoder.encode(images, idx_keep=kept))
        tokens = utils.set_at_index(utils.repeat_token(self.decoder.mask_token, size), kept, seen)
        predicted = self.head(utils.get_at_index(self.decoder(tokens), hidden))
        # Positions count the class token, patches do not.
        pixels = utils.get_at_index(utils.patchify(images, PATCH), hidden - 1)
        return functional.mse_loss(predicted, utils.normalize_mean_var(pixels))


METHODS: dict[str, Callable[..., Method]] = {
    "simclr": SimCLR, "moco_v2": MoCo, "byol": BYOL, "simsiam": SimSiam, "barlow_twins": Barlow,
    "vicreg": VICReg, "nnclr": NNCLR, "swav": SwaV, "dino": DINO, "mae": MAE,
}  # fmt: skip


def fit(
    method: Method, loader: torch.utils.data.DataLoader, epochs: int, recipe: Recipe
) -> list[float]:
    """Trains; images per second of every ten steps."""
    decayed, other = [], []
    for parameter in method.parameters():
        if parameter.requires_grad:
            (decayed if parameter.ndim > 1 else other).append(parameter)
    first, last = recipe.weight_decay, recipe.final_weight_decay
    groups = [dict(params=decayed, weight_decay=first), dict(params=other, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, recipe.b2))
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
        method.before_update(step)
        if recipe.clip:
            for parameter in decayed + other:
                nn.utils.clip_grad_norm_(parameter, recipe.clip)
        if last is not None:
            optimizer.param_groups[0]["weight_decay"] = cosine_schedule(step, total, first, last)
        optimizer.step()
        schedule.step()
        method.after_step(step)
        if step % 10 == 9:
            now = time.perf_counter()
            speeds.append(10 * recipe.batch_size / (now - began))
            began = now
            print(f"step {step + 1}/{total}  loss {loss.item():.3f}  {speeds[-1]:,.0f} img/s")
    return speeds


def batches(loader: torch.utils.data.DataLoader, epochs: int) -> Iterator[Views]:
    """The views of every batch of every epoch."""
    for _ in range(epochs):
        yield from loader


@torch.no_grad()
def encode(encoder: nn.Module, images: np.ndarray) -> np.ndarray:
    """h float32 [n d] of images uint8 [n 28 28]."""
    encoder.eval()
    parts = torch.from_numpy(images).float().div(255)[:, None].split(500)
    return torch.cat([encoder(part) for part in parts]).numpy()


if __name__ == "__main__":
    main()

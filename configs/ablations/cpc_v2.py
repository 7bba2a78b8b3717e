"""From CPC to CPC v2 in seven steps (Henaff et al. 2020, Fig. 3)

    ssl_jax sweep --config=ablations/cpc_v2:small_shapes --workdir=runs/cpc_v2

Variants:
  small_shapes  2048 generated images in colour, three seeds
  imagenet      the paper's: from ResNet-101 without BatchNorm to ResNet-161 with LayerNorm

Each step keeps the ones before it. The paper draws the accuracies as bars and prints the first and
the last: 48.7 and 71.5 on ImageNet. So ours are ranked beside the order, in which each step is
better than the one before.
"""

import dataclasses

from ssl_jax.configs import cpc_images, scales
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed, product

VARIANTS = ("small_shapes", "imagenet")
CHANGES = (
    "CPC", "capacity", "bottom-up", "layer norm", "color dropping", "horizontal",
    "larger patches", "augmentation",
)  # fmt: skip
# What CPC does with patches: crops with a border of zeros.
_CROP = {"imagenet": 60, "small_shapes": 7}  # of 64 and of 8 pixels


def _steps(variant: str) -> list[dict]:
    """The overrides that each of `CHANGES` adds."""
    large = variant == "imagenet"
    steps = [
        {
            "method.directions": ("down",),
            "views.families.patch.ops": ("crop_and_pad",),
            "views.families.patch.crop_and_pad.size": _CROP[variant],
            "model.norm": "none",
        },
        {"model.name": "resnet_v2_161", "model.stages": None, "model.remat": True}
        if large
        else {"model.widths": (64, 128, 128)},
        {"method.directions": ("down", "up")},
        {"model.norm": "layer"},
        {"views.families.patch.ops": ("drop_channels",), "method.grey": False},
        {"method.directions": ("down", "up", "right", "left")},
        {"method.patch_size": 80, "method.stride": 36, "views.random_resized_crop.size": 260,
         "views.random_resized_crop.scale": ((260 / 300) ** 2,) * 2, "method.first_step": 3,
         "method.last_step": 3}
        if large
        else {"method.patch_size": 16, "method.first_step": 3},
        {
            "views.families.patch.ops": cpc_images.PATCH_OPS,
            **{
                f"views.families.patch.{op}.{option}": value
                for op, options in cpc_images.PATCH_AUGMENTATION.items()
                for option, value in options.items()
            },
        },
    ]  # fmt: skip
    if large:
        steps[0] |= {"method.grey": True}
    else:
        steps[0] |= {"method.patch_size": 8, "method.first_step": 2}
    return steps


def get_sweep(variant: str = "small_shapes") -> Sweep:
    """The grid of one variant."""
    scale = scales.scale("ablations/cpc_v2", variant, VARIANTS)
    nets = {
        "small_shapes": "2048 generated shapes of 32x32, small conv net",
        "imagenet": "ImageNet, ResNet-101 to ResNet-161",
    }
    scale = dataclasses.replace(scale, data=nets[variant])
    steps = _steps(variant)
    cells = []
    for labels in product(change=CHANGES, seed=scale.seeds):
        overrides = {**scale.overrides, "seed": labels["seed"]}
        for change in steps[: CHANGES.index(labels["change"]) + 1]:
            overrides |= change
        cells.append(Cell(labels, scale.config("cpc_images"), overrides))
    curve = Curve(
        measure=scale.measure,
        measure_label=scale.measure_label,
        x="change",
        x_label="change, with all before it",
        published="cpc_v2_figure_3",
        published_measure="order",
    )
    title = "From CPC to CPC v2"
    return Sweep(title, by_seed(cells), setting=scale.setting, curves=(curve,))

"""Depth and width of the encoder, SimCLR beside supervised training (Chen et al. 2020, Fig. 7)

    ssl_jax sweep --config=ablations/simclr_depth_width:small_shapes --workdir=runs/depth_width

Variants:
  small_shapes  2048 generated images, narrow ResNet-10 and -18: about two hours on two CPU cores
  fashion       10,000 images of Fashion-MNIST, the same nets with ImageNet's stem, which is cheap:
                half an hour on two CPU cores
  shapes        generated images: some hours on one accelerator
  imagenet      the paper's: ResNet-18 to -152 of width 1, 2 and 4, batch 4096, 100 epochs

The figure draws accuracy over the number of parameters of the encoder: of a linear probe, and of a
supervised net of its own, with the same views, optimizer and length. The paper draws Fig. 7 without
numbers. The published points are those of its Tables 6 and 8, after 1000 epochs. Cells are configs
of this file, e.g. ablations/simclr_depth_width:small_shapes,supervised,18,0.25.
"""

from ml_collections import ConfigDict

from ssl_jax import config as config_lib
from ssl_jax.configs import common, scales
from ssl_jax.models.resnet import num_parameters
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed, product

NAME = "ablations/simclr_depth_width"
VARIANTS = ("small_shapes", "fashion", "shapes", "imagenet")
TRAININGS = ("simclr", "supervised")
DEPTHS = {
    "small_shapes": (10, 18),
    "fashion": (10, 18),
    "shapes": (10, 18, 34),
    "imagenet": (18, 34, 50, 101, 152),
}
WIDTHS = {
    "small_shapes": (0.125, 0.25, 0.5),
    "fashion": (0.125, 0.25, 0.5),
    "shapes": (0.25, 0.5, 1.0),
    "imagenet": (1.0, 2.0, 4.0),
}
STEMS = {"small_shapes": "cifar", "fashion": "imagenet", "shapes": "cifar", "imagenet": "imagenet"}


def get_config(variant: str = "small_shapes,simclr,10,0.25") -> ConfigDict:
    """One cell: "SIZE,TRAINING,DEPTH,WIDTH"."""
    size, training, depth, width = (*variant.split(","), "", "", "")[:4]
    common.check_variant(NAME, size, VARIANTS)
    common.check_variant(f"{NAME}:{size}", training, TRAININGS)
    common.check_variant(f"{NAME}:{size},{training}", depth, tuple(map(str, DEPTHS[size])))
    common.check_variant(
        f"{NAME}:{size},{training},{depth}", width, tuple(f"{w:g}" for w in WIDTHS[size])
    )
    config = config_lib.load(f"simclr:{size}")
    config.model = ConfigDict(dict(name=f"resnet{depth}", width=float(width), stem=STEMS[size]))
    if training == "supervised":
        config.method = ConfigDict(dict(name="supervised"))
        config.eval.names = ("accuracy",)
        config.checkpoint.best_metric = "eval/accuracy/top1"
    return config


def get_sweep(variant: str = "small_shapes") -> Sweep:
    """The grid of one variant."""
    scale = scales.scale(NAME, variant, VARIANTS)
    cells = []
    grid = product(
        training=TRAININGS, depth=DEPTHS[variant], width=WIDTHS[variant], seed=scale.seeds[:1]
    )
    for labels in grid:
        training, depth, width = (labels[name] for name in ("training", "depth", "width"))
        probe = {"simclr": "linear", "supervised": "accuracy"}[training]
        cells.append(
            Cell(
                {**labels, "probe": probe, "params": _millions(variant, depth, width)},
                f"{NAME}:{variant},{training},{depth},{width:g}",
                {**scale.overrides, "seed": labels["seed"], "eval.final_names": (probe, "knn")},
            )
        )
    curve = Curve(
        measure="{probe}/top1",
        measure_label="top-1, %: linear probe; supervised: its own",
        x="params",
        x_label="parameters of the encoder, millions",
        series="training",
        names={"simclr": "SimCLR"},
        published="simclr_depth_width",
        stands_for={"params": _stands_for(variant)},
    )
    setting = f"{scale.data.rpartition(', ')[0]}, ResNets"
    title = "SimCLR: depth and width of the encoder"
    return Sweep(title, by_seed(cells), setting=setting, curves=(curve,))


def _millions(variant: str, depth: int, width: float) -> float:
    """Parameters of an encoder, three digits."""
    return float(f"{num_parameters(depth, width, stem=STEMS[variant]) / 1e6:.3g}")


def _stands_for(variant: str) -> dict[float, float]:
    """The widths of the deepest small net stand for those of ResNet-50."""
    if variant == "imagenet":
        return {}
    depth = DEPTHS[variant][-1]
    published = (_millions("imagenet", 50, width) for width in WIDTHS["imagenet"])
    ours = (_millions(variant, depth, width) for width in WIDTHS[variant])
    return dict(zip(ours, published, strict=True))

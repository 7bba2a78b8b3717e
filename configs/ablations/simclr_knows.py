"""What h and g(h) know of how an image was changed (SimCLR, Chen et al. 2020, Table 3)

    ssl_jax sweep --config=ablations/simclr_knows:small_shapes \
        --workdir=runs/knows

Variants:
  small_shapes  2048 generated images in colour, three seeds: half an hour on two CPU cores; grey
                digits have no colour to know of
  shapes        generated images, ResNet-18: half an hour on one accelerator
  imagenet      the paper's: ResNet-50, batch 4096, 100 epochs, g(h) of 2048 numbers like h

Rotation, noise and the Sobel filter are added to the augmentations one at a time; colour is among
them. After pretraining a nonlinear probe tells the change from h, and from g(h). Cells are configs
of this file, e.g. ablations/simclr_knows:small_shapes,rotation.
"""

from ml_collections import ConfigDict

from ssl_jax import config as config_lib
from ssl_jax.configs import common, scales
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed, product

NAME = "ablations/simclr_knows"
VARIANTS = ("small_shapes", "shapes", "imagenet")
ADDED = {  # task -> the operation that is added to the augmentations
    "color": {},
    "rotation": {"random_rotate90": dict(p=1.0)},
    "noise": {"gaussian_noise": dict(std=0.1, p=0.5)},
    "sobel": {"sobel": dict(p=0.5)},
}
WIDTHS = {"small_shapes": 128, "shapes": 512, "imagenet": 2048}  # of h


def get_config(variant: str = "small_shapes,rotation") -> ConfigDict:
    """SimCLR with the operation of one task added to its augmentations, "SIZE,TASK"."""
    size, _, task = variant.partition(",")
    common.check_variant(NAME, size, VARIANTS)
    common.check_variant(f"{NAME}:{size}", task, tuple(ADDED))
    config = config_lib.load(f"simclr:{size}")
    config.views.ops = (*config.views.ops, *ADDED[task])
    config.views.update(ADDED[task])
    config.method.output_dim = WIDTHS[size]
    config.eval.features = ("h", "z")
    config.eval.transformations.changes = (task,)
    if size == "imagenet":
        config.eval.max_train_examples = 50_000
    return config


def get_sweep(variant: str = "small_shapes") -> Sweep:
    """The grid of one variant."""
    scale = scales.scale(NAME, variant, VARIANTS)
    cells = [
        Cell(
            labels,
            f"{NAME}:{variant},{labels['task']}",
            {
                **scale.overrides,
                "seed": labels["seed"],
                "eval.final_names": ("knn", "transformations"),
            },
        )
        for labels in product(task=ADDED, seed=scale.seeds)
    ]
    curves = tuple(
        Curve(
            measure=measure,
            measure_label=f"told from {name}, %",
            x="task",
            x_label="how the image was changed",
            published="simclr_table_3",
            published_measure=column,
            published_label=f"told from {name}, %",
        )
        for name, column, measure in (
            ("h", "h", "transformations/{task}"),
            ("g(h)", "z", "z/transformations/{task}"),
        )
    )
    title = "SimCLR: what h and g(h) know"
    return Sweep(title, by_seed(cells), setting=scale.setting, curves=curves)

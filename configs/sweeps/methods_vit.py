"""Methods with one small Vision Transformer, beside a published ranking on Imagenette

    ssl_jax sweep --config=sweeps/methods_vit:small_shapes --workdir=runs/methods_vit

Variants:
  small_shapes  2048 generated shapes of 32x32, three seeds
  one_seed      the same with one seed

All methods see 20 epochs in batches of 64, 640 steps, at a learning rate of 1e-3, so that a cell
takes minutes of one CPU core.

The published scores are linear probes of a ViT-S/16 after 200 epochs on Imagenette, as
stable-pretraining reports them. Data, net and budget differ, so only the order is compared.
"""

from ssl_jax.configs import common
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed, product

METHODS = ("simclr", "mae", "dino", "lejepa", "swav", "ijepa")
VARIANTS = ("small_shapes", "one_seed")
VIT = {
    "batch_size": 64,
    "epochs": 20.0,
    "optimizer.base_lr": 1e-3,
    "eval.every_epochs": 0.0,
    "model.name": "vit_ti16",
    "model.patch_size": 8,
    "model.dim": 64,
    "model.depth": 4,
    "model.num_heads": 4,
    "model.positions": "sincos",
}


def get_sweep(variant: str = "small_shapes") -> Sweep:
    """The grid of one variant."""
    common.check_variant("sweeps/methods_vit", variant, VARIANTS)
    seeds = (0, 1, 2) if variant == "small_shapes" else (0,)
    cells = [
        Cell(
            labels,
            f"{labels['method']}:small_shapes",
            {"seed": labels["seed"], **VIT},
        )
        for labels in product(method=METHODS, seed=seeds)
    ]
    curve = Curve(
        measure="linear/top1",
        measure_label="linear probe, top-1, %",
        x="method",
        x_label="method",
        published="imagenette_vit_s16",
        joined=False,
    )
    return Sweep("Methods with a ViT", by_seed(cells), setting="shapes, ViT with patches of 8",
                 curves=(curve,))  # fmt: skip

"""From MoCo v1 to v2: MLP head, more augmentation, cosine schedule (Chen et al. 2020b, Table 1)

    ssl_jax sweep --config=ablations/moco_v2:small_shapes --workdir=runs/v2

Variants:
  small_shapes  2048 generated images in colour, three seeds: half an hour on two CPU cores; grey
                digits have no colour to jitter
  shapes        generated images, ResNet-18: about an hour on one accelerator
  imagenet      the paper's: ResNet-50, batch 256, 200 epochs, and 800 at last

On ImageNet the MLP head comes with its own temperature, 0.2 for 0.07; small variants keep theirs.
"""

from ssl_jax import config as config_lib
from ssl_jax.configs import scales
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed, product

VARIANTS = ("small_shapes", "shapes", "imagenet")
RECIPES = {  # name -> what it has of MLP, aug+ and cos
    "v1": (),
    "MLP": ("mlp",),
    "aug+": ("aug",),
    "MLP, aug+": ("mlp", "aug"),
    "MLP, aug+, cos": ("mlp", "aug", "cos"),
    "800 epochs": ("mlp", "aug", "cos", "long"),
}


def get_sweep(variant: str = "small_shapes") -> Sweep:
    """The grid of one variant."""
    scale = scales.scale("ablations/moco_v2", variant, VARIANTS)
    base = config_lib.load(scale.config("moco_v1"))
    ops = tuple(base.views.ops)
    crop = ops[:1] if ops[0] == "random_resized_crop" else ()
    normalize = ops[-1:] if ops[-1] == "normalize" else ()
    temperature = {"method.temperature": 0.2} if variant == "imagenet" else {}
    changes = {
        "mlp": {"method.projector_layers": 2, **temperature},
        "aug": {
            "views.ops": (
                *crop, "color_jitter", "grayscale", "gaussian_blur", "flip", *normalize,
            ),
            "views.color_jitter.p": 0.8,
            "views.color_jitter.hue": 0.1,
        },
        "cos": {"optimizer.schedule": "cosine"},
        "long": {"epochs": 800.0},
    }  # fmt: skip
    recipes = RECIPES if variant == "imagenet" else list(RECIPES)[:-1]
    cells = []
    for labels in product(recipe=recipes, seed=scale.seeds):
        overrides = {"seed": labels["seed"], **scale.overrides}
        for change in RECIPES[labels["recipe"]]:
            overrides |= changes[change]
        cells.append(Cell(labels, scale.config("moco_v1"), overrides))
    curve = Curve(
        measure=scale.measure,
        measure_label=scale.measure_label,
        x="recipe",
        x_label="recipe",
        published="moco_v2",
    )
    title = "From MoCo v1 to v2"
    return Sweep(title, by_seed(cells), setting=scale.setting, curves=(curve,))

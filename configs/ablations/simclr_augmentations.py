"""SimCLR's augmentations alone and in pairs (Chen et al. 2020, Fig. 5)

    ssl_jax sweep --config=ablations/simclr_augmentations:small_shapes \
        --workdir=runs/augmentations

Variants:
  small_shapes  2048 generated images in colour: an hour on two CPU cores; the digits are grey
  fashion       10,000 images of Fashion-MNIST, one seed, four epochs: a minute a cell on one CPU
                core; they are grey, so that colour is brightness and contrast
  shapes        generated images, ResNet-18: some hours on one accelerator
  imagenet      the paper's: ResNet-50, batch 4096, 100 epochs

One view of each image is changed, by a row's operation and then by a column's; the other stays as
it is. On the diagonal there is one operation. Of ImageNet both views are of one random crop, made
on the host. The paper prints its matrix as a picture; of it only what the text says is published
here. Cells are configs of this file, e.g. ablations/simclr_augmentations:small_shapes,crop,color.
"""

from ml_collections import ConfigDict

from ssl_jax import config as config_lib
from ssl_jax.configs import common, scales
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed, product

NAME = "ablations/simclr_augmentations"
VARIANTS = ("small_shapes", "fashion", "shapes", "imagenet")
SMALL = ("small_shapes", "fashion")  # images of 32 pixels and less
OPERATIONS = {
    "crop": ("random_resized_crop",),
    "cutout": ("cutout",),
    "color": ("color_jitter", "grayscale"),
    "sobel": ("sobel",),
    "noise": ("gaussian_noise",),
    "blur": ("gaussian_blur",),
    "rotate": ("random_rotate90",),
}


def get_config(variant: str = "small_shapes,crop,color") -> ConfigDict:
    """SimCLR with one view changed by one or two operations, "SIZE,FIRST,SECOND"."""
    size, *names = variant.split(",")
    common.check_variant(NAME, size, VARIANTS)
    for name in names:
        common.check_variant(f"{NAME}:{size}", name, tuple(OPERATIONS))
    config = config_lib.load(f"simclr:{size}")
    views = config.views
    crop = views.get("random_resized_crop", ConfigDict(dict(size=224, scale=(0.08, 1.0))))
    ops = tuple(op for name in dict.fromkeys(names) for op in OPERATIONS[name])
    jitter = dict(strength=1.0, p=0.8)
    if size == "fashion":
        ops = tuple(op for op in ops if op != "grayscale")
        jitter = dict(brightness=0.8, contrast=0.8, saturation=0.0, hue=0.0, p=0.8)
    if size == "imagenet":
        config.data.host_crops = {"global": dict(count=1)}
    config.views = ConfigDict(
        dict(
            ops=(),
            overrides={"0": dict(ops=ops)},
            random_resized_crop=crop,
            cutout=dict(p=1.0),
            color_jitter=jitter,
            grayscale=dict(p=0.2),
            sobel=dict(p=1.0),
            gaussian_noise=dict(p=1.0),
            gaussian_blur=dict(p=1.0, **({"kernel_size": 3} if size in SMALL else {})),
        )
    )
    return config


def get_sweep(variant: str = "small_shapes") -> Sweep:
    """The matrix of one variant."""
    scale = scales.scale(NAME, variant, VARIANTS)
    if variant == "fashion":  # half as long as others: 49 cells
        scale = scale.lasting(4.0)
    cells = [
        Cell(
            labels,
            f"{NAME}:{variant},{labels['first']},{labels['second']}",
            {"seed": labels["seed"], **scale.overrides},
        )
        for labels in product(first=OPERATIONS, second=OPERATIONS, seed=scale.seeds[:1])
    ]
    curve = Curve(
        measure=scale.measure,
        measure_label=scale.measure_label,
        x="second",
        x_label="second",
        series="first",
        matrix=True,
        published="simclr_figure_5",
    )
    title = "SimCLR: augmentations of one view, alone and in pairs"
    return Sweep(title, by_seed(cells), setting=scale.setting, curves=(curve,))

"""The numbers of the papers and their released code, read off every recipe at their scale."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from ssl_jax import config as config_lib
from ssl_jax.optim import scale_learning_rate
from ssl_jax.views.recipe import read_recipes
from tests.methods.rows.row import CONFIGS


class Recipe(NamedTuple):
    """Peak is the rate at the batch size; epochs of the step schedule's milestones are 0.6, 0.8."""

    optimizer: str
    batch: int
    epochs: int
    peak: float
    schedule: str
    warmup: int
    weight_decay: float
    views: tuple[dict[str, Any], ...] | None
    others: dict[str, Any]


def colour(crop, jitter, p, blur=None, solarize=None):
    """What is drawn for a view: values of jitter are of brightness, contrast, saturation, hue."""
    drawn = dict(crop=crop, flip=0.5, jitter=(jitter, p), grey=0.2)
    drawn |= {} if blur is None else dict(blur=(blur, (0.1, 2.0)))
    return drawn | ({} if solarize is None else dict(solarize=(solarize, 0.5)))


def byol(crop):
    jitter = (0.4, 0.4, 0.2, 0.1), 0.8
    return colour(crop, *jitter, 1.0, 0.0), colour(crop, *jitter, 0.1, 0.2)


INSTDISC = colour((0.2, 1.0), (0.4, 0.4, 0.4, 0.4), 1.0)
MOCO_V2 = (colour((0.2, 1.0), (0.4, 0.4, 0.4, 0.1), 0.8, 0.5),) * 2
SIMCLR = (colour((0.08, 1.0), (0.8, 0.8, 0.8, 0.2), 0.8, 0.5),) * 2
BYOL, BYOL_MILD = byol((0.08, 1.0)), byol((0.2, 1.0))
CROP_AND_FLIP = (dict(crop=(0.08, 1.0), flip=0.5),)

TORCH = {"model.kernel_init": "he_fan_out"}  # torchvision's ResNet
ALL_DECAYED = {"optimizer.exclude": ""}
OUTSIDE = {"optimizer.momentum_order": "lr_outside"}
INSIDE = {"optimizer.momentum_order": "lr_inside"}


def t(value):
    return {"method.temperature": value}


MOCO = TORCH | ALL_DECAYED
V3 = TORCH | OUTSIDE | t(1.0)
VIT = ALL_DECAYED | t(0.2)
LOW_END = TORCH | OUTSIDE | {"optimizer.final_lr_factor": 1e-3}
HAIKU = OUTSIDE | {"model.kernel_init": "lecun"}  # BYOL's own ResNet, from LeCun's normal
V2 = INSIDE | t(0.1)
RECIPES = {
    "instdisc.py:imagenet": Recipe(
        "sgd", 256, 200, 0.03, "step", 0, 1e-4, (INSTDISC,), MOCO | t(0.07)
    ),
    "instdisc.py:softmax": Recipe(
        "sgd", 256, 200, 0.03, "step", 0, 1e-4, (INSTDISC,), MOCO | t(0.07)
    ),
    "instdisc.py:cifar10": Recipe("sgd", 128, 200, 0.03, "step", 0, 5e-4, None, t(0.1)),
    "moco_v1.py:imagenet": Recipe(
        "sgd", 256, 200, 0.03, "step", 0, 1e-4, (INSTDISC,) * 2, MOCO | t(0.07)
    ),
    "moco_v1.py:end_to_end": Recipe(
        "sgd", 1024, 200, 0.12, "step", 0, 1e-4, (INSTDISC,) * 2, MOCO | t(0.07)
    ),
    "moco_v1.py:bank": Recipe(
        "sgd", 256, 200, 0.03, "step", 0, 1e-4, (INSTDISC,) * 2, MOCO | t(0.07)
    ),
    "moco_v2.py:imagenet": Recipe("sgd", 256, 200, 0.03, "cosine", 0, 1e-4, MOCO_V2, MOCO | t(0.2)),
    "moco_v2.py:imagenet800": Recipe(
        "sgd", 256, 800, 0.03, "cosine", 0, 1e-4, MOCO_V2, MOCO | t(0.2)
    ),
    "moco_v3.py:imagenet": Recipe("lars", 4096, 100, 9.6, "cosine", 10, 1e-6, BYOL_MILD, V3),
    "moco_v3.py:imagenet300": Recipe("lars", 4096, 300, 4.8, "cosine", 10, 1e-6, BYOL_MILD, V3),
    "moco_v3.py:imagenet1000": Recipe("lars", 4096, 1000, 4.8, "cosine", 10, 1.5e-6, BYOL_MILD, V3),
    "moco_v3.py:vit_s16": Recipe("adamw", 4096, 300, 2.4e-3, "cosine", 40, 0.1, BYOL, VIT),
    "moco_v3.py:vit_b16": Recipe("adamw", 4096, 300, 2.4e-3, "cosine", 40, 0.1, BYOL, VIT),
    "simclr.py:imagenet": Recipe(
        "lars", 4096, 100, 4.8, "cosine", 10, 1e-6, SIMCLR, INSIDE | t(0.1)
    ),
    "simclr_v2.py:imagenet": Recipe("lars", 4096, 800, 6.4, "cosine", 40, 1e-4, SIMCLR, V2),
    "simclr_v2.py:imagenet_sk": Recipe("lars", 4096, 800, 6.4, "cosine", 40, 1e-4, SIMCLR, V2),
    "simclr_v2.py:imagenet_big": Recipe("lars", 4096, 800, 6.4, "cosine", 40, 1e-4, SIMCLR, V2),
    "distill.py:imagenet": Recipe(
        "lars", 4096, 400, 6.4, "cosine", 20, 1e-4, CROP_AND_FLIP, INSIDE
    ),
    "distill.py:imagenet_big": Recipe(
        "lars", 4096, 400, 6.4, "cosine", 20, 1e-4, CROP_AND_FLIP, INSIDE
    ),
    "barlow_twins.py:imagenet": Recipe("lars", 2048, 1000, 1.6, "cosine", 10, 1e-6, BYOL, LOW_END),
    "vicreg.py:imagenet": Recipe("lars", 2048, 1000, 1.6, "cosine", 10, 1e-6, BYOL, LOW_END),
    "vicreg.py:imagenet100": Recipe("lars", 512, 100, 0.6, "cosine", 10, 1e-6, BYOL, LOW_END),
    "byol.py:imagenet": Recipe("lars", 4096, 1000, 3.2, "cosine", 10, 1.5e-6, BYOL, HAIKU),
    "byol.py:imagenet300": Recipe("lars", 4096, 300, 4.8, "cosine", 10, 1e-6, BYOL, HAIKU),
    "byol.py:imagenet100": Recipe("lars", 4096, 100, 7.2, "cosine", 10, 1e-6, BYOL, HAIKU),
    "byol.py:imagenet40": Recipe("lars", 4096, 40, 7.2, "cosine", 10, 1e-6, BYOL, HAIKU),
    "simsiam.py:imagenet": Recipe("sgd", 512, 100, 0.1, "cosine", 0, 1e-4, MOCO_V2, MOCO),
}


def drawn(config, views):
    """What a config draws for each view, as `colour` writes it."""
    found = []
    for recipe in read_recipes(config.views, views):
        ops = {step.op: step.parameters for step in recipe}
        assert list(ops)[-1] == "normalize" or "normalize" not in ops
        ops.pop("normalize", None)
        view = {"crop": config.data.host_crops["global"].scale, "flip": ops.pop("flip")["p"]}
        if jitter := ops.pop("color_jitter", None):
            names = ("brightness", "contrast", "saturation", "hue")
            view["jitter"] = tuple(jitter["strength"] * jitter[name] for name in names), jitter["p"]
        if grey := ops.pop("grayscale", None):
            view["grey"] = grey["p"]
        if blur := ops.pop("gaussian_blur", None):
            view["blur"] = blur["p"], blur["sigma"]
        if solarize := ops.pop("solarize", None):
            view["solarize"] = solarize["p"], solarize["threshold"]
        assert not ops
        found.append(view)
    return tuple(found)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_its_papers_numbers(name):
    expected, config = RECIPES[name], config_lib.load(f"{CONFIGS}/{name}")
    config = config_lib.resolve(config)
    optimizer = config.optimizer
    peak = scale_learning_rate(optimizer.base_lr, config.batch_size, optimizer.lr_scaling)
    np.testing.assert_allclose(peak, expected.peak, rtol=1e-9)
    assert (optimizer.name, config.batch_size, config.epochs) == expected[:3]
    assert (optimizer.schedule, optimizer.warmup_epochs) == (expected.schedule, expected.warmup)
    assert optimizer.warmup_steps is None
    assert optimizer.weight_decay == expected.weight_decay
    if optimizer.name == "adamw":
        assert (optimizer.b1, optimizer.b2, optimizer.clip.norm) == (0.9, 0.999, 0)
    else:
        assert (optimizer.momentum, optimizer.nesterov, optimizer.clip.norm) == (0.9, False, 0)
        assert optimizer.trust_coefficient == 1e-3
    if optimizer.schedule == "step":
        assert (optimizer.milestones, optimizer.decay_factor) == ((0.6, 0.8), 0.1)
    others = {"optimizer.final_lr_factor": 0.0, "optimizer.exclude": r"(bias|scale)$"}
    if name.endswith("cifar10"):
        others["optimizer.exclude"] = ""
    for key, value in (others | expected.others).items():
        section, key = key.split(".")
        assert config[section][key] == value, key
    if expected.views is not None:
        assert config.data.image_size == 224
        assert drawn(config, len(expected.views)) == expected.views

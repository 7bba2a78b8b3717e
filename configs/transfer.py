"""Transfer to other data sets (Chen et al. 2020), https://arxiv.org/abs/2002.05709

    ssl_jax train --config=transfer:VARIANT --workdir=runs/transfer --config.init_from=runs/simclr

Variants:
  food101, cifar10, cifar100, birdsnap  scored by top-1 (Chen et al. 2020, App. B.8)
  sun397, cars196, dtd                  by top-1
  aircraft, pets, caltech101, flowers   by the mean of the classes' accuracies
  voc2007                               by the mean 11-point average precision of 20 labels
  digits, lesions                       sets without a download; lesions has five labels an image
  shapes_shape, shapes_hue              generated shapes with the label of that name
  shapes_size, shapes_angle             the same
  shapes_background                     the same
  fashion                               Fashion-MNIST, where it is installed

A variant fine-tunes all weights (SGD with Nesterov's momentum, 20,000 steps of 256 images at 224
pixels, crops and flips). `method.freeze_encoder=True steps=1` leaves the encoder as it is, for an
evaluation of its features: linear, linear_labels. The sweep sweeps/transfer does both over all sets
and learning rates.

The sets are those of TFDS (SUN397 and DTD: their first split); TFDS has no Birdsnap and no FGVC
Aircraft, which are read from the class folders data/birdsnap and data/aircraft (train, test). Of a
set without validation split a fifth of train is held out to choose by. BatchNorm keeps the momentum
of the net; the paper shortens it for short runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common


class Set(NamedTuple):
    """A data set.

    Attributes:
      name: of the data.
      metric: top1, mean_class or map11.
      validation: split that hyper-parameters are chosen by; None: a fifth of train.
      test: split of the published scores.
      options: of the data.
    """

    name: str
    metric: str = "top1"
    validation: str | None = None
    test: str = "test"
    options: Mapping[str, object] = MappingProxyType({})

    @property
    def several(self) -> bool:
        """Whether an image can have several labels."""
        return self.metric == "map11"

    @property
    def probe(self) -> str:
        """The metric of linear evaluation."""
        return f"linear_labels/{self.metric}" if self.several else f"linear/{self.metric}"

    @property
    def head(self) -> str:
        """The metric of fine-tuning."""
        return f"multilabel/{self.metric}" if self.several else f"accuracy/{self.metric}"

    @property
    def fitted(self) -> str:
        """What fine-tuning trains on."""
        return "train" if self.validation else "train[:80%]"

    @property
    def chosen_on(self) -> str:
        """What hyper-parameters are chosen by."""
        return self.validation or "train[80%:]"

    @property
    def both(self) -> str:
        """What linear evaluation trains and chooses on."""
        return f"train+{self.validation}" if self.validation else "train"


# In the order of the paper's table.
PAPER = {
    "food101": Set("tfds:food101", test="validation"),
    "cifar10": Set("tfds:cifar10"),
    "cifar100": Set("tfds:cifar100"),
    "birdsnap": Set("folder:data/birdsnap"),
    "sun397": Set("tfds:sun397/standard-part1-120k"),
    "cars196": Set("tfds:cars196"),
    "aircraft": Set("folder:data/aircraft", "mean_class"),
    "voc2007": Set("tfds:voc/2007", "map11", "validation"),
    "dtd": Set("tfds:dtd", validation="validation"),
    "pets": Set("tfds:oxford_iiit_pet", "mean_class"),
    "caltech101": Set("tfds:caltech101", "mean_class"),
    "flowers": Set("tfds:oxford_flowers102", "mean_class", "validation"),
}
_SHAPES = ("shape", "hue", "size", "angle", "background")
EMBEDDED = {
    "digits": Set("digits"),
    **{
        f"shapes_{label}": Set("shapes", options={"num_generated": 2048, "label": label})
        for label in _SHAPES
    },
    "lesions": Set("lesions", "map11", options={"num_generated": 2048}),
    "fashion": Set("fashion_mnist"),
}
SETS = {**PAPER, **EMBEDDED}
VARIANTS = tuple(SETS)


def get_config(variant: str = "digits") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("transfer", variant, VARIANTS)
    chosen = SETS[variant]
    config = base_config()
    config.method = ConfigDict(dict(name="multilabel" if chosen.several else "supervised"))
    config.model.name = "init_from"
    config.data.update(name=chosen.name, split=chosen.fitted)
    config.data.options = ConfigDict(dict(chosen.options))
    own = chosen.head.partition("/")[0]
    config.eval.update(
        names=(own,), final_names=(own,), train_split=chosen.both, test_split=chosen.test,
        validation_split=chosen.chosen_on, online=False, baselines=(),
    )  # fmt: skip
    config.eval.linear.num_l2 = config.eval.linear_labels.num_l2 = 45
    config.checkpoint.best_metric = f"eval/{chosen.head}"
    config.optimizer.update(
        name="sgd", base_lr=1e-2, lr_scaling="none", nesterov=True, weight_decay=0.0,
        warmup_epochs=0.0,
    )  # fmt: skip
    if variant in PAPER:
        _paper(config)
    else:
        _embedded(config)
    return config


def _paper(config: ConfigDict) -> None:
    config.batch_size = 256
    config.steps, config.epochs = 20_000, None
    config.dtype = "bfloat16"
    config.data.update(image_size=224, channels=3, workers=16)
    config.data.host_crops = ConfigDict({"global": dict(count=1)})
    config.views = ConfigDict(dict(ops=("flip",), flip=dict(p=0.5)))
    config.eval.batch_size = 1024
    config.checkpoint.every_epochs = 10.0


def _embedded(config: ConfigDict) -> None:
    """Images of 32 pixels in colour, as encoders of `small_shapes` take; probes fit 5000 images."""
    config.batch_size = 128
    config.steps, config.epochs = 200, None
    config.data.update(image_size=32, channels=3)
    config.views = ConfigDict(
        dict(ops=("random_resized_crop",), random_resized_crop=dict(size=32, scale=(0.6, 1.0)))
    )
    config.eval.update(batch_size=512, max_train_examples=5000)

"""At what size an ablation runs: the files in `configs/ablations/` share these."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ssl_jax import config as config_lib
from ssl_jax.configs import common
from ssl_jax.sweeps import grid
from ssl_jax.sweeps.grid import Cell


@dataclasses.dataclass(frozen=True)
class Scale:
    """One size of the ablations of image methods.

    Attributes:
      variant: of the methods' configs.
      overrides: of every cell.
      seeds: of every setting.
      measure: the result that is compared.
      measure_label: what a reader calls it.
      data: data and net, in a few words.
      epochs: of a cell; None for those of the config.
      one_seed: whether settings that are not worth all seeds have the first one only.
    """

    variant: str
    overrides: Mapping[str, Any]
    seeds: Sequence[int]
    measure: str
    measure_label: str
    data: str
    epochs: float | None = None
    one_seed: bool = False

    @property
    def setting(self) -> str:
        """Data, net and length in a few words."""
        return self.data if self.epochs is None else f"{self.data}, {self.epochs:g} epochs"

    def lasting(self, epochs: float) -> Scale:
        """The same at another length; a size without checkpoints on the way stays so."""
        lengths = ["epochs", *({"checkpoint.every_epochs"} & set(self.overrides))]
        overrides = {**self.overrides, **dict.fromkeys(lengths, epochs)}
        return dataclasses.replace(self, overrides=overrides, epochs=epochs)

    def measure_of(self, method: str) -> str:
        """The measure, taken from the last of the outputs that the method's config evaluates."""
        feature = config_lib.load(self.config(method)).eval.features[-1]
        return self.measure if feature == "h" else f"{feature}/{self.measure}"

    def by_seed(
        self, cells: Iterable[Cell], repeated: Callable[[Mapping[str, Any]], bool]
    ) -> tuple[Cell, ...]:
        """`grid.by_seed`, with `repeated` if settings may have one seed only, see `one_seed`."""
        return grid.by_seed(cells, repeated if self.one_seed else None)

    def config(self, method: str) -> str:
        """The config of a method at this size."""
        return f"{method}:{self.variant}"


# Neither page nor curves: a cell is one of many.
_SPARE = {
    "eval.every_epochs": 0.0,
    "eval.online": False,
    "eval.collapse_every_steps": 0,
    "eval.baselines": (),
    "log.tensorboard": False,
    "log.report": False,
}
_ONE_LABEL = "top-1 with 1 label a class, %"
SCALES: Mapping[str, Scale] = MappingProxyType(
    {
        # Half a minute a cell on two CPU cores. With all labels digits are too easy to tell
        # settings apart, so the measure is accuracy with one label a class.
        "digits": Scale(
            "digits",
            {
                **_SPARE,
                "epochs": 40.0,
                "checkpoint.every_epochs": 40.0,
                "eval.final_names": ("knn", "few_shot"),
            },
            (0, 1, 2),
            "few_shot/1",
            _ONE_LABEL,
            "8x8 digits, small conv net",
            40.0,
        ),
        # A minute a cell on two CPU cores, for what means nothing on grey digits.
        "small_shapes": Scale(
            "small_shapes",
            {**_SPARE, "epochs": 30.0, "checkpoint.every_epochs": 30.0, "eval.linear.num_l2": 6},
            (0, 1, 2),
            "linear/top1",
            "top-1, linear probe, %",
            "2048 generated shapes of 32x32, small conv net",
            30.0,
        ),
        # Two minutes a cell on one CPU core; photos.
        "fashion": Scale(
            "fashion",
            {**_SPARE, "epochs": 8.0, "checkpoint.every_epochs": 8.0},
            (0, 1, 2),
            "linear/top1",
            "top-1, linear probe, %",
            "10,000 images of Fashion-MNIST, small conv net",
            8.0,
            one_seed=True,
        ),
        # Some minutes a cell on one accelerator.
        "shapes": Scale(
            "shapes",
            {**_SPARE, "epochs": 20.0, "optimizer.warmup_epochs": 2.0, "eval.linear.num_l2": 6},
            (0,),
            "linear/top1",
            "top-1, linear probe, %",
            "100,000 generated shapes of 64x64, ResNet-18",
            20.0,
        ),
        # The papers'.
        "cifar10": Scale(
            "cifar10",
            {"eval.every_epochs": 0.0},
            (0,),
            "linear/top1",
            "top-1, linear probe, %",
            "CIFAR-10, network in network",
        ),
        "imagenet": Scale(
            "imagenet",
            {"eval.every_epochs": 0.0},
            (0,),
            "linear/top1",
            "top-1, linear probe, %",
            "ImageNet, ResNet-50",
        ),
    }
)


def scale(ablation: str, variant: str, variants: Sequence[str]) -> Scale:
    """The size that a variant of an ablation names.

    Raises:
      UserError: the ablation has no such variant.
    """
    common.check_variant(ablation, variant, variants)
    return SCALES[variant]

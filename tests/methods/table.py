"""One row a method: the config that makes it small enough for the shared tests."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from ml_collections import ConfigDict

from ssl_jax import config as config_lib

CONFIGS = pathlib.Path(__file__).parent.parent.parent / "configs"
BATCH = 16


@dataclasses.dataclass(frozen=True)
class Row:
    """A method under test.

    Attributes:
      config: "file.py:variant" below configs/.
      overrides: dotted key -> value, to make it tiny.
      untrained: regexes of parameters that are meant to get no gradient.
    """

    config: str
    overrides: dict[str, Any]
    untrained: tuple[str, ...] = ()

    def load(self, **more: Any) -> ConfigDict:
        """The tiny config; keyword arguments are further overrides, with __ for dots."""
        config = config_lib.load(f"{CONFIGS}/{self.config}")
        changes = {"batch_size": BATCH, "log.tensorboard": False, **self.overrides}
        changes |= {key.replace("__", "."): value for key, value in more.items()}
        config.update_from_flattened_dict(changes)
        return config_lib.resolve(config, changes)


ROWS = {
    "simclr": Row(
        "simclr.py:digits",
        {"model.widths": (4, 8, 8), "method.hidden_dim": 16, "method.output_dim": 8, "steps": 100},
    ),
    "simclr-blockwise": Row(
        "simclr.py:digits",
        {
            "model.widths": (4, 8, 8),
            "method.hidden_dim": 16,
            "method.output_dim": 8,
            "method.implementation": "blockwise",
            "method.block_size": 8,
            "steps": 100,
        },
    ),
    "simclr-margin-triplet": Row(
        "simclr.py:digits",
        {
            "model.widths": (4, 8, 8),
            "method.hidden_dim": 16,
            "method.output_dim": 8,
            "method.loss": "margin_triplet",
            "method.semi_hard": True,
            "steps": 100,
        },
    ),
    "simclr-linear-head": Row(
        "simclr.py:digits",
        {
            "model.widths": (4, 8, 8),
            "method.projector": "linear",
            "method.output_dim": 8,
            "method.l2_normalize": False,
            "steps": 100,
        },
    ),
}

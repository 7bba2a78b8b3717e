"""What a sweep is: cells, each a config with overrides and labels.

A sweep is a Python file with `get_sweep(variant) -> Sweep`, as an experiment is one with
`get_config(variant)`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from ssl_jax import config as config_lib
from ssl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
      labels: what tells it from the others, column -> value, e.g. {"method": "byol", "seed": 1}.
      config: "FILE.py:variant".
      overrides: config keys, dotted, and their values.
    """

    labels: Mapping[str, Any]
    config: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its folder: `method=byol,seed=1`."""
        text = ",".join(f"{key}={value}" for key, value in self.labels.items())
        return re.sub(r"[^\w.,=+-]+", "_", text)

    @property
    def flags(self) -> list[str]:
        """What the training command takes."""
        overrides = [f"--config.{key}={value}" for key, value in self.overrides.items()]
        return [f"--config={self.config}", *overrides]

    def load(self) -> ConfigDict:
        """The resolved config.

        Raises:
          UserError: the config file, its variant, a key or a value is wrong.
        """
        config = config_lib.load(self.config)
        try:
            config.update_from_flattened_dict(dict(self.overrides))
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"cell {self.name}: {error}") from error
        return config_lib.resolve(config, dict(self.overrides))


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A grid of runs.

    Attributes:
      title: one line.
      cells: in the order in which they run; their names differ.
    """

    title: str
    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        names = [cell.name for cell in self.cells]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise UserError(f"cells of the sweep share a name: {', '.join(double)}")
        columns = {tuple(cell.labels) for cell in self.cells}
        if len(columns) > 1:
            raise UserError(f"cells of the sweep have different labels: {sorted(columns)}")


def product(**axes: Iterable[Any]) -> list[dict[str, Any]]:
    """Every combination, as dicts; the last axis varies fastest.

    product(method=("byol", "simsiam"), seed=range(3))
    """
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def load(source: str) -> Sweep:
    """The sweep of "FILE.py" or "FILE.py:VARIANT".

    Raises:
      UserError: there is no such file or variant, or the file holds no sweep.
    """
    path, _, variant = source.partition(":")
    if not os.path.exists(path):
        raise UserError(f"sweep file {path!r} does not exist")
    spec = importlib.util.spec_from_file_location("_sweep_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_sweep"):
        raise UserError(f"{path} holds no sweep: it has no get_sweep; sweeps are in configs/sweeps")
    return module.get_sweep(variant) if variant else module.get_sweep()

"""Builds the cells of a sweep; each is a config with overrides and labels.

A sweep is a Python file with `get_sweep(variant) -> Sweep`, just as an experiment is a file with
`get_config(variant)`.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from ssl_jax import config as config_lib
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.sweeps import ablation
from ssl_jax.sweeps.ablation import Curve

_LENGTHS = {"epochs": "steps", "steps": "epochs"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
      labels: name -> value of the settings that identify it, e.g. {"method": "byol", "seed": 1}.
      config: "NAME:VARIANT" or "FILE.py:VARIANT".
      overrides: dotted config key -> value.
    """

    labels: Mapping[str, Any]
    config: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of its folder: `method=byol,seed=1`."""
        text = ",".join(f"{key}={value}" for key, value in self.labels.items())
        return re.sub(r"[^\w.,=+-]+", "_", text)

    @property
    def flags(self) -> list[str]:
        """The flags of the training command."""
        overrides = [f"--config.{key}={value}" for key, value in self.overrides.items()]
        return [f"--config={self.config}", *overrides]

    def load(self) -> ConfigDict:
        """The resolved config of the training command.

        Raises:
          UserError: the config file, its variant, a key or a value is wrong.
        """
        try:
            config = config_lib.apply(config_lib.load(self.config), self.overrides)
        except UserError as error:
            raise UserError(f"cell {self.name}: {error}") from error
        return config_lib.resolve(config, self.overrides)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A grid of runs.

    Attributes:
      title: one line.
      cells: the runs, in the order of execution; their names differ.
      needs: config key that `--set` must give -> its purpose.
      metric: the result that selects the best cell, e.g. "accuracy/top1": the highest value, or the
        lowest of a metric whose lower values are better.
      setting: data, net and budget of the cells, in a few words, for the figure.
      curves: the curves of the figure, which compares them with published ones.
      parameters: name that `--set` may give besides config keys -> its purpose; overrides name it
        in braces: "{pretrained}". None as purpose: it may be missing, and the cells with it are
        then left out.
      compares: label whose values are compared with its first value by permutation tests over test
        examples, on the cells that agree in the labels of the curves' x; None: no comparison.
      skips_absent_data: whether cells whose data set is not on this machine are left out.
    """

    title: str
    cells: tuple[Cell, ...]
    needs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    metric: str | None = None
    setting: str = ""
    curves: tuple[Curve, ...] = ()
    parameters: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    compares: str | None = None
    skips_absent_data: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that every cell has."""
        return tuple(self.cells[0].labels)

    def __post_init__(self) -> None:
        if not self.cells:
            raise UserError(f"the sweep {self.title!r} has no cells")
        names = [cell.name for cell in self.cells]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise UserError(f"cells of the sweep share a name: {', '.join(repeated)}")
        columns = {tuple(cell.labels) for cell in self.cells}
        if len(columns) > 1:
            raise UserError(f"cells of the sweep have different labels: {sorted(columns)}")
        for curve in self.curves:
            ablation.table_of(curve)
            for label in curve.labels:
                if label not in self.labels:
                    raise UserError(
                        f"a curve of the sweep uses the label {label!r}; the cells have "
                        f"{', '.join(self.labels)}.{nearest(label, self.labels)}"
                    )

    def with_overrides(self, values: Mapping[str, Any]) -> Sweep:
        """The sweep with additional overrides in every cell, which replace the cells' own.

        Raises:
          UserError: the cells differ in one of the keys, or a key of `needs` is missing.
        """
        if self.parameters:
            return self._filled_in(values)
        for key in values:
            for own_key in (key, *([_LENGTHS[key]] if key in _LENGTHS else [])):
                own = dict.fromkeys(
                    repr(cell.overrides[own_key])
                    for cell in self.cells
                    if own_key in cell.overrides
                )
                if len(own) > 1:
                    what = "it" if own_key == key else own_key
                    raise UserError(
                        f"--set={key}=... is not allowed: the cells of this sweep differ in {what} "
                        f"({', '.join(own)})"
                    )
        for key, purpose in self.needs.items():
            if key not in values:
                raise UserError(f"this sweep needs --set={key}=..., {purpose}")
        # As on the command line, a length in steps replaces a length in epochs, and vice versa.
        replaced = [other for key, other in _LENGTHS.items() if key in values]
        cells = tuple(
            dataclasses.replace(
                cell,
                overrides={k: v for k, v in cell.overrides.items() if k not in replaced} | values,
            )
            for cell in self.cells
        )
        return dataclasses.replace(self, cells=cells)

    def _filled_in(self, values: Mapping[str, Any]) -> Sweep:
        """The sweep with its parameters replaced by their values, and the other overrides added."""
        for name, purpose in self.parameters.items():
            if purpose is not None and name not in values:
                raise UserError(f"this sweep needs --set={name}=..., {purpose}")
        missing = [f"{{{name}}}" for name in self.parameters if name not in values]
        replacements = {f"{{{name}}}": values[name] for name in self.parameters if name in values}
        cells = []
        for cell in self.cells:
            if any(value in missing for value in cell.overrides.values()):
                continue
            filled = {
                key: replacements.get(value, value) if isinstance(value, str) else value
                for key, value in cell.overrides.items()
            }
            cells.append(dataclasses.replace(cell, overrides=filled))
        others = {key: value for key, value in values.items() if key not in self.parameters}
        filled_in = dataclasses.replace(self, cells=tuple(cells), parameters={})
        return filled_in.with_overrides(others)


def product(**axes: Iterable[Any]) -> list[dict[str, Any]]:
    """All combinations of the values, as dicts; the last axis varies fastest.

    product(method=("byol", "simsiam"), seed=range(3))
    """
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def by_seed(
    cells: Iterable[Cell], repeated: Callable[[Mapping[str, Any]], bool] | None = None
) -> tuple[Cell, ...]:
    """Sorts cells by seed, so that an unfinished sweep has results of all settings.

    Args:
      cells: of any seeds.
      repeated: labels of a cell -> whether its setting keeps all seeds. Other settings keep the
        first. None: all settings keep all.
    """
    cells = sorted(cells, key=lambda cell: cell.labels[ablation.SEED])
    if repeated is None:
        return tuple(cells)
    first = cells[0].labels[ablation.SEED]
    return tuple(
        cell for cell in cells if cell.labels[ablation.SEED] == first or repeated(cell.labels)
    )


def parse_settings(settings: Iterable[str]) -> dict[str, str]:
    """Converts texts "key=value" to {"key": "value"}; the training command parses the values.

    Raises:
      UserError: a text has another form, or a key is given twice.
    """
    values: dict[str, str] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        key = key.removeprefix("config.")
        if not equals or not key:
            raise UserError(f"--set={text}: write key=value, e.g. --set=init_from=runs/x")
        if key in values:
            raise UserError(f"--set gives {key} twice: {values[key]!r} and {value!r}")
        values[key] = value
    return values


def load(source: str) -> Sweep:
    """Loads the sweep of "NAME", "FILE.py" or "FILE.py:VARIANT".

    Raises:
      UserError: the file or the variant does not exist, or the file has no `get_sweep`.
    """
    module, variant = config_lib.load_module(source)
    if not hasattr(module, "get_sweep"):
        raise UserError(
            f"{source} is not a sweep: it has no get_sweep; sweeps are in configs/sweeps and "
            "configs/ablations"
        )
    return module.get_sweep(variant) if variant else module.get_sweep()

"""What adapters of any kind have in common."""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated, Any, ClassVar, Literal

import jax

from ssl_jax.config.fields import regex
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.method import DataSpec, Method
from ssl_jax.core.tree_paths import by_path
from ssl_jax.models.transformer_layers import PREFIX

PyTree = Any

# The entries of parameters that are adapters: of a dense layer, of the embeddings of a text.
LORA, PROMPT = "lora", PREFIX
OnUse = Callable[[str, bool], None]


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.adapt` that all kinds share."""

    net: Annotated[str, "The net that is frozen and gets adapters; other nets are trained."] = (
        "encoder"
    )
    train: Annotated[
        str | None, regex, "Regex of the parameters of the net that are trained too: 'pooler'."
    ] = None
    base_dtype: Annotated[
        Literal["float32", "bfloat16"], "Dtype in which the frozen weights are stored."
    ] = "float32"


@dataclasses.dataclass(frozen=True)
class Adapters(abc.ABC):
    """Adapters of one net of a method.

    Attributes:
      hyper: the config's section.
      layers: the adapted layers, ((path, names of their adapters), ...).
      groups: the optimizer groups of frozen parameters.
    """

    name: ClassVar[str]

    hyper: HyperParameters
    layers: tuple[tuple[str, tuple[str, ...]], ...]
    groups: frozenset[str]

    @abc.abstractmethod
    def init(self, key: jax.Array, params: PyTree) -> PyTree:
        """The initial adapters, a nested dict like the parameters.

        Args:
          key: PRNG key.
          params: the parameters of the method.
        """

    @abc.abstractmethod
    def active(self, on_use: OnUse | None = None) -> AbstractContextManager[None]:
        """Layers that are applied inside use their adapters.

        Args:
          on_use: called with the path of each adapted layer in its net, and whether all that the
            options ask for could be done there: without a random key, nothing is dropped.
        """

    @abc.abstractmethod
    def merge(self, params: PyTree) -> PyTree:
        """The parameters of the net without adapters that computes the same.

        Raises:
          UserError: there are none.
        """

    def _frozen_text(self) -> str:
        """A part of the line of the preflight."""
        but = f" but for {self.hyper.train!r}" if self.hyper.train else ""
        return f"{self.hyper.net} is frozen{but}"


def is_adapter(path: str) -> bool:
    """Whether the array at `path` belongs to an adapter."""
    return not {LORA, PROMPT}.isdisjoint(path.split("/"))


def layer_of(path: str) -> str:
    """The path of the kernel that the adapter at `path` adapts; other paths are unchanged."""
    layer, is_lora, _ = path.partition(f"/{LORA}/")
    return f"{layer}/kernel" if is_lora else path


def freezes(hyper: HyperParameters, path: str) -> bool:
    """Whether the parameter of the method at `path` is frozen."""
    net, _, below = path.partition("/")
    return net == hyper.net and not (hyper.train and re.search(hyper.train, below))


def net_and_groups(
    method: Method, hyper: HyperParameters, spec: DataSpec
) -> tuple[PyTree, frozenset[str]]:
    """The abstract parameters of the adapted net, and the optimizer groups of the frozen ones.

    Raises:
      UserError: the method has no such net, or `train` matches none of its parameters.
    """
    params, _ = jax.eval_shape(method.init, jax.random.key(0), spec.batch(1))
    if hyper.net not in params:
        raise UserError(
            f"adapt.net is {hyper.net!r}; nets with parameters: {', '.join(sorted(params))}."
            f"{nearest(hyper.net, params)}"
        )
    paths = by_path(params[hyper.net])
    if hyper.train and not any(re.search(hyper.train, path) for path in paths):
        raise UserError(
            f"adapt.train is {hyper.train!r}, which is found in no path of the parameters of "
            f"{hyper.net}; they are like {next(iter(paths))!r}"
        )
    groups = {method.param_group(path) for path in by_path(params) if freezes(hyper, path)}
    return params[hyper.net], frozenset(groups)

"""Builds an experiment (mesh, method, optimizer, train step) from a config and a data spec.

Training, evaluation, embedding and compile-only runs all use `Experiment.build`, so a config means
the same in each of them. Building allocates no arrays.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from ssl_jax import adapt, data, optim, parallel
from ssl_jax.config import Length
from ssl_jax.core import layer_outputs, named_methods
from ssl_jax.core import method as method_lib
from ssl_jax.data.samplers.groups import check_groups
from ssl_jax.evals.model import Model
from ssl_jax.experiment import evaluated, gradient_cache, train_step
from ssl_jax.hardware import compiler_thread

PyTree = Any

_LEVEL = "xla_backend_optimization_level"


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The objects that a config describes.

    Attributes:
      config: the resolved config.
      spec: shapes and facts of the training data.
      length: steps of the run, and the intervals of evaluations and checkpoints.
      mesh: the devices.
      method: the objective.
      groups: the optimizer's parameter groups.
      tx: the optimizer.
    """

    config: ConfigDict
    spec: method_lib.DataSpec
    length: Length
    mesh: jax.sharding.Mesh
    method: method_lib.Method
    groups: optim.Groups
    tx: optax.GradientTransformation

    @classmethod
    def build(
        cls, config: ConfigDict, spec: method_lib.DataSpec, mesh: jax.sharding.Mesh | None = None
    ) -> Experiment:
        """Builds the experiment.

        Args:
          config: the resolved config.
          spec: shapes and facts of the training data.
          mesh: the devices; default: all devices, arranged by `config.mesh`.

        Raises:
          UserError: the config does not fit the data or the devices.
        """
        if mesh is None:
            sizes = config.mesh
            mesh = parallel.make_mesh(data=sizes.data, fsdp=sizes.fsdp, tensor=sizes.tensor)
        gradient_cache.check_size(
            config.micro_batch_size, config.batch_size, parallel.batch_shards(mesh)
        )
        sampler = data.sampler_from_config(config.data.sampler)
        sampler.check(spec.num_classes, config.batch_size)
        check_groups(config.batch_size, spec.group_size)
        spec = dataclasses.replace(spec, unique_examples=sampler.unique)
        length = Length.of(config, sampler.steps_per_epoch(spec.num_examples, config.batch_size))
        method = adapt.adapted(named_methods.load(config, spec, length), config, spec)
        lengths = dict(
            batch_size=config.batch_size,
            total_steps=length.total_steps,
            steps_per_epoch=length.steps_per_epoch,
        )
        groups = optim.read_groups(config.optimizer, **lengths)
        tx = optim.make_optimizer(
            config.optimizer,
            **lengths,
            ema_decay=method.ema_decay,
            ema_filter=method.ema_filter,
            param_group=method.param_group,
            constrain=method.constrain if _overrides(method, "constrain") else None,
            row_rates=method.row_rates if _overrides(method, "row_rates") else None,
            empty_groups=method.empty_groups | adapt.frozen_groups(method),
        )
        evaluated.check(config, method, groups)
        return cls(config, spec, length, mesh, method, groups, tx)

    @property
    def schedule(self) -> Callable[[Any], Any]:
        """step -> learning rate of the parameters that are in no named group."""
        return self.groups.default.learning_rate

    @property
    def probe_classes(self) -> int | None:
        """Number of classes of the online probe; None without a probe."""
        return self.spec.num_classes if self.config.eval.online else None

    @functools.cached_property
    def _init(self) -> Callable[..., PyTree]:
        """The function that creates the state; JAX traces it once for shapes and values."""
        init = train_step.make_init(self.method, self.tx, probe_classes=self.probe_classes)
        batch = self.spec.batch(self.config.batch_size)
        return lambda seed, loaded: init(seed, batch, loaded)

    @functools.cached_property
    def abstract_state(self) -> train_step.TrainState:
        """The state's shapes, dtypes and shardings; allocates nothing."""
        with jax.set_mesh(self.mesh):
            shapes = jax.eval_shape(jax.jit(self._init), np.uint32(0), None)
        shardings = parallel.state_shardings(
            shapes, self.mesh, self.config.mesh.rules, placement=self.method.placement
        )
        return parallel.abstract_with(shardings, shapes)

    @functools.cached_property
    def state_shardings(self) -> PyTree:
        """The sharding of every leaf of the state."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """The global batch's shapes and shardings."""
        rows = parallel.batch_sharding(self.mesh)
        return {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=rows)
            for name, array in self.spec.batch(self.config.batch_size).items()
        }

    def init_state(self, loaded: Any = None, seed: int | None = None) -> train_step.TrainState:
        """Creates the first state directly in its shards.

        Args:
          loaded: initial weights, see `ssl_jax.pretrained.init_from`.
          seed: of all random numbers; default: the config's.
        """
        arguments = np.uint32(self.config.seed if seed is None else seed), loaded
        with jax.set_mesh(self.mesh):
            with compiler_thread.yielding(self.mesh):  # while it is compiled and none runs
                self._jitted_init.lower(*arguments).compile()
            return self._jitted_init(*arguments)

    @functools.cached_property
    def _jitted_init(self) -> Callable[..., PyTree]:
        options = None
        if self.mesh.devices.flat[0].platform == "cpu" and _LEVEL not in os.getenv("XLA_FLAGS", ""):
            options = {_LEVEL: 1}  # the function runs once; optimising it takes seconds
        return jax.jit(self._init, out_shardings=self.state_shardings, compiler_options=options)

    @functools.cached_property
    def train_step(self) -> Any:
        """The jitted train step with its shardings; it donates the state."""
        return jax.jit(
            train_step.make_train_step(
                self.method, self.tx, micro_batch_size=self.config.micro_batch_size
            ),
            donate_argnums=0,
            out_shardings=(self.state_shardings, None, None),
        )

    @functools.cached_property
    def compiled_train_step(self) -> Any:
        """The train step compiled ahead of time for this experiment's devices and shapes."""
        with jax.set_mesh(self.mesh):
            return self.train_step.lower(self.abstract_state, self.abstract_batch()).compile()

    def drop_train_step(self) -> None:
        """Frees the compiled train step; it is compiled again if it is needed again."""
        for name in ("compiled_train_step", "train_step"):
            self.__dict__.pop(name, None)

    def model(self, w: method_lib.Weights) -> Model:
        """The method with weights, for evaluations."""
        return Model(
            features=functools.partial(self.features, w),
            method=self.method,
            weights=w,
            held_out=functools.partial(self.held_out, w),
            layer_outputs=functools.partial(self.layer_outputs, w),
        )

    @functools.cached_property
    def held_out(self) -> Callable[[method_lib.Weights, Any], dict[str, jax.Array]]:
        """(weights, batch) -> the method's held-out scores, jitted.

        The hidden part of an example depends only on its index, so scores of different steps are
        comparable.
        """

        @jax.jit
        def apply(w: method_lib.Weights, batch: Any) -> dict[str, jax.Array]:
            return self.method.held_out(w, held_out_keys(batch["index"]), batch)

        return apply

    def evaluated(self, state: train_step.TrainState) -> train_step.TrainState:
        """The state with the weights that evaluations use, selected by `config.eval.weights`."""
        polyak = optim.polyak_params(state.opt_state)
        w = evaluated.choose(state.weights, self.config.eval.weights, polyak)
        return state.replace(params=w.params, buffers=w.buffers)

    @functools.cached_property
    def features(self) -> Callable[[method_lib.Weights, Any], dict[str, jax.Array]]:
        """(weights, batch) -> the method's features, jitted."""
        return jax.jit(self.method.features)

    @functools.cached_property
    def layer_outputs(self) -> Callable[..., dict[str, jax.Array]]:
        """(weights, batch, names) -> the outputs of layers with these names, jitted."""

        @functools.partial(jax.jit, static_argnums=2)
        def apply(
            w: method_lib.Weights, batch: Any, names: tuple[str, ...]
        ) -> dict[str, jax.Array]:
            layers = self.method.layers(w, batch)
            return {name: layer_outputs.select(layers, name) for name in names}

        return apply

    def output_shapes(self, spec: method_lib.DataSpec, names: Collection[str]) -> dict[str, Any]:
        """Shapes of the method's features of one example, and of the named outputs of layers.

        Args:
          spec: the data to encode.
          names: outputs; those that are not outputs of layers are ignored.

        Raises:
          UserError: the encoder lacks a named layer.
        """
        w, batch = self.abstract_state.weights, spec.batch(1)
        names = tuple(sorted(name for name in names if layer_outputs.is_layer_output(name)))
        shapes = dict(jax.eval_shape(self.method.features, w, batch))
        return shapes | (self.layer_outputs.eval_shape(w, batch, names) if names else {})


def _overrides(method: method_lib.Method, name: str) -> bool:
    """Whether the method defines an optional function of `Method`."""
    return getattr(type(method), name) is not getattr(method_lib.Method, name)


def held_out_keys(index: jax.Array) -> jax.Array:
    """The keys [n] that select the hidden parts of examples, from their indices int32 [n]."""
    return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(0)))(index)


def use_compilation_cache(path: str) -> None:
    """Stores compiled programs in `path` for later runs; an empty path changes nothing."""
    if path and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

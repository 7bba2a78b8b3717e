"""The contract between an objective and the one train step.

A method is a frozen dataclass of hyper-parameters, nets and schedules; its functions are pure. Its
state has two parts. `params` receive gradients. `buffers` hold everything else: batch statistics, a
queue, a memory bank, a centre, a frozen base network. The exponential moving average of the
parameters (the momentum, target or teacher encoder) is in neither: it is the state of an optax
transform (`ssl_jax.optim.track_ema`), and the method only declares its decay. Functions of the
state take all three as one argument, `Weights`.

The loss is two functions. `encode` treats each example by itself: the forward passes. `objective`
compares the examples of the global batch. Between them a large batch can be cut into micro-batches
whose activations never exist together (`ssl_jax.experiment.gradient_cache`).

A new method is one file in `ssl_jax/methods/` with a `make` function, one file in `configs/` and
one row in `tests/methods/table.py`. The train step knows no method by name.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax

from ssl_jax.config import fields
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.items import Item
from ssl_jax.core.length import Length
from ssl_jax.core.tree_paths import by_path, replace

Array = jax.Array
PyTree = Any
Batch = Mapping[str, Array]
Schedule = Callable[[Array], Array]
# (w, keys [n], batch) -> arrays by name  ->  the same of every training example.
EncodeAll = Callable[[Callable[..., dict[str, Array]]], dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What a method may know of the tokens of a text.

    Attributes:
      size: number of token ids, the special ones included.
      pad, unk, cls, sep, mask: ids of the special tokens (RoBERTa's <s> and </s> are cls and sep).
      special: all ids that stand for no text, sorted; the five above are among them.
    """

    size: int
    pad: int
    unk: int
    cls: int
    sep: int
    mask: int
    special: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.size:,} tokens with mask {self.mask} and pad {self.pad}"


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """What a method may know of the data. Dry runs and compile-only runs have nothing else.

    Attributes:
      arrays: one example's arrays without the batch dimension. Of images: `image` uint8 [h w c],
        or where the host crops, `image/FAMILY` uint8 [v h w c] of each family of views. Of text:
        `tokens` int32 [l], `segment` int32 [l] (number of the packed text a token belongs to, from
        1; 0 = padding), `position` int32 [l] (within that text). Of all: `label` int32 [] (-1 =
        none), `index` int32 [].
      num_examples: size of the training set.
      num_classes: number of label classes, or None where there are no labels.
      unique_examples: whether all examples of a batch are different, as the sampler declares.
      modality: what the examples are; a name in `ssl_jax.modalities`.
      vocabulary: of the tokens; None where the data are no text.
      task: what the labels of texts are, where they are for a task: "classify" (a class a text),
        "regress" (`target` float32 []), "tags" (`tags` int32 [l], a class a word) or "span" (`span`
        int32 [2], an answer's first and last token). Images have none.
      evaluation_arrays: `arrays` as evaluation reads them, where that differs: whole images instead
        of host crops.
    """

    arrays: Mapping[str, jax.ShapeDtypeStruct]
    num_examples: int
    num_classes: int | None = None
    unique_examples: bool = True
    modality: str = "image"
    vocabulary: Vocabulary | None = None
    task: str | None = None
    evaluation_arrays: Mapping[str, jax.ShapeDtypeStruct] | None = None

    def batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of a batch of `batch_size` examples."""
        return {
            name: jax.ShapeDtypeStruct((batch_size, *array.shape), array.dtype)
            for name, array in self.arrays.items()
        }

    @property
    def evaluated(self) -> DataSpec:
        """The same as evaluation reads it."""
        if self.evaluation_arrays is None:
            return self
        return dataclasses.replace(self, arrays=self.evaluation_arrays, evaluation_arrays=None)


# The entry of `buffers` for the statistics of nets that are a moving average.
TEACHER = "teacher"


class Weights(NamedTuple):
    """The state that a method's functions read.

    Attributes:
      params: receive gradients.
      buffers: the method's other state.
      ema: the moving average of those `params` that have one; None where the method declares none.
    """

    params: PyTree
    buffers: PyTree
    ema: PyTree | None = None

    def averaged(self) -> Weights:
        """What `eval.weights = "ema"` evaluates: `params` overlaid by their moving average.

        Nets that keep batch statistics of their own for the moving average have them in
        `buffers["teacher"]`, under the names of `buffers`; they are taken too.

        Raises:
          ValueError: there is no moving average.
        """
        if self.ema is None:
            raise ValueError("these weights have no moving average")
        buffers = {**self.buffers, **self.buffers.get(TEACHER, {})}
        return self._replace(params=replace(self.params, by_path(self.ema)), buffers=buffers)


class Aux(NamedTuple):
    """What a loss returns beside its value.

    Attributes:
      buffers: the updated buffers.
      metrics: scalars to log, name -> float32 []. If the method `decomposes`, each is a mean like
        the loss: micro-batches average it, which would be wrong for the root of a mean.
      outputs: representations already computed on the way, without gradient: `h` [n d] feeds the
        online probe, `z` [n v d] (v views) the collapse monitor. Leave out what does not exist.
      weight: of a method that `decomposes`: float32 [], the denominator of the mean that the loss
        is, such as the number of examples or of predicted tokens.
    """

    buffers: PyTree
    metrics: dict[str, Array]
    outputs: dict[str, Array]
    weight: Array | None = None


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """Base of every method. All functions are pure and jittable; `n` is the global batch."""

    # What papers call it.
    title: ClassVar[str] = ""
    # Decay of the parameters' moving average (a float or step -> float), None for no average.
    ema_decay: ClassVar[float | Schedule | None] = None
    # Whether the loss is a mean over examples (or over parts of them, see `Aux.weight`). The
    # gradients of micro-batches are then accumulated, without a second forward pass.
    decomposes: ClassVar[bool] = False

    @abc.abstractmethod
    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """Draws (params, buffers), both nested dicts, for batches shaped like `batch`."""

    @abc.abstractmethod
    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> PyTree:
        """Makes the input of `encode` from a batch, on the device: augments, masks.

        Args:
          keys: [n], a key an example. Views drawn from them do not depend on the other examples.
          batch: arrays as `DataSpec.arrays` says, [n ...].
          key: the batch's, for what all examples share, such as the size of a mask. It is equal on
            all devices and in all micro-batches of a step.
          step: int32 [], number of updates done.

        Returns:
          A tree of arrays with one row an example. Views of several sizes are one entry a size,
          e.g. {"global": [n 2 h w c], "local": [n 8 h' w' c]}.
        """

    @abc.abstractmethod
    def encode(
        self, w: Weights, views: PyTree, *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        """The forward passes.

        Returns:
          (encoded, updates): a tree of arrays with one row an example [n ...], all that `objective`
          needs; and those entries of `buffers` that the passes changed, the batch statistics.
        """

    @abc.abstractmethod
    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        """The scalar loss over the global batch; `step` is the int32 number of updates done."""

    @abc.abstractmethod
    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """Representations in evaluation mode, float32: `h` [n d], and `z` [n d'] if there is one.

        Further names are up to the method: "tokens" [n l d], "layers". A method that learns from
        labels also returns its predictions; predicted classes are int32. `batch["image"]` is a
        uint8 canvas [n h w c] as the data source delivers it.
        """

    def constrain(self, params: PyTree) -> PyTree:
        """Projects parameters onto the set they live in, e.g. prototypes of unit length.

        It is applied to the first parameters and after every update.
        """
        return params

    def refresh_every(self, length: Length) -> int:
        """How often `refresh` recomputes buffers from the whole training set, in steps; 0: never.

        It is due at steps 0, k, 2k, ... before the next update.
        """
        del length
        return 0

    def refresh(self, w: Weights, encode_all: EncodeAll, *, key: Array, step: int) -> PyTree:
        """Recomputes buffers from the whole training set: clusters it, fills a bank.

        It runs outside of jit and has to be a function of its arguments alone, so that a run that
        is restored at a step where it is due computes the same again.

        Args:
          w: the state.
          encode_all: function (w, keys, batch) -> {name: [n ...]} -> the same for all examples:
            global arrays in the order of their indices, sharded over the batch axes and padded,
            and `mask` bool, False where padded. Each example's key is `fold_in(key, index)`.
          key: of this refresh.
          step: number of updates done.

        Returns:
          The entries of `buffers` that changed.
        """
        raise NotImplementedError

    def placement(self, path: str) -> jax.sharding.PartitionSpec | None:
        """How the array at `path` lies on the mesh; None: by the default rule.

        Paths begin with "params/" or "buffers/". Rules of `config.mesh.rules` come first.
        """
        del path
        return None

    def held_out(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Array] | None:
        """How well hidden parts of examples are predicted, in evaluation mode; None: not at all.

        Args:
          w: the state.
          keys: [n], a key an example, for what is hidden of it.
          batch: as for `views`.

        Returns:
          Sums over each example, float32 [n]: `count` of predictions, their `loss` (nats) and
          `hits`; the same behind a prefix for a second task ("next_count"); and other metrics by
          the names that `ssl_jax.evals.held_out` declares, such as `elbo`. For tokens also
          `targets` int32 [n p] and `weights` float32 [n p], 0 for none.
        """
        del w, keys, batch
        return None

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        """What people may look at on the report page: title -> a value of `ssl_jax.core.items`.

        Args:
          w: the state.
          keys: [n], a key an example.
          batch: a few examples, arrays as for `views`.
        """
        del w, keys, batch
        return {}

    def nets(self) -> dict[str, Any]:
        """The nets (`models.Net`) by their role: the net's key in `params`, or "teacher"."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if hasattr(getattr(self, field.name), "module")
        }

    def ema_filter(self, path: str) -> bool:
        """Whether the parameter at `path` ("encoder/stem/kernel") has a moving average."""
        del path
        return True

    def param_group(self, path: str) -> str:
        """The optimizer group of the parameter at `path`; groups are keys of optimizer.groups."""
        del path
        return "default"

    def origin(self, path: str) -> str | None:
        """The path in another run's state from which the array at `path` is initialised.

        Both paths begin with "params/" or "buffers/". None keeps the random initialisation. A
        method that keeps a pretrained net elsewhere, frozen or as a teacher, returns its path
        there.
        """
        return path

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        """Lines (label, text) that say what this method means at this global batch size."""
        del batch_size
        return []


def loss_and_aux(
    method: Method, w: Weights, views: PyTree, *, key: Array, step: Array
) -> tuple[Array, Aux]:
    """`objective` of `encode`, for tests and tools: the loss of one batch of views."""
    encode_key, objective_key = jax.random.split(key)
    encoded, updates = method.encode(w, views, key=encode_key, step=step)
    w = w._replace(buffers={**w.buffers, **updates})
    return method.objective(w, encoded, key=objective_key, step=step)


def load(config: Any, spec: DataSpec, length: Length) -> Method:
    """Builds the method that `config.method.name` names.

    Args:
      config: the whole config; methods read it here and never again.
      spec: what the data look like.
      length: of the run and of an epoch, for schedules inside the method.

    Raises:
      UserError: no such method, or a key of a section is unknown or has a bad value.
    """
    return _module(config.method.get("name")).make(config, spec, length)


def declaration(name: str) -> fields.Section:
    """Declares `config.method` of a method: its name and its hyper-parameters.

    Raises:
      UserError: there is no such method.
    """
    keys = fields.section(_module(name).HyperParameters).keys
    return fields.Section({"name": fields.Key(str, doc="The method."), **keys})


def _module(name: str | None) -> ModuleType:
    known = names()
    if name not in known:
        what = "method.name is not set" if name is None else f"unknown method {name!r}"
        raise UserError(f"{what}; methods: {', '.join(known)}.{nearest(name or '', known)}")
    return importlib.import_module(f"ssl_jax.methods.{name}")


def names() -> list[str]:
    """The methods there are: the files of `ssl_jax/methods/`."""
    import ssl_jax.methods as package

    return sorted(
        module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg
    )


T = TypeVar("T")


def hyper_parameters(cls: type[T], section: Mapping[str, Any], where: str) -> T:
    """Reads a config section into the dataclass `cls`, whose fields are its only keys.

    Args:
      cls: a dataclass, its fields annotated (`ssl_jax.config.fields`); its defaults hold where the
        section has no such key.
      section: a ConfigDict or dict; its key `name` is skipped.
      where: the section's path for error messages, e.g. "method".

    Raises:
      UserError: a key of the section is not a field of `cls`, or has a bad value.
    """
    values = {key: value for key, value in dict(section).items() if key != "name"}
    return fields.read(cls, values, where)

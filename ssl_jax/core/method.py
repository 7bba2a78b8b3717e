"""The contract between a method and the train step: `Method` and the types of its functions.

A method is a frozen dataclass of hyper-parameters, nets and schedules; its functions are pure. Its
state has two parts. `params` receive gradients. `buffers` hold everything else: batch statistics, a
queue, a memory bank, a centre, a frozen base network. The exponential moving average of the
parameters (the momentum, target or teacher encoder) is in neither. It is the state of an optax
transform (`ssl_jax.optim.track_ema`); the method only declares its decay. Functions of the state
take all three as one argument, `Weights`.

The loss is two functions. `encode` computes the forward passes of each example independently.
`objective` compares the examples of the global batch. Between them a large batch can be split into
micro-batches whose activations are never in memory together (`ssl_jax.experiment.gradient_cache`).

A new method is one file in `ssl_jax/methods/` with a `make` function, one file in `configs/` and
one row in `tests/methods/rows/`. The train step knows no method by name.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import numpy as np

from ssl_jax.config import fields
from ssl_jax.core.columns import Columns
from ssl_jax.core.items import Item
from ssl_jax.core.layer_outputs import LayerOutput
from ssl_jax.core.length import Length
from ssl_jax.core.tree_paths import by_path, replace

Array = jax.Array
PyTree = Any
Batch = Mapping[str, Array]
Schedule = Callable[[Array], Array]
# (w, keys [n], batch) -> arrays by name  ->  the same of every training example, or their sums.
EncodeAll = Callable[..., dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The token ids that a method of text needs to know.

    Attributes:
      size: number of token ids, the special ones included.
      pad, unk, cls, sep, mask: ids of the special tokens (cls and sep are RoBERTa's `<s>` and
        `</s>`).
      special: ids of all special tokens, sorted; they include the others named here.
      sentinels: ids of the tokens that stand for the first, second, ... missing span of a text
        (T5's `<extra_id_0>`, `<extra_id_1>`, ...); most vocabularies have none.
    """

    size: int
    pad: int
    unk: int
    cls: int
    sep: int
    mask: int
    special: tuple[int, ...]
    sentinels: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.size:,} tokens with mask {self.mask} and pad {self.pad}"


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """Shapes and facts of the data. Dry runs and compile-only runs know nothing else of them.

    Attributes:
      arrays: the arrays of one example, without the batch dimension. Images have `image` uint8
        [h w c] or, if the host crops, `image/FAMILY` uint8 [v h w c] for each family of views. Text
        has `tokens` int32 [l], `segment` int32 [l] (number of the packed text that a token belongs
        to, from 1; 0 = padding) and `position` int32 [l] (within that text). Rows of a table have
        `table` float32 [1+v c], see `ssl_jax.modalities.table`. All data have `label` int32 []
        (-1 = none) and `index` int32 []. Images that can have several labels have `labels` int8 [k]
        (1 has label k, 0 has not, -1 unknown).
      num_examples: size of the training set.
      num_classes: number of label classes; None without labels.
      unique_examples: whether all examples of a batch are different, as the sampler declares.
      group_size: examples that belong together, 2 of pairs and 3 of triplets; a batch has them in
        rows that follow each other. 1: examples are independent.
      modality: a name in `ssl_jax.modalities`.
      vocabulary: of the tokens; None if the data are not text.
      task: the task of labelled texts: "classify" (a class per text), "regress" (`target` float32
        []), "tags" (`tags` int32 [l], a class per word) or "span" (`span` int32 [2], an answer's
        first and last token). None for images and unlabelled text.
      evaluation_arrays: `arrays` as evaluation reads them, if they differ: whole images instead of
        host crops.
      class_tokens: tokens of the names of the classes, of texts with classes; None if they are not
        known before the data are read.
      columns: of the tables; None if the data are no rows of a table.
    """

    arrays: Mapping[str, jax.ShapeDtypeStruct]
    num_examples: int
    num_classes: int | None = None
    unique_examples: bool = True
    group_size: int = 1
    modality: str = "image"
    vocabulary: Vocabulary | None = None
    task: str | None = None
    evaluation_arrays: Mapping[str, jax.ShapeDtypeStruct] | None = None
    class_tokens: tuple[tuple[int, ...], ...] | None = None
    columns: Columns | None = None

    def batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of a batch of `batch_size` examples."""
        return {
            name: jax.ShapeDtypeStruct((batch_size, *array.shape), array.dtype)
            for name, array in self.arrays.items()
        }

    @property
    def evaluated(self) -> DataSpec:
        """The spec of the data as evaluation reads them."""
        if self.evaluation_arrays is None:
            return self
        return dataclasses.replace(self, arrays=self.evaluation_arrays, evaluation_arrays=None)


# The entry of `buffers` for the statistics of nets that are a moving average.
TEACHER = "teacher"
# The entry of `buffers` for nets that are not trained, such as the encoder of a probe.
FROZEN = "frozen"
# The entry of `buffers` for frozen weights beside which adapters are trained, see `ssl_jax.adapt`.
BASE = "base"


class Weights(NamedTuple):
    """The state that a method's functions read.

    Attributes:
      params: arrays that receive gradients.
      buffers: the other state of the method.
      ema: the moving average of those `params` that have one; None if the method declares none.
    """

    params: PyTree
    buffers: PyTree
    ema: PyTree | None = None

    def averaged(self) -> Weights:
        """The weights of `eval.weights = "ema"`: `params` replaced by their moving average.

        Nets with separate batch statistics for the moving average keep them in
        `buffers["teacher"]`, under the same names as in `buffers`. They replace those of `buffers`.

        Raises:
          ValueError: there is no moving average.
        """
        if self.ema is None:
            raise ValueError("these weights have no moving average")
        buffers = {**self.buffers, **self.buffers.get(TEACHER, {})}
        return self._replace(params=replace(self.params, by_path(self.ema)), buffers=buffers)


class RowRates(NamedTuple):
    """Rates of the rows of a parameter, the entries along its first axis.

    Attributes:
      learning_rate: float [g], factors of the learning rate of the parameter's group.
      weight_decay: float [g], added to the weight decay of the group.
    """

    learning_rate: np.ndarray
    weight_decay: np.ndarray


class Aux(NamedTuple):
    """What `objective` returns in addition to the loss.

    Attributes:
      buffers: the updated buffers.
      metrics: scalars to log, name -> float32 []. If the method `decomposes`, each must be a mean
        like the loss, because micro-batches average it (the root of a mean would come out wrong).
      outputs: representations that the loss has computed, without gradient: `h` [n d] feeds the
        online probe, `z` [n v d] (v views) the collapse monitor. Both are optional.
      weight: if the method `decomposes`: float32 [], the denominator of the loss, which is a mean,
        such as the number of examples or of predicted tokens.
    """

    buffers: PyTree
    metrics: dict[str, Array]
    outputs: dict[str, Array]
    weight: Array | None = None


@dataclasses.dataclass(frozen=True)
class Method(abc.ABC):
    """Base of every method. All functions are pure and jittable; `n` is the global batch.

    A method of images also has `eval_view`, a function of uint8 images [n h w c] that returns the
    inputs of its encoder in evaluation [n h' w' c']; exports describe and check them.
    """

    # The name in papers.
    title: ClassVar[str] = ""
    # Decay of the parameters' moving average (a float or step -> float), None for no average.
    ema_decay: ClassVar[float | Schedule | None] = None
    # Whether the loss is a mean over examples (or over parts of them, see `Aux.weight`). The
    # gradients of micro-batches are then accumulated, without a second forward pass.
    decomposes: ClassVar[bool] = False
    # Whether training reads the labels of the data.
    learns_from_labels: ClassVar[bool] = False
    # Whether tables name the trained net by its encoder and how that was trained ("vit, frozen")
    # instead of by `title`: of methods that train a head on any encoder.
    named_by_encoder: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """Checks that a class defines `refresh` and `refresh_every` together.

        Raises:
          TypeError: only one of the two is defined.
        """
        super().__init_subclass__()
        pair = ("refresh_every", "refresh")
        missing = [name for name in pair if getattr(cls, name) is getattr(Method, name)]
        if len(missing) == 1:
            raise TypeError(
                f"{cls.__name__} defines only one of refresh_every and refresh; "
                f"define {missing[0]} too"
            )

    @abc.abstractmethod
    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """Draws (params, buffers), both nested dicts, for batches shaped like `batch`."""

    @abc.abstractmethod
    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> PyTree:
        """Makes the input of `encode` from a batch, on the device: augments, masks.

        Args:
          keys: [n], one key per example. Views drawn from them do not depend on other examples.
          batch: the arrays of `DataSpec.arrays`, [n ...].
          key: key of the batch, for what all examples share, such as the size of a mask. It is
            equal on all devices and in all micro-batches of a step.
          step: int32 [], number of updates done.

        Returns:
          A tree of arrays with one row per example. Views of several sizes are one entry per size,
          e.g. {"global": [n 2 h w c], "local": [n 8 h' w' c]}.
        """

    @abc.abstractmethod
    def encode(
        self, w: Weights, views: PyTree, *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        """Computes the forward passes.

        Returns:
          (encoded, updates): a tree of arrays with one row per example [n ...], the input of
          `objective`; and the entries of `buffers` that changed, such as batch statistics.
        """

    @abc.abstractmethod
    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        """The scalar loss over the global batch; `step` is the int32 number of updates done."""

    @abc.abstractmethod
    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """Representations in evaluation mode, float32: `h` [n d], and `z` [n d'] if it exists.

        A method may return further outputs, such as "tokens" [n l d]. A method that learns from
        labels also returns its predictions; predicted classes are int32. `batch["image"]` is a
        uint8 canvas [n h w c] as the data source returns it.
        """

    def layers(self, w: Weights, batch: Batch) -> dict[str, LayerOutput]:
        """The outputs of the encoder's layers in evaluation mode, for probes.

        Optional; the default has none. Names begin with "layer" or "stage" and end with the number
        of the layer, from 1, see `ssl_jax.core.layer_outputs`. Only the outputs that a probe
        selects are computed.
        """
        del w, batch
        return {}

    def constrain(self, params: PyTree) -> PyTree:
        """Projects parameters onto their constraint set, e.g. prototypes of unit length.

        It is applied to the initial parameters and after every update.
        """
        return params

    def refresh_every(self, length: Length) -> int:
        """The number of steps k between two calls of `refresh`; 0 never calls it.

        `refresh` is called at steps 0, k, 2k, ..., before the next update. A class that defines
        `refresh_every` must define `refresh`.
        """
        del length
        return 0

    def refresh(self, w: Weights, encode_all: EncodeAll, *, key: Array, step: int) -> PyTree:
        """Recomputes buffers from the whole training set, e.g. clusters it or fills a memory bank.

        Optional, together with `refresh_every`; the default changes nothing and is never called.
        `refresh` runs outside of jit. It must depend on its arguments only, so that a restored run
        computes the same buffers.

        Args:
          w: the state.
          encode_all: takes a function (w, keys, batch) -> {name: [n ...]} and returns its results
            for all examples: global arrays in the order of the examples' indices, padded and
            sharded over the batch axes, and `mask` bool, False where padded. The key of an example
            is `fold_in(key, index)`. With `total=True` it returns the sums of the results over all
            examples [...], which need no memory for each example.
          key: key of this refresh.
          step: number of updates done.

        Returns:
          The entries of `buffers` that changed.
        """
        del w, encode_all, key, step
        return {}

    def placement(self, path: str) -> jax.sharding.PartitionSpec | None:
        """The sharding of the array at `path` over the mesh; None uses the default rule.

        Paths begin with "params/" or "buffers/". Rules of `config.mesh.rules` take precedence.
        """
        del path
        return None

    def held_out(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Array] | None:
        """Scores predictions of hidden parts of examples, in evaluation mode; None: no such scores.

        Args:
          w: the state.
          keys: [n], one key per example, which selects the hidden part.
          batch: as for `views`.

        Returns:
          Sums over each example, float32 [n]: `count` of predictions, their `loss` (nats) and
          `hits`; the same with a prefix for a second task ("next_count"); and other metrics that
          `ssl_jax.evals.held_out` declares, such as `elbo`. Methods of text also return `targets`
          int32 [n p] and `weights` float32 [n p], 0 for unused places; methods that predict each
          next token also return `previous` int32 [n p], the token before each target.
        """
        del w, keys, batch
        return None

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        """What the report page shows of the method: title -> a value of `ssl_jax.core.items`.

        Args:
          w: the state.
          keys: [n], one key per example.
          batch: a few examples, arrays as for `views`.
        """
        del w, keys, batch
        return {}

    def nets(self) -> dict[str, Any]:
        """The nets (`models.Net`) by role: the net's key in `params`, or "teacher"."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if hasattr(getattr(self, field.name), "module")
        }

    @property
    def freezes_encoder(self) -> bool:
        """Whether training leaves the encoder as it is."""
        return False

    def ema_filter(self, path: str) -> bool:
        """Whether the parameter at `path` ("encoder/stem/kernel") has a moving average."""
        del path
        return True

    def param_group(self, path: str) -> str:
        """The optimizer group of the parameter at `path`, a key of optimizer.groups."""
        del path
        return "default"

    @property
    def empty_groups(self) -> frozenset[str]:
        """Groups of `param_group` that have no parameters with the method's present settings.

        The config may set their optimizer all the same.
        """
        return frozenset()

    def row_rates(self, path: str) -> RowRates | None:
        """Rates of the rows of the parameter at `path`; None: those of its group for all of it.

        Optional. It is for parameters that train several models side by side, with the optimizers
        sgd and adamw.
        """
        del path
        return None

    def origin(self, path: str) -> str | None:
        """The path in another run's state that initialises the array at `path`.

        Both paths begin with "params/" or "buffers/". None keeps the random initialisation. The
        default: the nets in `buffers["frozen"]` are parameters in the other run, and all other
        paths are equal. A method that stores a pretrained net under another path, for example as a
        teacher, maps the path here.
        """
        frozen = f"buffers/{FROZEN}/"
        return f"params/{path.removeprefix(frozen)}" if path.startswith(frozen) else path

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        """Lines (label, text) that describe the method at this global batch size."""
        del batch_size
        return []


def loss_and_aux(
    method: Method, w: Weights, views: PyTree, *, key: Array, step: Array
) -> tuple[Array, Aux]:
    """The loss of one batch of views: `encode`, then `objective`. For tests and tools."""
    encode_key, objective_key = jax.random.split(key)
    encoded, updates = method.encode(w, views, key=encode_key, step=step)
    w = w._replace(buffers={**w.buffers, **updates})
    return method.objective(w, encoded, key=objective_key, step=step)


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

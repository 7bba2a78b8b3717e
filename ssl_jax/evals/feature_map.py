"""Classifiers of whole feature maps, as RotNet is judged by (Gidaris et al. 2018, Tables 1 to 3).

    connected        two fully connected layers of 20 units a class with BatchNorm and ReLU, then a
                     linear layer, on all values of the map
    convolutional    a 3x3 and two 1x1 convolutions of 192 channels with BatchNorm and ReLU, the
                     mean over the positions, a linear layer

The map is the output of a stage of the frozen encoder, by default of the second one, or the patch
tokens of a ViT. As in the released configs for CIFAR-10: SGD with Nesterov momentum 0.9, batches of
128, rate 0.1 and weight decay 5e-4 on all parameters, and the rate falls to a fifth three times.
For the convolutional classifier it falls after 35, 70 and 85 of 100 epochs. The released connected
one falls after 20, 40 and 45; here both fall at the same times. Nothing is chosen: the classifier
is trained once on all of train, without augmentation, and scored on test.
"""

from __future__ import annotations

import functools
import math
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from ssl_jax.config.fields import between, not_negative, positive
from ssl_jax.core.arrays import Array
from ssl_jax.core.errors import UserError
from ssl_jax.evals import tokens
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model
from ssl_jax.evals.scores import measured_ranks, of_logits
from ssl_jax.evals.tokens import Read, Tokens
from ssl_jax.models.classifier import LinearHead
from ssl_jax.models.fully_connected import FullyConnected
from ssl_jax.models.functional import Net
from ssl_jax.models.nin import Block

NEEDS = ("label",)
FEATURE = "stage2/patches"
TOKENS = True
applies = tokens.applies
METRICS = {
    "top1": Metric("feature map", "accuracy of a classifier of feature maps",
                   sentence="accuracy of {model} with a classifier of feature maps"),
    "top5": Metric("feature map top-5", "top-5 accuracy of feature maps", shown=False),
    "loss": Metric("feature map loss", "cross-entropy on test", unit="", better="lower",
                   shown=False),
    "steps": Metric("steps", unit="", better=None, shown=False),
}  # fmt: skip
_CHANNELS = 192
_LARGEST = 2048  # units of a fully connected layer
_FALLS = (0.35, 0.7, 0.85)  # when the rate falls to a fifth, of all steps


class Convolutional(nn.Module):
    """The convolutional classifier of maps [n h w c]."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        x = Block((_CHANNELS,) * 3, 3, jnp.float32, name="block")(x, train=train)
        return LinearHead(self.num_classes, name="out")(jnp.mean(x, axis=(1, 2)), train=train)


class Fit(NamedTuple):
    """A classifier in training.

    Attributes:
      params, buffers: parameters and batch statistics.
      optimizer: state of SGD.
      seen: number of labelled examples so far, float32 [].
    """

    params: Any
    buffers: Any
    optimizer: optax.OptState
    seen: Array


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    seed: int = 0,
    feature: str = FEATURE,
    classifier: Annotated[
        Literal["convolutional", "connected"], "Layers of the classifier."
    ] = "convolutional",
    learning_rate: Annotated[float, positive, "Learning rate at first."] = 0.1,
    weight_decay: Annotated[float, not_negative, "Decay of all parameters."] = 5e-4,
    batch_size: Annotated[int, positive, "Examples of a step."] = 128,
    epochs: Annotated[float, between(0, 1e6), "Passes over train."] = 100.0,
    max_gib: Annotated[
        float, not_negative, "Host memory for the maps of train; beyond it, encode every epoch."
    ] = 16.0,
) -> dict[str, float]:
    """Trains the classifier on train and scores it on test.

    Args:
      model: its output `feature` is [n p d], the p positions of a grid on the images.
      prober: provides the splits.
      seed: seed of the order of the examples and the initial parameters.
      feature: name of the output.
      classifier: "convolutional" or "connected", see the docstring of this module.
      learning_rate: at first.
      weight_decay: of all parameters.
      batch_size: examples of a step; all of train if it has fewer.
      epochs: passes over train; at least one step is made.
      max_gib: see `ssl_jax.evals.tokens`.

    Returns:
      `top1` and `top5` (with more than five classes) and `loss`, the mean cross-entropy, on test;
      the number of steps.

    Raises:
      UserError: the model has no such output, its positions form no grid, or a split has no label.
    """
    examples = tokens.train_examples(prober)
    size = tokens.whole_batch(batch_size, len(examples), prober.mesh)
    read_train, read_test, shape = tokens.readers(
        model, prober, feature,
        examples=examples, size=size, max_gib=max_gib, evaluation="feature_map",
    )  # fmt: skip
    grid = tokens.grid(
        shape[0], prober.train.spec.arrays["image"].shape, feature, evaluation="feature_map"
    )
    net = Net(_module(classifier, prober.num_classes))
    steps = max(1, math.ceil(epochs * len(examples) / size))
    optimizer = optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(learning_rates(learning_rate, steps), momentum=0.9, nesterov=True),
    )

    @jax.jit
    def init(key: Array) -> Fit:
        params, buffers = net.init(key, jax.ShapeDtypeStruct((1, *grid, shape[1]), jnp.float32))
        return Fit(params, buffers, optimizer.init(params), jnp.zeros(()))

    fit = init(jax.random.key(seed))
    for batch in read_train(tokens.endless_passes(examples, steps * size, seed)):
        fit = _train_step(fit, batch, net=net, optimizer=optimizer, grid=grid)
    if not fit.seen:
        raise UserError("eval.feature_map needs labelled examples in the train split")
    measured = {**_score(fit, read_test, len(prober.test), net, grid), "steps": float(steps)}
    return {name: measured[name] for name in measured_ranks(METRICS, prober.num_classes)}


def check(known: Known, *, feature: str, max_gib: float, **options: Any) -> str:
    """A note if the maps of train do not fit into `max_gib`.

    Raises:
      UserError: the positions of the output form no grid.
    """
    del options
    image = known.train.spec.arrays["image"].shape
    tokens.grid(known.outputs[feature].shape[1], image, feature, evaluation="feature_map")
    return tokens.memory_note(known, feature, max_gib, "feature_map")


def measures(known: Known, **options: Any) -> tuple[str, ...]:
    """Names of the metrics that `evaluate_model` returns."""
    del options
    return measured_ranks(METRICS, known.num_classes)


def learning_rates(first: float, steps: int) -> optax.Schedule:
    """The rate of each step: `first`, divided by five after 35, 70 and 85% of the steps."""
    return optax.piecewise_constant_schedule(first, {round(share * steps): 0.2 for share in _FALLS})


def _module(classifier: str, num_classes: int) -> nn.Module:
    if classifier == "convolutional":
        return Convolutional(num_classes)
    width = min(20 * num_classes, _LARGEST)
    return FullyConnected((width, width), num_classes, num_normalized=2)


@functools.partial(jax.jit, static_argnames=("net", "optimizer", "grid"), donate_argnums=0)
def _train_step(
    fit: Fit,
    batch: Tokens,
    *,
    net: Net,
    optimizer: optax.GradientTransformation,
    grid: tuple[int, int],
) -> Fit:
    """One step of SGD on the mean cross-entropy of the labelled examples of a batch."""

    def loss(params: Any) -> tuple[Array, Any]:
        logits, buffers = net.apply(params, fit.buffers, _maps(batch, grid), train=True)
        _, _, total = of_logits(logits, batch.label, batch.weight)
        return total / jnp.maximum(jnp.sum(batch.weight), 1.0), buffers

    gradient, buffers = jax.grad(loss, has_aux=True)(fit.params)
    step, state = optimizer.update(gradient, fit.optimizer, fit.params)
    seen = fit.seen + jnp.sum(batch.weight)
    return Fit(optax.apply_updates(fit.params, step), buffers, state, seen)


@functools.partial(jax.jit, static_argnames=("net", "grid"))
def _sums(fit: Fit, batch: Tokens, *, net: Net, grid: tuple[int, int]) -> tuple[Array, ...]:
    logits, _ = net.apply(fit.params, fit.buffers, _maps(batch, grid), train=False)
    return (*of_logits(logits, batch.label, batch.weight), jnp.sum(batch.weight))


def _maps(batch: Tokens, grid: tuple[int, int]) -> Array:
    n, _, channels = batch.x.shape
    return batch.x.astype(jnp.float32).reshape(n, *grid, channels)


def _score(fit: Fit, read: Read, count: int, net: Net, grid: tuple[int, int]) -> dict[str, float]:
    parts = [
        jax.device_get(_sums(fit, batch, net=net, grid=grid)) for batch in read(np.arange(count))
    ]
    no_label = "eval.feature_map needs labelled examples in the test split"
    means = tokens.means(parts, no_label)
    return {name: float(m) for name, m in zip(("top1", "top5", "loss"), means, strict=True)}

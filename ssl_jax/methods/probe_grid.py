"""Probe grid: linear and attentive probes of a frozen encoder, trained in one pass over the data.

    x -> one random view -> outputs of layers of f -> for each output, rate and decay a probe:
                                                      softmax(W x + b), cross-entropy

It is the linear evaluation of DINOv2 (Oquab et al. 2023, App. B.3): probes of the last or of the
last four layers, of the class token with or without the mean of the patches, each at many learning
rates. An image is encoded once a step for all of them. On outputs with one vector a patch
(`last1/patches`) the probes are attentive (`ssl_jax.models.attentive_head`), as in CAPI (Darcet et
al. 2025). Probes do not depend on each other: each is trained as if it were alone.

A share of the training split is held out: `val_fraction` of the examples, by a hash of their
number. No probe learns from them, and the evaluation `probe_grid` chooses by them.

As a training run it streams the images, splits batches and probes over the devices, and is resumed
from its checkpoints. The weights of the encoder are buffers, and its BatchNorm runs in evaluation
mode: it does not change. `config.init_from` is the pretrained run.

Rates of the grid are factors of the optimizer's learning rate, therefore `base_lr=1`. Attentive
probes are in its group "attentive", linear probes in "linear". Initial weights of linear probes are
N(0, 0.01^2), as in the released code of DINOv2.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.config.fields import between, each, not_empty, not_negative, open_fraction, positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.layer_outputs import LayerOutput, is_layer_output, select
from ssl_jax.core.length import Length
from ssl_jax.core.method import (
    FROZEN,
    Array,
    Aux,
    Batch,
    DataSpec,
    PyTree,
    RowRates,
    Weights,
    hyper_parameters,
)
from ssl_jax.losses.classification import cross_entropy
from ssl_jax.methods.base.one_view import OneView, OneViewMethod, make_one_view
from ssl_jax.models import Net, attentive_head, make_encoder
from ssl_jax.models.classifier import InputNorm
from ssl_jax.models.encoder_layers import encode_with_layers

# Losses above it count as infinite: the probe has diverged and the others go on.
_LARGEST_LOSS = 1e30
_INIT_STD = 0.01
_HIGHEST = jax.lax.Precision.HIGHEST
# Update rules that treat every number by itself.
_BY_NUMBER = ("sgd", "adamw")


class Head(NamedTuple):
    """One probe of the grid: the output that it reads, its learning rate and weight decay."""

    feature: str
    learning_rate: float
    weight_decay: float


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`. Rates and decays are of batches as `optimizer.lr_scaling` says.

    The default rates of linear probes are DINOv2's, and the grid of attentive probes is CAPI's.
    """

    features: Annotated[
        tuple[str, ...], not_empty,
        "Outputs to probe: h, last1/cls, last4/cls_mean, stage3/mean, ...; attentive probes read "
        "patches, such as last1/patches.",
    ] = ("last1/cls", "last4/cls", "last1/cls_mean", "last4/cls_mean")  # fmt: skip
    learning_rates: Annotated[
        tuple[float, ...], each(positive), not_empty, "Rates of linear probes."
    ] = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
    weight_decays: Annotated[
        tuple[float, ...], each(not_negative), not_empty, "Weight decays of linear probes."
    ] = (0.0,)
    attentive_learning_rates: Annotated[
        tuple[float, ...], each(positive), not_empty, "Rates of attentive probes."
    ] = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
    attentive_weight_decays: Annotated[
        tuple[float, ...], each(not_negative), not_empty, "Weight decays of attentive probes."
    ] = (5e-4, 1e-3, 5e-2)
    head_dim: Annotated[
        int, between(1, 65_536), "Width of an attention head of attentive probes."
    ] = 64
    normalize: Annotated[
        bool, "BatchNorm without scale and offset of the inputs of the probes, as MAE's."
    ] = False
    val_fraction: Annotated[
        float, open_fraction, "Share of the training split that is held out to choose by."
    ] = 0.1

    def heads(self, feature: str) -> list[Head]:
        """The probes of an output: all decays of the first rate, then of the second, ..."""
        rates, decays = self.learning_rates, self.weight_decays
        if is_attentive(feature):
            rates, decays = self.attentive_learning_rates, self.attentive_weight_decays
        return [Head(feature, rate, decay) for rate in rates for decay in decays]


@dataclasses.dataclass(frozen=True)
class ProbeGrid(OneViewMethod):
    """Linear and attentive probes of a frozen encoder.

    Attributes:
      hyper: the config's section.
      encoder: f.
      view: computes the encoder's inputs from batches.
      num_classes: c.
    """

    title: ClassVar[str] = "probe grid"
    decomposes: ClassVar[bool] = True
    learns_from_labels: ClassVar[bool] = True
    named_by_encoder: ClassVar[bool] = True

    hyper: HyperParameters
    encoder: Net
    view: OneView
    num_classes: int

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        encoder_key, head_key = jax.random.split(key)
        keys = jax.random.split(key, batch["label"].shape[0])
        x = jax.eval_shape(self.view.train, keys, batch)
        x = jnp.zeros((1, *x.shape[1:]), x.dtype)
        params, stats = self.encoder.init(encoder_key, x)
        buffers = {FROZEN: {"encoder": params}, "encoder": stats}
        shapes = jax.eval_shape(lambda x: self._outputs(Weights({}, buffers), x)[1], x)
        heads, norms = {}, {}
        for i, (feature, shape) in enumerate(shapes.items()):
            probe = self._init_probe(jax.random.fold_in(head_key, i), feature, shape.shape[-1])
            count = len(self.heads(feature))
            heads[_key(feature)] = jax.tree.map(lambda p, g=count: jnp.repeat(p[None], g, 0), probe)
            norms[_key(feature)] = Net(InputNorm()).init(head_key, shape)[1]
        if self.hyper.normalize:
            buffers["norm"] = norms
        return {"heads": heads}, buffers

    def _init_probe(self, key: Array, feature: str, dim: int) -> dict[str, Array]:
        if is_attentive(feature):
            heads = attentive_head.num_heads(dim, self.hyper.head_dim)
            return attentive_head.init(key, dim, self.num_classes, heads)._asdict()
        kernel = _INIT_STD * jax.random.normal(key, (dim, self.num_classes))
        return {"kernel": kernel, "bias": jnp.zeros(self.num_classes)}

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> PyTree:
        held_out = is_held_out(batch["index"], self.hyper.val_fraction)
        label = jnp.where(held_out, -1, batch["label"])
        return {"x": self.view.train(keys, batch), "label": label}

    def encode(
        self, w: Weights, views: PyTree, *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        h, outputs = self._outputs(w, views["x"])
        outputs, updates = self._normalized(w, outputs, train=True)
        return {"h": h, "logits": self._logits(w, outputs), "label": views["label"]}, updates

    def _outputs(self, w: Weights, x: Array) -> tuple[Array, dict[str, Array]]:
        """h [n d], and the outputs to probe [n d] or [n p d] by name, of views."""
        frozen = w.buffers[FROZEN]["encoder"]
        h, layers = encode_with_layers(self.encoder, frozen, w.buffers["encoder"], x)
        return h, {name: h if name == "h" else select(layers, name) for name in self.hyper.features}

    def _normalized(
        self, w: Weights, outputs: dict[str, Array], *, train: bool
    ) -> tuple[dict[str, Array], PyTree]:
        """The inputs of the probes, and the entries of `buffers` that changed."""
        if not self.hyper.normalize:
            return outputs, {}
        normalized, norms = {}, {}
        for feature, x in outputs.items():
            stats = w.buffers["norm"][_key(feature)]
            normalized[feature], norms[_key(feature)] = Net(InputNorm()).apply(
                {}, stats, x, train=train
            )
        return normalized, {"norm": norms}

    def _logits(self, w: Weights, outputs: dict[str, Array]) -> dict[str, Array]:
        """The logits [n g c] of the g probes of each output."""
        return {
            feature: jax.vmap(_PROBES[is_attentive(feature)], in_axes=(0, None), out_axes=1)(
                w.params["heads"][_key(feature)], x
            )
            for feature, x in outputs.items()
        }

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        """The sum of the losses of all probes, so that each gets the gradient of its own.

        Metrics are those of the best probe in this batch (with micro-batches their means), and the
        number of probes that have diverged. Those add nothing to the loss.
        """
        labels, losses, accuracies = encoded["label"], [], []
        for logits in encoded["logits"].values():
            is_finite = jnp.isfinite(logits).all(axis=(0, 2))  # (g,)
            logits = jnp.where(is_finite[:, None], logits, 0.0)
            loss, metrics = jax.vmap(cross_entropy, in_axes=(1, None))(logits, labels)
            losses.append(jnp.where(is_finite & (loss < _LARGEST_LOSS), loss, jnp.nan))
            accuracies.append(jnp.where(is_finite, metrics["accuracy"], 0.0))
        loss, diverged = jnp.concatenate(losses), jnp.isnan(jnp.concatenate(losses))
        metrics = {
            "best_loss": jnp.min(jnp.where(diverged, _LARGEST_LOSS, loss)),
            "best_accuracy": jnp.max(jnp.concatenate(accuracies)),
            "diverged": jnp.sum(diverged).astype(jnp.float32),
        }
        num_labelled = jnp.sum(labels >= 0).astype(jnp.float32)
        total = jnp.sum(jnp.where(diverged, 0.0, loss))
        return total, Aux(w.buffers, metrics, {"h": encoded["h"]}, num_labelled)

    def head_logits(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """The logits [n g c] of the g probes of each output, in evaluation mode."""
        _, outputs = self._outputs(w, self.view.evaluate(batch))
        return self._logits(w, self._normalized(w, outputs, train=False)[0])

    def only(self, w: Weights, chosen: dict[str, int]) -> Weights:
        """The weights with one probe of each output, number `chosen[feature]` of `heads`."""
        heads = w.params["heads"]
        heads = {
            _key(name): jax.tree.map(lambda p, i=i: p[i : i + 1], heads[_key(name)])
            for name, i in chosen.items()
        }
        return w._replace(params={"heads": heads})

    def heads(self, feature: str) -> list[Head]:
        """The probes of an output, in the order of the rows of its parameters."""
        return self.hyper.heads(feature)

    def row_rates(self, path: str) -> RowRates:
        name = path.split("/")[1]
        feature = next(feature for feature in self.hyper.features if _key(feature) == name)
        _, rates, decays = zip(*self.heads(feature), strict=True)
        return RowRates(np.asarray(rates), np.asarray(decays))

    def param_group(self, path: str) -> str:
        return "attentive" if is_attentive(path.split("/")[1]) else "linear"

    @property
    def empty_groups(self) -> frozenset[str]:
        used = {"attentive" if is_attentive(f) else "linear" for f in self.hyper.features}
        return frozenset({"attentive", "linear"} - used)

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h` [n d]; the logits of the probes are those of `head_logits`."""
        return {"h": self._outputs(w, self.view.evaluate(batch))[0]}

    def layers(self, w: Weights, batch: Batch) -> dict[str, LayerOutput]:
        frozen = w.buffers[FROZEN]["encoder"]
        x = self.view.evaluate(batch)
        return encode_with_layers(self.encoder, frozen, w.buffers["encoder"], x)[1]

    def nets(self) -> dict[str, Net]:
        return {"encoder": self.encoder}

    @property
    def freezes_encoder(self) -> bool:
        return True

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        del batch_size
        lines = [("encoder", "frozen; only the probes are trained")]
        for feature in self.hyper.features:
            heads = self.heads(feature)
            kind = "attentive" if is_attentive(feature) else "linear"
            rates = sorted({head.learning_rate for head in heads})
            decays = sorted({head.weight_decay for head in heads})
            lines.append(
                (
                    "probes",
                    f"{len(heads)} {kind} of {feature}: {len(rates)} rates from {rates[0]:g} to "
                    f"{rates[-1]:g} x {len(decays)} weight decays",
                )
            )
        share = self.hyper.val_fraction
        return [*lines, ("choice", f"by {share:.3g} of the training split, held out")]


def is_attentive(feature: str) -> bool:
    """Whether the probes of an output pool its patches by attention. Also for keys of `heads`."""
    return feature.endswith("patches")


def is_held_out(index: Array, fraction: float) -> Array:
    """Whether each example is held out, bool [n], from its number in the training split int [n].

    Each is held out with probability `fraction`, independently of the others and of the seed.
    """
    key = jax.random.key(0)
    draw = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))
    return draw(jnp.asarray(index, jnp.int32)) < fraction


def _key(feature: str) -> str:
    """The name of an output in `params`, where "/" separates names."""
    return feature.replace("/", "_")


def _linear(probe: dict[str, Array], x: Array) -> Array:
    """Logits [n c] of features [n d]."""
    return jnp.einsum("nd,dc->nc", x, probe["kernel"], precision=_HIGHEST) + probe["bias"]


def _attentive(probe: dict[str, Array], x: Array) -> Array:
    """Logits [n c] of tokens [n p d]."""
    return attentive_head.logits(attentive_head.Probe(**probe), x)


_PROBES = {False: _linear, True: _attentive}


def make(config: Any, spec: DataSpec, length: Length) -> ProbeGrid:
    """Builds the method from the config's sections method, model and views."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    if not spec.num_classes:
        raise UserError(
            f"{config.data.name} has no classes to probe; choose another data set, or set "
            "data.num_classes if some of its examples have one"
        )
    view = make_one_view(config, spec)
    encoder = make_encoder(**config.model, dtype=config.dtype)
    _check_features(hyper.features, encoder, jax.ShapeDtypeStruct((1, *view.shape), config.dtype))
    _check_held_out(config, spec, hyper)
    _check_optimizer(config.optimizer)
    return ProbeGrid(hyper=hyper, encoder=encoder, view=view, num_classes=spec.num_classes)


def _check_features(features: tuple[str, ...], encoder: Net, x: jax.ShapeDtypeStruct) -> None:
    """Raises `UserError` for outputs that the encoder does not have."""
    for feature in features:
        if features.count(feature) > 1:
            raise UserError(f"method.features names {feature!r} twice; name each output once")
        if feature != "h" and not is_layer_output(feature):
            raise UserError(
                f"method.features has {feature!r}; outputs are h, and of layers for example "
                "last1/cls, last4/cls_mean, layer3/mean, stage2/mean or last1/patches"
            )

    def outputs(key: Array, x: Array) -> dict[str, Array]:
        _, layers = encode_with_layers(encoder, *encoder.init(key, x), x)
        return {name: select(layers, name) for name in features if name != "h"}

    try:
        jax.eval_shape(outputs, jax.random.key(0), x)
    except UserError as error:
        raise UserError(f"method.features: {error}") from error


def _check_held_out(config: Any, spec: DataSpec, hyper: HyperParameters) -> None:
    """Raises `UserError` if the held-out part is empty or cannot be found again."""
    if hyper.val_fraction * spec.num_examples < 1:
        raise UserError(
            f"method.val_fraction={hyper.val_fraction:g} of {spec.num_examples} examples holds out "
            "none to choose by; use a larger one"
        )
    for key, value in (("data.classes", config.data.classes), ("eval.data", config.eval.data)):
        if value is not None:
            raise UserError(
                f"{key} is {value!r}, but method probe_grid chooses and scores its probes on the "
                "data that they are trained on; leave it unset"
            )


def _check_optimizer(section: Any) -> None:
    """Raises `UserError` for optimizers under which probes would depend on each other."""
    groups = {"optimizer": section}
    groups |= {f"optimizer.groups.{name}": group for name, group in section.groups.items()}
    for where, group in groups.items():
        name, clip = group.get("name", "sgd"), group.get("clip", {}).get("norm", 0)
        if name not in _BY_NUMBER:
            raise UserError(
                f"{where}.name is {name!r}, which adapts whole tensors, in which probe_grid has "
                f"many probes; use {' or '.join(_BY_NUMBER)}"
            )
        if clip:
            raise UserError(
                f"{where}.clip.norm is {clip}, which would clip all probes together; leave it at 0"
            )

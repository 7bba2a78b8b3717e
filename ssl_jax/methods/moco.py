"""MoCo: momentum contrast, versions 1 and 2 (He et al. 2020; Chen et al. 2020b).

    x -> two random views -> q = g(f(view 1)), k = g'(f'(view 2)) -> find k among older keys with q

f is a convolutional encoder, g a linear layer (v1) or a small MLP without BatchNorm (v2). f' and g'
are their moving averages, the key encoder. The older keys are a queue: the keys of each step
replace the oldest ones. The moving average is updated after the parameters, so that the average
that encodes a step's keys includes the step's parameters, as in the released code.

The paper compares three ways to build a dictionary of keys (its Fig. 2 and 3):

    queue       as above
    end_to_end  the other keys of the batch; f' = f, and queries and keys have gradients
    bank        rows of a memory bank with an embedding of each image, as in InstDisc: one view, the
                row of its image as the key, and random rows as the other keys

Queries and keys have separate forward passes. With `bn_groups` BatchNorm statistics are those of
groups of examples, and a key is encoded in another group than its query ("shuffling BN", Sec. 3.3):
otherwise the model could recognise the key by shared statistics. The released code shuffles
randomly over the GPUs; here the permutation is fixed, because batches are random already. The key
encoder's BatchNorm uses batch statistics too. The released code keeps running statistics of the key
encoder and does not use them; here there are none. The residual blocks of this library's ResNets
are initialised as the identity; those of the released code are not.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.config.fields import below_one, between, fraction, positive
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Aux, Batch, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.methods.base.inputs import examples
from ssl_jax.methods.base.two_views import (
    TwoViews,
    check_queue,
    check_unique_examples,
    nets_and_views,
)
from ssl_jax.models.heads import mlp_head
from ssl_jax.models.norm import apply_in_groups, check_groups, interleave


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    dictionary: Annotated[Literal["queue", "end_to_end", "bank"], "Where keys come from."] = "queue"
    num_negatives: Annotated[
        int, between(1, 2**30),
        "K: keys in the queue (a multiple of the batch), or rows drawn from the bank at each step, "
        "the same for all queries. Not used by end_to_end.",
    ] = 65536  # fmt: skip
    momentum: Annotated[
        float, fraction, "m, decay of the key encoder's moving average; only for queue."
    ] = 0.999
    bank_momentum: Annotated[
        float, below_one, "Weight of the old row in an update of the bank."
    ] = 0.5
    temperature: Annotated[float, positive, "Temperature t."] = 0.07
    bn_groups: Annotated[
        int | None, positive,
        "Groups of examples with separate BatchNorm statistics, for any number of devices that "
        "divides it (the paper: 8 GPUs); None: statistics of the whole batch.",
    ] = None  # fmt: skip
    projector_layers: Annotated[Literal[1, 2], "Dense layers: 1 (v1) or 2 (v2)."] = 1
    hidden_dim: Annotated[
        int | None, positive, "Width of the projector's hidden layer; None: that of h."
    ] = None
    output_dim: Annotated[int, positive, "Width of q and k."] = 128


@dataclasses.dataclass(frozen=True)
class MoCo(TwoViews):
    title: ClassVar[str] = "MoCo"

    hyper: HyperParameters
    num_examples: int

    @property
    def ema_decay(self) -> float | None:
        return self.hyper.momentum if self.hyper.dictionary == "queue" else None

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        nets_key, dictionary_key = jax.random.split(key)
        params, buffers = super().init(nets_key, batch)
        hyper = self.hyper
        if hyper.dictionary == "queue":
            buffers |= losses.init_queue(dictionary_key, hyper.num_negatives, hyper.output_dim)
        elif hyper.dictionary == "bank":
            bank = losses.init_bank(dictionary_key, self.num_examples, hyper.output_dim)
            buffers["bank"] = bank
        return params, buffers

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> dict[str, Array]:
        return {"image": self.recipe(keys, examples(batch)), "index": batch["index"]}

    def encode(
        self, w: Weights, views: dict[str, Array], *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        query_key, key_key = jax.random.split(key)
        x = views["image"]  # (n, views, h, w, c)
        h, q, updated = self.embed(w.params, w.buffers, x[:, 0], key=query_key)
        encoded = {"h": h, "q": losses.unit_length(q), "index": views["index"]}
        if self.hyper.dictionary != "bank":
            momentum = self.hyper.dictionary == "queue"
            shuffled = interleave(x[:, 1], self.hyper.bn_groups)
            _, k, _ = self.embed(w.ema if momentum else w.params, w.buffers, shuffled, key=key_key)
            k = losses.unit_length(interleave(k, self.hyper.bn_groups))  # in the queries' order
            encoded["k"] = jax.lax.stop_gradient(k) if momentum else k
        return encoded, {name: updated[name] for name in w.params}  # one entry for each net

    def embed(
        self, params: PyTree, buffers: PyTree, x: Array, *, key: Array
    ) -> tuple[Array, Array, PyTree]:
        (h, _), encoder = apply_in_groups(
            self.encoder, params["encoder"], buffers["encoder"], x,
            groups=self.hyper.bn_groups, key=key,
        )  # fmt: skip
        z, projector = self.projector.apply(
            params["projector"], buffers["projector"], h, train=True
        )
        return h, z, {**buffers, "encoder": encoder, "projector": projector}

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        buffers = w.buffers
        hyper = self.hyper
        q, index = encoded["q"], encoded["index"]  # (n, output_dim), (n,)
        info_nce = functools.partial(losses.info_nce, q, temperature=hyper.temperature)
        if hyper.dictionary == "queue":
            loss, metrics = info_nce(encoded["k"], negatives=buffers["queue"])
            queue, pointer = buffers["queue"], buffers["pointer"]
            buffers = {**buffers, **losses.enqueue(queue, pointer, encoded["k"])}
        elif hyper.dictionary == "end_to_end":
            loss, metrics = info_nce(encoded["k"])
        else:
            bank = buffers["bank"]
            drawn = jax.random.randint(key, (hyper.num_negatives,), 0, self.num_examples)
            loss, metrics = info_nce(bank[index], negatives=bank[drawn])
            bank = losses.update_bank(bank, index, q, momentum=hyper.bank_momentum)
            buffers = {**buffers, "bank": bank}
        z = jnp.stack([encoded[name] for name in ("q", "k") if name in encoded], axis=1)
        return loss, Aux(buffers, metrics, {"h": encoded["h"], "z": z})

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper, n = self.hyper, batch_size
        dictionary = {
            "queue": f"queue of {hyper.num_negatives:,} keys, the oldest "
            f"{hyper.num_negatives // n} steps old",
            "end_to_end": f"the batch's {n - 1:,} other keys, with gradient",
            "bank": f"{hyper.num_negatives:,} random rows of a bank of {self.num_examples:,}",
        }[hyper.dictionary]
        if hyper.dictionary == "bank":
            groups = hyper.bn_groups or 1
            statistics = "of the whole batch" if groups == 1 else f"of {groups} groups"
            statistics += ", of queries only: keys are rows of the bank"
        elif hyper.bn_groups in (None, 1):
            statistics = "of the whole batch, the same examples for queries and keys"
        else:
            statistics = f"of {hyper.bn_groups} groups, keys in other groups than their queries"
        return [("dictionary", dictionary), ("batch statistics", statistics)]


def make(config: Any, spec: DataSpec, length: Length) -> MoCo:
    """Builds the method from the config's sections method, model and views."""
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    if hyper.dictionary == "queue":
        check_queue(hyper.num_negatives, config.batch_size, "method.num_negatives")
    if hyper.dictionary == "bank":
        check_unique_examples(config, spec)
    if hyper.bn_groups is not None:
        check_groups(hyper.bn_groups, config.micro_batch_size or config.batch_size)
    return MoCo(
        hyper=hyper,
        num_examples=spec.num_examples,
        projector=mlp_head(
            hyper.projector_layers,
            hyper.hidden_dim,
            hyper.output_dim,
            hidden_norm=False,
            output_bias=True,
            dtype=config.dtype,
        ),
        **nets_and_views(config, spec, num_views=1 if hyper.dictionary == "bank" else 2),
    )

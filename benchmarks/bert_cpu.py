"""Times BERT-small, forward and backward, on a CPU against PyTorch: python -m benchmarks.bert_cpu

Tokens a second of loss and gradient of masked language modelling in float32, without dropout and
without the optimizer: 4 layers of 512 dimensions, 30,522 words, all rows full, a seventh of their
tokens hidden. Weights are random, the hidden places the same on all sides. The sides:

  ssl_jax              the method's own `encode` and `objective`
  torch                the BERT of `transformers`, logits of the hidden tokens alone, as ssl_jax
  torch, all logits    the same, called as its documentation says: logits of all tokens

Every side runs in a process of its own, on as many threads as there are cores; all take turns
within a round, and a ratio is the median over rounds. Goal: ssl_jax at least as fast as torch. The
torch sides need torch and transformers.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import bert_sides, turns
from ssl_jax.core.method import Weights, loss_and_aux

SIDES = ("ssl_jax", "torch", "torch, all logits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bert_small")
    parser.add_argument("--batch", type=int, default=32, help="rows")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        turns.serve((jax_side if arguments.serve == SIDES[0] else torch_side)(arguments))
        return
    from rich.console import Console

    from benchmarks import machine

    sizes = [
        "--model",
        arguments.model,
        "--batch",
        str(arguments.batch),
        "--length",
        str(arguments.length),
    ]
    command = ["-m", "benchmarks.bert_cpu", *sizes, "--serve"]
    sides = {name: turns.Side([*command, name]) for name in arguments.sides}
    rounds = turns.rounds(sides, arguments.rounds)
    first, tokens = arguments.sides[0], arguments.batch * arguments.length
    table = machine.table(
        f"{arguments.model}, {arguments.batch} rows of {arguments.length} tokens, "
        f"{arguments.rounds} rounds",
        *("side", "tokens/s", f"{first} over it", "min", "max", "first loss"),
        packages=("torch", "transformers") if set(arguments.sides) & set(SIDES[1:]) else (),
    )
    for name, side in sides.items():
        ratios = [now[name] / now[first] for now in rounds]
        table.add_row(
            name, f"{statistics.median(tokens / now[name] for now in rounds):,.0f}",
            *(f"{f(ratios):.2f}" for f in (statistics.median, min, max)), f"{side.value:.3f}",
        )  # fmt: skip
    Console(width=100).print(table)


def experiment(arguments: argparse.Namespace) -> Any:
    return bert_sides.experiment(
        arguments.model,
        arguments.batch,
        arguments.length,
        dtype="float32",
        scan_layers=False,
        remat="none",
    )


def jax_side(arguments: argparse.Namespace) -> Callable[[], float]:
    import jax
    import jax.numpy as jnp

    ours = experiment(arguments)
    method = ours.method
    rows = bert_sides.texts(arguments.batch, arguments.length, method.max_predictions)
    of_text = ("segment", "position")
    text = bert_sides.batch(arguments.batch, arguments.length)
    views = {
        "text": {"tokens": rows["tokens"], **{name: text[name] for name in of_text}},
        "positions": rows["positions"],
        "targets": rows["targets"],
        "weights": np.ones(rows["positions"].shape, np.float32),
    }

    def loss(params: Any, views: Any) -> jax.Array:
        fixed = dict(key=jax.random.key(0), step=jnp.zeros((), jnp.int32))
        return loss_and_aux(method, Weights(params, {}), views, **fixed)[0]

    views = jax.device_put(views)
    params = ours.init_state().params
    compiled = jax.jit(jax.value_and_grad(loss)).lower(params, views).compile()
    return lambda: float(jax.block_until_ready(compiled(params, views))[0])


def torch_side(arguments: argparse.Namespace) -> Callable[[], float]:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    ours = experiment(arguments)
    net = bert_sides.torch_net(ours)
    loss = bert_sides.torch_loss(net, ours, everywhere=arguments.serve == SIDES[2])

    def step() -> float:
        net.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        return float(value.detach())

    return step


if __name__ == "__main__":
    main()

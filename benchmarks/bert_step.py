"""Times BERT's train step on an accelerator against PyTorch: python -m benchmarks.bert_step

    python -m benchmarks.bert_step --model bert_base --length 512 --batch 32 64

Tokens a second of whole updates (masks drawn on the device, loss, gradient, AdamW) in bfloat16 with
float32 weights, on batches of full rows that stay on the device. What share of the rate of a large
bfloat16 matrix product they reach counts the arithmetic that the definition asks for, see
`ssl_jax.experiment.flops`; the product is timed in the same rounds. The sides:

  ssl_jax           the train step of `configs/bert.py`, unrolled, nothing computed again
  ssl_jax, scanned  with scan_layers and remat=dots, as its paper-scale variants run
  torch             the BERT of `transformers` under autocast to bfloat16 and torch.compile, with
                    sdpa and fused AdamW, logits of the hidden tokens alone, and the same dropout

Sides have a process each and take turns; a ratio is the median over rounds. The torch side needs
torch and transformers, and is left out without them. Made for an accelerator; on a CPU

    python -m benchmarks.bert_step --model bert_tiny --length 32 --batch 4 --steps 1 --rounds 1

shows that it runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks import bert_sides, turns, updates
from ssl_jax.experiment.build import Experiment
from ssl_jax.experiment.flops import model_flops

SIDES = ("ssl_jax", "ssl_jax, scanned", "torch")
PRODUCT = "product"
PRODUCTS = 10  # a call
DROPOUT = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bert_base")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 64, 128], help="rows")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=10, help="of a call")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--product_size", type=int, default=8192, help="of the matrices")
    parser.add_argument("--eager", action="store_true", help="PyTorch without torch.compile")
    parser.add_argument("--serve", choices=(*SIDES, PRODUCT), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        make = {PRODUCT: product_side, "torch": torch_side}.get(arguments.serve, jax_side)
        turns.serve(make(arguments))
        return
    from rich.console import Console

    from benchmarks import machine

    # All processes share one device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    there = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    names = SIDES if there else SIDES[:2]
    table = machine.table(
        f"{arguments.model}, rows of {arguments.length} tokens, {arguments.rounds} rounds",
        *("rows", "side", "tokens/s", "min", "max", "of the product", "ssl_jax over it"),
        packages=("torch", "transformers") if there else (),
    )
    for count in arguments.batch:
        for row in compare(names, count, arguments):
            table.add_row(str(count), *row)
    Console(width=100).print(table)


def compare(names: tuple[str, ...], count: int, arguments: argparse.Namespace) -> list[list[str]]:
    """The cells of every side at a batch of `count` rows."""
    flops = model_flops(experiment(arguments, count, scanned=True)) * arguments.steps
    command = ["-m", "benchmarks.bert_step", "--batch", str(count), *_options(arguments), "--serve"]
    sides = {name: turns.Side([*command, name]) for name in (*names, PRODUCT)}
    rounds = turns.rounds(sides, arguments.rounds)
    for side in sides.values():
        side.end()
    product = 2 * arguments.product_size**3 * PRODUCTS
    cells = []
    for name in names:
        speeds = [count * arguments.length * arguments.steps / now[name] for now in rounds]
        shares = [flops / now[name] / (product / now[PRODUCT]) for now in rounds]
        ratios = [now[name] / now[names[0]] for now in rounds]
        cells.append(
            [
                name,
                *(f"{f(speeds):,.0f}" for f in (statistics.median, min, max)),
                f"{statistics.median(shares):.1%}",
                f"{statistics.median(ratios):.2f}",
            ]
        )
    return cells


def _options(arguments: argparse.Namespace) -> list[str]:
    names = ("model", "length", "steps", "product_size")
    pairs = [word for name in names for word in (f"--{name}", str(getattr(arguments, name)))]
    return pairs + ["--eager"] * arguments.eager


def experiment(arguments: argparse.Namespace, count: int, *, scanned: bool) -> Experiment:
    options = dict(scan_layers=scanned, remat="dots" if scanned else "none")
    return bert_sides.experiment(
        arguments.model, count, arguments.length, dtype="bfloat16", dropout=DROPOUT, **options
    )


def jax_side(arguments: argparse.Namespace) -> Callable[[], float]:
    (count,) = arguments.batch
    ours = experiment(arguments, count, scanned="scanned" in arguments.serve)
    return updates.repeated(ours, bert_sides.batch(count, arguments.length), arguments.steps)


def product_side(arguments: argparse.Namespace) -> Callable[[], float]:
    """A bfloat16 matrix product that accumulates in float32."""
    x = jnp.ones((arguments.product_size,) * 2, jnp.bfloat16)
    product = jax.jit(lambda x: jnp.dot(x, x, preferred_element_type=jnp.float32).astype(x.dtype))

    def call() -> float:
        for _ in range(PRODUCTS):
            out = product(x)
        return float(jax.block_until_ready(out)[0, 0])

    return call


def torch_side(arguments: argparse.Namespace) -> Callable[[], float]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    (count,) = arguments.batch
    ours = experiment(arguments, count, scanned=True)
    net = bert_sides.torch_net(ours, dropout=DROPOUT).to(device)
    loss = bert_sides.torch_loss(net, ours)
    if not arguments.eager:
        loss = torch.compile(loss)
    section = ours.config.optimizer
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=section.base_lr, weight_decay=section.weight_decay, fused=True
    )

    def call() -> float:
        for _ in range(arguments.steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16):
                value = loss()
            value.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), section.clip.norm)
            optimizer.step()
        return float(value.detach())

    return call


if __name__ == "__main__":
    main()

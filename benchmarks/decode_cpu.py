"""Times generation of texts on a CPU against transformers: python -m benchmarks.decode_cpu

Tokens a second of greedy generation with a cache, in float32, by nets of the shapes of GPT-2 small
(124M parameters) with equal weights: 32 tokens of a prompt, 64 new ones. Prompts are random, and
no end token stops a text. The prompts are processed within the time. The sides:

  ssl_jax        the method's own `generate`, compiled
  transformers   `GPT2LMHeadModel.generate` with its default cache
  compiled       the same with `cache_implementation="static"`, which compiles the forward pass

Every side runs in a process of its own, on as many threads as there are cores; all take turns
within a round, and a ratio is the median over rounds. Both sides must generate the same tokens, of
which each prints a hash. Goal: ssl_jax at least as fast as transformers. Needs torch and
transformers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import turns

SIDES = ("ssl_jax", "transformers", "compiled")
_END = 50_256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gpt2")
    parser.add_argument("--batch", type=int, default=1, help="prompts")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens that are generated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES[:2])
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        turns.serve((jax_side if arguments.serve == SIDES[0] else torch_side)(arguments))
        return
    from rich.console import Console

    from benchmarks import machine

    sizes = {name: getattr(arguments, name) for name in ("model", "batch", "prompt", "new")}
    options = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    command = ["-m", "benchmarks.decode_cpu", *options, "--serve"]
    sides = {name: turns.Side([*command, name]) for name in arguments.sides}
    rounds = turns.rounds(sides, arguments.rounds)
    first, tokens = arguments.sides[0], arguments.batch * arguments.new
    table = machine.table(
        f"{arguments.model}, {arguments.batch} x {arguments.new} tokens behind {arguments.prompt}, "
        f"{arguments.rounds} rounds",
        *("side", "tokens/s", f"{first} over it", "min", "max", "hash of tokens"),
        packages=("torch", "transformers"),
    )
    for name, side in sides.items():
        ratios = [now[name] / now[first] for now in rounds]
        table.add_row(
            name, f"{statistics.median(tokens / now[name] for now in rounds):,.1f}",
            *(f"{f(ratios):.2f}" for f in (statistics.median, min, max)), f"{int(side.value)}",
        )  # fmt: skip
    Console(width=100).print(table)


def prompts_of(arguments: argparse.Namespace) -> np.ndarray:
    """Random tokens, int32 [batch prompt]."""
    rng = np.random.default_rng(0)
    return rng.integers(0, _END, (arguments.batch, arguments.prompt), dtype=np.int32)


def torch_net(name: str) -> Any:
    """A `GPT2LMHeadModel` in evaluation mode, with random weights and no end token."""
    import torch
    import transformers

    from ssl_jax.models.text_models import DECODERS

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    size = DECODERS[name]
    config = transformers.GPT2Config(
        n_embd=size["dim"], n_layer=size["depth"], n_head=size["num_heads"],
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def hash_of(tokens: np.ndarray) -> float:
    return float(zlib.crc32(np.ascontiguousarray(tokens, np.int32).tobytes()))


def jax_side(arguments: argparse.Namespace) -> Callable[[], float]:
    import jax

    from ssl_jax.models import decoding, make_encoder
    from ssl_jax.models.decoding import Sampling

    net = make_encoder(arguments.model)
    params = jax.device_put(_weights(torch_net(arguments.model).state_dict()))
    prompts = prompts_of(arguments)
    lengths = np.full(len(prompts), arguments.prompt, np.int32)
    keys = jax.random.split(jax.random.key(0), len(prompts))
    sampling = Sampling(max_new_tokens=arguments.new, temperature=0.0)

    @jax.jit
    def generate(params: Any) -> jax.Array:
        return decoding.generate(
            net.module, params, prompts, lengths, keys, sampling=sampling, end=-1
        ).tokens

    return lambda: hash_of(np.asarray(generate(params)))


def _weights(state: dict[str, Any]) -> dict[str, Any]:
    """The encoder's parameters from those of transformers, whose matrices have the same layout."""
    arrays = {name.removeprefix("transformer."): x.numpy() for name, x in state.items()}
    names = {"attn.c_attn": "qkv", "attn.c_proj": "proj", "mlp.c_fc": "fc1", "mlp.c_proj": "fc2"}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": arrays[f"{name}.weight"], "bias": arrays[f"{name}.bias"]}

    def layer(name: str) -> dict[str, Any]:
        dense = {
            ours: {
                "kernel": arrays[f"{name}.{theirs}.weight"],
                "bias": arrays[f"{name}.{theirs}.bias"],
            }
            for theirs, ours in names.items()
        }
        return {
            "norm1": norm(f"{name}.ln_1"), "norm2": norm(f"{name}.ln_2"),
            "attn": {part: dense[part] for part in ("qkv", "proj")},
            "mlp": {part: dense[part] for part in ("fc1", "fc2")},
        }  # fmt: skip

    depth = 1 + max(int(name.split(".")[1]) for name in arrays if name.startswith("h."))
    tables = {"token": "wte.weight", "position": "wpe.weight"}
    return {
        "embed": {ours: {"embedding": arrays[theirs]} for ours, theirs in tables.items()},
        **{f"layer{i + 1}": layer(f"h.{i}") for i in range(depth)},
        "norm": norm("ln_f"),
    }


def torch_side(arguments: argparse.Namespace) -> Callable[[], float]:
    import torch

    net = torch_net(arguments.model)
    prompts = torch.from_numpy(prompts_of(arguments).astype(np.int64))
    options = {"cache_implementation": "static"} if arguments.serve == SIDES[2] else {}

    def generate() -> float:
        with torch.inference_mode():
            tokens = net.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=arguments.new,
                do_sample=False,
                **options,
            )
        return hash_of(tokens[:, arguments.prompt :].numpy())

    return generate


if __name__ == "__main__":
    main()

"""Times MoCo's train step on an accelerator against PyTorch: python -m benchmarks.moco_step

    python -m benchmarks.moco_step --config moco_v2:imagenet --batch 128 256
    python -m benchmarks.moco_step --config moco_v3:vit_b16 --batch 128 256

Views a second of whole updates in bfloat16 with float32 weights, on a batch of two ready views an
image that stays on the device; both sides only normalise them. The sides:

  ssl_jax  the train step of the config, without augmentation, online probe and groups of BatchNorm
  torch    the same method on timm's ResNet-50 or ViT-B/16, under autocast to bfloat16 and
           torch.compile: two encoders, the moving average and the queue (v2) or the predictor and
           the symmetric loss (v3), the fused optimizer of the recipe

Sides have a process each and take turns; a ratio is the median over rounds. Goal: ssl_jax at least
as fast. The torch side needs torch and timm. Made for an accelerator; on a CPU

    python -m benchmarks.moco_step --image_size 32 --batch 8 --queue 64 --steps 1 --rounds 1 --eager

shows that it runs.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import turns, updates
from ssl_jax import config as config_lib
from ssl_jax import data
from ssl_jax.experiment.build import Experiment

SIDES = ("ssl_jax", "torch")
NETS = {"resnet50": "resnet50", "vit_b16": "vit_base_patch16_224"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="moco_v2:imagenet")
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 256], help="images")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--queue", type=int, default=65536, help="keys of v2")
    parser.add_argument("--steps", type=int, default=10, help="of a call")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--eager", action="store_true", help="PyTorch without torch.compile")
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        turns.serve((jax_side if arguments.serve == SIDES[0] else torch_side)(arguments))
        return
    from rich.console import Console

    from benchmarks import machine

    # All processes share one device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    table = machine.table(
        f"{arguments.config}, {arguments.image_size} px, {arguments.rounds} rounds",
        *("images", "side", "views/s", "min", "max", "ssl_jax over it"),
        packages=("torch", "timm") if "torch" in arguments.sides else (),
    )
    for count in arguments.batch:
        for row in compare(count, arguments):
            table.add_row(str(count), *row)
    Console(width=100).print(table)


def compare(count: int, arguments: argparse.Namespace) -> list[list[str]]:
    """The cells of every side at a batch of `count` images."""
    names = ("config", "image_size", "queue", "steps")
    options = [word for name in names for word in (f"--{name}", str(getattr(arguments, name)))]
    options += ["--eager"] * arguments.eager
    command = ["-m", "benchmarks.moco_step", "--batch", str(count), *options, "--serve"]
    sides = {name: turns.Side([*command, name]) for name in arguments.sides}
    rounds = turns.rounds(sides, arguments.rounds)
    for side in sides.values():
        side.end()
    cells = []
    for name in sides:
        speeds = [2 * count * arguments.steps / now[name] for now in rounds]
        ratios = [now[name] / now[arguments.sides[0]] for now in rounds]
        figures = [f"{f(speeds):,.0f}" for f in (statistics.median, min, max)]
        cells.append([name, *figures, f"{statistics.median(ratios):.2f}"])
    return cells


def experiment(arguments: argparse.Namespace) -> Experiment:
    (count,) = arguments.batch
    config = config_lib.load(arguments.config)
    config.batch_size = count
    config.data.image_size = arguments.image_size
    config.views.ops = ("normalize",)
    config.views.overrides = {}
    config.eval.online = False
    if config.method.name == "moco":
        config.method.update(num_negatives=arguments.queue, bn_groups=None)
    config = config_lib.resolve(config)
    return Experiment.build(config, data.spec_from_config(config.data))


def images(count: int, size: int) -> np.ndarray:
    """Random images, two views each: uint8 [n 2 h w 3]."""
    return np.random.default_rng(0).integers(0, 256, (count, 2, size, size, 3), dtype=np.uint8)


def jax_side(arguments: argparse.Namespace) -> Callable[[], float]:
    ours = experiment(arguments)
    (count,) = arguments.batch
    host = {name: np.zeros(x.shape, x.dtype) for name, x in ours.spec.batch(count).items()}
    host["image"] = images(count, arguments.image_size)
    host["index"] = np.arange(count, dtype=np.int32)
    return updates.repeated(ours, host, arguments.steps)


def torch_side(arguments: argparse.Namespace) -> Callable[[], float]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours = experiment(arguments)
    section, hyper = ours.config.optimizer, ours.method.hyper
    make = queued if ours.config.method.name == "moco" else symmetric
    trained, averaged, loss = make(ours, arguments.image_size, device)
    if not arguments.eager:
        loss = torch.compile(loss)
    (count,) = arguments.batch
    raw = torch.from_numpy(images(count, arguments.image_size)).to(device).permute(1, 0, 4, 2, 3)
    mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=device).view(3, 1, 1)
    parameters = [p for p in trained.parameters() if p.requires_grad]
    source, target = list(trained.parameters()), list(averaged.parameters())
    decay = section.weight_decay
    optimizer = (
        torch.optim.SGD(parameters, lr=1e-3, momentum=section.momentum, weight_decay=decay)
        if section.name == "sgd"
        else torch.optim.AdamW(parameters, lr=1e-5, weight_decay=decay, fused=device == "cuda")
    )

    def call() -> float:
        for _ in range(arguments.steps):
            views = [
                ((view.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
                for view in raw
            ]
            with torch.no_grad():
                torch._foreach_mul_(target, hyper.momentum)
                torch._foreach_add_(target, source[: len(target)], alpha=1 - hyper.momentum)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16):
                value = loss(*views)
            value.backward()
            optimizer.step()
        return float(value.detach())

    return call


def encoder(ours: Experiment, size: int, head: Any) -> Any:
    """timm's net of the config's name, with a head, in the layout that is fast for it."""
    import timm
    import torch

    name = ours.config.model.name
    options = {"img_size": size} if name.startswith("vit") else {}
    net = timm.create_model(NETS[name], num_classes=0, **options)
    return torch.nn.Sequential(net, head(net.num_features)).to(memory_format=torch.channels_last)


def queued(ours: Experiment, size: int, device: str) -> tuple[Any, Any, Callable[..., Any]]:
    """MoCo v2: (query encoder, key encoder, loss of two views)."""
    import torch
    from torch.nn import functional

    hyper = ours.method.hyper

    def head(width: int) -> Any:
        nn = torch.nn
        return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, hyper.output_dim))

    query = encoder(ours, size, head).to(device).train()
    key = copy.deepcopy(query).requires_grad_(False)
    shape = hyper.output_dim, hyper.num_negatives
    queue = functional.normalize(torch.randn(shape, device=device), dim=0)
    at = torch.zeros((), dtype=torch.long, device=device)

    def loss(view1: Any, view2: Any) -> Any:
        q = functional.normalize(query(view1).float(), dim=1)
        with torch.no_grad():
            k = functional.normalize(key(view2).float(), dim=1)
        # Cloned, since the new keys replace columns that the backward pass needs.
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.clone()], dim=1)
        with torch.no_grad():
            columns = (at + torch.arange(len(k), device=device)) % hyper.num_negatives
            queue.index_copy_(1, columns, k.T)
            at.add_(len(k)).remainder_(hyper.num_negatives)
        first = torch.zeros(len(q), dtype=torch.long, device=device)
        return functional.cross_entropy(logits / hyper.temperature, first)

    return query, key, loss


def symmetric(ours: Experiment, size: int, device: str) -> tuple[Any, Any, Callable[..., Any]]:
    """MoCo v3: (encoder and predictor, momentum encoder, loss of two views)."""
    import torch
    from torch.nn import functional

    hyper = ours.method.hyper

    def mlp(width: int, layers: int) -> Any:
        nn, parts = torch.nn, []
        for _ in range(layers - 1):
            parts += [nn.Linear(width, hyper.hidden_dim, bias=False),
                      nn.BatchNorm1d(hyper.hidden_dim), nn.ReLU()]  # fmt: skip
            width = hyper.hidden_dim
        parts += [nn.Linear(width, hyper.output_dim, bias=False),
                  nn.BatchNorm1d(hyper.output_dim, affine=False)]  # fmt: skip
        return nn.Sequential(*parts)

    base = encoder(ours, size, lambda width: mlp(width, hyper.projector_layers))
    predictor = mlp(hyper.output_dim, hyper.predictor_layers)
    # The average has the encoder's parameters: the first ones of what is trained.
    trained = torch.nn.ModuleList([base, predictor]).to(device).train()
    average = copy.deepcopy(trained[0]).requires_grad_(False)
    if hyper.frozen:
        trained[0][0].patch_embed.requires_grad_(False)

    def contrast(q: Any, k: Any) -> Any:
        q, k = (functional.normalize(x.float(), dim=1) for x in (q, k))
        target = torch.arange(len(q), device=device)
        cross_entropy = functional.cross_entropy(q @ k.T / hyper.temperature, target)
        return 2 * hyper.temperature * cross_entropy

    def loss(view1: Any, view2: Any) -> Any:
        q1, q2 = (trained[1](trained[0](view)) for view in (view1, view2))
        with torch.no_grad():
            k1, k2 = (average(view) for view in (view1, view2))
        return contrast(q1, k2) + contrast(q2, k1)

    return trained, average, loss


if __name__ == "__main__":
    main()

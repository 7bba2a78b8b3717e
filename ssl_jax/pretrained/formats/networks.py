"""Selects the encoder in a file that holds several networks.

DINO, iBOT,    teacher and student, each a state dict with `backbone.` and the heads
DINOv2
I-JEPA         target_encoder, encoder and predictor, each a state dict
MoCo           encoder_q and encoder_k (MoCo v3: base_encoder and momentum_encoder), one state
               dict
MAE            one state dict without prefix, with or without the decoder
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np

from ssl_jax.core.errors import UserError, nearest

State = Mapping[str, np.ndarray]

# The preferred encoders of a state dict that has several, the first before the others.
_PREFERRED = ("teacher", "encoder_q", "base_encoder", "backbone", "encoder")
_ANCHORS = ("conv1.weight", "patch_embed.proj.weight")
_WRAPPERS = ("module", "backbone")  # parts of a prefix that name no network
# The trained network of a pair -> the moving average of it.
_AVERAGE_OF = {
    "student": "teacher",
    "encoder_q": "encoder_k",
    "base_encoder": "momentum_encoder",
    "encoder": "target_encoder",
}
# DINOv2's training code stores the blocks of a large net in chunks: blocks.CHUNK.BLOCK.
_CHUNK = re.compile(r"\bblocks\.\d+\.(\d+)\.")
# Buffers of losses by state dict and name -> their names in `Selected.beside`.
_CENTRES = {
    ("dino_loss", "center"): "center",
    ("ibot_loss", "center"): "center",
    ("ibot_loss", "center2"): "patch_center",
    ("ibot_patch_loss", "center"): "patch_center",
}
_MASK_TOKENS = {"masked_embed": "mask_token"}  # iBOT's name -> DINOv2's


@dataclasses.dataclass(frozen=True)
class Selected:
    """An encoder of a file.

    Attributes:
      state: its arrays by name, without the prefix.
      prefix: the prefix of its names.
      name: the name that selects it; "" if the file has no names.
      others: the names of the other encoders of the file.
      beside: the arrays of other nets that belong to it, without prefixes: its heads or decoder,
        the predictor, and "center" and "patch_center", those of the losses.
      remaining: name of every array outside of `state`, with the key of its state dict -> its name
        in `beside`, or "".
    """

    state: dict[str, np.ndarray]
    prefix: str
    name: str
    others: tuple[str, ...]
    beside: dict[str, np.ndarray]
    remaining: dict[str, str]


def file_and_network(source: str) -> tuple[str, str | None]:
    """The parts of `FILE@NETWORK`; the network is None without `@NETWORK`."""
    file, at, network = source.rpartition("@")
    if not at or os.path.exists(source) or not os.path.isfile(file):
        return source, None
    return file, network


def select(networks: Mapping[str, State], name: str | None = None) -> Selected:
    """Selects an encoder.

    Args:
      networks: the state dicts of a file by key, see `read_networks`.
      name: the key of a state dict, or the part of a prefix that names an encoder in it, such as
        "student" or "encoder_k"; None for the preferred encoder.

    Raises:
      UserError: there is no first layer of a ResNet or Vision Transformer, or none of this name.
    """
    encoders: dict[str, tuple[str, str]] = {}
    for key, state in networks.items():
        for prefix in _prefixes(state):
            parts = [part for part in prefix.split(".") if part and part not in _WRAPPERS]
            encoders.setdefault(parts[0] if parts else key, (key, prefix))
    if not encoders:
        examples = ", ".join(list(next(iter(networks.values())))[:3])
        raise UserError(
            f"these weights have no {' or '.join(_ANCHORS)}; they have names such as {examples}"
        )
    if name is not None and name not in encoders:
        known = ", ".join(encoders) if any(encoders) else "one encoder without a name"
        raise UserError(
            f"the file has no encoder {name!r}; it has {known}.{nearest(name, encoders)}"
        )
    name = next(iter(encoders)) if name is None else name
    key, prefix = encoders[name]
    state = networks[key]
    encoder = {
        _CHUNK.sub(r"blocks.\1.", n.removeprefix(prefix)): x
        for n, x in state.items()
        if n.startswith(prefix)
    }
    encoder = {_MASK_TOKENS.get(n, n): x for n, x in encoder.items()}
    root = prefix.removesuffix("backbone.")
    other_prefixes = tuple(p for k, p in encoders.values() if k == key and p not in (prefix, root))
    beside, remaining = dict(encoder) if root == prefix else {}, {}
    for other, members in networks.items():
        for n, x in members.items():
            short = ""
            if other == key and n.startswith(prefix):
                continue
            if other == key and n.startswith(root) and not n.startswith(other_prefixes):
                short = n.removeprefix(root)
            elif other == "predictor":
                short = n.removeprefix("module.")
            else:
                # A state dict of its own, or one of all modules: "dino_loss.center".
                loss, _, leaf = (n if other == key else f"{other}.{n}").rpartition(".")
                short = _CENTRES.get((loss, leaf), "")
            if short:
                beside[short] = x
            remaining[n if other == key else f"{other}.{n}"] = short
    return Selected(
        state=encoder,
        prefix=prefix,
        name=name,
        others=tuple(other for other in encoders if other != name),
        beside=beside,
        remaining=remaining,
    )


def average_of(selected: Selected) -> str | None:
    """The name of the file's moving average of the selected encoder; None if it has none."""
    average = _AVERAGE_OF.get(selected.name)
    return average if average in selected.others else None


def groups(
    remaining: Mapping[str, str], used: Collection[str], average: str | None = None
) -> list[str]:
    """The unused arrays outside of the encoder by network, such as "head (8 arrays)".

    Args:
      remaining: `Selected.remaining`.
      used: names in `Selected.beside` that are used.
      average: a network that is used.
    """
    counts: Counter[str] = Counter()
    for name, short in remaining.items():
        if short not in used and not name.endswith("num_batches_tracked"):
            counts[next(part for part in name.split(".") if part not in _WRAPPERS)] += 1
    return [f"{part} ({n} array{'s' * (n > 1)})" for part, n in counts.items() if part != average]


def _prefixes(state: State) -> list[str]:
    """The prefixes of the encoders in a state dict, the preferred one first."""
    prefixes = {
        name.removesuffix(anchor)
        for name in state
        for anchor in _ANCHORS
        if name == anchor or name.endswith("." + anchor)
    }
    # Blocks also have a conv1; only the encoder's own counts.
    prefixes = {p for p in prefixes if not re.search(r"(layer\d|stage\d|blocks)\.\d+\.$", p)}

    def rank(prefix: str) -> tuple[int, int, str]:
        parts = prefix.split(".")
        known = [i for i, name in enumerate(_PREFERRED) if name in parts]
        return (0 if not prefix else 1 + min(known, default=len(_PREFERRED)), len(prefix), prefix)

    return sorted(prefixes, key=rank)

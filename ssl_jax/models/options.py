"""Types of options shared by several nets, and a mark for options that are not architecture."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from ssl_jax.config.fields import below_one, between, positive


@dataclasses.dataclass(frozen=True)
class _Mark:
    """A mark in the annotation of an option."""


# Marks an option that affects how a net is trained or computed, but not which arrays it has. A run
# that starts from a pretrained net takes all other options from that net.
not_architecture = _Mark()

# A larger table of positions, for instance, would not fit into memory.
Count = Annotated[int, between(1, 2**20)]
# Layers are built one after the other on the host, so a huge number would never end.
MAX_LAYERS = 1_000
LayerCount = Annotated[int, between(1, MAX_LAYERS)]
AttentionOption = Annotated[
    Literal["auto", "xla", "cudnn", "splash"],
    not_architecture,
    "Implementation of attention; the result is the same. splash is for TPUs.",
]
ScanOption = Annotated[bool, not_architecture, "Compile one layer and run it depth times."]
RematOption = Annotated[
    Literal["none", "dots", "full"],
    not_architecture,
    "Recomputed in the backward pass: nothing, all but dense layers, everything.",
]
# Of transformers.
WidthOption = Annotated[Count, "Width of the tokens."]
DepthOption = Annotated[LayerCount, "Number of layers."]
HeadsOption = Annotated[Count, "Attention heads."]
MlpRatioOption = Annotated[float, positive, "Hidden width of the MLP divided by dim."]
LengthOption = Annotated[Count, "Number of positions, tokens."]
GeluOption = Annotated[Literal["gelu", "gelu_tanh"], "GELU: exact, or approximated with tanh."]
NormEpsOption = Annotated[float, positive, "Epsilon of the norms."]
DropoutOption = Annotated[float, below_one, not_architecture, "Dropout of embeddings and branches."]
AttentionDropoutOption = Annotated[
    float, below_one, not_architecture, "Dropout of attention weights; not in fused kernels."
]

"""Counts the FLOPs of matrix products, convolutions and the TPU attention kernel."""

from __future__ import annotations

import functools
import math
import re

from ssl_jax.hlo.text import Array, Computation, Instruction


def matrix_flops(instruction: Instruction, computation: Computation) -> int:
    """FLOPs of a `dot`, `convolution` or attention kernel, two per multiply-add; otherwise 0.

    A convolution counts only the multiply-adds of real values, not those of padding or of the zeros
    between dilated elements. So each backward pass of a convolution counts as much as the forward
    pass. The TPU compiler writes batched matrix products as dilated convolutions; they count as
    much as the product.
    """
    if instruction.opcode == "dot":
        lhs = computation.operand(instruction, 0).shape
        contracted = instruction.integers("lhs_contracting_dims")
        return 2 * instruction.shape.size * math.prod(lhs.dims[axis] for axis in contracted)
    if instruction.opcode == "convolution":
        lhs = computation.operand(instruction, 0).shape
        rhs = computation.operand(instruction, 1).shape
        return _convolution_flops(instruction, lhs, rhs)
    if instruction.opcode == "custom-call" and "tpu_custom_call" in instruction.attributes:
        return _attention_flops(instruction, computation)
    return 0


def _attention_flops(instruction: Instruction, computation: Computation) -> int:
    """JAX's "splash" attention over all pairs of tokens: two products forwards, five backwards."""
    products = {"splash_mha_fwd": 2, "splash_mha_dkv": 5}
    count = next((n for name, n in products.items() if instruction.name.startswith(name)), 0)
    shapes = [computation.instructions[name].shape for name in instruction.operands]
    heads = [shape.dims for shape in shapes if isinstance(shape, Array) and len(shape.dims) == 4]
    if not count or len(heads) < 2:
        return 0
    queries, keys = heads[:2]  # (n, heads, t, d), (n, heads, s, d)
    return count * 2 * math.prod(queries) * keys[2]


def _convolution_flops(instruction: Instruction, lhs: Array, rhs: Array) -> int:
    """Two x output features x examples x input features of a group x valid positions."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    lhs_labels, rhs_labels, out_labels = labels.groups()
    window = _window(instruction, len([label for label in lhs_labels if label.isdigit()]))
    (batch_groups,) = instruction.integers("batch_group_count") or (1,)
    pairs = 1
    for label in sorted(label for label in lhs_labels if label.isdigit()):
        axis = int(label)
        pairs *= valid_pairs(
            lhs.dims[lhs_labels.index(label)],
            instruction.shape.dims[out_labels.index(label)],
            *window[axis],
        )
    examples = lhs.dims[lhs_labels.index("b")] // batch_groups
    # The kernel's input features are those of one feature group.
    inputs = rhs.dims[rhs_labels.index("i")]
    outputs = rhs.dims[rhs_labels.index("o")]
    return 2 * examples * inputs * outputs * pairs


def _window(instruction: Instruction, rank: int) -> list[tuple[int, int, int, int, int]]:
    """(size, stride, low padding, input dilation, kernel dilation) of each dimension."""
    match = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    fields = dict(part.split("=") for part in match[1].split()) if match else {}

    def values(name: str, default: str) -> list[str]:
        return fields[name].split("x") if name in fields else [default] * rank

    return [
        (int(size), int(stride), int(pad.split("_")[0]), int(lhs_dilation), int(rhs_dilation))
        for size, stride, pad, lhs_dilation, rhs_dilation in zip(
            values("size", "1"),
            values("stride", "1"),
            values("pad", "0_0"),
            values("lhs_dilate", "1"),
            values("rhs_dilate", "1"),
            strict=True,
        )
    ]


@functools.lru_cache(maxsize=4096)
def valid_pairs(
    inputs: int, outputs: int, size: int, stride: int, low: int, lhs_dilation: int, dilation: int
) -> int:
    """Number of (output, kernel) position pairs of one dimension that read an input element."""
    last = (inputs - 1) * lhs_dilation
    common = math.gcd(stride, lhs_dilation)
    period = lhs_dilation // common
    count = 0
    for offset in range(-low, size * dilation - low, dilation):
        # Outputs o with 0 <= o * stride + offset <= last, where it is a multiple of lhs_dilation.
        if offset % common:
            continue
        first = max(0, -(offset // stride))
        final = min(outputs - 1, (last - offset) // stride)
        residue = -offset // common * pow(stride // common, -1, period) % period
        first += (residue - first) % period
        count += max(0, (final - first) // period + 1)
    return count

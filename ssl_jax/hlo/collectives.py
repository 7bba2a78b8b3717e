"""Reads the collectives of a compiled program and the bytes that they send."""

from __future__ import annotations

import dataclasses
import math
import re

from ssl_jax.hlo.text import Instruction, Module, leaves

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective operation of a program, with the figures of one device.

    Attributes:
      kind: one of `KINDS`, e.g. "all-gather".
      bytes: size of the array in one execution: the result of an all-gather, the operand of all
        other kinds.
      wire_bytes: bytes that each device sends in one run of the program, over all executions. With
        D devices in a group, one execution sends (D-1)/D of `bytes` for all-gather, reduce-scatter
        and all-to-all, twice that for all-reduce, and `bytes` for collective-permute.
      group: number D of devices that communicate with each other.
      trips: executions in one run of the program.
      in_loop: whether it is in the body of a loop.
      op_name: JAX's name of the operation, e.g. "jit(train_step)/jvp()/all_gather".
      source: the line of Python that created it; empty if unknown.
    """

    kind: str
    bytes: int
    wire_bytes: int
    group: int
    trips: int = 1
    in_loop: bool = False
    op_name: str = ""
    source: str = ""

    def repeated(self, trips: int) -> Collective:
        """This collective in a loop of `trips` iterations."""
        return dataclasses.replace(
            self, trips=self.trips * trips, wire_bytes=self.wire_bytes * trips, in_loop=True
        )


def kind_of(instruction: Instruction) -> str | None:
    """The kind of collective that an instruction executes or starts; None for all others."""
    kind = instruction.opcode.removesuffix("-start")
    return kind if kind in KINDS else None


def read_collective(instruction: Instruction, module: Module, operand_bytes: int) -> Collective:
    """The collective of an instruction, executed once.

    Args:
      instruction: a collective, see `kind_of`.
      module: the program.
      operand_bytes: bytes of its operands.
    """
    kind = kind_of(instruction)
    if kind == "collective-permute":
        group = len(set(re.findall(r"\d+", _braced(instruction, "source_target_pairs")))) or 1
        return _collective(kind, operand_bytes, operand_bytes, group, instruction, module)
    group = group_size(instruction, module)
    size = operand_bytes
    if kind == "all-gather":
        # The result of an asynchronous all-gather is (operands, results).
        size = max(sum(array.nbytes for array in leaves(instruction.shape)), 0)
        if instruction.opcode.endswith("-start"):
            size -= operand_bytes
    share = (group - 1) / group * (2 if kind == "all-reduce" else 1)
    return _collective(kind, size, round(size * share), group, instruction, module)


def _collective(
    kind: str, size: int, wire: int, group: int, instruction: Instruction, module: Module
) -> Collective:
    return Collective(
        kind=kind,
        bytes=size,
        wire_bytes=wire,
        group=group,
        op_name=instruction.op_name,
        source=module.source(instruction),
    )


def group_size(instruction: Instruction, module: Module) -> int:
    """The number of devices in a group.

    HLO has three notations: `{{0,1},{2,3}}` lists the groups; `[2,4]<=[8]` is two groups of four;
    `mesh['a'=2,'b'=4] {'b'}` gives the axes that are grouped, where `'b':(1)2` is a part of size 2
    of an axis.
    """
    text = instruction.attributes
    mesh = re.search(r"replica_groups=[^\[\s{]*\[([^\]]*)\]\s*\{([^}]*)\}", text)
    if mesh:
        sizes = dict(re.findall(r"['\"]?([\w.]+)['\"]?=(\d+)", mesh[1]))
        axes = re.findall(r"['\"]?([\w.]+)['\"]?(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes.get(axis, 1)) for axis, part in axes)
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=", text)
    if iota:
        return int(iota[1].split(",")[-1])
    groups = re.findall(r"\{([\d,\s]+)\}", _braced(instruction, "replica_groups"))
    if groups:
        return max(len(group.split(",")) for group in groups)
    return module.devices  # {}: all devices


def _braced(instruction: Instruction, name: str) -> str:
    """The value of an attribute in braces, which may be nested."""
    match = re.search(rf"\b{name}=(\{{(?:[^{{}}]|\{{[^{{}}]*\}})*\}})", instruction.attributes)
    return match[1] if match else ""

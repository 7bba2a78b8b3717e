"""Summarises a compiled program: memory, FLOPs, memory traffic and communication of one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from ssl_jax.hlo.collectives import Collective, kind_of, read_collective
from ssl_jax.hlo.flops import matrix_flops
from ssl_jax.hlo.live import Temporary, temporaries
from ssl_jax.hlo.loops import Loop, trip_count
from ssl_jax.hlo.text import Computation, Instruction, Module, leaves, parse
from ssl_jax.hlo.traffic import continues_collective, memory_bytes


@dataclasses.dataclass(frozen=True)
class Program:
    """Figures of a compiled program, for one device. The body of a loop counts once per iteration.

    Attributes:
      peak_bytes: peak memory, including arguments and results. A donated argument and the result
        that reuses its memory count once.
      argument_bytes: size of the arguments.
      output_bytes: size of the results.
      alias_bytes: size of the results that reuse the memory of arguments.
      temp_bytes: size of all other arrays, which are not all alive at the same time.
      code_bytes: size of the program.
      flops: FLOPs of matrix products and convolutions, two per multiply-add, see `matrix_flops`.
        Element-wise operations, library calls (GPUs) and the inside of kernels are not counted.
      bytes_accessed: bytes read from and written to HBM (on a CPU, main memory), see
        `memory_bytes`.
      collectives: the collectives that are executed, in the order of the program.
      temporaries: the largest arrays that are alive at the peak and are not arguments.
      unknown_loops: number of loops with an unknown number of iterations; they count once.
    """

    peak_bytes: int
    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temp_bytes: int
    code_bytes: int
    flops: int
    bytes_accessed: int
    collectives: list[Collective]
    temporaries: list[Temporary]
    unknown_loops: int

    @property
    def wire_bytes(self) -> int:
        """Bytes that a device sends to other devices in one run."""
        return sum(collective.wire_bytes for collective in self.collectives)


def read(compiled: Any) -> Program:
    """Reads a compiled program.

        program = hlo.read(jax.jit(f).lower(x).compile())
        assert program.flops <= 1.05 * 2 * n * n * d
        assert not any(c.kind == "all-gather" and c.in_loop for c in program.collectives)

    Args:
      compiled: a `jax.stages.Compiled` for TPUs (present or not), CPUs or GPUs. The FLOPs of
        library calls on GPUs are missing. FLOPs and bytes are read from its text, because
        `cost_analysis()` counts the body of a loop once.
    """
    module = parse(compiled.as_text())
    memory = compiled.memory_analysis()
    total = _Reader(module).cost(module.computations[module.entry], None)
    return Program(
        peak_bytes=peak_bytes(compiled),
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        alias_bytes=memory.alias_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        flops=total.flops,
        bytes_accessed=total.bytes,
        collectives=total.collectives,
        temporaries=temporaries(module),
        unknown_loops=total.unknown_loops,
    )


def peak_bytes(compiled: Any) -> int:
    """Peak memory of a `jax.stages.Compiled` on a device, including arguments and results."""
    memory = compiled.memory_analysis()
    shardings = jax.tree.leaves((compiled.input_shardings, compiled.output_shardings))
    if any(device.platform == "cpu" for device in shardings[0].device_set):
        # JAX's figure for CPUs omits the temporaries, which are one block.
        argument_and_output_bytes = memory.argument_size_in_bytes + memory.output_size_in_bytes
        return argument_and_output_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    return memory.peak_memory_in_bytes


@dataclasses.dataclass
class _Cost:
    """FLOPs, memory traffic and collectives of one execution of a part of a program."""

    flops: int = 0
    bytes: int = 0
    collectives: list[Collective] = dataclasses.field(default_factory=list)
    unknown_loops: int = 0

    def add(self, other: _Cost, trips: int | None = None) -> None:
        """Adds another cost: in a loop of `trips` iterations, or outside of loops with None."""
        times = 1 if trips is None else trips
        self.flops += other.flops * times
        self.bytes += other.bytes * times
        self.unknown_loops += other.unknown_loops
        if trips is None:
            self.collectives += other.collectives
        elif trips:
            self.collectives += [collective.repeated(trips) for collective in other.collectives]


class _Reader:
    """Computes the costs of the computations of a program."""

    def __init__(self, module: Module):
        self._module = module

    def cost(self, computation: Computation, loop: Loop | None) -> _Cost:
        """The cost of a computation that is not a fusion.

        Args:
          computation: the computation.
          loop: the loop whose body it is; None if it is not a body.
        """
        total = _Cost()
        for instruction in computation.instructions.values():
            total.add(self._instruction(instruction, computation, loop))
        return total

    def _instruction(
        self, instruction: Instruction, computation: Computation, loop: Loop | None
    ) -> _Cost:
        if instruction.opcode == "while":
            return self._loop(Loop(instruction, computation, loop))
        if instruction.opcode == "conditional":
            names = instruction.called(
                "branch_computations", "true_computation", "false_computation"
            )
            branches = [self.cost(self._module.computations[name], None) for name in names]
            return max(branches, key=lambda cost: (cost.flops, cost.bytes))
        if instruction.opcode in ("call", "call-start", "async-start"):
            total = _Cost()
            for name in instruction.called("to_apply", "calls"):
                total.add(self.cost(self._module.computations[name], None))
            return total
        cost = _Cost(
            flops=matrix_flops(instruction, computation),
            bytes=memory_bytes(instruction, computation, self._module),
        )
        if instruction.opcode == "fusion":
            for fused in self._fused(instruction):
                flops = (matrix_flops(member, fused) for member in fused.instructions.values())
                cost.flops += sum(flops)
                cost.collectives += self._collectives(fused)
        elif kind_of(instruction):
            cost.collectives.append(self._collective(instruction, computation))
        return cost

    def _loop(self, loop: Loop) -> _Cost:
        total = _Cost()
        trips = trip_count(loop, self._module)
        if trips is None:
            total.unknown_loops = 1
        body = self._module.computations[loop.instruction.called("body")[0]]
        total.add(self.cost(body, loop), 1 if trips is None else trips)
        return total

    def _fused(self, fusion: Instruction) -> Iterator[Computation]:
        """The computation of a fusion and those of the fusions inside it."""
        for name in fusion.called("calls"):
            computation = self._module.computations[name]
            yield computation
            for inner in computation.instructions.values():
                if inner.opcode == "fusion":
                    yield from self._fused(inner)

    def _collectives(self, fused: Computation) -> list[Collective]:
        """The collectives of a fused computation, except those that another one started."""
        if continues_collective(fused):
            return []
        return [
            self._collective(instruction, fused)
            for instruction in fused.instructions.values()
            if kind_of(instruction)
        ]

    def _collective(self, instruction: Instruction, computation: Computation) -> Collective:
        operands = [computation.instructions[name].shape for name in instruction.operands]
        size = sum(array.nbytes for shape in operands for array in leaves(shape))
        collective = read_collective(instruction, self._module, size)
        if collective.kind == "all-reduce" and _is_sliced(instruction, computation):
            # The TPU compiler writes a reduce-scatter as a fused all-reduce and slice.
            collective = dataclasses.replace(
                collective, kind="reduce-scatter", wire_bytes=collective.wire_bytes // 2
            )
        return collective


def _is_sliced(instruction: Instruction, computation: Computation) -> bool:
    """Whether a fused all-reduce uses only a slice of its result."""
    if not computation.name.startswith("all-reduce-scatter"):
        return False
    users = [*computation.users[instruction.name]]
    for user in users:
        if user.opcode in ("get-tuple-element", "bitcast"):
            users += computation.users[user.name]
    return any(user.opcode == "dynamic-slice" for user in users)

"""Summarises one run of a compiled program: arithmetic, memory traffic and communication."""

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
    """A compiled program, as one of its devices sees it; bodies of loops count each of their trips.

    Attributes:
      peak_bytes: memory that it needs at its fullest moment, arguments and results included; a
        donated argument and the result in its place count once.
      argument_bytes, output_bytes, alias_bytes, temp_bytes: of the arguments, of the results, of
        the results that take an argument's place, of all else together (not all at once).
      code_bytes: of the program itself.
      flops: of matrix products and convolutions, two for each multiply-add, see `matrix_flops`.
        Element-wise work is not counted, nor is what library calls (GPUs) or kernels hold inside.
      bytes_accessed: read from and written to HBM, see `memory_bytes`; on a CPU, to memory.
      collectives: those executed, in the program's order.
      temporaries: the largest arrays that are alive at the fullest moment and are not arguments.
      unknown_loops: loops of which nothing says how often they run; they count as one trip.
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
        """Bytes that a device sends to others in one run."""
        return sum(collective.wire_bytes for collective in self.collectives)


def read(compiled: Any) -> Program:
    """Reads a compiled program.

        program = compiled.read(jax.jit(f).lower(x).compile())
        assert program.flops <= 1.05 * 2 * n * n * d
        assert not any(c.kind == "all-gather" and c.in_loop for c in program.collectives)

    Args:
      compiled: a `jax.stages.Compiled`, for TPUs (that need not be there) or CPUs; on GPUs without
        the FLOPs inside library calls. FLOPs and bytes are read from its text, not from
        `cost_analysis()`, which counts the body of a loop once.
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
    """Memory that a `jax.stages.Compiled` needs on a device, arguments and results included."""
    memory = compiled.memory_analysis()
    shardings = jax.tree.leaves((compiled.input_shardings, compiled.output_shardings))
    if any(device.platform == "cpu" for device in shardings[0].device_set):
        # There JAX's figure leaves out the temporaries, which are one block.
        held = memory.argument_size_in_bytes + memory.output_size_in_bytes
        return held - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    return memory.peak_memory_in_bytes


@dataclasses.dataclass
class _Cost:
    """Of one execution of something."""

    flops: int = 0
    bytes: int = 0
    collectives: list[Collective] = dataclasses.field(default_factory=list)
    unknown_loops: int = 0

    def add(self, other: _Cost, trips: int | None = None) -> None:
        """Adds another's, executed `trips` times by a loop, or once with None."""
        times = 1 if trips is None else trips
        self.flops += other.flops * times
        self.bytes += other.bytes * times
        self.unknown_loops += other.unknown_loops
        if trips is None:
            self.collectives += other.collectives
        elif trips:
            self.collectives += [one.repeated(trips) for one in other.collectives]


class _Reader:
    def __init__(self, module: Module):
        self._module = module

    def cost(self, computation: Computation, loop: Loop | None) -> _Cost:
        """Of one execution of a computation outside fusions; `loop` is whose body it is."""
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
            return max(branches, key=lambda cost: (cost.flops, cost.bytes))  # the dearest
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
            for inner in self._fused(instruction):
                cost.flops += sum(matrix_flops(one, inner) for one in inner.instructions.values())
                cost.collectives += self._collectives(inner)
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
        """The computation of a fusion and those of fusions in it."""
        for name in fusion.called("calls"):
            computation = self._module.computations[name]
            yield computation
            for inner in computation.instructions.values():
                if inner.opcode == "fusion":
                    yield from self._fused(inner)

    def _collectives(self, fused: Computation) -> list[Collective]:
        """Those that a fused computation executes, without those that another one has started."""
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
        found = read_collective(instruction, self._module, size)
        if found.kind == "all-reduce" and _is_sliced(instruction, computation):
            # How the compiler for TPUs writes a reduce-scatter, inside a fusion.
            found = dataclasses.replace(
                found, kind="reduce-scatter", wire_bytes=found.wire_bytes // 2
            )
        return found


def _is_sliced(instruction: Instruction, computation: Computation) -> bool:
    """Whether a fused all-reduce keeps only a part of its result."""
    if not computation.name.startswith("all-reduce-scatter"):
        return False
    users = [*computation.users[instruction.name]]
    for user in users:
        if user.opcode in ("get-tuple-element", "bitcast"):
            users += computation.users[user.name]
    return any(user.opcode == "dynamic-slice" for user in users)

"""Finds the arrays that are alive at the peak of a program's memory."""

from __future__ import annotations

import dataclasses
import functools
import re

from ssl_jax.hlo.text import HBM, Array, Computation, Instruction, Module, Shape, leaves


@dataclasses.dataclass(frozen=True)
class Temporary:
    """An array in a device's memory that is not an argument of the program.

    Attributes:
      shape: dtype and shape, e.g. "bf16[256,112,112,64]".
      bytes: size, including the padding of its layout.
      op_name: JAX's name of the operation that creates it; empty if unknown.
      source: the line of Python that creates it; empty if unknown.
    """

    shape: str
    bytes: int
    op_name: str
    source: str


def temporaries(module: Module, count: int = 10) -> list[Temporary]:
    """The largest arrays that are alive at the memory peak and are not arguments, largest first.

    The text does not contain the memory assignment of the compiler, so the lifetimes are derived
    from the order of execution: an array lives from the instruction that creates it to the last one
    that uses it. Updates, loops and donated arguments reuse the memory of their operands. The peak
    is therefore approximate, and the sum of the arrays is not `peak_bytes`.

    Args:
      module: the program.
      count: the maximum number of arrays.
    """
    _, alive = _Lifetimes(module).peak(module.entry)
    largest = sorted(alive, key=lambda buffer: -buffer.bytes)[:count]
    return [
        Temporary(
            str(buffer.array),
            buffer.bytes,
            *_origin(buffer.instruction, buffer.computation, module),
        )
        for buffer in largest
    ]


def _origin(
    instruction: Instruction, computation: Computation, module: Module, depth: int = 4
) -> tuple[str, str]:
    """(op_name, source) of an instruction; without them, those of its operands or users."""
    if instruction.op_name or not depth:
        return instruction.op_name, module.source(instruction)
    operands = [computation.instructions[name] for name in instruction.operands]
    for neighbour in (*operands, *computation.users[instruction.name]):
        op_name, source = _origin(neighbour, computation, module, depth - 1)
        if op_name:
            return op_name, source
    return "", ""


@dataclasses.dataclass(eq=False)
class _Buffer:
    """Memory of an array that an instruction creates; compared by identity.

    Attributes:
      array: dtype, shape and layout.
      instruction, computation: the instruction that creates it, and where that is.
      bytes: size; 0 if it uses memory that is counted elsewhere.
      last_use: index of the last instruction that uses it.
    """

    array: Array
    instruction: Instruction
    computation: Computation
    bytes: int
    last_use: int = 0


# The buffers of a result, one for each array in it; None for arrays outside HBM.
_Value = list[_Buffer | None]
# The bytes at a memory peak, and the buffers that are alive at it.
_Peak = tuple[int, tuple[_Buffer, ...]]


class _Lifetimes:
    """Finds the memory peaks of the computations of a program."""

    def __init__(self, module: Module):
        self._module = module

    @functools.cache  # noqa: B019 - an instance lives as long as one call of `temporaries`
    def peak(self, name: str) -> _Peak:
        """The memory peak of a computation, without its parameters."""
        computation = self._module.computations[name]
        values: dict[str, _Value] = {}
        created: list[list[_Buffer]] = []  # by each instruction
        inner_peaks: list[_Peak] = []  # of the computations that each instruction runs
        for time, instruction in enumerate(computation.instructions.values()):
            operand_ids: set[int] = set()
            for operand in instruction.operands:
                for buffer in values[operand]:
                    if buffer is not None:
                        buffer.last_use = time
                        operand_ids.add(id(buffer))
            values[instruction.name] = value = self._value(instruction, computation, values)
            new = [buffer for buffer in value if buffer is not None]
            new = [buffer for buffer in new if id(buffer) not in operand_ids]
            for buffer in new:
                buffer.last_use = time
            created.append(new)
            inner_peaks.append(self._inner_peak(instruction))
        for buffer in self._in_place(name, values[computation.root]):
            buffer.bytes = 0
        for buffer in values[computation.root]:
            if buffer is not None:
                buffer.last_use = len(created)
        return self._peak_of(created, inner_peaks)

    def _peak_of(self, created: list[list[_Buffer]], inner_peaks: list[_Peak]) -> _Peak:
        """The peak of a sequence of instructions.

        Args:
          created: the buffers that each instruction creates, with their last use.
          inner_peaks: the peak of the computations that each instruction runs.
        """
        last_used: dict[int, list[_Buffer]] = {}  # time -> buffers whose last use it is
        alive: dict[int, _Buffer] = {}
        current_bytes = peak_bytes = peak_time = 0
        for time, buffers in enumerate(created):
            for buffer in buffers:
                current_bytes += buffer.bytes
                last_used.setdefault(buffer.last_use, []).append(buffer)
            if current_bytes + inner_peaks[time][0] > peak_bytes:
                peak_bytes, peak_time = current_bytes + inner_peaks[time][0], time
            current_bytes -= sum(buffer.bytes for buffer in last_used.get(time, ()))
        for buffers in created[: peak_time + 1]:
            alive |= {id(b): b for b in buffers if b.last_use >= peak_time and b.bytes}
        return peak_bytes, (*alive.values(), *(inner_peaks[peak_time][1] if created else ()))

    def _inner_peak(self, instruction: Instruction) -> _Peak:
        """The largest peak of the computations that an instruction runs."""
        if instruction.opcode not in ("while", "call", "call-start", "conditional", "async-start"):
            return 0, ()
        names = instruction.called(
            "body", "to_apply", "calls", "branch_computations", "true_computation",
            "false_computation",
        )  # fmt: skip
        return max((self.peak(name) for name in names), key=lambda peak: peak[0], default=(0, ()))

    def _in_place(self, name: str, root: _Value) -> list[_Buffer]:
        """The buffers of a computation's result that use the memory of its arguments."""
        if name != self._module.entry:  # the caller counts the result
            return [buffer for buffer in root if buffer is not None]
        aliases = re.search(r"input_output_alias=\{(.*?)\}, entry", self._module.header)
        indices = re.findall(r"\{(\d*)\}: \(", aliases[1]) if aliases else []
        return [root[int(index or 0)] for index in indices if root[int(index or 0)] is not None]

    def _value(
        self, instruction: Instruction, computation: Computation, values: dict[str, _Value]
    ) -> _Value:
        """The buffers of an instruction's result: new buffers, or those of its operands."""
        opcode = instruction.opcode

        def operand(number: int) -> _Value:
            return values[instruction.operands[number]]

        def new_buffers(shape: Shape) -> _Value:
            return [
                _Buffer(array, instruction, computation, array.padded_bytes)
                if array.space == HBM and array.bits
                else None
                for array in leaves(shape)
            ]

        if opcode == "parameter":
            return [None] * len(list(leaves(instruction.shape)))
        if opcode == "tuple":
            return [buffer for name in instruction.operands for buffer in values[name]]
        if opcode == "get-tuple-element":
            shape = computation.operand(instruction, 0).shape
            (index,) = instruction.integers("index")
            return operand(0)[_span(shape, index)]
        if opcode in ("bitcast", "optimization-barrier", "while"):
            return operand(0)
        if opcode in ("dynamic-update-slice", "scatter") and isinstance(instruction.shape, Array):
            return operand(0)
        if opcode.endswith("-done"):
            return _result_of_done(computation.operand(instruction, 0), operand(0), instruction)
        value = new_buffers(instruction.shape)
        if opcode == "fusion":
            called = self._module.computations[instruction.called("calls")[0]]
            parameters = self._reused_parameters(called, called.root, instruction.shape)
            for index, parameter in enumerate(parameters):
                if parameter is not None and len(operand(parameter)) == 1:
                    value[index] = operand(parameter)[0]
        elif opcode == "copy-start" or (opcode.endswith("-start") and len(value) > 1):
            # The result contains the operands too; only the arrays for the -done are new.
            new = _result_span(instruction)
            value = [b if new.start <= i < new.stop else None for i, b in enumerate(value)]
        return value

    def _reused_parameters(self, called: Computation, name: str, shape: Shape) -> list[int | None]:
        """For each array of a fusion's result, the parameter whose memory it reuses, or None.

        Args:
          called: the computation of the fusion.
          name: the instruction in it that gives the result.
          shape: the shape of the result.
        """
        instruction = called.instructions[name]
        if instruction.opcode == "tuple":
            return [
                number
                for operand in instruction.operands
                for number in self._reused_parameters(
                    called, operand, called.instructions[operand].shape
                )
            ]
        no_parameters = [None] * len(list(leaves(shape)))
        if instruction.opcode == "parameter" and len(no_parameters) == 1:
            return [int(instruction.arguments)]
        if instruction.opcode in ("bitcast", "dynamic-update-slice", "scatter"):
            return self._reused_parameters(called, instruction.operands[0], shape)
        if instruction.opcode == "fusion":
            inner = self._module.computations[instruction.called("calls")[0]]
            inner_parameters = self._reused_parameters(inner, inner.root, shape)
            operands = [called.instructions[operand] for operand in instruction.operands]
            return [
                int(operands[number].arguments)
                if number is not None and operands[number].opcode == "parameter"
                else None
                for number in inner_parameters
            ]
        return no_parameters


def _span(shape: Shape, index: int) -> slice:
    """The positions of the arrays of element `index` among all arrays of a tuple."""
    before = sum(len(list(leaves(part))) for part in shape[:index])
    return slice(before, before + len(list(leaves(shape[index]))))


def _result_span(start: Instruction) -> slice:
    """The positions of the results among the arrays that an asynchronous start returns."""
    if start.opcode == "copy-start":
        return slice(0, 1)
    if start.opcode == "all-reduce-start" or isinstance(start.shape, Array):
        return slice(0, len(list(leaves(start.shape))))
    return _span(start.shape, 1)


def _result_of_done(start: Instruction, start_value: _Value, done: Instruction) -> _Value:
    """The buffers of an asynchronous instruction's result, after its done."""
    result = start_value[_result_span(start)]
    expected = len(list(leaves(done.shape)))
    return result if len(result) == expected else [None] * expected

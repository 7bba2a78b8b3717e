"""Finds the arrays that are alive when a program needs the most memory."""

from __future__ import annotations

import dataclasses
import functools
import re

from ssl_jax.hlo.text import HBM, Array, Computation, Instruction, Module, Shape, leaves


@dataclasses.dataclass(frozen=True)
class Temporary:
    """An array that a program keeps in a device's memory.

    Attributes:
      shape: its type, e.g. "bf16[256,112,112,64]".
      bytes: with the padding of its layout.
      op_name: what JAX called what made it; empty if not known.
      source: the line of Python that made it; empty if not known.
    """

    shape: str
    bytes: int
    op_name: str
    source: str


def temporaries(module: Module, count: int = 10) -> list[Temporary]:
    """The largest arrays alive at the fullest moment that are no arguments, largest first.

    The text does not say where the compiler puts arrays. This follows the order of execution, in
    which an array lives from the instruction that makes it to the last that takes it, and updates,
    loops and donated arguments reuse their operand's memory. The moment is therefore approximate,
    and the arrays' sum is not `peak_bytes`.
    """
    _, alive = _Lifetimes(module).peak(module.entry)
    largest = sorted(alive, key=lambda one: -one.bytes)[:count]
    return [
        Temporary(str(one.array), one.bytes, *_origin(one.instruction, one.computation, module))
        for one in largest
    ]


def _origin(
    instruction: Instruction, computation: Computation, module: Module, depth: int = 4
) -> tuple[str, str]:
    """(op_name, source) of an instruction; where it has none, of its operands or its users."""
    if instruction.op_name or not depth:
        return instruction.op_name, module.source(instruction)
    operands = [computation.instructions[name] for name in instruction.operands]
    for other in (*operands, *computation.users[instruction.name]):
        found = _origin(other, computation, module, depth - 1)
        if found[0]:
            return found
    return "", ""


@dataclasses.dataclass(eq=False)
class _Buffer:
    """Memory that an instruction's result takes, compared by identity."""

    array: Array
    instruction: Instruction
    computation: Computation
    bytes: int
    last: int = 0


# One element for each array of a result; None for what is not in HBM.
_Value = list[_Buffer | None]


class _Lifetimes:
    def __init__(self, module: Module):
        self._module = module

    @functools.cache  # noqa: B019 - an instance lives as long as one call of `temporaries`
    def peak(self, name: str) -> tuple[int, tuple[_Buffer, ...]]:
        """(bytes, buffers) alive at the fullest moment of a computation, its parameters aside."""
        computation = self._module.computations[name]
        values: dict[str, _Value] = {}
        made: list[list[_Buffer]] = []
        inner: list[tuple[int, tuple[_Buffer, ...]]] = []
        for time, instruction in enumerate(computation.instructions.values()):
            known: set[int] = set()
            for operand in instruction.operands:
                for buffer in values[operand]:
                    if buffer is not None:
                        buffer.last = time
                        known.add(id(buffer))
            values[instruction.name] = value = self._value(instruction, computation, values)
            fresh = [b for b in value if b is not None and id(b) not in known]
            for buffer in fresh:
                buffer.last = time
            made.append(fresh)
            inner.append(self._inside(instruction))
        for buffer in self._in_place(name, values[computation.root]):
            buffer.bytes = 0
        for buffer in values[computation.root]:
            if buffer is not None:
                buffer.last = len(made)
        return self._fullest(made, inner)

    def _fullest(self, made, inner) -> tuple[int, tuple[_Buffer, ...]]:
        ending: dict[int, list[_Buffer]] = {}
        alive: dict[int, _Buffer] = {}
        now = best = moment = 0
        for time, buffers in enumerate(made):
            for buffer in buffers:
                now += buffer.bytes
                ending.setdefault(buffer.last, []).append(buffer)
            if now + inner[time][0] > best:
                best, moment = now + inner[time][0], time
            now -= sum(buffer.bytes for buffer in ending.get(time, ()))
        for buffers in made[: moment + 1]:
            alive |= {id(b): b for b in buffers if b.last >= moment and b.bytes}
        return best, (*alive.values(), *(inner[moment][1] if made else ()))

    def _inside(self, instruction: Instruction) -> tuple[int, tuple[_Buffer, ...]]:
        """The fullest moment inside the computations that an instruction runs."""
        if instruction.opcode not in ("while", "call", "call-start", "conditional", "async-start"):
            return 0, ()
        names = instruction.called(
            "body", "to_apply", "calls", "branch_computations", "true_computation",
            "false_computation",
        )  # fmt: skip
        return max((self.peak(name) for name in names), key=lambda found: found[0], default=(0, ()))

    def _in_place(self, name: str, root: _Value) -> list[_Buffer]:
        """The buffers of a result that take an argument's place."""
        if name != self._module.entry:
            return [buffer for buffer in root if buffer is not None]  # the caller's
        aliases = re.search(r"input_output_alias=\{(.*?)\}, entry", self._module.header)
        places = re.findall(r"\{(\d*)\}: \(", aliases[1]) if aliases else []
        return [root[int(place or 0)] for place in places if root[int(place or 0)] is not None]

    def _value(
        self, instruction: Instruction, computation: Computation, values: dict[str, _Value]
    ) -> _Value:
        """The buffers of an instruction's result: its operands' or new ones."""
        opcode = instruction.opcode

        def operand(number: int) -> _Value:
            return values[instruction.operands[number]]

        def fresh(shape: Shape) -> _Value:
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
            return _done(computation.operand(instruction, 0), operand(0), instruction)
        value = fresh(instruction.shape)
        if opcode == "fusion":
            called = self._module.computations[instruction.called("calls")[0]]
            for place, parameter in enumerate(self._shared(called, called.root, instruction.shape)):
                if parameter is not None and len(operand(parameter)) == 1:
                    value[place] = operand(parameter)[0]
        elif opcode == "copy-start" or (opcode.endswith("-start") and len(value) > 1):
            # The operands stand in the result too: new are the arrays that a -done takes from it.
            new = _results(instruction)
            value = [b if new.start <= i < new.stop else None for i, b in enumerate(value)]
        return value

    def _shared(self, called: Computation, name: str, shape: Shape) -> list[int | None]:
        """For each array of a fusion's result, the parameter whose memory it takes, or None."""
        instruction = called.instructions[name]
        if instruction.opcode == "tuple":
            return [
                number
                for operand in instruction.operands
                for number in self._shared(called, operand, called.instructions[operand].shape)
            ]
        unknown = [None] * len(list(leaves(shape)))
        if instruction.opcode == "parameter" and len(unknown) == 1:
            return [int(instruction.arguments)]
        if instruction.opcode in ("bitcast", "dynamic-update-slice", "scatter"):
            return self._shared(called, instruction.operands[0], shape)
        if instruction.opcode == "fusion":
            inner = self._module.computations[instruction.called("calls")[0]]
            taken = self._shared(inner, inner.root, shape)
            outer = [called.instructions[operand] for operand in instruction.operands]
            return [
                int(outer[number].arguments)
                if number is not None and outer[number].opcode == "parameter"
                else None
                for number in taken
            ]
        return unknown


def _span(shape: Shape, index: int) -> slice:
    """Where the arrays of element `index` of a tuple stand among those of the tuple."""
    before = sum(len(list(leaves(part))) for part in shape[:index])
    return slice(before, before + len(list(leaves(shape[index]))))


def _results(start: Instruction) -> slice:
    """Where the results of an asynchronous instruction stand in what its start returns."""
    if start.opcode == "copy-start":
        return slice(0, 1)
    if start.opcode == "all-reduce-start" or isinstance(start.shape, Array):
        return slice(0, len(list(leaves(start.shape))))
    return _span(start.shape, 1)


def _done(start: Instruction, value: _Value, done: Instruction) -> _Value:
    found = value[_results(start)]
    expected = len(list(leaves(done.shape)))
    return found if len(found) == expected else [None] * expected

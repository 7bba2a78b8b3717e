"""Finds the number of iterations of a loop in a compiled program."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

from ssl_jax.hlo.text import Computation, Instruction, Module

# Instructions that return their operand, if it is a scalar.
_IDENTITIES = ("bitcast", "broadcast", "convert", "copy", "copy-done", "copy-start",
         "optimization-barrier", "reshape")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Loop:
    """A `while` instruction and its position in the program.

    Attributes:
      instruction: the loop.
      computation: the computation that contains it.
      outer: the loop whose body `computation` is; None if it is not a body.
    """

    instruction: Instruction
    computation: Computation
    outer: Loop | None = None


def trip_count(loop: Loop, module: Module) -> int | None:
    """The number of iterations of a loop; None if it depends on data.

    The compiler annotates it on CPUs and GPUs. Without an annotation it can be derived if the loop
    compares a constant with an integer that its body changes by a constant.
    """
    known = re.search(r'"known_trip_count":\{"n":"?(\d+)"?\}', loop.instruction.attributes)
    return int(known[1]) if known else _Evaluator(module).trip_count(loop)


@dataclasses.dataclass(frozen=True)
class _Carried:
    """Element `index` of the tuple that a loop carries, plus a constant."""

    index: int
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class _Compared:
    """The result of a comparison `left direction right`."""

    direction: str
    left: Any
    right: Any


_FLIPPED = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE", "NE": "NE"}


class _Evaluator:
    """Evaluates integers by following instructions back to constants.

    `budget` limits the number of instructions. Long chains of sums, as in random number generators,
    would take exponential time and are not loop counters.
    """

    def __init__(self, module: Module, budget: int = 5000):
        self._module = module
        self._budget = budget

    def trip_count(self, loop: Loop) -> int | None:
        """The number of iterations, from counter, limit and step; None if one is unknown."""
        condition = self._module.computations[loop.instruction.called("condition")[0]]
        test = self.value(condition, condition.root)
        if not isinstance(test, _Compared) or test.direction not in _FLIPPED:
            return None
        direction, counter, limit = test.direction, test.left, test.right
        if not isinstance(counter, _Carried) or self._step(loop, counter.index) == 0:
            direction, counter, limit = _FLIPPED[direction], limit, counter
        if isinstance(limit, _Carried):
            limit = self._invariant(loop, limit)
        if not isinstance(counter, _Carried) or not isinstance(limit, int):
            return None
        start, step = self._start(loop, counter.index), self._step(loop, counter.index)
        if not isinstance(start, int) or not step:
            return None
        distance = (limit - start - counter.offset) * (1 if step > 0 else -1)
        if direction in ("LE", "GE"):
            distance += 1
        if direction != "NE" and (direction in ("LT", "LE")) != (step > 0):
            return None
        return max(0, math.ceil(distance / abs(step)))

    def _start(self, loop: Loop, index: int) -> Any:
        """The value of a carried element before the loop."""
        operand = loop.instruction.operands[0]
        return self.value(loop.computation, operand, (index,), loop=loop.outer)

    def _step(self, loop: Loop, index: int) -> int | None:
        """The constant that the body adds to a carried element; None if it changes otherwise."""
        body = self._module.computations[loop.instruction.called("body")[0]]
        after = self.value(body, body.root, (index,))
        is_shifted = isinstance(after, _Carried) and after.index == index
        return after.offset if is_shifted else None

    def _invariant(self, loop: Loop, value: _Carried) -> int | None:
        """The value of a carried element that is constant during the loop; None if it is not."""
        start = self._start(loop, value.index) if self._step(loop, value.index) == 0 else None
        return start + value.offset if isinstance(start, int) else None

    def value(
        self,
        computation: Computation,
        name: str,
        path: tuple[int, ...] = (),
        *,
        loop: Loop | None = None,
        argument: Callable[[int, tuple[int, ...]], Any] | None = None,
    ) -> Any:
        """The value of an instruction: an integer, a `_Carried` or a `_Compared`; None if unknown.

        Args:
          computation: the computation.
          name: the instruction.
          path: indices to an element of the instruction's tuple.
          loop: the loop whose body `computation` is, to evaluate carried elements that are
            constant. With None, the value may be a `_Carried`.
          argument: (number, path) -> value of a parameter, if `computation` is fused or called.
        """
        self._budget -= 1
        if self._budget < 0:
            return None
        instruction = computation.instructions[name]
        opcode = instruction.opcode

        def operand(number: int, path: tuple[int, ...] = ()) -> Any:
            operand = instruction.operands[number]
            return self.value(computation, operand, path, loop=loop, argument=argument)

        if opcode == "constant":
            integer = re.fullmatch(r"-?\d+", instruction.arguments)
            return int(integer[0]) if integer else None
        if opcode == "parameter":
            if argument is not None:
                return argument(int(instruction.arguments), path)
            if len(path) != 1:
                return None
            carried = _Carried(path[0])
            return carried if loop is None else self._invariant(loop, carried)
        if opcode == "tuple" and path:
            return operand(path[0], path[1:])
        if opcode == "get-tuple-element":
            return operand(0, (*instruction.integers("index"), *path))
        if opcode in _IDENTITIES:
            return operand(0, path)
        if opcode in ("fusion", "call"):
            called = self._module.computations[instruction.called("calls", "to_apply")[0]]
            return self.value(called, called.root, path, argument=operand)
        if opcode == "compare":
            return _Compared(instruction.attribute("direction"), operand(0), operand(1))
        if opcode in ("add", "subtract"):
            return _sum(operand(0), operand(1), 1 if opcode == "add" else -1)
        return None


def _sum(left: Any, right: Any, sign: int) -> Any:
    """left + sign * right, of which at most one is carried; None if unknown."""
    if isinstance(right, _Carried) and sign == 1:
        left, right = right, left
    if not isinstance(right, int):
        return None
    if isinstance(left, _Carried):
        return dataclasses.replace(left, offset=left.offset + sign * right)
    return left + sign * right if isinstance(left, int) else None

"""Counts the bytes that instructions move between a chip and its main memory."""

from __future__ import annotations

from collections.abc import Iterable

from ssl_jax.hlo.collectives import kind_of
from ssl_jax.hlo.text import HBM, Array, Computation, Instruction, Module, Shape, leaves

# Instructions without traffic of their own: they name, group or wait for the results of others, or
# run computations whose instructions are counted separately.
_FREE = frozenset(
    ("add-dependency", "after-all", "async-start", "async-update", "bitcast", "call", "call-start",
     "conditional", "constant", "domain", "get-tuple-element", "opt-barrier",
     "optimization-barrier", "parameter", "partition-id", "replica-id", "tuple", "while")
)  # fmt: skip
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "Sharding", "AsyncCollectiveDone")
_ALIASES = ("bitcast", "get-tuple-element", "optimization-barrier")
_SLICES = ("dynamic-slice", "gather", "slice")


def memory_bytes(instruction: Instruction, computation: Computation, module: Module) -> int:
    """Bytes of HBM that one execution of an instruction outside fusions reads and writes.

    Each operand in HBM is read once and each result in HBM is written once, including padding.
    Slices and updates in place count only the part that they read or write. Intermediate results
    inside a fusion stay on the chip. Caches and repeated reads are not modelled.
    """
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
        return 0
    if opcode == "custom-call" and _target(instruction) in _FREE_CALLS:
        return 0
    operands = [computation.instructions[name] for name in dict.fromkeys(instruction.operands)]
    if opcode == "fusion":
        return _fusion_bytes(instruction, operands, module)
    result = instruction.shape
    if opcode.endswith("-start"):
        opcode = opcode.removesuffix("-start")
        result = _result_of_start(instruction)
    if opcode in _SLICES:
        indices = operands[1:] if opcode == "gather" else []
        source = _bytes(result) if _in_hbm(operands[0].shape) else 0
        return source + _hbm_bytes(result) + sum(_hbm_bytes(index.shape) for index in indices)
    if opcode == "dynamic-update-slice":
        update = computation.operand(instruction, 1).shape
        return _hbm_bytes(update) + (_bytes(update) if _in_hbm(result) else 0)
    if opcode == "scatter":
        # Operands are (arrays..., indices, updates...); the updated elements are read and written.
        count = len(instruction.operands) // 2
        shapes = [computation.operand(instruction, i).shape for i in range(2 * count + 1)]
        updates = sum(_bytes(shape) for shape in shapes[count + 1 :])
        read = sum(_hbm_bytes(shape) for shape in shapes[count:])
        return read + (2 * updates if _in_hbm(shapes[0]) else 0)
    return sum(_hbm_bytes(operand.shape) for operand in operands) + _hbm_bytes(result)


def _result_of_start(instruction: Instruction) -> Shape:
    """The type of the result of an asynchronous instruction, from the type of its start.

    `copy-start` returns (result, operand, context), `all-reduce-start` the result, and all others
    (operands, results, contexts).
    """
    shape, opcode = instruction.shape, instruction.opcode
    if opcode == "copy-start":
        return shape[0]
    if opcode == "all-reduce-start" or isinstance(shape, Array):
        return shape
    return shape[1]


def continues_collective(computation: Computation) -> bool:
    """Whether a fused computation continues or ends a collective that another one started.

    The TPU compiler splits an asynchronous collective over several fusions and repeats the
    instruction in each of them.
    """
    if any(_target(i) == "AsyncCollectiveStart" for i in computation.instructions.values()):
        return False
    return computation.name.startswith("async_collective_fusion") or any(
        _target(i) == "AsyncCollectiveDone" for i in computation.instructions.values()
    )


def _target(instruction: Instruction) -> str:
    """The target of a custom call; empty for other instructions."""
    if instruction.opcode != "custom-call":
        return ""
    return (instruction.attribute("custom_call_target") or "").strip('"')


def _fusion_bytes(instruction: Instruction, operands: Iterable[Instruction], module: Module) -> int:
    called = module.computations[instruction.called("calls")[0]]
    total = 0
    for number, name in enumerate(instruction.operands):
        shape = next(operand.shape for operand in operands if operand.name == name)
        if number == instruction.operands.index(name) and _in_hbm(shape):
            numbers = [n for n, other in enumerate(instruction.operands) if other == name]
            read = sum(_read(called, called.parameters[n].name, module) for n in numbers)
            total += min(_hbm_bytes(shape), read)
    return total + _written(called, called.root, instruction.shape, module)


def _read(computation: Computation, name: str, module: Module) -> int:
    """Bytes that a fused computation reads of the instruction `name`, which is in memory."""
    whole = _bytes(computation.instructions[name].shape)
    if computation.root == name:
        return 0  # returned without being read
    total = 0
    for user in computation.users[name]:
        first = user.operands[0] == name
        if user.opcode in _SLICES and first:
            total += _bytes(user.shape)
        elif user.opcode == "dynamic-update-slice" and first:
            total += 0  # updated in place
        elif user.opcode in _ALIASES:
            total += _read(computation, user.name, module)
        elif user.opcode == "tuple":
            total += 0
        elif user.opcode == "fusion":
            called = module.computations[user.called("calls")[0]]
            for number, operand in enumerate(user.operands):
                if operand == name:
                    total += _read(called, called.parameters[number].name, module)
        elif (kind_of(user) or user.opcode == "custom-call") and continues_collective(computation):
            total += 0
        else:
            return whole
    return min(total, whole)


def _written(computation: Computation, name: str, shape: Shape, module: Module) -> int:
    """Bytes written for the result `name` of a fused computation; `shape` has its layout."""
    instruction = computation.instructions[name]
    if not isinstance(shape, Array):
        if instruction.opcode == "tuple":
            parts = zip(instruction.operands, shape, strict=True)
            return sum(_written(computation, part, leaf, module) for part, leaf in parts)
        if instruction.opcode == "fusion":
            called = module.computations[instruction.called("calls")[0]]
            return _written(called, called.root, shape, module)
        if _target(instruction) == "AsyncCollectiveStart":
            return sum(_hbm_bytes(part) for part in shape[1:])  # the first part is the operand
        return _hbm_bytes(shape)
    if shape.space != HBM or instruction.opcode == "parameter":
        return 0
    if instruction.opcode == "bitcast":
        return _written(computation, instruction.operands[0], shape, module)
    if instruction.opcode == "dynamic-update-slice":
        return _bytes(computation.operand(instruction, 1).shape)
    if instruction.opcode == "fusion":
        called = module.computations[instruction.called("calls")[0]]
        return _written(called, called.root, shape, module)
    if (kind_of(instruction) or _target(instruction)) and continues_collective(computation):
        return 0
    return shape.padded_bytes


def _bytes(shape: Shape) -> int:
    return sum(array.padded_bytes for array in leaves(shape))


def _hbm_bytes(shape: Shape) -> int:
    return sum(array.padded_bytes for array in leaves(shape) if array.space == HBM)


def _in_hbm(shape: Shape) -> bool:
    return any(array.space == HBM for array in leaves(shape))

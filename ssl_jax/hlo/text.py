"""Parses the text of a compiled program (HLO) into computations and instructions."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
from collections.abc import Iterator

# Bits per element. Types that are not listed (tokens, opaque handles) have no size.
_BITS = {"pred": 8, "bf16": 16, "tf32": 32}
_BITS |= {f"{kind}{bits}": bits for kind in "suf" for bits in (2, 4, 8, 16, 32, 64)}
_BITS |= {"c64": 64, "c128": 128}

HBM = 0  # the memory space of an array whose layout names none


@dataclasses.dataclass(frozen=True, slots=True)
class Array:
    """The type of an array in a program.

    Attributes:
      dtype: HLO's name, e.g. "bf16".
      dims: size of each dimension.
      minor_to_major: order of the dimensions in memory; empty if the text does not contain it.
      tile: sizes to multiples of which the last dimensions in memory are padded, e.g. (8, 128).
      space: memory space: 0 is HBM (on CPUs, main memory). On TPUs 1 is on-chip vector memory, 2
        semaphores, 5 the host's memory, 6 scalar memory.
    """

    dtype: str
    dims: tuple[int, ...]
    minor_to_major: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    space: int = HBM

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bits(self) -> int:
        """Bits per element."""
        if self.dtype in _BITS:
            return _BITS[self.dtype]
        return 8 if self.dtype.startswith("f8") else 4 if self.dtype.startswith("f4") else 0

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, without padding."""
        return -(-self.size * self.bits // 8)

    @property
    def padded_bytes(self) -> int:
        """Bytes in memory, including the padding to the layout's tiles."""
        if not self.tile or len(self.minor_to_major) != len(self.dims):
            return self.nbytes
        sizes = [self.dims[axis] for axis in self.minor_to_major[::-1]]
        sizes = [1] * (len(self.tile) - len(sizes)) + sizes
        for i, tile in enumerate(self.tile[::-1], 1):
            sizes[-i] = -(-sizes[-i] // tile) * tile
        return -(-math.prod(sizes) * self.bits // 8)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


Shape = Array | tuple["Shape", ...]


def leaves(shape: Shape) -> Iterator[Array]:
    """The arrays of a type, which may be a nested tuple, in order."""
    if isinstance(shape, Array):
        yield shape
    else:
        for part in shape:
            yield from leaves(part)


_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\](?:\{([^}]*)\})?")


@functools.lru_cache(maxsize=65536)
def parse_shape(text: str) -> Shape:
    """Parses a type, e.g. `(f32[8,4]{1,0:T(8,128)S(1)}, u32[])`."""
    return _shape_at(text, 0)[0]


def _shape_at(text: str, at: int) -> tuple[Shape, int]:
    """(type that begins at position `at`, position after it)."""
    if text[at] != "(":
        match = _ARRAY.match(text, at)
        if match is None:
            raise ValueError(f"not a type: {text[at : at + 40]!r}")
        return _array(*match.groups()), match.end()
    parts: list[Shape] = []
    at += 1
    while text[at] != ")":
        if text.startswith("/*", at):  # /*index=5*/
            at = text.index("*/", at) + 2
        elif text[at] in ", ":
            at += 1
        else:
            part, at = _shape_at(text, at)
            parts.append(part)
    return tuple(parts), at + 1


def _array(dtype: str, dims: str, layout: str | None) -> Array:
    sizes = tuple(int(size) for size in re.findall(r"\d+", dims))
    order, _, details = (layout or "").partition(":")
    tile = re.search(r"T\(([\d,]*)\)", details)
    space = re.search(r"S\((\d+)\)", details)
    return Array(
        dtype,
        sizes,
        tuple(int(axis) for axis in order.split(",") if axis),
        tuple(int(size) for size in tile[1].split(",") if size) if tile else (),
        int(space[1]) if space else HBM,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: the name without the %.
      shape: type of the result.
      opcode: the operation, e.g. "fusion".
      operands: names of the instructions whose results it uses.
      arguments: the text between its brackets; for a constant, the value.
      attributes: the text after the brackets.
    """

    name: str
    shape: Shape
    opcode: str
    operands: tuple[str, ...]
    arguments: str
    attributes: str

    def attribute(self, name: str) -> str | None:
        """The value of an attribute without spaces, e.g. channel_id; None if it is missing."""
        match = re.search(rf"\b{name}=(\{{[^}}]*\}}|[^\s,]+)", self.attributes)
        return match[1] if match else None

    def integers(self, name: str) -> tuple[int, ...]:
        """The numbers of an attribute like `lhs_contracting_dims={1,2}`, empty if it is missing."""
        return tuple(int(number) for number in re.findall(r"-?\d+", self.attribute(name) or ""))

    def called(self, *names: str) -> list[str]:
        """Names of the computations that the attributes `names` call."""
        called = []
        for name in names:
            match = re.search(rf"\b{name}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.attributes)
            if match:
                called += re.findall(r"%?([\w.\-]+)", match[1])
        return called

    @property
    def op_name(self) -> str:
        """JAX's name of the operation: `jit(f)/jvp(ResNet)/stem/conv`; empty if not recorded."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """A function of the program.

    Attributes:
      name: the name without the %.
      instructions: name -> instruction, in the order of the text, which is the order of execution
        in a scheduled program.
      root: name of the instruction that gives the result.
    """

    name: str
    instructions: dict[str, Instruction]
    root: str

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """Number -> parameter."""
        return {
            int(instruction.arguments): instruction
            for instruction in self.instructions.values()
            if instruction.opcode == "parameter"
        }

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Name of an instruction -> the instructions that use its result."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in dict.fromkeys(instruction.operands):
                if operand in users:
                    users[operand].append(instruction)
        return users

    def operand(self, instruction: Instruction, number: int) -> Instruction:
        return self.instructions[instruction.operands[number]]


@dataclasses.dataclass(frozen=True)
class Module:
    """A program.

    Attributes:
      computations: name -> computation.
      entry: name of the main computation.
      header: the first line of the text.
      tables: table name -> number -> line, of the tables of source locations.
    """

    computations: dict[str, Computation]
    entry: str
    header: str
    tables: dict[str, dict[int, str]]

    @functools.cached_property
    def devices(self) -> int:
        """Number of devices that run the program together."""
        counts = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", self.header)
        return math.prod(int(count) for count in counts)

    def source(self, instruction: Instruction) -> str:
        """The line that created an instruction, `ssl_jax/models/resnet.py:40`; empty if unknown.

        It is the innermost line outside installed packages.
        """
        match = re.search(r'source_file="([^"]*)".*?source_line=(\d+)', instruction.attributes)
        if match:
            return f"{_short(match[1])}:{match[2]}"
        match = re.search(r"\bstack_frame_id=(\d+)", instruction.attributes)
        if not match:
            return ""
        lines = list(self._frames(int(match[1])))
        own = [line for line in lines if "site-packages" not in line and "/lib/python" not in line]
        return _short((own or lines or [""])[0])

    def _frames(self, frame: int) -> Iterator[str]:
        """`file:line` of a stack frame and of its callers."""
        while frame in self.tables["StackFrames"]:
            numbers = _fields(self.tables["StackFrames"][frame])
            location = _fields(self.tables["FileLocations"].get(numbers["file_location_id"], ""))
            if "file_name_id" in location:
                file = self.tables["FileNames"].get(location["file_name_id"], "").strip('"')
                yield f"{file}:{location.get('line', 0)}"
            parent = numbers.get("parent_frame_id", 0) - 1  # 0 is written as 1: no caller
            if parent >= frame:
                return
            frame = parent


def _fields(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", text)}


def _short(path: str) -> str:
    """A path relative to the working directory if it is below it, otherwise its last parts."""
    relative = os.path.relpath(path) if os.path.isabs(path) else path
    if not relative.startswith(".."):
        return relative
    return path.rpartition("site-packages/")[2] if "site-packages/" in path else os.path.join(
        *path.split("/")[-2:])  # fmt: skip


_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")
_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")


def parse(text: str) -> Module:
    """Parses the text of `compiled.as_text()`.

    Raises:
      ValueError: the text is not HLO.
    """
    # The description of a kernel is an attribute of several lines; join them.
    lines = re.sub(r"=\{\n(.*?)\n\}\}", r"={\1}}", text, flags=re.DOTALL).splitlines()
    computations: dict[str, Computation] = {}
    tables: dict[str, dict[int, str]] = {name: {} for name in _TABLES}
    entry, table, current = "", None, None
    for line in lines:
        if current is not None:
            if line.startswith("}"):
                name, instructions, root = current
                computations[name] = Computation(name, instructions, root)
                current = None
            else:
                match = _LINE.match(line)
                if match:
                    current[1][match[2]] = _instruction(match[2], line, match.end())
                    if match[1]:
                        current = (current[0], current[1], match[2])
        elif line in tables:
            table = line
        elif line.endswith("{") and (match := _HEAD.match(line)):
            current = (match[2], {}, "")
            entry = match[2] if match[1] else entry
        elif table and (match := re.match(r"(\d+) (.*)", line)):
            tables[table][int(match[1])] = match[2]
    if not entry:
        raise ValueError("this is not the text of a compiled program: it has no ENTRY")
    return Module(computations, entry, lines[0], tables)


def _instruction(name: str, line: str, at: int) -> Instruction:
    end = _closing(line, at) if line[at] == "(" else line.index(" ", at)
    shape = parse_shape(line[at:end])
    opening = line.index("(", end)
    closing = _closing(line, opening)
    arguments = line[opening + 1 : closing - 1]
    opcode = line[end:opening].strip()
    operands = () if opcode == "constant" else tuple(re.findall(r"%([\w.\-]+)", arguments))
    return Instruction(name, shape, opcode, operands, arguments, line[closing:])


_BRACKETS = re.compile(r"[()]")


def _closing(line: str, opening: int) -> int:
    """The position after the bracket that closes the bracket at `opening`."""
    depth = 0
    for match in _BRACKETS.finditer(line, opening):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    raise ValueError(f"a bracket is not closed: {line[:200]!r}")

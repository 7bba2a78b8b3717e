"""Parses the text of a compiled program (HLO) into computations and instructions."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
from collections.abc import Iterator

# Bits an element; what is not listed (tokens, opaque handles) has none.
_BITS = {"pred": 8, "bf16": 16, "tf32": 32}
_BITS |= {f"{kind}{bits}": bits for kind in "suf" for bits in (2, 4, 8, 16, 32, 64)}
_BITS |= {"c64": 64, "c128": 128}

HBM = 0  # the memory space of an array whose layout names none


@dataclasses.dataclass(frozen=True, slots=True)
class Array:
    """An array's type in a program.

    Attributes:
      dtype: as in HLO, e.g. "bf16".
      dims: sizes.
      minor_to_major: order of the dimensions in memory, empty where the text does not say.
      tile: sizes to which the last dimensions in memory are rounded up, e.g. (8, 128).
      space: memory space: 0 is HBM (or the host's memory on CPUs); of TPUs 1 is on-chip vector
        memory, 2 semaphores, 5 the host, 6 scalar memory.
    """

    dtype: str
    dims: tuple[int, ...]
    minor_to_major: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    space: int = HBM

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.dims)

    @property
    def bits(self) -> int:
        """Bits an element."""
        if self.dtype in _BITS:
            return _BITS[self.dtype]
        return 8 if self.dtype.startswith("f8") else 4 if self.dtype.startswith("f4") else 0

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return -(-self.size * self.bits // 8)

    @property
    def padded_bytes(self) -> int:
        """Bytes in memory, with what the layout's tiles add."""
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
    """The arrays of a type, in order."""
    if isinstance(shape, Array):
        yield shape
    else:
        for part in shape:
            yield from leaves(part)


_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\](?:\{([^}]*)\})?")


@functools.lru_cache(maxsize=65536)
def parse_shape(text: str) -> Shape:
    """The type that `text` spells, e.g. `(f32[8,4]{1,0:T(8,128)S(1)}, u32[])`."""
    return _shape_at(text, 0)[0]


def _shape_at(text: str, at: int) -> tuple[Shape, int]:
    if text[at] != "(":
        match = _ARRAY.match(text, at)
        if match is None:
            raise ValueError(f"no type: {text[at : at + 40]!r}")
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
    order, _, rest = (layout or "").partition(":")
    tile = re.search(r"T\(([\d,]*)\)", rest)
    space = re.search(r"S\((\d+)\)", rest)
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
      name: without the %.
      shape: of its result.
      opcode: e.g. "fusion".
      operands: names of the instructions it takes.
      arguments: the text between its brackets; the value of a constant.
      attributes: the text after them.
    """

    name: str
    shape: Shape
    opcode: str
    operands: tuple[str, ...]
    arguments: str
    attributes: str

    def attribute(self, name: str) -> str | None:
        """The value of an attribute that has no spaces, e.g. channel_id; None without it."""
        match = re.search(rf"\b{name}=(\{{[^}}]*\}}|[^\s,]+)", self.attributes)
        return match[1] if match else None

    def integers(self, name: str) -> tuple[int, ...]:
        """The numbers of an attribute like `lhs_contracting_dims={1,2}`, empty without it."""
        return tuple(int(number) for number in re.findall(r"-?\d+", self.attribute(name) or ""))

    def called(self, *names: str) -> list[str]:
        """The computations that the attributes of these names call."""
        found = []
        for name in names:
            match = re.search(rf"\b{name}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.attributes)
            if match:
                found += re.findall(r"%?([\w.\-]+)", match[1])
        return found

    @property
    def op_name(self) -> str:
        """What JAX called it: `jit(f)/jvp(ResNet)/stem/conv`; empty where nothing is recorded."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""


@dataclasses.dataclass(frozen=True)
class Computation:
    """A function of the program.

    Attributes:
      name: without the %.
      instructions: by name, in the order written, which in a scheduled program is that of
        execution.
      root: name of the result.
    """

    name: str
    instructions: dict[str, Instruction]
    root: str

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """Its parameters by number."""
        return {
            int(instruction.arguments): instruction
            for instruction in self.instructions.values()
            if instruction.opcode == "parameter"
        }

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that take each instruction."""
        found: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in dict.fromkeys(instruction.operands):
                if operand in found:
                    found[operand].append(instruction)
        return found

    def operand(self, instruction: Instruction, number: int) -> Instruction:
        return self.instructions[instruction.operands[number]]


@dataclasses.dataclass(frozen=True)
class Module:
    """A program.

    Attributes:
      computations: by name.
      entry: name of the one that is run.
      header: its first line.
      tables: the lines of the tables of source locations.
    """

    computations: dict[str, Computation]
    entry: str
    header: str
    tables: dict[str, dict[int, str]]

    @functools.cached_property
    def devices(self) -> int:
        """Devices that run it together."""
        counts = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", self.header)
        return math.prod(int(count) for count in counts)

    def source(self, instruction: Instruction) -> str:
        """The line that made an instruction, `ssl_jax/models/resnet.py:40`; empty if not known.

        The innermost one outside installed packages.
        """
        match = re.search(r'source_file="([^"]*)".*?source_line=(\d+)', instruction.attributes)
        if match:
            return f"{_short(match[1])}:{match[2]}"
        match = re.search(r"\bstack_frame_id=(\d+)", instruction.attributes)
        if not match:
            return ""
        found = list(self._frames(int(match[1])))
        own = [line for line in found if "site-packages" not in line and "/lib/python" not in line]
        return _short((own or found or [""])[0])

    def _frames(self, frame: int) -> Iterator[str]:
        """`file:line` of a stack frame and of its callers."""
        while frame in self.tables["StackFrames"]:
            numbers = _fields(self.tables["StackFrames"][frame])
            place = _fields(self.tables["FileLocations"].get(numbers["file_location_id"], ""))
            if "file_name_id" in place:
                file = self.tables["FileNames"].get(place["file_name_id"], "").strip('"')
                yield f"{file}:{place.get('line', 0)}"
            parent = numbers.get("parent_frame_id", 0) - 1  # 0 is written as 1: no caller
            if parent >= frame:
                return
            frame = parent


def _fields(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", text)}


def _short(path: str) -> str:
    """A path below the working directory as it is below it, any other by its last parts."""
    relative = os.path.relpath(path) if os.path.isabs(path) else path
    if not relative.startswith(".."):
        return relative
    return path.rpartition("site-packages/")[2] if "site-packages/" in path else os.path.join(
        *path.split("/")[-2:])  # fmt: skip


_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")
_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")


def parse(text: str) -> Module:
    """Reads what `compiled.as_text()` writes.

    Raises:
      ValueError: it is no HLO text.
    """
    # A kernel's description is an attribute over several lines.
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
    """The place after the bracket that closes the one at `opening`."""
    depth = 0
    for match in _BRACKETS.finditer(line, opening):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    raise ValueError(f"a bracket is not closed: {line[:200]!r}")

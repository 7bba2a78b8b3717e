"""Corpora: documents read one after the other; neither has to fit in memory.

A document comes in parts of bounded length; nearly all have one. The parts of a document, and the
sentences of a part, follow each other without a gap: joined they are the document's text, stripped.
Cuts are made only in front of blanks, where no tokenizer joins what is on both sides.
"""

from __future__ import annotations

import abc
import bz2
import codecs
import gzip
import hashlib
import io
import json
import lzma
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from ssl_jax.core.errors import UserError
from ssl_jax.data import patterns

PART = 1 << 20  # characters of a part at most
PROSE = 300  # a line of more characters holds several sentences
SENTENCE = 1000  # characters of a sentence at most

_BLOCK = 1 << 20  # bytes read at a time
_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}

# In front of the blanks between lines.
_LINE_ENDS = re.compile(r"(?<=\S)\s*\n\s*(?=\S)")
# Behind a full stop and what closes with it: in front of blanks, if a sentence may begin after
# them; anywhere in scripts that write none.
_STOPS = re.compile(
    r"""(?<=[.!?…])[.!?…]*["'”’»)\]]*(?P<end>\s+)(?=["'“‘«(\[]*[^\W_a-z])|"""
    r"""(?<=[。！？])[”’」』）]*(?P<wide>)(?=\S)"""
)
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[\"'“‘])(?:[^\W\d_]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|Rev|Gen|Col|Lt|Capt|Gov|Sen|Rep|No|Vol|"
    r"Fig|Eq|vs|cf|ca|al|approx|e\.g|i\.e|U\.S|U\.K)\.$"
)
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")


class Part(NamedTuple):
    """A document, or one piece of a long one.

    Attributes:
      name: of the document.
      text: never blank at the document's ends.
      label: of the document: a number, a class's name, or None.
      continues: whether the document is that of the part before.
    """

    name: str
    text: str
    label: int | str | None = None
    continues: bool = False


class Corpus(abc.ABC):
    """The documents of a data set in their order.

    Attributes:
      splits: names of its splits.
      description: what it is, for the manifest of a cache and to tell corpora apart; JSON.
      class_names: names of its labels, where labels are numbers and their names known.
    """

    splits: Sequence[str]
    description: dict[str, Any]
    class_names: tuple[str, ...] | None = None

    @property
    def title(self) -> str:
        """Its name in messages."""
        location = self.description.get("location")
        return self.description["kind"] + (f":{location}" if location else "")

    @abc.abstractmethod
    def parts(self, split: str) -> Iterator[Part]:
        """The documents of a split, the same ones in the same order at every call.

        Raises:
          UserError: something in the corpus cannot be read.
        """

    def version(self) -> Any:
        """What changes when the corpus does, beside `description`; JSON."""
        return None

    def notes(self) -> list[str]:
        """What was noticed while reading, one line each."""
        return []


def documents(name: str, text: str, label: int | str | None = None) -> Iterator[Part]:
    """The parts of one document; none if it is blank."""
    return whole(name, [text], label)


def whole(name: str, blocks: Iterable[str], label: int | str | None = None) -> Iterator[Part]:
    """As `documents`, of a text that arrives block by block."""
    cutter = _Cutter(name, label)
    for block in blocks:
        yield from cutter.add(block)
    yield from cutter.end()


class _Cutter:
    """Cuts documents that arrive piece by piece into parts.

    Args:
      name, label: of the first document.
    """

    def __init__(self, name: str, label: int | str | None = None):
        self.name, self.label = name, label
        self._held: list[str] = []
        self._length = 0
        self._continues = False

    @property
    def empty(self) -> bool:
        """Whether nothing of the document has arrived yet."""
        return not self._length and not self._continues

    def add(self, text: str) -> Iterator[Part]:
        """Takes the next characters of the document."""
        if self.empty:
            text = text.lstrip()
        if text:
            self._held.append(text)
            self._length += len(text)
        if self._length > PART:
            held = "".join(self._held)
            start = 0
            while len(held) - start > PART:
                cut = _blank_before(held, start, start + PART)
                yield self._part(held[start:cut])
                start = cut
            self._held, self._length = [held[start:]], len(held) - start

    def end(self) -> Iterator[Part]:
        """Ends the document; the next one may begin."""
        text = "".join(self._held).rstrip()
        if text:
            yield self._part(text)
        self._held, self._length, self._continues = [], 0, False

    def _part(self, text: str) -> Part:
        part = Part(self.name, text, self.label, self._continues)
        self._continues = True
        return part


def _blank_before(text: str, start: int, stop: int) -> int:
    """The last place in (start, stop] where a word ends and blanks follow; `stop` if none does."""
    at = stop
    while at > start + 1:
        if text[at : at + 1].isspace() and not text[at - 1].isspace():
            return at
        at -= 1
    return stop


def sentences(text: str) -> list[str]:
    """Cuts a text into sentences, each with the blanks in front of it.

    A line is a sentence, unless it is prose of more than 300 characters: that is cut behind full
    stops, and what is left of more than 1000 characters between words. Joined they are `text`.
    """
    cuts = [match.start() for match in _LINE_ENDS.finditer(text)]
    out: list[str] = []
    for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
        if stop - start > PROSE:
            out += _prose(text[start:stop])
        elif stop > start:
            out.append(text[start:stop])
    return out


def _prose(line: str) -> Iterator[str]:
    start = 0
    for match in _STOPS.finditer(line):
        cut = max(match.start("end"), match.start("wide"))
        # Behind "Dr." or an initial the sentence goes on.
        if cut > start and not _ABBREVIATION.search(line, max(start, cut - 12), cut):
            yield from _bounded(line[start:cut])
            start = cut
    yield from _bounded(line[start:])


def _bounded(sentence: str) -> Iterator[str]:
    start = 0
    while len(sentence) - start > SENTENCE:
        cut = _blank_before(sentence, start, start + SENTENCE)
        yield sentence[start:cut]
        start = cut
    if start < len(sentence):
        yield sentence[start:]


class FileCorpus(Corpus):
    """Documents in files that a pattern names; see `patterns`.

    Args:
      kind: e.g. "text".
      location: the pattern.
      errors: what to do about bytes that are no UTF-8: "strict" or "replace".
      options: what else decides how the files are read.

    Raises:
      UserError: no file matches, or a bad value.
    """

    def __init__(self, kind: str, location: str, errors: str = "strict", **options: Any):
        pattern = patterns.local(kind, location)
        self.errors = errors
        self.splits = patterns.splits(kind, pattern)
        self._files = {split: patterns.files(kind, pattern, split) for split in self.splits}
        self._blank: set[str] = set()  # files in which no text was found
        paths = [path for files in self._files.values() for path in files]
        self._status = [(path, os.stat(path)) for path in paths]
        sizes = [(path, status.st_size) for path, status in self._status]
        self.description = {
            "kind": kind,
            "location": location,
            "options": {"errors": errors, **options},
            "files": len(paths),
            "bytes": sum(size for _, size in sizes),
            "files_hash": hash_of(sizes),
        }

    @abc.abstractmethod
    def file_parts(self, path: str) -> Iterator[Part]:
        """The documents of one file."""

    def parts(self, split: str) -> Iterator[Part]:
        for path in self._files[split]:
            blank = True
            for part in self.file_parts(path):
                blank = False
                yield part
            if blank:
                self._blank.add(path)

    def version(self) -> Any:
        return [(path, status.st_mtime_ns) for path, status in self._status]

    def notes(self) -> list[str]:
        if not self._blank:
            return []
        count, plural = len(self._blank), "s" if len(self._blank) > 1 else ""
        return [f"{count:,} file{plural} without text, first: {min(self._blank)}"]


def hash_of(value: Any) -> str:
    """A hash of anything JSON can hold, hexadecimal."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def open_file(path: str) -> BinaryIO:
    """Opens a file for reading, decompressing .gz, .bz2 and .xz."""
    return _OPENERS.get(os.path.splitext(path)[1], open)(path, "rb")


_MAX_RATIO = 200  # repetitive text shrinks to a fiftieth at most
_ALWAYS_ALLOWED = 2**26  # bytes


def _check_unpacked_size(path: str, size: int) -> None:
    """Raises UserError for a file that unpacks to far more than text of its size."""
    if size > _ALWAYS_ALLOWED and size > _MAX_RATIO * os.path.getsize(path):
        raise UserError(
            f"{path} has {os.path.getsize(path):,} bytes and unpacks to more than {size:,}, which "
            "no text does; decompress it if it is one"
        )


def characters(path: str, errors: str) -> Iterator[str]:
    """The text of a file, block by block; line ends are "\\n".

    Args:
      path: a file in UTF-8, perhaps compressed.
      errors: "strict", or "replace": bytes that are no UTF-8 become U+FFFD.

    Raises:
      UserError: it cannot be read, or has bytes that are no UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    done = 0
    try:
        with open_file(path) as file:
            while True:
                block = file.read(_BLOCK)
                _check_unpacked_size(path, done + len(block))
                before = done - len(decoder.getstate()[0])  # where the decoder goes on
                text = newlines.decode(decoder.decode(block, final=not block), final=not block)
                text = text.removeprefix("\ufeff") if done == 0 else text
                done += len(block)
                if text:
                    yield text
                if not block:
                    return
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset "
            f"{before + error.start:,}; convert it, or set data.options.errors=replace"
        ) from None
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def lines(path: str, errors: str) -> Iterator[tuple[int, str]]:
    """(number from 1, text without its end) of each line of a file; as `characters`."""
    number, held = 1, []
    for text in characters(path, errors):
        first, *others = text.split("\n")
        held.append(first)
        for line in others:
            yield number, "".join(held)
            number, held = number + 1, [line]
    if any(held):
        yield number, "".join(held)


def paragraphs(name: str, blocks: Iterable[str]) -> Iterator[Part]:
    """Documents that blank lines separate, named `name:1`, `name:2` and so on."""
    number = 1
    cutter = _Cutter(f"{name}:{number}")
    blanks = ""  # at a block's end: they may become a blank line
    for block in blocks:
        text = blanks + block
        body = text.rstrip()
        blanks = text[len(body) :]
        blanks = "\n\n" if _BLANK_LINE.search(blanks) else blanks
        first, *others = _BLANK_LINE.split(body)
        yield from cutter.add(first)
        for other in others:
            if not cutter.empty:
                number += 1
            yield from cutter.end()
            cutter.name = f"{name}:{number}"
            yield from cutter.add(other)
    yield from cutter.end()

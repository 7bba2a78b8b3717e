"""A corpus as token ids on disk, read through memory maps.

    DIR/manifest.json              the contents; written last, so only a finished cache has one
    DIR/tokenizer.json             in the format of the `tokenizers` library
    DIR/train-00000.safetensors    a shard: documents that follow each other

A shard's arrays are `tokens` uint16 (or uint32 for large vocabularies) [t], without special tokens;
`sentence_tokens` uint32 [s] and `document_sentences` uint32 [d], how many each has; and of each
document its `label` int32 (-1: none) and its name, the bytes of `names` up to `name_ends` int64.
The first document of a shard may be the end of the last one of the shard before. A shard carries a
hash of its contents.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import mmap
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Vocabulary
from ssl_jax.data.names import Names
from ssl_jax.data.text.tokenizer import Tokenizer

FORMAT = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
UNFINISHED = "unfinished.json"  # beside the shards until the manifest is written
_OPEN_SHARDS = 256  # mapped at a time; each holds a file open
_DTYPES = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "I32": np.int32, "I64": np.int64}


class Shard(NamedTuple):
    """What a shard consists of; see the module's docstring."""

    tokens: np.ndarray
    sentence_tokens: np.ndarray
    document_sentences: np.ndarray
    label: np.ndarray
    names: np.ndarray
    name_ends: np.ndarray


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.safetensors"


def write_shard(path: str, shard: Shard, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a shard atomically.

    Args:
      path: the file.
      shard: its arrays.
      facts: what else to say of it, JSON.

    Returns:
      Its record: `facts`, and its numbers of documents, sentences and tokens, size and hash.
    """
    record = dict(
        facts,
        file=os.path.basename(path),
        documents=len(shard.document_sentences),
        sentences=len(shard.sentence_tokens),
        tokens=len(shard.tokens),
    )
    arrays = {field: np.ascontiguousarray(value) for field, value in shard._asdict().items()}
    record["hash"] = _hash(record, arrays)
    # One key: the library writes several in an order that changes.
    content = save(arrays, metadata={"record": json.dumps(record, sort_keys=True)})
    write_file(path, content)
    return record | {"bytes": len(content)}


def write_file(path: str, content: bytes) -> None:
    """Writes a file atomically."""
    temporary = f"{path}.writing"
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: str, value: Any) -> None:
    """Writes JSON atomically."""
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    write_file(path, text.encode("utf-8", "surrogateescape"))


def write_manifest(
    directory: str,
    tokenizer: Tokenizer,
    splits: Mapping[str, Mapping[str, Any]],
    *,
    identity: Mapping[str, Any],
    class_names: Sequence[str] | None = None,
    class_numbers: Sequence[int] | None = None,
    num_classes: int | None = None,
) -> None:
    """Finishes a cache whose shards and tokenizer are written.

    Args:
      directory: of the cache.
      tokenizer: what made the tokens.
      splits: facts of each split, in this order; `shards` are the records of its shards.
      identity: what tells it from other caches, JSON.
      class_names, num_classes: of the documents' labels.
      class_numbers: the class of each label that the shards hold; None: the label itself.
    """
    manifest = {
        "format": FORMAT,
        "identity": identity,
        "tokenizer": {
            "hash": tokenizer.digest,
            "vocabulary": dataclasses.asdict(tokenizer.vocabulary),
        },
        "dtype": dtype_of(tokenizer.vocabulary).name,
        "class_names": class_names,
        "class_numbers": class_numbers,
        "num_classes": num_classes,
        "order": list(splits),
        "splits": splits,
    }
    write_json(os.path.join(directory, MANIFEST), manifest)


def dtype_of(vocabulary: Vocabulary) -> np.dtype:
    """The dtype in which tokens are stored."""
    return np.dtype(np.uint16 if vocabulary.size <= 1 << 16 else np.uint32)


def check_shard(path: str) -> dict[str, Any] | None:
    """The record of the shard at `path`, None if there is none or its contents are not whole."""
    try:
        with open(path, "rb") as file:
            record, places, size = _header(file)
            arrays = {name: _read(file, *place) for name, place in places.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    claimed = record.pop("hash", None)
    if tuple(sorted(arrays)) != tuple(sorted(Shard._fields)) or claimed != _hash(record, arrays):
        return None
    return record | {"hash": claimed, "bytes": size}


def _hash(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=16)
    for field in Shard._fields:
        digest.update(f"{field} {arrays[field].dtype.str} {len(arrays[field])} ".encode())
        digest.update(arrays[field].data)
    return digest.hexdigest()


def _header(file: Any) -> tuple[dict[str, Any], dict[str, tuple[Any, int, int]], int]:
    """(record, {array: (dtype, offset, count)}, bytes of the file) of a shard.

    Raises:
      ValueError: it is none, or cut short.
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 + length:
        raise ValueError("cut short")
    header = json.loads(file.read(length))
    record = json.loads(header.pop("__metadata__")["record"])
    places = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        if 8 + length + stop > size:
            raise ValueError("cut short")
        places[name] = (_DTYPES[entry["dtype"]], 8 + length + start, entry["shape"][0])
    return record, places, size


def _read(file: Any, dtype: Any, offset: int, count: int) -> np.ndarray:
    file.seek(offset)
    return np.frombuffer(file.read(count * np.dtype(dtype).itemsize), dtype)


@dataclasses.dataclass(frozen=True)
class Documents:
    """Where the documents of a cache are. Tokens and sentences are numbered through all shards.

    Attributes:
      token_start, num_tokens: int64 [d].
      sentence_start, num_sentences: int64 [d].
      label: int32 [d], -1 where there is none.
      splits: the documents of each split, of which there are none without a token.
    """

    token_start: np.ndarray
    num_tokens: np.ndarray
    sentence_start: np.ndarray
    num_sentences: np.ndarray
    label: np.ndarray
    splits: Mapping[str, range]


class TokenCache:
    """A finished cache.

    Args:
      directory: where it is.

    Raises:
      UserError: there is none, or it is unfinished, or files are missing or of another size.
    """

    def __init__(self, directory: str):
        self.directory = directory
        self.manifest = read_manifest(directory)
        self.splits = tuple(self.manifest["order"])
        self.class_names = self.manifest["class_names"] and tuple(self.manifest["class_names"])
        self.num_classes: int | None = self.manifest["num_classes"]
        facts = self.manifest["tokenizer"]["vocabulary"]
        lists = {name: tuple(facts.get(name, ())) for name in ("special", "sentinels")}
        self.vocabulary = Vocabulary(**facts | lists)
        self._records = [one for split in self.splits for one in self._split(split)["shards"]]
        for record in self._records:
            self._check_size(record)
        self._ends = np.cumsum([0, *(record["tokens"] for record in self._records)])
        self._tokens = functools.lru_cache(_OPEN_SHARDS)(self._map)

    def _split(self, split: str) -> Mapping[str, Any]:
        return self.manifest["splits"][split]

    def _path(self, record: Mapping[str, Any]) -> str:
        return os.path.join(self.directory, record["file"])

    def _check_size(self, record: Mapping[str, Any]) -> None:
        path = self._path(record)
        size = os.path.getsize(path) if os.path.exists(path) else None
        if size != record["bytes"]:
            what = "is missing" if size is None else f"has {size:,} bytes, not {record['bytes']:,}"
            raise UserError(f"{path} {what}; prepare the cache again: what is whole is kept")

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of these tokens.

        Raises:
          UserError: its file is missing or another one.
        """
        path = os.path.join(self.directory, TOKENIZER)
        try:
            with open(path, encoding="utf-8") as file:
                tokenizer = Tokenizer.from_json(file.read())
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
        if tokenizer.digest != self.manifest["tokenizer"]["hash"]:
            raise UserError(f"{path} is not the tokenizer with which this cache was prepared")
        return tokenizer

    def damaged(self) -> list[str]:
        """Files of shards that do not hold what was written. Reads all of them."""
        return [
            record["file"] for record in self._records if check_shard(self._path(record)) != record
        ]

    @functools.cached_property
    def documents(self) -> Documents:
        """Reads where the documents are."""
        sentences = [self._array(record, "document_sentences") for record in self._records]
        counts = _join(sentences, np.int64)
        label = _join([self._array(record, "label") for record in self._records], np.int32)
        numbers = self.manifest.get("class_numbers")
        if numbers:
            label = np.where(label < 0, -1, np.array(numbers, np.int32)[label])
        continues = np.zeros(len(counts), bool)
        first = 0
        bounds = {}
        for split in self.splits:
            start = first
            for record in self._split(split)["shards"]:
                continues[first : first + 1] |= record["continues"]
                first += record["documents"]
            bounds[split] = (start, first)
        heads = np.flatnonzero(~continues)  # a document may begin in one shard and end in another
        counts = np.add.reduceat(counts, heads) if len(heads) else counts
        some = counts > 0
        sentence_ends = np.cumsum(counts)
        token_ends = self.sentence_starts
        starts = sentence_ends - counts
        kept = np.concatenate([[0], np.cumsum(some)])
        self._entries = heads[some]
        return Documents(
            token_start=token_ends[starts[some]],
            num_tokens=(token_ends[sentence_ends] - token_ends[starts])[some],
            sentence_start=starts[some],
            num_sentences=counts[some],
            label=label[self._entries],
            splits={
                split: range(*(int(kept[np.searchsorted(heads, bound)]) for bound in pair))
                for split, pair in bounds.items()
            },
        )

    @functools.cached_property
    def sentence_tokens(self) -> np.ndarray:
        """Tokens of each sentence, uint32 [s]."""
        return _join(
            [self._array(record, "sentence_tokens") for record in self._records], np.uint32
        )

    @functools.cached_property
    def sentence_starts(self) -> np.ndarray:
        """The token at which each sentence begins, and the end: int64 [s+1]."""
        return np.concatenate([[0], np.cumsum(self.sentence_tokens, dtype=np.int64)])

    @functools.cached_property
    def names(self) -> Names:
        """The documents' names."""
        names: list[bytes] = []
        for record in self._records:
            content = self._array(record, "names").tobytes()
            ends = self._array(record, "name_ends").tolist()
            names += [content[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        _ = self.documents
        return Names(os.fsdecode(names[entry]) for entry in self._entries)

    def read(
        self, starts: np.ndarray, lengths: np.ndarray, out: np.ndarray, at: np.ndarray
    ) -> None:
        """Copies runs of tokens.

        Args:
          starts, lengths: int [n] of the runs.
          out: where to, [m] of any integer dtype.
          at: int [n], where in `out` each run begins.
        """
        shards = np.searchsorted(self._ends, starts, side="right") - 1
        offsets = starts - self._ends[shards]
        runs = zip(*(array.tolist() for array in (shards, offsets, lengths, at)), strict=True)
        for shard, offset, length, place in runs:
            piece = self._tokens(shard)[offset : offset + length]
            out[place : place + len(piece)] = piece
            while len(piece) < length:  # the document goes on in the next shard
                shard, length, place = shard + 1, length - len(piece), place + len(piece)
                piece = self._tokens(shard)[:length]
                out[place : place + len(piece)] = piece

    def _map(self, shard: int) -> np.ndarray:
        """The tokens of a shard, memory-mapped."""
        with open(self._path(self._records[shard]), "rb") as file:
            _, places, _ = _header(file)
            dtype, offset, count = places["tokens"]
            if not count:
                return np.zeros(0, dtype)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, dtype, count, offset)

    def _array(self, record: Mapping[str, Any], name: str) -> np.ndarray:
        with open(self._path(record), "rb") as file:
            return _read(file, *_header(file)[1][name])


def _join(arrays: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype, copy=False)


def read_manifest(directory: str) -> dict[str, Any]:
    """The manifest of a finished cache.

    Raises:
      UserError: there is none, or not one of this program's.
    """
    path = os.path.join(directory, MANIFEST)
    try:
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
    except FileNotFoundError:
        if os.path.exists(os.path.join(directory, UNFINISHED)):
            raise UserError(
                f"{directory} holds an unfinished token cache; run the command that prepares it "
                "again, it goes on where it stopped"
            ) from None
        raise UserError(
            f"{directory} holds no token cache; make one: ssl_jax prepare_text "
            f"--data=text:PATTERN --output={directory}"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); prepare the cache again") from None
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{path} is of format {manifest.get('format')}, this program reads {FORMAT}; prepare "
            "the cache again"
        )
    return manifest

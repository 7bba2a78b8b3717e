"""Text as a source: rows of token ids, read from a token cache.

A batch has `tokens` int32 [n l]; `segment` int32 [n l], the number of the packed text a token
belongs to, from 1, and 0 for padding; `position` int32 [n l], within that text. Pairs also have
`type` int32 [n l], 0 for cls A sep and 1 for B sep, and `next` int32 [n], 0 where B follows A and 1
where it is random. Rows of a stream have `next_token` int32 [n l], -1 for padding. With the option
`word_start` there is `word_start` bool [n l]. All have `index` and `label`, that of the document
where each row has one document (rows=padded), else -1.

The cache of a corpus is prepared when it is first needed. A sub-split such as `train[:90%]` cuts
between documents, drawn at random: no document is on both sides.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np

from ssl_jax.config.fields import Section, between, section
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec, Vocabulary
from ssl_jax.data import counter
from ssl_jax.data.source import Arrays, Problem, Source
from ssl_jax.data.text import prepare
from ssl_jax.data.text.corpus import Corpus
from ssl_jax.data.text.rows import Plan, Reader, RowOptions, plan
from ssl_jax.data.text.token_bytes import token_bytes
from ssl_jax.data.text.token_cache import TokenCache
from ssl_jax.data.text.token_stream import NO_TOKEN, TokenStream
from ssl_jax.data.text.tokenizer_options import TokenizerOptions
from ssl_jax.modalities.text import TEXT

CACHE = "~/.cache/ssl_jax/text"


@dataclasses.dataclass(frozen=True)
class Preparation:
    """Where and how the tokens of a corpus are prepared."""

    cache_dir: Annotated[str, "Folder below which corpora are prepared as tokens."] = CACHE
    prepare_workers: Annotated[
        int, between(0, 1_024), "Processes that prepare a corpus; 0: this process alone."
    ] = 0
    vocabulary: Annotated[
        Vocabulary | None, "What the tokens must be; a run fills it in. None: not checked."
    ] = None


@dataclasses.dataclass(frozen=True)
class TextOptions:
    """The options that all kinds of text share."""

    tokenizer: TokenizerOptions
    rows: RowOptions
    preparation: Preparation

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> TextOptions:
        """Reads them from the values of all keys of `OPTIONS`."""
        return cls(*(
            kind(**{field.name: options[field.name] for field in dataclasses.fields(kind)})
            for kind in _GROUPS
        ))  # fmt: skip


_GROUPS = (TokenizerOptions, RowOptions, Preparation)
OPTIONS = Section({key: kind for group in _GROUPS for key, kind in section(group).keys.items()})


class Text:
    """A corpus or a token cache, in all its splits.

    Args:
      text: the corpus or the cache.
      options: how its tokens are read.
      seed: of the rows.
      values: the options that were set.
    """

    def __init__(
        self, text: Corpus | TokenCache, options: TextOptions, seed: int, values: Mapping[str, Any]
    ):
        self._text, self._options, self._seed, self._values = text, options, seed, values
        self.splits: tuple[str, ...] = tuple(text.splits)

    @functools.cached_property
    def cache(self) -> TokenCache:
        """The tokens, prepared now if they are not yet."""
        options, preparation = self._options, self._options.preparation
        if isinstance(self._text, TokenCache):
            cache = self._text
            _check_tokenizer(cache, options.tokenizer, self._values)
        else:
            cache = prepare.cached(
                self._text,
                options.tokenizer,
                preparation.cache_dir,
                workers=preparation.prepare_workers,
            )
        if preparation.vocabulary not in (None, cache.vocabulary):
            raise UserError(
                f"the tokens in {cache.directory} are those of {cache.vocabulary}, not of "
                f"{preparation.vocabulary} (data.options.vocabulary); use the tokenizer the "
                "run began with"
            )
        return cache

    def source(self, split: str) -> TextSource:
        """The rows of a split.

        Raises:
          UserError: the cache is broken, or cannot be prepared.
        """
        cache = self.cache
        chosen = cache.documents.splits[split]
        return TextSource(
            name=f"{cache.directory}[{split}]",
            cache=cache,
            chosen=np.arange(chosen.start, chosen.stop),
            options=self._options.rows,
            seed=self._seed,
        )


def _check_tokenizer(cache: TokenCache, asked: TokenizerOptions, values: Mapping[str, Any]) -> None:
    """Raises UserError if the options name another tokenizer than the cache's."""
    size = cache.vocabulary.size
    if asked.vocab_size not in (None, size):
        raise UserError(
            f"vocab_size is {asked.vocab_size:,}, but the tokens in {cache.directory} are those of "
            f"{size:,}; set data.options.vocab_size={size}"
        )
    if "tokenizer" not in values:
        return
    made_with = cache.manifest["identity"]["tokenizer"]
    if asked.trained:
        same = made_with.get("tokenizer", asked.tokenizer) == asked.tokenizer
    else:
        same = asked.load().digest == cache.manifest["tokenizer"]["hash"]
    if not same:
        raise UserError(
            f"the tokens in {cache.directory} are not those of tokenizer {asked.tokenizer}; leave "
            "data.options.tokenizer out, or prepare the corpus with it"
        )


@dataclasses.dataclass
class TextSource(Source):
    """Rows of the documents `chosen`.

    Attributes:
      cache: the tokens.
      chosen: int64 [d], numbers of documents, in the order in which they are gone through.
      options: what rows are like.
      seed: of what is random about pairs.
    """

    cache: TokenCache = dataclasses.field(kw_only=True)
    chosen: np.ndarray = dataclasses.field(kw_only=True)
    options: RowOptions = dataclasses.field(kw_only=True)
    seed: int = dataclasses.field(default=0, kw_only=True)

    in_memory: ClassVar[bool] = True  # or the system's cache of the files: nothing to compute
    unit: ClassVar[str] = "row"

    def __post_init__(self) -> None:
        if self.options.rows == "padded":  # the one kind whose rows are of one document
            self.num_classes = self.cache.num_classes
            self.class_names = self.cache.class_names
            self.names = _RowNames(self.cache, self.plan.document)
            if self.num_classes is not None:
                self.labels = self.cache.documents.label[self.plan.document]

    @functools.cached_property
    def plan(self) -> Plan | TokenStream:
        """Which tokens each row consists of."""
        if self.options.rows == "stream":
            return TokenStream.of(self.cache, self.chosen, self.options.sequence_length)
        return plan(self.cache, self.chosen, self.options, self.seed)

    @functools.cached_property
    def _reader(self) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        if isinstance(self.plan, TokenStream):
            starts = self.cache.tokenizer.word_starts() if self.options.word_start else None
            return functools.partial(self.plan.read, self.cache, starts)
        return Reader(self.cache, self.plan, self.options).read

    def __len__(self) -> int:
        return len(self.plan)

    @property
    def spec(self) -> DataSpec:
        return text_spec(self.options, self.cache.vocabulary, len(self), self.num_classes)

    @property
    def padding_share(self) -> float:
        """Share of padding among the tokens of all rows, in [0, 1)."""
        return 1 - self.plan.num_tokens / (len(self) * self.options.sequence_length)

    def tokenizer_json(self) -> str:
        return self.cache.tokenizer.to_json()

    def token_texts(self) -> list[str]:
        return self.cache.tokenizer.token_texts()

    def token_sizes(self) -> np.ndarray | None:
        contents = token_bytes(self.cache.tokenizer)
        return None if contents is None else np.array([len(x) for x in contents], np.int32)

    @property
    def units_per_example(self) -> float:
        return self.plan.num_tokens / len(self)

    @property
    def extent(self) -> int:
        return len(self.chosen)

    def select(self, start: int, stop: int) -> TextSource:
        order = np.argsort(counter.bits(counter.key(0, counter.Stream.DOCUMENTS), self.chosen))
        return dataclasses.replace(self, chosen=self.chosen[np.sort(order[start:stop])])

    def joined(self, others: Sequence[TextSource]) -> TextSource:
        chosen = np.concatenate([self.chosen, *(other.chosen for other in others)])
        return dataclasses.replace(self, chosen=chosen)

    def padding(self, key: str) -> int:
        if key == "tokens":
            return self.cache.vocabulary.pad
        if key == "next_token":
            return NO_TOKEN
        return -1 if key == "next" else super().padding(key)

    def read(
        self, indices: np.ndarray, positions: np.ndarray, seed: int, step: int
    ) -> tuple[Arrays, list[Problem]]:
        del positions, seed, step  # nothing random
        arrays = self._reader(indices)
        if self.labels is None:
            arrays["label"] = np.full(len(indices), -1, np.int32)
        else:
            arrays["label"] = self.labels[indices]
        return arrays | {"index": indices.astype(np.int32)}, []


class _RowNames(Sequence[str]):
    """The names of the rows' documents."""

    def __init__(self, cache: TokenCache, document: np.ndarray):
        self._cache, self._document = cache, document

    def __len__(self) -> int:
        return len(self._document)

    def __getitem__(self, at: int) -> str:
        return self._cache.names[int(self._document[at])]


def text_spec(
    options: RowOptions, vocabulary: Vocabulary, num_examples: int, num_classes: int | None
) -> DataSpec:
    """The DataSpec of rows of text."""
    more: dict[str, tuple[tuple[int, ...], Any]] = {}
    if options.rows == "pairs":
        more |= {"type": ((options.sequence_length,), np.int32), "next": ((), np.int32)}
    if options.rows == "stream":
        more["next_token"] = ((options.sequence_length,), np.int32)
    if options.word_start:
        more["word_start"] = ((options.sequence_length,), np.bool_)
    classes = num_classes if options.rows == "padded" else None
    return TEXT.spec(options.sequence_length, vocabulary, num_examples, classes, more)

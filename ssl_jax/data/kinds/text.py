"""`text:PATTERN`: text files.

    text:/data/books/*.txt              documents between blank lines
    text:/data/wiki/**/{split}-*.gz     {split} becomes the split's name; compressed

Without `{split}` in the pattern everything is `train`. The option `document` says what a document
is: "paragraph" (blank lines separate documents, as in BERT's own input files), "line" (such as
files of one sentence a line) or "file".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from ssl_jax.data.text import corpus as corpus_lib
from ssl_jax.data.text.option_types import Errors
from ssl_jax.data.text.text_kind import TextKind


def corpus(
    location: str,
    *,
    document: Annotated[
        Literal["paragraph", "line", "file"],
        "What a document is: paragraph (blank lines separate documents), line or file.",
    ] = "paragraph",
    errors: Errors = "strict",
) -> TextFiles:
    """The files that match `location`: a path with *, **, ?, {a,b}, {000..010} or {split}.

    Raises:
      UserError: no file matches.
    """
    return TextFiles("text", location, errors, document=document)


class TextFiles(corpus_lib.FileCorpus):
    """Text files."""

    def file_parts(self, path: str) -> Iterator[corpus_lib.Part]:
        if self.description["options"]["document"] == "line":
            return _lines(path, self.errors)
        blocks = corpus_lib.characters(path, self.errors)
        if self.description["options"]["document"] == "file":
            return corpus_lib.whole(path, blocks)
        return corpus_lib.paragraphs(path, blocks)


def _lines(path: str, errors: str) -> Iterator[corpus_lib.Part]:
    """Every line that is not blank, named `path:1`, `path:2` and so on."""
    for number, line in corpus_lib.lines(path, errors):
        yield from corpus_lib.documents(f"{path}:{number}", line)


KIND = TextKind(name="text", location="PATTERN", corpus=corpus)

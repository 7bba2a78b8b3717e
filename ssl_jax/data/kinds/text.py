"""`text:PATTERN`: text files.

    text:/data/books/*.txt              documents between blank lines
    text:/data/wiki/**/{split}-*.gz     {split} becomes the split's name; compressed

Without `{split}` in the pattern everything is `train`. The option `document` says what a document
is: "paragraph" (blank lines separate documents, as in BERT's own input files) or "file".
"""

from __future__ import annotations

from collections.abc import Iterator

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.data.text import corpus as corpus_lib

DOCUMENTS = ("paragraph", "file")


def corpus(location: str, *, document: str = "paragraph", errors: str = "strict") -> TextFiles:
    """The files that match `location`: a path with *, **, ?, {a,b}, {000..010} or {split}.

    Args:
      document: what a document is: "paragraph" (between blank lines) or "file".
      errors: "strict", or "replace": bytes that are no UTF-8 become U+FFFD.

    Raises:
      UserError: no file matches, or a bad value.
    """
    if document not in DOCUMENTS:
        raise UserError(
            f"document {document!r} is not one of {', '.join(DOCUMENTS)}."
            f"{nearest(document, DOCUMENTS)}"
        )
    return TextFiles("text", location, errors, document=document)


class TextFiles(corpus_lib.FileCorpus):
    """Text files."""

    def file_parts(self, path: str) -> Iterator[corpus_lib.Part]:
        blocks = corpus_lib.characters(path, self.errors)
        if self.description["options"]["document"] == "file":
            return corpus_lib.whole(path, blocks)
        return corpus_lib.paragraphs(path, blocks)

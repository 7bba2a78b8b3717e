"""`pydoc`: the English that comes with Python, about 2 MB of it, without a download.

The language reference's topics (`pydoc_data.topics`) and the docstrings of the standard library,
taken from its source files, of which none is imported. A document is a topic, or the docstrings of
a module and its functions, or those of a class and its methods. It is the same for one version of
Python, and differs between versions.

Nothing stands in it twice: of paragraphs that are equal but for case and blanks, the first remains.
A tenth of the documents is `test`; those that share much of their wording with documents in `train`
are there too.

With the option task=classify it is the embedded task: of which group of modules (`pydoc_groups`) a
passage is the documentation. Topics take no part. A passage that names its module would give the
answer away, so there the word "module" stands instead (`hide_names`).
"""

from __future__ import annotations

import ast
import collections
import functools
import gc
import hashlib
import itertools
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from typing import Annotated, NamedTuple

from ssl_jax.core.errors import UserError
from ssl_jax.data.text import corpus as corpus_lib
from ssl_jax.data.text.pydoc_groups import GROUP_OF, GROUPS
from ssl_jax.data.text.text_kind import TextKind

SPLITS = ("train", "test")
# Not part of every installation, or not the same in all, or not English.
_LEFT_OUT = {"antigravity", "distutils", "encodings", "idlelib", "lib2to3", "pydoc_data", "test",
             "this", "tkinter", "turtle", "turtledemo"}  # fmt: skip
_TOPICS = "topics"  # class of the language reference
_CLASS_SIZE = 10  # a module with fewer documents is no class: its documents have no label
_SHORTEST = 200  # characters of a document
_HELD_OUT = 10  # one document in so many is in `test`
_SHINGLE = 8  # words
_SHARED = 0.2  # a document that shares more of its shingles with `train` is not in `test`
_LINES = re.compile(r"^ *[-=*~^#]{4,} *$\n?", re.MULTILINE)  # under headings


def corpus(location: str) -> Pydoc:
    """The documentation of this Python; `location` is empty.

    Raises:
      UserError: the source of its standard library is not there.
    """
    del location
    return Pydoc()


def examples(
    location: str,
    task: str,
    *,
    hide_names: Annotated[
        bool, 'Write "module" where a passage names the module it is from.'
    ] = True,
) -> PydocGroups:
    """The documentation of this Python by groups of modules; `location` is empty.

    Raises:
      UserError: the source of the standard library is not there.
    """
    del location, task
    return PydocGroups(hide_names)


class Document(NamedTuple):
    """A topic or the docstrings of a module or class, and the module it belongs to."""

    name: str
    text: str
    group: str


class Pydoc(corpus_lib.Corpus):
    """The documentation of this Python; labels are the modules that have many documents."""

    splits = SPLITS

    def __init__(self) -> None:
        # Reading the library takes seconds, which runs on a prepared cache need not spend.
        self.description = {"kind": "pydoc", "python": ".".join(map(str, sys.version_info[:3]))}

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        documents = itertools.chain(*divided().values())
        counts = collections.Counter(document.group for document in documents)
        return tuple(sorted(group for group, count in counts.items() if count >= _CLASS_SIZE))

    def parts(self, split: str) -> Iterator[corpus_lib.Part]:
        label_of = {group: label for label, group in enumerate(self.class_names)}
        for document in divided()[split]:
            label = label_of.get(document.group)
            yield from corpus_lib.documents(document.name, document.text, label)


class PydocGroups(corpus_lib.Corpus):
    """The documentation of this Python's modules; labels are the groups of modules."""

    splits = SPLITS
    class_names = tuple(GROUPS)

    def __init__(self, hide_names: bool) -> None:
        self.description = {
            "kind": "pydoc", "task": "classify", "hide_names": hide_names,
            "groups": corpus_lib.hash_of(GROUPS),
            "python": ".".join(map(str, sys.version_info[:3])),
        }  # fmt: skip

    def parts(self, split: str) -> Iterator[corpus_lib.Part]:
        label_of = {group: label for label, group in enumerate(self.class_names)}
        for document in divided()[split]:
            if document.group not in GROUP_OF:
                continue
            text = document.text
            if self.description["hide_names"]:
                name = re.escape(document.group.strip("_"))
                text = re.sub(rf"\b{name}\b", "module", text, flags=re.IGNORECASE)
            label = label_of[GROUP_OF[document.group]]
            yield from corpus_lib.documents(document.name, text, label)


@functools.cache
def divided() -> dict[str, list[Document]]:
    """The documents of each split: the topics, then the modules and classes."""
    collecting = gc.isenabled()
    gc.disable()  # syntax trees are many objects and no garbage: this halves the time
    try:
        documents = _distinct([*_topics(), *_docstrings()])
    finally:
        if collecting:
            gc.enable()
    held_out = {
        document.name
        for document in documents
        if int.from_bytes(hashlib.blake2b(document.name.encode()).digest()[:8]) % _HELD_OUT == 0
    }
    shingles = {document.name: _shingles(document.text) for document in documents}
    train = set().union(*(shingles[d.name] for d in documents if d.name not in held_out))
    while True:  # what moves to `train` may resemble others in `test`
        similar = [
            name
            for name in sorted(held_out)
            if len(shingles[name] & train) > _SHARED * len(shingles[name])
        ]
        if not similar:
            break
        held_out.difference_update(similar)
        train.update(*(shingles[name] for name in similar))
    return {
        "train": [document for document in documents if document.name not in held_out],
        "test": [document for document in documents if document.name in held_out],
    }


def _library() -> str:
    """The folder of the standard library's source."""
    root = sysconfig.get_paths()["stdlib"]
    if not os.path.isfile(os.path.join(root, "ast.py")):
        raise UserError(f"pydoc: the source of Python's standard library is not in {root}")
    return root


def _topics() -> Iterator[Document]:
    """The language reference, from the source of the dictionary it is kept in."""
    path = os.path.join(_library(), "pydoc_data", "topics.py")
    tree = _parse(path)
    tables = [
        node.value
        for node in (tree.body if tree else ())
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
    ]
    if not tables:
        raise UserError(f"pydoc: no topics in {path}")
    for name, text in sorted(ast.literal_eval(tables[0]).items()):
        yield Document(f"{_TOPICS}/{name}", text, _TOPICS)


def _docstrings() -> Iterator[Document]:
    """The docstrings of the standard library, by module and class."""
    root = _library()
    for top in sorted(sys.stdlib_module_names - _LEFT_OUT):
        for path in _sources(os.path.join(root, top)):
            tree = _parse(path)
            module = os.path.splitext(os.path.relpath(path, root))[0].replace(os.sep, ".")
            if tree is not None:
                yield from _of(tree, module.removesuffix(".__init__"), top)


def _sources(path: str) -> Iterator[str]:
    """The source files of the module or package at `path`."""
    if os.path.isfile(path + ".py"):
        yield path + ".py"
    for folder, folders, files in sorted(os.walk(path)):
        folders[:] = [name for name in folders if name not in ("test", "tests", "__pycache__")]
        yield from (os.path.join(folder, name) for name in sorted(files) if name.endswith(".py"))


def _parse(path: str) -> ast.Module | None:
    """The syntax tree of a file; None for templates and the like."""
    try:
        with open(path, "rb") as file:
            return ast.parse(file.read())
    except (SyntaxError, ValueError, OSError):
        return None


def _of(node: ast.Module | ast.ClassDef, name: str, group: str) -> Iterator[Document]:
    """The document of a module or class, then those of the classes in it."""
    docstrings = [ast.get_docstring(node)]
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            docstrings.append(ast.get_docstring(child))
    text = "\n\n".join(one for one in docstrings if one)
    if text:
        yield Document(name, text, group)
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _of(child, f"{name}.{child.name}", group)


def _distinct(documents: Iterable[Document]) -> list[Document]:
    """Leaves out paragraphs that stood in a document before, and documents left with little."""
    seen: set[str] = set()
    names: set[str] = set()
    out = []
    for document in documents:
        kept = []
        for paragraph in re.split(r"\n\s*\n", _LINES.sub("", document.text)):
            key = " ".join(paragraph.lower().split())
            if key and key not in seen:
                seen.add(key)
                kept.append(paragraph)
        text = "\n\n".join(kept)
        if len(text) >= _SHORTEST and document.name not in names:
            names.add(document.name)
            out.append(document._replace(text=text))
    return out


def _shingles(text: str) -> frozenset[tuple[str, ...]]:
    """The runs of 8 words, or all words if they are fewer."""
    words = re.findall(r"\w+", text.lower())
    runs = zip(*(words[start:] for start in range(_SHINGLE)), strict=False)
    return frozenset(runs) or frozenset([tuple(words)])


KIND = TextKind(name="pydoc", corpus=corpus, examples=examples, example_tasks=("classify",))

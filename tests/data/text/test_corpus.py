"""Corpora of files, and how documents are cut into parts and sentences."""

import gzip
import json
import random
import re

import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.data.kinds import jsonl, parquet, pydoc, text
from ssl_jax.data.text import corpus, tokenizer_training
from ssl_jax.data.text.pydoc_groups import GROUP_OF, GROUPS
from ssl_jax.tasks.labels import document_label


def documents(made, split="train"):
    """[name, text, label] of each document, its parts joined."""
    out = []
    for part in made.parts(split):
        assert len(part.text) <= corpus.PART
        if part.continues:
            out[-1][1] += part.text
        else:
            out.append([part.name, part.text, part.label])
    return out


def texts(made, split="train"):
    return [document[1] for document in documents(made, split)]


# Sentences


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("One line.\nTwo. The same\n\n  third ", ["One line.", "Two. The same", "third"]),
        ("", []),
        ("word", ["word"]),
    ],
)  # fmt: skip
def test_a_line_is_a_sentence(given, expected):
    found = corpus.sentences(given)
    assert "".join(found) == given and [one.strip() for one in found] == expected


def test_prose_is_cut_behind_full_stops():
    filler = "and so it went on for quite a while, with no end in sight, " * 6
    prose = (
        f"Dr. Smith met J. Doe at 3.5 p.m. in the U.S. embassy {filler}. “Was it late?” she asked! "
        f"Yes... It was, e.g. Tuesday{filler}. 2 more came (late.) Then none."
    )
    found = corpus.sentences(prose)
    assert "".join(found) == prose
    assert [one.strip()[:12] for one in found] == [
        "Dr. Smith me", "“Was it late", "Yes...", "It was, e.g.", "2 more came ", "Then none."
    ]  # fmt: skip
    assert len(corpus.sentences("日本語は難しい。" * 60)) == 60


def test_sentences_have_an_end():
    for given in ("word " * 5000, "x" * 5000, "语" * 2500):
        found = corpus.sentences(given)
        assert "".join(found) == given and max(map(len, found)) <= corpus.SENTENCE


def test_cuts_change_no_token():
    words = [
        "Hello",
        "we're",
        " ",
        "\n",
        "\n\n  ",
        "x=1;",
        "Ende.",
        "So",
        "日本",
        "...",
        "“Is",
        "it?”",
    ]
    words += ["long " * 90, "  "]
    made = tokenizer_training.train(lambda: words, "bpe", 300)
    draw = random.Random(0)
    for _ in range(100):
        given = "".join(draw.choice(words) + draw.choice(["", " ", " "]) for _ in range(60)).strip()
        found = corpus.sentences(given)
        assert "".join(found) == given
        assert made.encode(found)[0].tolist() == made.encode([given])[0].tolist()


# Text files


def test_paragraphs_and_files(tmp_path):
    (tmp_path / "b.txt").write_text("\n\n  First line\nsecond line\n \t\n\n\nOther document\n")
    (tmp_path / "a.txt").write_text("Only one.", encoding="utf-8-sig")
    found = documents(text.corpus(f"{tmp_path}/*.txt"))
    assert found == [
        [f"{tmp_path}/a.txt:1", "Only one.", None],
        [f"{tmp_path}/b.txt:1", "First line\nsecond line", None],
        [f"{tmp_path}/b.txt:2", "Other document", None],
    ]
    found = documents(text.corpus(f"{tmp_path}/*.txt", document="file"))
    assert found[1] == [
        f"{tmp_path}/b.txt", "First line\nsecond line\n \t\n\n\nOther document", None
    ]  # fmt: skip


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1000])
def test_blocks_make_no_difference(tmp_path, monkeypatch, block):
    content = "\r\n\r\nÄ1 日本\r\nzwei\r\n \r\n\r\n\n b \n\n\n\nc\rd 😀\n"
    path = tmp_path / "a.txt"
    path.write_bytes(content.encode())
    monkeypatch.setattr(corpus, "_BLOCK", block)
    assert texts(text.corpus(str(path))) == ["Ä1 日本\nzwei", "b", "c\nd 😀"]
    (whole,) = texts(text.corpus(str(path), document="file"))
    assert whole == content.replace("\r\n", "\n").replace("\r", "\n").strip()
    lines = [line for _, line in corpus.lines(str(path), "strict")]
    assert lines == content.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]


def test_a_long_document_comes_in_parts(tmp_path):
    path = tmp_path / "long.txt"
    draw = random.Random(0)
    content = " ".join(f"word{draw.randrange(10**6)}" for _ in range(400_000))  # 4.3 MB, one line
    path.write_text(content)
    made = text.corpus(str(path))
    parts = list(made.parts("train"))
    assert [part.continues for part in parts] == [False] + [True] * (len(parts) - 1)
    assert len(parts) > 4 and texts(made) == [content]
    assert all(re.match(r"\sword", part.text) for part in parts[1:])
    path.write_text("x" * 3_000_000)  # no place to cut
    assert texts(made) == ["x" * 3_000_000]


def test_compressed_files(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"One\n\nTwo"))
    assert texts(text.corpus(str(path))) == ["One", "Two"]
    path.write_bytes(gzip.compress(b"One\n\nTwo" * 1000)[:-20])
    with pytest.raises(UserError, match=r"a\.txt\.gz cannot be read"):
        texts(text.corpus(str(path)))


def test_a_file_that_unpacks_to_what_no_text_does(tmp_path, monkeypatch):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(bytes(3_000_000)))
    monkeypatch.setattr(corpus, "_ALWAYS_ALLOWED", 2_000_000)
    with pytest.raises(UserError, match=r"a\.txt\.gz has .* and unpacks to more than .*no text"):
        texts(text.corpus(str(path)))


@pytest.mark.parametrize("place", [0, 5, 3_000_000])
def test_bytes_that_are_no_utf8(tmp_path, place):
    path = tmp_path / "bad.txt"
    path.write_bytes(b"a" * place + "é".encode("latin-1") + b" tail")
    with pytest.raises(UserError) as caught:
        texts(text.corpus(str(path)))
    assert f"{path} is not UTF-8: byte 0xe9 at offset {place:,};" in str(caught.value)
    (found,) = texts(text.corpus(str(path), errors="replace"))
    assert found == "a" * place + "\ufffd tail"
    path.write_bytes("é".encode()[:1])  # cut short
    with pytest.raises(UserError, match="offset 0"):
        texts(text.corpus(str(path)))


def test_empty_files_are_noted(tmp_path):
    for name, content in (("a.txt", "text"), ("b.txt", ""), ("c.txt", " \n\n")):
        (tmp_path / name).write_text(content)
    made = text.corpus(f"{tmp_path}/*.txt")
    assert texts(made) == ["text"]
    assert made.notes() == [f"2 files without text, first: {tmp_path}/b.txt"]


def test_the_description_tells_corpora_apart(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("some text")
    first = text.corpus(str(path))
    assert text.corpus(str(path)).description == first.description
    assert text.corpus(str(path), document="file").description != first.description
    path.write_text("more of text")
    second = text.corpus(str(path))
    assert second.description != first.description and second.version() != first.version()
    json.dumps([second.description, second.version()])


# No files


@pytest.mark.parametrize("kind", [text, jsonl, parquet])
def test_no_file(tmp_path, kind):
    name = kind.__name__.rpartition(".")[2]
    for pattern in (f"{tmp_path}/*.x", f"{tmp_path}/{{split}}.x"):
        with pytest.raises(UserError, match=rf"no file matches {name}:.*\.x"):
            kind.corpus(pattern)
    with pytest.raises(UserError, match=f"is a folder; name its files, e.g. {name}:"):
        kind.corpus(str(tmp_path))
    with pytest.raises(UserError, match="is not a local path; mount"):
        kind.corpus("gs://bucket/*.txt")


def test_bad_options(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    name = f"text:{tmp_path}/a.txt"
    with pytest.raises(UserError, match="document is 'files'; use one of.*Did you mean 'file'"):
        data.load(name, document="files")
    with pytest.raises(UserError, match="errors is 'ignore'; use one of strict, replace"):
        data.load(name, errors="ignore")


# JSON lines and Parquet


def write_lines(path, *records):
    lines = [line if isinstance(line, str) else json.dumps(line) + "\n" for line in records]
    path.write_text("".join(lines))
    return str(path)


def test_json_lines(tmp_path):
    path = write_lines(
        tmp_path / "a.jsonl",
        {"text": "One\n\nstill one", "label": 3}, "\n", {"text": " "}, {"text": "Two", "label": 0},
    )  # fmt: skip
    found = documents(jsonl.corpus(path))
    assert found == [[f"{path}:1", "One\n\nstill one", None], [f"{path}:4", "Two", None]]
    path = write_lines(
        tmp_path / "b.jsonl", {"body": "One", "topic": "x"}, {"body": "Two", "topic": 1}
    )
    found = documents(jsonl.corpus(path, text_key="body", label_key="topic"))
    assert [document[2] for document in found] == ["x", 1]


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        ([{"text": "a"}, {"txt": "b"}], {}, "line 2 has no key 'text'; keys: txt. Did you mean"),
        ([{"text": "a"}], {"label_key": "label"}, "line 1 has no key 'label'"),
        ([{"text": 5}], {}, "line 1: 'text' is 5, not a text"),
        ([{"text": "a", "y": 0.5}], {"label_key": "y"}, "line 1: label 0.5 is neither"),
        ([{"text": "a"}, "{broken\n"], {}, "line 2 is not JSON"),
        (["[1, 2]\n"], {}, "line 1 is '[1, 2]'; it must be an object"),
        ([{"text": "half \ud83d"}], {}, "line 1 has half a character, '\\ud83d'"),
    ],
)  # fmt: skip
def test_bad_json_lines(tmp_path, records, options, message):
    path = write_lines(tmp_path / "a.jsonl", *records)
    with pytest.raises(UserError) as caught:
        documents(jsonl.corpus(path, **options))
    assert str(caught.value).startswith(f"{path}, ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_half_characters_can_be_replaced(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", {"text": "half \ud83d, whole 😀"})
    assert texts(jsonl.corpus(path, errors="replace")) == ["half \ufffd, whole 😀"]


def test_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split, rows in (("train", 600), ("test", 1)):
        columns = {
            "body": [f"{split} {i}" for i in range(rows)],
            "label": ["b", "a"][:rows] * (rows // 2 or 1),
        }
        pq.write_table(pa.table(columns), tmp_path / f"{split}.parquet", row_group_size=100)
    made = parquet.corpus(f"{tmp_path}/{{split}}.parquet", text_key="body", label_key="label")
    assert made.splits == ("train", "test")
    found = documents(made)
    assert [one[1] for one in found] == [f"train {i}" for i in range(600)]
    assert found[599] == [f"{tmp_path}/train.parquet:599", "train 599", "a"]
    with pytest.raises(UserError, match="has no column 'text'; columns: body, label"):
        texts(parquet.corpus(f"{tmp_path}/test.parquet"))
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"broken\.parquet cannot be read"):
        texts(parquet.corpus(f"{tmp_path}/broken.parquet"))
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "null.parquet")
    with pytest.raises(UserError, match="row 1: column 'text' is None, not a text"):
        texts(parquet.corpus(f"{tmp_path}/null.parquet"))


# Python's documentation


def words(given):
    return re.findall(r"\w+", given.lower())


def test_pydoc():
    made = pydoc.corpus("")
    found = {split: documents(made, split) for split in made.splits}
    assert made.splits == ("train", "test") and len(found["train"]) > 400 < 20 * len(found["test"])
    names = [name for split in found.values() for name, _, _ in split]
    assert len(set(names)) == len(names)
    assert "topics/assignment" in names and "json.decoder.JSONDecoder" in names
    labels = {name: label for split in found.values() for name, _, label in split}
    assert made.class_names[labels["topics/assignment"]] == "topics"
    assert made.class_names[labels["asyncio.base_events.BaseEventLoop"]] == "asyncio"
    assert len(made.class_names) > 10
    (decoder,) = [one for split in found.values() for one in split if one[0] == "logging.Logger"]
    assert "severity" in decoder[1]
    assert made.description == pydoc.corpus("").description


def test_pydoc_has_no_text_on_both_sides():
    made = pydoc.corpus("")
    train, test = texts(made), texts(made, "test")
    paragraphs = [
        {" ".join(one.lower().split()) for given in side for one in re.split(r"\n\s*\n", given)}
        for side in (train, test)
    ]
    assert not paragraphs[0] & paragraphs[1]
    runs = {tuple(given[i : i + 8]) for given in map(words, train) for i in range(len(given) - 7)}
    for given in map(words, test):
        own = {tuple(given[i : i + 8]) for i in range(len(given) - 7)}
        assert len(own & runs) <= 0.2 * len(own), given[:10]


def test_pydoc_imports_nothing():
    import sys

    before = set(sys.modules)
    pydoc.divided.cache_clear()
    pydoc.divided()
    assert not {"antigravity", "turtle", "pydoc_data.topics"} & (set(sys.modules) - before)


def test_pydoc_groups():
    made = pydoc.examples("", "classify")
    open_ = pydoc.examples("", "classify", hide_names=False)
    assert made.description != open_.description and len(made.class_names) == 9
    counts = {}
    for split in made.splits:
        hidden, shown = documents(made, split), documents(open_, split)
        assert [one[0] for one in hidden] == [one[0] for one in shown]
        counts[split] = np.bincount([label for _, _, label in hidden], minlength=9)
        for name, given, label in hidden:
            top = name.split(".")[0]
            assert made.class_names[label] == GROUP_OF[top]
            assert top.strip("_").lower() not in words(given), name
    # Each class is on both sides, and none is most of it.
    assert counts["train"].min() > 20 and counts["test"].min() > 1
    assert counts["train"].max() < 0.3 * counts["train"].sum()
    (logger,) = [text for name, text, _ in documents(made, "train") if name == "logging.handlers"]
    assert "module" in logger
    # A module is in one group.
    listed = [module for modules in GROUPS.values() for module in modules.split()]
    assert len(set(listed)) == len(listed)
    # What is of no group, beside the topics, is little: parts of some system, of the interpreter.
    found = [one for split in pydoc.divided().values() for one in split if one.group != "topics"]
    assert sum(one.group not in GROUP_OF for one in found) < 0.03 * len(found)
    with pytest.raises(UserError, match="'tags'; use classify"):
        data.load("pydoc", task="tags")


@pytest.mark.parametrize(
    ("label", "expected"),
    [(3, 3), (3.0, 3), ("3", "3"), (" pos ", "pos"), (None, None), ("", None), (" ", None),
     (-1, None), (-1.0, None), ("-1", None), (float("nan"), None)],
)  # fmt: skip
def test_labels_of_documents(label, expected):
    assert document_label(label, "x") == expected


@pytest.mark.parametrize("label", [0.5, True, -2, [1], float("inf")])
def test_what_is_no_label_of_a_document(label):
    with pytest.raises(UserError, match="x: label .* is neither the name of a class nor a number"):
        document_label(label, "x")

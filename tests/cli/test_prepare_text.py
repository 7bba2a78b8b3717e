"""The command that prepares token caches, as a program."""

import os
import signal
import time

import numpy as np
import pytest

from ssl_jax import data
from tests import commands

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two", "##s", "."]


def run(*arguments):
    """(exit code, lines of output, lines of errors)"""
    done = commands.finish("prepare_text", *arguments, environment=commands.environment())
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def write_corpus(path, num_documents=4000):
    rng = np.random.default_rng(0)
    words = ["one", "two", "ones", "twos", "three."]
    documents = ["\n".join([" ".join(rng.choice(words, 9))] * 3) for _ in range(num_documents)]
    path.write_text("\n\n".join(documents))
    return documents


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name[0] != "."}


@pytest.mark.slow
def test_from_files_to_batches(tmp_path):
    documents = write_corpus(tmp_path / "a.txt", 50)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB))
    arguments = [
        f"--data=text:{tmp_path}/a.txt", f"--tokenizer={tmp_path}/vocab.txt", "--workers=0",
        f"--output={tmp_path}/cache", "--sequence_length=64",
    ]  # fmt: skip
    code, lines, errors = run(*arguments)
    assert (code, errors) == (0, [])
    assert lines[0] == f"tokenizer of 9 tokens: {tmp_path}/cache/tokenizer.json"
    assert lines[1].startswith("train: 50 documents, ")
    text = "\n".join(documents)
    tokens = len(text.split()) + text.count("ones") + text.count("twos") + text.count(".")
    assert lines[2] == (
        f"note: {text.count('three') / tokens:.1%} of the tokens of train are [UNK]: the tokenizer "
        "hardly knows this text; use one that fits it, e.g. tokenizer=bpe"
    )
    assert [line.split()[3] for line in lines[3:]] == [
        "packed,", "padded,", "full_sentences,", "pairs,", "stream,"
    ]  # fmt: skip
    assert all(line.endswith("% padding") for line in lines[3:])
    source = data.load(f"tokens:{tmp_path}/cache", rows="padded", sequence_length=64)
    first = source.batch(np.array([0]))["tokens"][0]
    ids = {"one": [5], "two": [6], "ones": [5, 7], "twos": [6, 7], "three.": [1, 8]}
    expected = [i for word in documents[0].split() for i in ids[word]]
    assert first[0] == 2 and first[1:40].tolist() == [*expected, 3, *[0] * 62][:39]

    code, lines, errors = run(*arguments)
    assert (code, errors) == (0, []) and lines[0].endswith("is finished: nothing to do")
    code, lines, errors = run(*arguments, "--document=file")
    assert (code, lines) == (1, []) and len(errors) == 1
    assert "something else (corpus.options.document: paragraph -> file); choose" in errors[0]


def test_a_small_corpus_gives_fewer_tokens_than_asked_for(tmp_path):
    write_corpus(tmp_path / "a.txt", 50)
    arguments = [
        f"--data=text:{tmp_path}/a.txt", "--workers=0", f"--output={tmp_path}/cache",
        "--vocab_size=30522",
    ]  # fmt: skip
    code, lines, errors = run(*arguments)
    assert (code, errors) == (0, []) and lines[0].startswith("training a wordpiece tokenizer")
    size = int(lines[1].split()[2])
    assert lines[1].startswith("tokenizer of ") and 10 < size < 100
    assert lines[3:] == [
        f"note: the text makes no more than {size} tokens, not the 30,522 of vocab_size; a run "
        f"that sets the size takes data.options.vocab_size={size}"
    ]
    assert len(data.load(f"tokens:{tmp_path}/cache", sequence_length=64, vocab_size=size))


@pytest.mark.slow
def test_killed_and_started_again(tmp_path):
    write_corpus(tmp_path / "a.txt")
    arguments = [
        f"--data=text:{tmp_path}/a.txt", "--tokenizer=bpe", "--vocab_size=290", "--workers=0",
        "--shard_characters=1000",
    ]  # fmt: skip
    assert run(*arguments, f"--output={tmp_path}/whole")[0] == 0
    cache = tmp_path / "cache"
    for signum, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        before = len(list(cache.glob("*.safetensors")))
        process = commands.launch(
            "prepare_text", *arguments, f"--output={cache}", environment=commands.environment()
        )
        deadline = time.monotonic() + 60
        while len(list(cache.glob("*.safetensors"))) < before + 10 and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signum)
        assert process.wait() == code
        assert not (cache / "manifest.json").exists()
    assert process.output().splitlines()[-1] == "stopped; the same command continues"
    kept = {path.name: path.stat().st_mtime_ns for path in cache.glob("*.safetensors")}
    code, lines, errors = run(*arguments, f"--output={cache}")
    assert (code, errors) == (0, []) and lines[0] == f"going on with {cache}"
    assert content(cache) == content(tmp_path / "whole")
    stamps = [(cache / name).stat().st_mtime_ns == stamp for name, stamp in kept.items()]
    assert sum(stamps) == len(kept) >= 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=x"], "--data is missing"),
        (["--data=digits", "--output=x"], "--data=digits is not a corpus; corpora: jsonl:PATTERN"),
        (
            ["--data=pydoc", "--output=x", "--document=file"],
            "--document is not an option of pydoc",
        ),
    ],
)
def test_one_line_on_mistakes(tmp_path, arguments, message):
    code, lines, errors = run(*arguments)
    assert (code, lines) == (1, []) and len(errors) == 1
    assert errors[0].startswith("error: ") and message in errors[0]
    assert not os.path.exists("x")

"""The token cache: what is in it, and that no interruption leaves half of one."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ssl_jax.core.errors import RunError, UserError
from ssl_jax.data.kinds import text
from ssl_jax.data.text import prepare, token_cache
from ssl_jax.data.text.token_cache import TokenCache
from ssl_jax.data.text.tokenizer_options import TokenizerOptions

BPE = TokenizerOptions("bpe", 300)


def write_corpus(root, num_documents=60, seed=0):
    """Text files in two splits; returns the pattern and the documents of each split."""
    rng = np.random.default_rng(seed)
    words = ["one", "two", "three", "four", "long-winded", "naïve", "x=1;", "日本"]
    documents = {"train": [], "test": []}
    for split, share in (("train", num_documents), ("test", num_documents // 5)):
        for _ in range(share):
            lines = [
                " ".join(rng.choice(words, rng.integers(1, 30))) for _ in range(rng.integers(1, 9))
            ]
            documents[split].append("\n".join(lines))
        (root / f"{split}.txt").write_text("\n\n".join(documents[split]))
    return f"{root}/{{split}}.txt", documents


def make(pattern, directory, options=BPE, **kwargs):
    kwargs = {"shard_characters": 1500, "say": lambda line: None} | kwargs
    return prepare.prepare(text.corpus(pattern), options, str(directory), **kwargs)


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name[0] != "."}


def decoded(cache, split):
    """The text of each document."""
    documents, out = cache.documents, []
    for number in documents.splits[split]:
        ids = np.zeros(documents.num_tokens[number], np.int64)
        cache.read(
            documents.token_start[[number]], documents.num_tokens[[number]], ids, np.array([0])
        )
        out.append(cache.tokenizer.decode(ids))
    return out


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(pattern, documents, directory) of a cache in several shards."""
    root = tmp_path_factory.mktemp("corpus")
    pattern, documents = write_corpus(root)
    make(pattern, root / "cache")
    return pattern, documents, root / "cache"


def test_the_text_comes_back(finished):
    pattern, documents, directory = finished
    cache = TokenCache(str(directory))
    assert cache.splits == ("train", "test")
    for split in cache.splits:
        assert decoded(cache, split) == documents[split]
    where = cache.documents
    assert where.splits == {"train": range(60), "test": range(60, 72)}
    assert [cache.names[i] for i in (0, 59, 60)] == [
        pattern.format(split=name) + tail
        for name, tail in (("train", ":1"), ("train", ":60"), ("test", ":1"))
    ]
    assert (where.label == -1).all() and cache.num_classes is None
    # A line is a sentence here, and documents and sentences cover the tokens without a gap.
    assert where.num_sentences[0] == documents["train"][0].count("\n") + 1
    assert where.num_tokens.sum() == cache.sentence_tokens.sum() == cache.sentence_starts[-1]
    np.testing.assert_array_equal(where.token_start[1:], np.cumsum(where.num_tokens)[:-1])
    np.testing.assert_array_equal(cache.sentence_starts[where.sentence_start], where.token_start)


def test_the_manifest(finished):
    _, documents, directory = finished
    manifest = json.loads((directory / "manifest.json").read_text())
    shards = manifest["splits"]["train"]["shards"]
    assert len(shards) > 5 and manifest["dtype"] == "uint16"
    assert manifest["splits"]["train"]["documents"] == 60
    characters = sum(map(len, documents["train"]))
    assert manifest["splits"]["train"]["characters"] == characters
    tokenizer = TokenCache(str(directory)).tokenizer
    assert manifest["tokenizer"]["hash"] == tokenizer.digest
    assert manifest["tokenizer"]["vocabulary"]["size"] == tokenizer.vocabulary.size
    names = {"manifest.json", "tokenizer.json"}
    names |= {shard["file"] for split in manifest["splits"].values() for shard in split["shards"]}
    assert set(content(directory)) == names


def test_shards_are_ordinary_safetensors(finished):
    safetensors = pytest.importorskip("safetensors.numpy")
    arrays = safetensors.load_file(finished[2] / "train-00000.safetensors")
    assert arrays["tokens"].dtype == np.uint16
    assert arrays["sentence_tokens"].sum() == len(arrays["tokens"])
    assert arrays["document_sentences"].sum() == len(arrays["sentence_tokens"])


@pytest.mark.parametrize("workers", [0, 2])
def test_every_byte_is_the_same(finished, tmp_path, workers):
    pattern, _, directory = finished
    make(pattern, tmp_path / "again", workers=workers)
    assert content(tmp_path / "again") == content(directory)


def test_large_vocabularies_take_four_bytes(finished, tmp_path):
    pattern, documents, directory = finished
    made = json.loads((directory / "tokenizer.json").read_text())
    made["added_tokens"].append(
        made["added_tokens"][0] | {"id": 70_000, "content": "<far>", "special": False}
    )
    made["model"]["vocab"]["<far>"] = 70_000
    (tmp_path / "tokenizer.json").write_text(json.dumps(made))
    cache = make(pattern, tmp_path / "cache", TokenizerOptions(str(tmp_path)))
    assert cache.manifest["dtype"] == "uint32" and cache.vocabulary.size == 70_001
    assert decoded(cache, "test") == documents["test"]


def test_unknown_tokens_are_counted_and_told(tmp_path):
    vocabulary = tmp_path / "tokenizer" / "vocab.txt"
    vocabulary.parent.mkdir()
    vocabulary.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n")
    (tmp_path / "train.txt").write_text("a b a b\n\n" * 10 + "c")
    (tmp_path / "test.txt").write_text("a c d b\n\nb")
    published, lines = TokenizerOptions(str(vocabulary)), []
    cache = make(
        f"{tmp_path}/{{split}}.txt", tmp_path / "cache", published, shard_characters=9,
        say=lines.append,
    )  # fmt: skip
    splits = cache.manifest["splits"]
    assert {split: splits[split]["unknown"] for split in splits} == {"train": 1, "test": 2}
    assert len(splits["train"]["shards"]) > 2
    (note,) = [line for line in lines if line.startswith("note: ")]  # 1 of 41 is not worth one
    assert note.startswith("note: 40.0% of the tokens of test are [UNK]: the tokenizer hardly")


def test_documents_may_go_on_in_the_next_shard(tmp_path, monkeypatch):
    monkeypatch.setattr("ssl_jax.data.text.corpus.PART", 400)
    long = " ".join(f"word{i}" for i in range(1000))
    (tmp_path / "a.txt").write_text(f"short one\n\n{long}\n\nlast")
    cache = make(f"{tmp_path}/a.txt", tmp_path / "cache", shard_characters=700)
    shards = cache.manifest["splits"]["train"]["shards"]
    assert len(shards) > 5 and sum(shard["continues"] for shard in shards) == len(shards) - 1
    assert decoded(cache, "train") == ["short one", long, "last"]
    assert cache.names[1].endswith("a.txt:2") and len(cache.names) == 3
    assert cache.manifest["splits"]["train"]["documents"] == 3


def test_documents_without_a_token_are_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("words\n\n\u200b\u200b\n\nmore words\n\n\u200b")
    wordpiece = TokenizerOptions("wordpiece", 40)
    cache = make(f"{tmp_path}/a.txt", tmp_path / "cache", wordpiece, shard_characters=3)
    assert decoded(cache, "train") == ["words", "more words"]
    assert [cache.names[i][-2:] for i in range(2)] == [":1", ":3"]
    (tmp_path / "b.txt").write_text("\u200b\n\n\u200b")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    published = TokenizerOptions(str(tmp_path / "vocab.txt"))
    with pytest.raises(UserError, match=r"has 2 characters, but the tokenizer makes no token"):
        make(f"{tmp_path}/b.txt", tmp_path / "empty", published)
    assert not (tmp_path / "empty" / "manifest.json").exists()


def test_labels(tmp_path):
    from ssl_jax.data.kinds import jsonl

    def cache(name, *labels):
        records = [json.dumps({"text": f"text {i}", "y": y}) for i, y in enumerate(labels)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(records))
        corpus = jsonl.corpus(f"{tmp_path}/{name}.jsonl", label_key="y")
        return prepare.prepare(corpus, BPE, str(tmp_path / name), say=lambda line: None)

    named = cache("named", "b", "a", None, "b")
    assert named.documents.label.tolist() == [1, 0, -1, 1] and named.class_names == ("a", "b")
    numbered = cache("numbered", 4, -1, 0)
    assert numbered.documents.label.tolist() == [4, -1, 0]
    assert numbered.num_classes == 5 and numbered.class_names is None
    with pytest.raises(UserError, match="has the label 1, others have names such as 'a'"):
        cache("mixed", "a", 1)


# Interruptions


def test_finished_shards_are_kept(finished, tmp_path):
    pattern, _, directory = finished
    made = make(pattern, tmp_path)
    stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    # As if it had been killed: no manifest, one shard missing, one half written, one flipped bit.
    (tmp_path / "unfinished.json").write_text(json.dumps(made.manifest["identity"]))
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "train-00001.safetensors").unlink()
    half = tmp_path / "train-00002.safetensors"
    half.write_bytes(half.read_bytes()[:-7])
    flipped = tmp_path / "train-00003.safetensors"
    broken = bytearray(flipped.read_bytes())
    broken[-3] ^= 1
    flipped.write_bytes(broken)
    (tmp_path / "train-00004.safetensors.writing").write_bytes(b"half")
    (tmp_path / "train-99999.safetensors").write_bytes(b"of another attempt")
    with pytest.raises(UserError, match="holds an unfinished token cache; run the command that"):
        TokenCache(str(tmp_path))
    lines = []
    make(pattern, tmp_path, say=lines.append)
    assert lines[0] == f"going on with {tmp_path}" and not any("training" in line for line in lines)
    assert content(tmp_path) == content(directory)
    for name in ("train-00000.safetensors", "train-00004.safetensors", "tokenizer.json"):
        assert (tmp_path / name).stat().st_mtime_ns == stamps[name]
    for name in ("train-00001.safetensors", "train-00002.safetensors", "train-00003.safetensors"):
        assert (tmp_path / name).stat().st_mtime_ns != stamps[name]


def test_a_changed_text_is_noticed(finished, tmp_path):
    pattern, documents, _ = finished
    root = tmp_path / "corpus"
    root.mkdir()
    for split, texts in documents.items():
        (root / f"{split}.txt").write_text("\n\n".join(texts))
    pattern = f"{root}/{{split}}.txt"
    identity = make(pattern, tmp_path / "cache").manifest["identity"]
    (tmp_path / "cache" / "manifest.json").unlink()
    (tmp_path / "cache" / "unfinished.json").write_text(json.dumps(identity))
    content = (root / "test.txt").read_text()
    (root / "test.txt").write_text(content[::-1])  # of the same size
    cache = make(pattern, tmp_path / "cache")
    assert decoded(cache, "test") == content[::-1].split("\n\n")
    assert decoded(cache, "train") == documents["train"]


def test_a_finished_cache_is_checked(finished, tmp_path):
    pattern, _, directory = finished
    make(pattern, tmp_path)
    lines = []
    make(pattern, tmp_path, say=lines.append)
    assert lines == [f"{tmp_path} is finished: nothing to do"]
    path = tmp_path / "train-00002.safetensors"
    broken = bytearray(path.read_bytes())
    broken[-3] ^= 1
    path.write_bytes(broken)
    make(pattern, tmp_path, say=lines.append)
    assert "is damaged (train-00002.safetensors): making what is broken again" in lines[1]
    assert content(tmp_path) == content(directory)
    path.unlink()
    with pytest.raises(UserError, match=r"train-00002\.safetensors is missing; prepare the cache"):
        TokenCache(str(tmp_path))
    make(pattern, tmp_path)
    path.write_bytes(b"short")
    with pytest.raises(UserError, match="has 5 bytes, not "):
        TokenCache(str(tmp_path))


def test_another_cache_is_left_alone(finished, tmp_path):
    pattern, _, directory = finished
    before = content(directory)
    for options, message in (
        (TokenizerOptions("bpe", 301), "tokenizer.vocab_size: 300 -> 301"),
        (TokenizerOptions("wordpiece", 300), "tokenizer.tokenizer: bpe -> wordpiece"),
    ):
        with pytest.raises(UserError, match=message):
            make(pattern, directory, options)
    assert content(directory) == before
    (tmp_path / "thesis.doc").write_text("dear")
    with pytest.raises(UserError, match=r"is not empty and holds no token cache \(thesis.doc\)"):
        make(pattern, tmp_path)
    (tmp_path / "thesis.doc").unlink()
    with pytest.raises(UserError, match="holds no token cache; make one: ssl_jax"):
        TokenCache(str(tmp_path))


KILLED = """
import sys
from ssl_jax.data.kinds import text
from ssl_jax.data.text import prepare
from ssl_jax.data.text.tokenizer_options import TokenizerOptions

if __name__ == "__main__":
    prepare.prepare(
        text.corpus(sys.argv[1]), TokenizerOptions("bpe", 300), sys.argv[2],
        workers=int(sys.argv[3]), shard_characters=1500,
    )
"""


def start(tmp_path, pattern, directory, workers, **kwargs):
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(script), pattern, str(directory), str(workers)]
    return subprocess.Popen(command, env=environment, start_new_session=True, **kwargs)


@pytest.mark.slow
def test_kill_9(tmp_path):
    pattern, _ = write_corpus(tmp_path, num_documents=600)
    expected = tmp_path / "expected"
    make(pattern, expected)
    directory = tmp_path / "cache"
    kept = 0
    process = start(tmp_path, pattern, directory, 1)
    deadline = time.monotonic() + 120
    while kept < 20 and time.monotonic() < deadline and process.poll() is None:
        kept = len(list(directory.glob("train-*.safetensors")))
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)  # the process alone: its workers have to notice
    assert process.wait() == -signal.SIGKILL and kept >= 20
    assert not (directory / "manifest.json").exists() and (directory / "unfinished.json").exists()
    while _session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _session(process.pid)
    stamps = {p.name: p.stat().st_mtime_ns for p in directory.glob("train-*.safetensors")}
    assert start(tmp_path, pattern, directory, 1, stdout=subprocess.DEVNULL).wait() == 0
    assert content(directory) == content(expected)
    again = {name: (directory / name).stat().st_mtime_ns for name in stamps}
    assert sum(again[name] == stamps[name] for name in stamps) >= 20


@pytest.mark.slow
def test_a_worker_that_dies(tmp_path):
    pattern, _ = write_corpus(tmp_path, num_documents=2000)
    process = start(tmp_path, pattern, tmp_path / "cache", 1, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(tmp_path.glob("cache/train-00003*")):
        time.sleep(0.002)
    listing = ["ps", "-ww", "-o", "pid=", "-o", "args=", "--ppid", str(process.pid)]
    out = subprocess.run(listing, capture_output=True, text=True)
    (worker,) = [int(line.split()[0]) for line in out.stdout.splitlines() if "spawn_main" in line]
    os.kill(worker, signal.SIGKILL)
    error = process.communicate()[1]
    assert process.returncode == 1
    assert "RunError: a worker process died, perhaps for lack of memory: use fewer" in error


def _session(leader):
    """Processes left of a session that are not zombies."""
    out = subprocess.run(["ps", "-o", "stat=", "-s", str(leader)], capture_output=True, text=True)
    return [line for line in out.stdout.split() if not line.startswith("Z")]


@pytest.mark.slow
def test_processes_of_one_host_wait_for_each_other(finished, tmp_path):
    pattern, _, directory = finished
    processes = [
        start(tmp_path, pattern, tmp_path / "cache", 0, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    lines = [process.communicate()[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(any("training" in line for line in own) for own in lines) == 1
    assert sum(own[-1].endswith("is finished: nothing to do") for own in lines) == 2
    assert content(tmp_path / "cache") == content(directory)


def test_a_waiting_process_says_so(finished, tmp_path):
    pattern, _, _ = finished
    (tmp_path / "cache").mkdir()
    with open(tmp_path / "cache" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = start(tmp_path, pattern, tmp_path / "cache", 0, stdout=subprocess.PIPE, text=True)
        line = process.stdout.readline()
    assert line == f"waiting for another process that prepares {tmp_path / 'cache'}\n"
    assert "tokenizer of" in process.communicate()[0] and process.returncode == 0


def test_a_full_disk(finished, tmp_path, monkeypatch):
    pattern, _, directory = finished
    write = token_cache.write_file
    calls = []

    def full(path, content):
        calls.append(path)
        if len(calls) == 5:
            raise OSError(28, "No space left on device", path)
        write(path, content)

    monkeypatch.setattr(token_cache, "write_file", full)
    with pytest.raises(
        RunError, match="No space left.*finished are kept, the same command goes on"
    ):
        make(pattern, tmp_path)
    make(pattern, tmp_path)
    assert content(tmp_path) == content(directory)


# First use


def test_a_cache_is_prepared_on_first_use(finished, tmp_path):
    pattern, documents, _ = finished
    lines = []
    for _ in range(2):
        cache = prepare.cached(text.corpus(pattern), BPE, str(tmp_path), say=lines.append)
        assert decoded(cache, "test") == documents["test"]
    assert lines[0].startswith("preparing the tokens of text:")
    # And no second time.
    assert [line.split(":")[0] for line in lines[3:]] == ["train", "test", "note"]
    assert f"no more than {cache.vocabulary.size} tokens, not the 300 of vocab_size" in lines[5]
    (folder,) = tmp_path.iterdir()
    assert str(folder) in lines[0]
    prepare.cached(text.corpus(pattern), TokenizerOptions("bpe", 290), str(tmp_path), say=print)
    assert len(list(tmp_path.iterdir())) == 2


def test_bad_corpora(tmp_path):
    (tmp_path / "a.txt").write_text("  \n")
    with pytest.raises(UserError, match=r"text:.*a\.txt\[train\] has no text to train a tokenizer"):
        make(f"{tmp_path}/a.txt", tmp_path / "one")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    published = TokenizerOptions(str(tmp_path))
    with pytest.raises(
        UserError, match=r"\[train\] has no text: 1 file without text, first: .*a.txt"
    ):
        make(f"{tmp_path}/a.txt", tmp_path / "two", published)
    with pytest.raises(UserError, match="vocab_size is 7, but tokenizer .* has 6 tokens"):
        make(f"{tmp_path}/a.txt", tmp_path / "two", TokenizerOptions(str(tmp_path), 7))
    with pytest.raises(UserError, match="lowercase is no option of tokenizer=bpe"):
        make(f"{tmp_path}/a.txt", tmp_path / "two", TokenizerOptions("bpe", lowercase=True))


def test_a_tokenizer_can_be_trained_on_a_part(finished, tmp_path):
    pattern, _, directory = finished
    half = TokenizerOptions("bpe", 300, tokenizer_fraction=0.5)
    cache = make(pattern, tmp_path, half)
    assert cache.tokenizer.digest != TokenCache(str(directory)).tokenizer.digest
    assert cache.tokenizer.digest == half.make(text.corpus(pattern)).digest

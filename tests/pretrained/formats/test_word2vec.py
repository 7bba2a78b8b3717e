"""Files of word vectors: read back equal, by this reader and by gensim."""

import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.pretrained.formats import word2vec

WORDS = ["the", "naïve", "don't", "\u65e5\u672c", "x1"]


@pytest.fixture(scope="module")
def vectors():
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    values[1, 1] = np.frombuffer(b"\x0a\x20\x0a\x3e", np.float32)[0]  # bytes of blanks
    values[2, 0] = 1e-30
    return values


@pytest.mark.parametrize("binary", [False, True])
def test_a_file_is_read_back_equal(tmp_path, vectors, binary):
    path = str(tmp_path / "vectors")
    word2vec.write(path, WORDS, vectors, binary=binary)
    words, read = word2vec.read(path, binary=binary)
    assert words == WORDS
    np.testing.assert_array_equal(read, vectors)


def test_a_binary_file_without_line_ends_is_read(tmp_path, vectors):
    path = tmp_path / "vectors.bin"
    rows = zip(WORDS, vectors, strict=True)
    path.write_bytes(b"5 3\n" + b"".join(f"{word} ".encode() + x.tobytes() for word, x in rows))
    words, read = word2vec.read(str(path), binary=True)
    assert words == WORDS
    np.testing.assert_array_equal(read, vectors)


def test_a_bad_file_or_word_is_refused(tmp_path, vectors):
    path = tmp_path / "vectors.txt"
    path.write_text("2 3\na 1 2 3\nb 1 2\n")
    with pytest.raises(UserError, match="word 'b' has 2 numbers, not 3"):
        word2vec.read(str(path), binary=False)
    path.write_bytes(b"1 3\na 12")
    with pytest.raises(UserError, match="binary format: it ends early"):
        word2vec.read(str(path), binary=True)
    with pytest.raises(UserError, match="cannot be read"):
        word2vec.read(str(tmp_path / "none"), binary=True)
    with pytest.raises(ValueError, match="'new york' is empty or has a blank"):
        word2vec.write(str(path), ["new york"], vectors[:1], binary=False)
    with pytest.raises(ValueError, match="5 words have 1 vectors"):
        word2vec.write(str(path), WORDS, vectors[:1], binary=False)


@pytest.mark.parametrize("binary", [False, True])
def test_gensim_finds_equal_neighbours(tmp_path, binary):
    models = pytest.importorskip("gensim.models")
    rng = np.random.default_rng(1)
    words = [f"word{i}" for i in range(40)]
    vectors = rng.normal(size=(40, 6)).astype(np.float32)
    path = str(tmp_path / "vectors")
    word2vec.write(path, words, vectors, binary=binary)
    read = models.KeyedVectors.load_word2vec_format(path, binary=binary)
    np.testing.assert_array_equal(read.vectors, vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row, word in enumerate(words):
        nearest = np.argsort(-(unit @ unit[row]))[1:6]
        assert [near for near, _ in read.most_similar(word, topn=5)] == [words[i] for i in nearest]

"""Rows of a stream of documents, and the bytes of tokens."""

import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.data.text import tokenizer_training
from ssl_jax.data.text.token_bytes import token_bytes
from tests.data.text.test_rows import PAD, SEP, cache, everything, source


@pytest.mark.parametrize("length", [8, 64])
def test_every_token_is_an_input_and_a_target_once(length):
    made = cache(num_documents=30)
    chosen = [3, 4, 17, 29]
    rows = source(made, "stream", length, chosen)
    batch = everything(rows)
    expected = []
    for document in chosen:
        expected += [SEP, *made.document(document)]
    inputs, targets, real = batch["tokens"], batch["next_token"], batch["segment"] > 0
    assert inputs[real].tolist() == expected
    assert targets[real].tolist() == [*expected[1:], SEP]
    assert len(rows) == -(-len(expected) // length) and real[:-1].all()
    assert (inputs[~real] == PAD).all() and (targets[~real] == -1).all()
    assert rows.plan.num_tokens == len(expected)
    assert rows.padding("next_token") == -1
    # Segments change where an end-of-text token stands, and positions count within them.
    for row in range(len(rows)):
        begins = (inputs[row] == SEP) & real[row]
        begins[0] = False
        np.testing.assert_array_equal(batch["segment"][row], (1 + np.cumsum(begins)) * real[row])
        for number in np.unique(batch["segment"][row][real[row]]):
            (places,) = np.nonzero(batch["segment"][row] == number)
            np.testing.assert_array_equal(batch["position"][row, places], np.arange(len(places)))


def test_a_corpus_smaller_than_a_row_is_named():
    made = cache(num_documents=2, longest=3)
    with pytest.raises(UserError, match=r"the 2 documents have \d+ tokens, less than a row of 500"):
        len(source(made, "stream", 500))


def test_bytes_of_tokens_are_the_text():
    texts = ["A line,\n  another\tline.", "naïve café – 東京 🙂", "  "]
    made = tokenizer_training.train(lambda: texts * 5, "bpe", 300)
    contents = token_bytes(made)
    assert len(contents) == made.vocabulary.size
    assert all(contents[token] == b"" for token in made.vocabulary.special)
    for text in texts:
        ids, _ = made.encode([text])
        assert b"".join(contents[i] for i in ids) == text.encode()
    words = tokenizer_training.train(lambda: texts * 5, "wordpiece", 60)
    assert token_bytes(words) is None  # lower case, without blanks

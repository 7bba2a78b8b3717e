"""Span corruption: the published example and lengths, and that nothing of a text is lost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.views.span_corruption import (
    corrupt,
    corrupt_spans,
    corrupted_lengths,
    noise_spans,
    shifted,
    span_counts,
)

SENTINELS, END = tuple(range(200, 160, -1)), 1


def test_the_example_of_the_paper():
    """Figure 2 of Raffel et al. 2020; its <Z> is in the place of the library's end token."""
    words = ["Thank", "you", "for", "inviting", "me", "to", "your", "party", "last", "week", "."]
    ids = {word: 10 + i for i, word in enumerate(words)} | {"<X>": 90, "<Y>": 91, "<Z>": 92}
    names = {i: word for word, i in ids.items()} | {END: "</s>"}
    noise = np.isin(words, ["for", "inviting", "last"])
    found = corrupt(
        jnp.array([ids[word] for word in words]),
        jnp.asarray(noise),
        jnp.int32(len(words)),
        sentinels=jnp.array([90, 91]),
        end=END,
        target_end=92,
        input_row=14,
        target_row=8,
    )
    inputs = [names[i] for i in found.inputs[: found.input_lengths].tolist()]
    targets = [names[i] for i in found.targets[: found.target_lengths].tolist()]
    assert " ".join(inputs) == "Thank you <X> me to your party <Y> week . </s>"
    assert " ".join(targets) == "<X> for inviting <Y> last <Z>"
    assert not found.inputs[found.input_lengths :].any()
    assert not found.targets[found.target_lengths :].any()


def test_lengths_of_the_released_code():
    assert span_counts(568) == (85, 28)
    assert corrupted_lengths(568) == (512, 114)
    assert corrupted_lengths(569)[0] > 512
    # No shorter text needs more room than its row has.
    for length in range(3, 300):
        shorter, longer = corrupted_lengths(length - 1), corrupted_lengths(length)
        assert shorter[0] <= longer[0] and shorter[1] <= longer[1]


@functools.partial(jax.jit, static_argnames="rate")
def corrupted(keys, tokens, lengths, rate=0.15):
    return corrupt_spans(keys, tokens, lengths, sentinels=SENTINELS, end=END, rate=rate)


@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_inputs_and_targets_together_are_the_text(rate):
    lengths = np.array([40, 40, 17, 5, 2, 1, 0] + 25 * [40], np.int32)
    n, row = len(lengths), 40
    tokens = np.random.default_rng(0).integers(2, 99, (n, row)).astype(np.int32)
    keys = jax.random.split(jax.random.key(0), n)
    found = jax.device_get(corrupted(keys, tokens, lengths, rate=rate))
    assert found.inputs.shape[1], found.targets.shape[1] == corrupted_lengths(row, rate)
    for i, length in enumerate(lengths.tolist()):
        inputs = found.inputs[i, : found.input_lengths[i]].tolist()
        targets = found.targets[i, : found.target_lengths[i]].tolist()
        assert inputs.pop() == END and targets.pop() == END
        spans, restored = {}, []
        for token in targets:
            if token >= 160:
                spans[token] = current = []
            else:
                current.append(token)
        for token in inputs:
            restored += spans.pop(token) if token >= 160 else [token]
        assert not spans and restored == tokens[i, :length].tolist()
        noise, count = span_counts(length, rate) if length > 1 else (0, 0)
        assert len(targets) == noise + count
        assert [token for token in inputs if token >= 160] == list(SENTINELS[:count])
        assert length < 2 or inputs[0] == tokens[i, 0]  # it begins with what is no noise
    # A row is a function of its own key and text.
    alone = corrupted(keys[3:4], tokens[3:4], lengths[3:4], rate=rate)
    np.testing.assert_array_equal(alone.inputs[0], found.inputs[3])
    assert len({tuple(row) for row in found.inputs[7:]}) == 25 or rate == 0.15


def test_all_divisions_are_equally_likely():
    """5 noise tokens in 2 spans of a text of 10: 4 ways to divide each part."""
    keys = jax.random.split(jax.random.key(1), 16_000)
    draw = jax.vmap(lambda key: noise_spans(key, jnp.int32(10), 12, 0.5, 2.5))
    masks, counts = np.unique(np.asarray(jax.jit(draw)(keys)), axis=0, return_counts=True)
    assert len(masks) == 16 and (masks.sum(axis=1) == 5).all()
    assert not masks[:, 0].any() and not masks[:, 10:].any()
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 37.7  # 15 degrees of freedom, p = 0.001


def test_the_decoder_reads_the_token_before():
    np.testing.assert_array_equal(shifted(jnp.array([[5, 6, 7]]), 0), [[0, 5, 6]])

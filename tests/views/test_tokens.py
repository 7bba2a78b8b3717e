"""Masking: its statistics over a million tokens, and what it may not depend on."""

import functools

import chex
import jax
import numpy as np
import pytest

from ssl_jax import parallel
from ssl_jax.views.tokens import mask_tokens, most_predictions

PAD, CLS, SEP, MASK = 0, 1, 2, 3
SPECIAL = (0, 1, 2, 3)
VOCABULARY = 1000


@functools.partial(jax.jit, static_argnames=("p", "rounding", "rate", "share_masked"))
def mask(keys, tokens, segment, word_start=None, *, p=20, **options):
    return mask_tokens(
        keys, tokens, segment, vocab_size=VOCABULARY, mask=MASK, special=SPECIAL,
        max_predictions=p, word_start=word_start, **options,
    )  # fmt: skip


def rows(n, length=128, seed=0):
    """Two packed texts between special tokens, and padding; every length from 5 on."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, VOCABULARY, (n, length)).astype(np.int32)
    segment = np.zeros((n, length), np.int32)
    for i in range(n):
        full = length - i % (length - 4)
        cut = full // 2
        segment[i, :cut], segment[i, cut:full] = 1, 2
        tokens[i, [0, cut]], tokens[i, [cut - 1, full - 1]] = CLS, SEP
        tokens[i, full:] = PAD
    return tokens, segment


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


N = 16384  # two million places, a million of them tokens


@pytest.fixture(scope="module")
def million():
    tokens, segment = rows(N)
    return tokens, segment, jax.tree.map(np.asarray, mask(keys(N), tokens, segment))


def assert_share(hits, total, share):
    """Within three standard deviations."""
    assert abs(hits - total * share) <= 3 * np.sqrt(total * share * (1 - share)), (hits, total)


def test_a_seventh_of_a_million_tokens_in_shares_of_80_10_10(million):
    tokens, segment, masked = million
    real = (segment > 0).sum(axis=1)
    assert real.sum() > 1e6
    expected = [min(20, max(1, round(0.15 * int(n)))) for n in real]
    np.testing.assert_array_equal(masked.chosen.sum(axis=1), expected)
    was, now = tokens[masked.chosen], masked.tokens[masked.chosen]
    total = len(was)
    assert_share((now == MASK).sum(), total, 0.8 + 0.1 / VOCABULARY)
    assert_share((now == was).sum(), total, 0.1 + 0.1 / VOCABULARY)
    drawn = now[(now != MASK) & (now != was)]
    assert_share(len(drawn), total, 0.1 * (1 - 2 / VOCABULARY))
    # From all of the vocabulary, special tokens among it, and evenly.
    assert_share((drawn < 4).sum(), len(drawn), 3 / 998)
    counts = np.bincount(drawn, minlength=VOCABULARY)[4:]
    chi = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert abs(chi - 995) < 3 * np.sqrt(2 * 995)


def test_what_is_not_chosen_stays(million):
    tokens, segment, masked = million
    np.testing.assert_array_equal(masked.tokens[~masked.chosen], tokens[~masked.chosen])
    assert not masked.chosen[segment == 0].any() and not masked.chosen[tokens < 4].any()
    assert masked.tokens.dtype == np.int32


def test_every_place_is_as_likely_as_any_other(million):
    tokens, _, masked = million
    eligible = tokens >= 4
    whole = eligible.sum(axis=1) == 124  # rows of one length
    counts = masked.chosen[whole].sum(axis=0)
    share = 19 / 124
    spread = np.sqrt(whole.sum() * share * (1 - share))
    deviations = (counts[eligible[whole][0]] - whole.sum() * share) / spread
    assert np.abs(deviations).max() < 4.5 and 0.7 < deviations.std() < 1.3


def test_positions_targets_and_weights_say_the_same(million):
    tokens, _, masked = million
    for i in (0, 77, 123, 4000):
        places = np.flatnonzero(masked.chosen[i])
        k = len(places)
        np.testing.assert_array_equal(masked.positions[i, :k], places)
        np.testing.assert_array_equal(masked.targets[i, :k], tokens[i, places])
        np.testing.assert_array_equal(masked.weights[i], np.arange(20) < k)
        assert not masked.positions[i, k:].any() and not masked.targets[i, k:].any()


def test_random_rounding_is_right_on_average():
    tokens, segment = rows(N)
    counts = np.asarray(mask(keys(N), tokens, segment, rounding="random").chosen.sum(axis=1))
    exact = 0.15 * (segment > 0).sum(axis=1)
    assert (np.abs(counts - exact) < 1).all()
    rest = exact % 1
    assert abs((counts - exact).sum()) < 3 * np.sqrt((rest * (1 - rest)).sum())
    assert {len({*counts[exact == x]}) for x in np.unique(exact) if 0.1 < x % 1 < 0.9} == {2}


def test_the_same_key_masks_alike_and_another_does_not():
    tokens, segment = rows(8)
    one, again = (mask(keys(8), tokens, segment) for _ in range(2))
    chex.assert_trees_all_equal(one, again)
    other = mask(keys(8, seed=1), tokens, segment)
    assert (np.asarray(one.chosen) != other.chosen).any(axis=1).all()
    # A row's mask is its key's alone.
    order = np.array([3, 0, 1, 2, 4, 4, 6, 7])
    other = mask(keys(8)[order], tokens[order], segment[order])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:6], b[order][:6]), other, one)


@pytest.mark.parametrize(("words", "rounding"), [(False, "nearest"), (True, "random")])
def test_padding_changes_nothing(words, rounding):
    tokens, segment = rows(64, 40)
    starts = np.random.default_rng(1).uniform(size=tokens.shape) < 0.6 if words else None
    short = mask(keys(64), tokens, segment, starts, rounding=rounding)
    wide = [np.pad(x, ((0, 0), (0, 24))) for x in (tokens, segment)]
    starts = np.pad(starts, ((0, 0), (0, 24)), constant_values=True) if words else None
    long = mask(keys(64), *wide, starts, rounding=rounding)
    np.testing.assert_array_equal(long.tokens[:, :40], short.tokens)
    assert not long.chosen[:, 40:].any()
    for name in ("positions", "targets", "weights"):
        np.testing.assert_array_equal(getattr(long, name), getattr(short, name))


def words_of(starts, eligible):
    """The places of each word, from left to right."""
    words = []
    for place in np.flatnonzero(eligible):
        if starts[place] or place == 0 or not eligible[place - 1]:
            words.append([])
        words[-1].append(place)
    return words


def test_whole_words_are_chosen_as_long_as_there_is_room():
    """Greedily: no word is left that would still fit."""
    n = 500
    tokens, segment = rows(n, 60)
    starts = np.random.default_rng(1).uniform(size=tokens.shape) < 0.5
    masked = jax.tree.map(np.asarray, mask(keys(n), tokens, segment, starts, p=9))
    goal = [min(9, max(1, round(0.15 * int(k)))) for k in (segment > 0).sum(axis=1)]
    filled = 0
    for i in range(n):
        left = goal[i] - masked.chosen[i].sum()
        assert left >= 0
        filled += left == 0
        for word in words_of(starts[i], tokens[i] >= 4):
            parts = set(masked.chosen[i, word])
            assert parts == {True} or (parts == {False} and len(word) > left)
    assert filled > 0.8 * n
    # And a token of a word may become another thing than its neighbour.
    pair = [(i, w) for i in range(n) for w in words_of(starts[i], tokens[i] >= 4) if len(w) == 2]
    taken = [masked.tokens[i, w] == MASK for i, w in pair if masked.chosen[i, w[0]]]
    assert 0 < np.mean([a != b for a, b in taken]) < 0.5


def test_words_are_as_likely_wherever_they_are():
    """Words of one and three tokens in turn, one token of room: only the short ones, evenly."""
    n = 4000
    tokens = np.full((n, 8), 7, np.int32)
    starts = np.tile(np.array([1, 1, 0, 0, 1, 1, 0, 0], bool), (n, 1))
    segment = np.ones_like(tokens)
    chosen = np.asarray(mask(keys(n), tokens, segment, starts, p=1).chosen)
    assert_share(chosen[:, 0].sum(), n, 0.5)
    assert (chosen[:, [0, 4]].sum(axis=1) == 1).all()
    # With room for three, the first word drawn decides: a long one fills it.
    chosen = np.asarray(mask(keys(n), tokens, segment, starts, p=3, rate=0.4).chosen)
    assert_share(chosen[:, 1].sum(), n, 0.25)
    assert_share(chosen[:, 0].sum(), n, 0.5)


def test_rows_with_little_or_nothing_to_choose():
    tokens = np.array([[CLS, SEP, PAD, PAD], [PAD] * 4, [CLS, 7, 8, SEP]], np.int32)
    masked = mask(keys(3), tokens, (tokens > 0).astype(np.int32), p=6)
    np.testing.assert_array_equal(masked.tokens[:2], tokens[:2])
    assert masked.positions.shape == (3, 6)
    np.testing.assert_array_equal(masked.weights.sum(axis=1), [0, 0, 1])


def test_shares_are_read():
    tokens, segment = rows(200)
    masked = mask(keys(200), tokens, segment, rate=0.3, p=60, share_masked=0.1)
    now = np.asarray(masked.tokens)[np.asarray(masked.chosen)]
    real = (segment > 0).sum()
    assert abs(len(now) / real - 0.3) < 0.02
    assert_share((now == MASK).sum(), len(now), 0.1 + 0.1 / VOCABULARY)


def test_the_most_predictions_there_can_be():
    assert [most_predictions(n) for n in (128, 512, 100, 20, 1)] == [20, 77, 15, 3, 1]
    for length in range(1, 600):
        assert max(1, round(0.15 * length)) <= most_predictions(length)
        assert np.floor(0.15 * length + 1 - 1e-6) <= most_predictions(length)


def test_mistakes_are_named():
    tokens, segment = rows(2)
    with pytest.raises(ValueError, match="share_masked 0.95 and share_random 0.1 must be shares"):
        mask(keys(2), tokens, segment, share_masked=0.95)


def test_devices_split_the_rows_and_send_each_other_nothing():
    rows_over = parallel.batch_sharding(parallel.make_mesh())
    tokens, segment = (jax.device_put(x, rows_over) for x in rows(16))
    of_rows = jax.device_put(keys(16), rows_over)
    text = mask.lower(of_rows, tokens, segment).compile().as_text()
    assert not any(name in text for name in ("all-gather", "all-to-all", "collective-permute"))
    expected = mask(keys(16), *rows(16))
    got = mask(of_rows, tokens, segment)
    chex.assert_trees_all_equal(got, expected)

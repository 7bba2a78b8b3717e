"""The map of words: who takes part, and labels that do not cover each other."""

import numpy as np

from ssl_jax.core import items
from ssl_jax.report import ReportInputs, shown, word_map


def words_of(count):
    """Pieces with blanks in front, of different lengths."""
    return [" " + "abcdefghij"[i % 10] * (3 + i % 7) + "xyz"[i % 3] for i in range(count)]


def test_labels_do_not_cover_each_other_and_stay_inside():
    rng = np.random.default_rng(0)
    drawn = word_map.draw(rng.normal(size=(60, 8)), np.arange(60, 0, -1), words_of(60))
    assert drawn.num_words == 45  # a quarter is left out as too frequent
    assert 10 < len(drawn.labels) <= 45
    for i, a in enumerate(drawn.labels):
        assert 0 <= a.x <= drawn.width and 0 <= a.y <= drawn.height
        for b in drawn.labels[:i]:
            wide = word_map._LETTER * (len(a.word) + len(b.word)) / 2
            assert abs(a.x - b.x) >= wide - 0.2 or abs(a.y - b.y) >= word_map._LINE - 0.2


def test_the_more_frequent_word_keeps_its_label():
    places = np.array([[0.0, 0.0], [5.0, 5.0], [100.0, 0.0], [10.0, 20.0]])
    assert word_map._without_overlap(places, np.array([4, 4, 4, 4])) == [0, 2, 3]


def test_few_words_and_unknown_counts_have_no_map():
    assert word_map.draw(np.eye(8), np.ones(8), words_of(8)) is None
    item = items.WordMap(np.eye(8))
    assert shown.content(item, ReportInputs(config={})) == ("word_map.html", None)

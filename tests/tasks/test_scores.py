"""Scores of labelled text, against definitions written out; answers and their thresholds."""

import collections
import json
import math

import jax
import numpy as np
import pytest

from ssl_jax import config as config_lib
from ssl_jax import data, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.run import probing
from ssl_jax.tasks import TASKS, answers, classify, text_baselines
from ssl_jax.tasks.tags import entities

OPTIONS = {"tokenizer": "wordpiece", "vocab_size": 200, "sequence_length": 32}


def scorer(source, **options):
    """predictions -> the scores of a source's task."""
    return lambda predictions: TASKS[source.task].score(source, predictions, **options)


def csv(tmp_path, labels, **options):
    lines = ["text,label", *(f"some words {i},{label}" for i, label in enumerate(labels))]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines))
    return data.load(f"csv:{path}", **OPTIONS | options)


def one_hot(classes, count):
    return np.eye(count)[classes]


def test_classes(tmp_path):
    source = csv(tmp_path, [1, 0, "", 1, 1, 0])
    predicted = np.array([1, 1, 0, 0, 1, 0])  # the third is not asked
    scores = scorer(source)({"logits": one_hot(predicted, 2)})
    assert scores["accuracy"] == pytest.approx(3 / 5)
    f1_of_one, f1_of_zero = 2 * 2 / (2 * 2 + 1 + 1), 2 * 1 / (2 * 1 + 1 + 1)
    assert scores["macro_f1"] == pytest.approx((f1_of_one + f1_of_zero) / 2)
    assert list(scores) == list(source.metrics)
    source.metrics = ("f1", "matthews", "accuracy")
    scores = scorer(source)({"logits": one_hot(predicted, 2)})
    tp, tn, fp, fn = 2, 1, 1, 1
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert scores["f1"] == pytest.approx(f1_of_one)
    assert scores["matthews"] == pytest.approx((tp * tn - fp * fn) / below)


def test_matthews():
    label = np.array([0, 1, 1, 0])
    assert classify.matthews(label, label) == 1
    assert classify.matthews(1 - label, label) == -1
    assert classify.matthews(np.array([0, 1, 0, 1]), label) == 0
    assert classify.matthews(np.zeros(4, int), label) == 0


def test_numbers(tmp_path):
    source = csv(tmp_path, [1.0, 2.5, "", 4.0, 3.0], task="regress")
    score = scorer(source)
    scores = score({"prediction": np.array([0.0, 2.0, 99.0, 9.0, 3.0])})
    x, y = np.array([0.0, 2, 9, 3]), np.array([1, 2.5, 4, 3])
    ours = ((x - x.mean()) * (y - y.mean())).sum() / len(x) / x.std() / y.std()
    assert scores["pearson"] == pytest.approx(ours) and scores["spearman"] == pytest.approx(1)
    assert scores["rmse"] == pytest.approx(math.sqrt(((x - y) ** 2).mean()))
    constant = score({"prediction": np.full(5, 2.0)})
    assert constant["pearson"] == constant["spearman"] == 0


def test_predictions_that_do_not_fit(tmp_path):
    source = csv(tmp_path, [0, 1, ""])
    with pytest.raises(ValueError, match="have shape"):
        scorer(source)({"logits": np.zeros((2, 2))})
    with pytest.raises(ValueError, match="have no 'logits'; they have h"):
        scorer(source)({"h": np.zeros((3, 2))})
    unlabelled = source.take(np.array([2]))
    with pytest.raises(UserError, match="has no labels to score predictions with"):
        scorer(unlabelled)({"logits": np.zeros((1, 2))})


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ("", []),
        ("O O", []),
        ("B-A I-A O B-A", [("A", 0, 2), ("A", 3, 4)]),
        ("B-A B-A", [("A", 0, 1), ("A", 1, 2)]),
        ("I-A I-A O", [("A", 0, 2)]),
        ("B-A I-B I-B", [("A", 0, 1), ("B", 1, 3)]),
        ("S-A B-A E-A I-A", [("A", 0, 1), ("A", 1, 3), ("A", 3, 4)]),
        ("U-A B-B L-B", [("A", 0, 1), ("B", 1, 3)]),
        ("B-A I-A I-A", [("A", 0, 3)]),
        ("B-A-X I-A-X", [("A-X", 0, 2)]),
    ],
)
def test_entities(tags, wanted):
    assert entities(tags.split()) == wanted


def test_tags(tmp_path):
    sentences = [
        [("Marie", "B-PER"), ("Curie", "I-PER"), ("saw", "O"), ("Paris", "B-LOC")],
        [("Paris", "B-LOC"), ("slept", "O")] * 8,
    ]
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join("\n".join(map(" ".join, words)) for words in sentences))
    source = data.load(f"conll:{path}", **OPTIONS | {"sequence_length": 10})
    assert len(source) > 2
    gold = source.batch(np.arange(len(source)))["tags"]
    number = {name: i for i, name in enumerate(source.class_names)}
    right = np.where(gold < 0, number["I-PER"], gold)
    score = scorer(source)
    assert set(score({"tags": right}).values()) == {1.0}
    wrong = right.copy()
    curie, saw = np.flatnonzero(gold[0] >= 0)[1:3]
    wrong[0, saw] = number["I-PER"]  # one entity too long
    wrong[-1, np.flatnonzero(gold[-1] == number["O"])[-1]] = number["B-LOC"]  # and one too many
    del curie
    scores = score({"tags": wrong})
    assert scores["entity_precision"] == pytest.approx(9 / 11)
    assert scores["entity_recall"] == pytest.approx(9 / 10)
    assert scores["entity_f1"] == pytest.approx(2 * 9 / (10 + 11))
    assert scores["accuracy"] == pytest.approx(18 / 20)
    assert tuple(scores) == source.metrics
    nothing = np.full_like(right, number["O"])
    assert score({"tags": nothing})["entity_f1"] == 0


def test_normalised_answers():
    assert answers.normalised("The  Cat, an\u00a0animal (a) ") == "cat animal"
    assert answers.f1("the cat", ["cat"]) == answers.exact_match("the cat", ["A cat!"]) == 1
    assert answers.exact_match("cats", ["cat"]) == 0
    assert answers.f1("a big black cat", ["dog", "black cat"]) == pytest.approx(2 * 2 / (3 + 2))
    assert answers.f1("", [""]) == answers.f1("the", [""]) == 1
    assert answers.f1("cat", [""]) == answers.f1("", ["cat"]) == 0
    assert answers.f1("cat cat dog", ["cat dog dog"]) == pytest.approx(2 * 2 / 6)


def brute_best(start, end, max_length):
    pairs = [
        (start[i] + end[j], -i, -j)
        for i in range(len(start))
        for j in range(i, min(len(start), i + max_length))
        if start[i] > -np.inf and end[j] > -np.inf
    ]
    score, i, j = max(pairs, default=(-np.inf, 0, 0))
    return score, -i, -j


def test_best_pair_is_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(50):
        size = int(rng.integers(1, 40))
        start, end = rng.integers(0, 6, (2, size)).astype(float)
        start[rng.random(size) < 0.3] = -np.inf
        found = answers.best_pair(start, end, size, 5)
        assert found[0] == brute_best(start, end, 5)[0]
        if found[0] > -np.inf:
            assert found == brute_best(start, end, 5)
    # The likeliest start and end lie too far apart, and no others are looked at.
    start, end = np.zeros(40), np.zeros(40)
    start[0] = end[39] = 9
    assert answers.best_pair(start, end, 1, 30)[0] == -np.inf
    assert answers.best_pair(start, end, 2, 30) == (9, 0, 0)
    assert answers.best_pair(np.zeros(0), np.zeros(0), 20, 30)[0] == -np.inf


def test_threshold_is_brute_force():
    rng = np.random.default_rng(1)
    for _ in range(30):
        margin = rng.integers(-3, 4, 12).astype(float)
        margin[0] = np.inf  # no answer was possible
        none = rng.random(12) < 0.5
        answered = np.where(none, 0, rng.random(12))
        found = answers.tune_threshold(margin, answered, none)

        def mean(at, margin=margin, answered=answered, none=none):
            return np.where(margin > at, none, answered).mean()

        best = max(map(mean, [-np.inf, *margin]))
        assert mean(found) == pytest.approx(best)
        assert not any(mean(at) >= best - 1e-12 for at in margin[margin < found])


TEXT = (
    "Old foxes say one was born in Paris in 1887. " * 4 + "It died, old and grey, in Rome in 1911."
)


@pytest.fixture
def asked(tmp_path):
    """Questions to a text of several windows: two with answers, one without, one unknown."""
    qas = [
        {"id": "born", "question": "Where did it die?", "answers": [
            {"text": "Rome", "answer_start": TEXT.index("Rome")},
            {"text": "in Rome", "answer_start": TEXT.index("in Rome")}]},
        {"id": "old", "question": "How was it?", "answers": [
            {"text": "old and grey", "answer_start": TEXT.index("old and")}]},
        {"id": "none", "question": "Who?", "answers": [], "is_impossible": True},
        {"id": "unknown", "question": "Why?"},
    ]  # fmt: skip
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": TEXT, "qas": qas}]}]}))
    options = OPTIONS | {"stride": 8, "query_length": 6}
    return data.load(f"squad:{path}", **options)


@pytest.mark.parametrize(("variant", "f1"), [("squad", 2 / 3), ("squad2", 1.0)])
def test_the_config_says_how_sure_an_answer_must_be(variant, f1, asked, monkeypatch):
    config = config_lib.load(f"configs/finetune.py:{variant}")
    config.data.options.update(OPTIONS, stride=8, query_length=6)
    prober = probing.Prober(config, parallel.make_mesh(devices=jax.devices()[:1]))
    monkeypatch.setattr(probing.Prober, "test", asked)
    logits = logits_of(asked, 5.0)
    monkeypatch.setattr(prober, "features", lambda encode, source: logits)
    scores = prober.evaluate(lambda batch: {}, ["task"])
    assert scores["task/f1"] == pytest.approx(f1)
    assert ("task/null_threshold" in scores) == (variant == "squad2")


def logits_of(source, spans):
    """Logits that say the gold spans, where their windows show them best, by `spans`' height."""
    batch = source.batch(np.arange(len(source)))
    place = np.arange(source.options.length)
    return {
        name: np.where(place == batch["span"][:, end, None], spans, 0.0)
        * (place > 0)
        for end, name in enumerate(("start", "end"))
    }  # fmt: skip


def test_answers(asked):
    score = scorer(asked)
    logits = logits_of(asked, 5.0)
    found = answers.decode(asked, logits["start"], logits["end"])
    texts = {asked.encoded.questions[item].name: answer for item, answer in found.items()}
    assert texts["born"].text == "Rome" and texts["old"].text == "old and grey"
    assert texts["old"].score == 10 and texts["old"].null == 0
    scores = score(logits)
    assert scores["has_answer_f1"] == 1 and scores["no_answer_accuracy"] == 0  # 0 is not above 0
    assert scores["exact_match"] == scores["f1"] == pytest.approx(2 / 3)
    tuned = scorer(asked, null_threshold=None)(logits)
    assert tuned["f1"] == 1 and -10 <= tuned.pop("null_threshold") < 0
    assert tuned == scorer(asked, null_threshold=-1.0)(logits)
    # No answer at all where cls stands out in every window.
    logits["start"][:, 0] = 20.0
    assert score(logits) == {
        "exact_match": pytest.approx(1 / 3), "f1": pytest.approx(1 / 3), "has_answer_f1": 0.0,
        "no_answer_accuracy": 1.0,
    }  # fmt: skip
    # One window in which it does not is enough.
    logits["start"][np.flatnonzero(asked.encoded.item == 1)[-1], 0] = -20.0
    assert score(logits)["has_answer_f1"] == 0.5


def test_answers_where_all_have_one(asked):
    rows = np.flatnonzero(asked.encoded.item == 0)
    part = asked.take(rows)
    logits = logits_of(part, 5.0)
    logits["start"][:, 0] = 20.0  # of no account: every question has an answer
    assert scorer(part)(logits) == {"exact_match": 1.0, "f1": 1.0}
    # Neither the question nor padding can be an answer.
    logits = {name: np.zeros((len(part), 32)) for name in ("start", "end")}
    batch = part.batch(np.arange(len(part)))
    for name in logits:
        logits[name] = np.where(batch["context"], 0.0, 50.0)
    (answer,) = answers.decode(part, logits["start"], logits["end"]).values()
    assert answer.score == 0 and answer.text in TEXT
    unknown = asked.take(np.flatnonzero(asked.encoded.item == 3))
    with pytest.raises(UserError, match="has no labels to score"):
        scorer(unknown)(logits_of(unknown, 1.0))
    with pytest.raises(ValueError, match="predictions have no 'end'"):
        scorer(part)({"start": logits["start"]})


def test_baselines(tmp_path):
    """Three classes, each with words of its own in half of its texts: majority 1/2 by count."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(200):
        label = int(rng.choice([0, 0, 1, 2]))
        own = f"word{'abc'[label]} " if rng.random() < 0.8 else ""
        lines.append(f"{own}and some of all {'xyz'[int(rng.integers(3))]} {i},{label}")
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["text,label", *lines]))
    source = data.load(f"csv:{path}", **OPTIONS)
    train, test = source.select(0, 150), source.select(150, 200)
    scores = text_baselines.baselines(train, test)
    counts = collections.Counter(train.labels.tolist())
    majority = counts.most_common(1)[0][0]
    assert scores["majority"] == (test.labels == majority).mean()
    for name in ("bag_of_words", "tf_idf"):
        assert scores["majority"] + 0.2 < scores[name] <= 1
        assert text_baselines.baselines(train, test, (name,)) == {name: scores[name]}
    assert scores == text_baselines.baselines(train, test)
    with pytest.raises(UserError, match="has no classes"):
        text_baselines.baselines(train, csv(tmp_path, [1.5, 2], task="regress"))


@pytest.mark.slow
def test_the_embedded_task_is_neither_trivial_nor_hopeless(tmp_path):
    """Passages of Python's documentation: words tell much of their group, and not all."""
    options = {"task": "classify", "tokenizer": "wordpiece", "vocab_size": 4096}
    options |= {"sequence_length": 64, "cache_dir": str(tmp_path)}
    train, test = (data.load("pydoc", split, **options) for split in ("train", "test"))
    scores = text_baselines.baselines(train, test)
    assert scores["majority"] < 0.3 and 0.4 < scores["tf_idf"] < 0.85

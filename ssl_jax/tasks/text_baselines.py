"""Computes baselines without a neural net for text classification.

- `majority`: the most frequent class of the train split, for every text.
- `bag_of_words`: multinomial logistic regression on how often each word is in a text.
- `tf_idf`: the same on the words and word pairs of a text, weighted by TF-IDF.

The regularisation is selected by cross-validation; the folds do not split documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError

NAMES = ("majority", "bag_of_words", "tf_idf")
_INVERSE_PENALTIES = (1.0, 10.0, 100.0)
_FOLDS = 3
_MAX_TRAIN = 20_000  # maximum number of texts to train on
_MANY = 1000  # number of texts from which on words of a single text are ignored


def baselines(
    train: Any, test: Any, names: Sequence[str] = NAMES, *, seed: int = 0
) -> dict[str, float]:
    """The accuracies of baselines on a test split.

    Args:
      train, test: a `TaskSource` of classify each. Rows without a label are ignored. Of a larger
        train split, 20,000 rows are drawn at random.
      names: of `NAMES`.
      seed: seed of the random rows.

    Returns:
      name -> accuracy, in [0, 1].

    Raises:
      UserError: a source has no classes or no labels.
    """
    for source in (train, test):
        if source.encoded.label is None or not (source.encoded.label >= 0).any():
            raise UserError(f"{source.name} has no classes; use data with task=classify")
    known = np.flatnonzero(train.encoded.label >= 0)
    if len(known) > _MAX_TRAIN:
        rng = np.random.default_rng(seed)
        known = np.sort(rng.choice(known, _MAX_TRAIN, replace=False))
    train, test = train.take(known), test.take(np.flatnonzero(test.encoded.label >= 0))
    label, test_label = train.encoded.label, test.encoded.label
    majority = float((test_label == np.argmax(np.bincount(label))).mean())
    out = dict.fromkeys(names, majority)
    if len(np.unique(label)) < 2 or not any(train.texts()):
        return out
    from threadpoolctl import threadpool_limits

    # The threads of a BLAS do not speed up sparse arithmetic, and compete with each other.
    with threadpool_limits(1):
        for name in names:
            if name != "majority":
                out[name] = _logistic(name, train, test)
    return out


def _logistic(name: str, train: Any, test: Any) -> float:
    # Importing scikit-learn takes a second.
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.model_selection import GroupKFold, cross_val_score

    label, groups, texts = train.encoded.label, train.encoded.group, train.texts()
    options = {
        "min_df": 2 if len(texts) >= _MANY else 1,
        "token_pattern": r"\S+",  # the words of the tokenizer
    }
    if name == "bag_of_words":
        words = CountVectorizer(**options)
    else:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, **options)
    x = words.fit_transform(texts)
    penalty = _INVERSE_PENALTIES[1]
    folds = min(_FOLDS, len(np.unique(groups)))
    if folds > 1:
        cuts = list(GroupKFold(folds).split(x, label, groups))
        if all(len(np.unique(label[rows])) > 1 for rows, _ in cuts):
            scores = [
                cross_val_score(_classifier(candidate), x, label, cv=cuts).mean()
                for candidate in _INVERSE_PENALTIES
            ]
            penalty = _INVERSE_PENALTIES[int(np.argmax(scores))]
    predicted = _classifier(penalty).fit(x, label).predict(words.transform(test.texts()))
    return float((predicted == test.encoded.label).mean())


def _classifier(inverse_penalty: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=inverse_penalty, max_iter=1000, tol=1e-3)

"""Baselines for classes of texts without a neural net, shown beside a fine-tuned one.

- `majority`: the class that is most frequent in training, for every text.
- `tfidf`: multinomial logistic regression on the words and pairs of words of a text, weighted by
  TF-IDF. Its regularisation is chosen on parts of the train split, cut between documents.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError

_INVERSE_PENALTIES = (1.0, 10.0, 100.0)
_FOLDS = 3
_MAX_TRAIN = 20_000  # texts
_MANY = 1000  # texts of which words that only one has are left out


def baselines(train: Any, test: Any, *, seed: int = 0) -> dict[str, float]:
    """The accuracies of `majority` and `tfidf` on a test split.

    Args:
      train, test: a `TaskSource` of classify each; rows without a label take no part. Of a larger
        train split 20,000 rows are drawn.
      seed: of that draw.

    Returns:
      `majority` and `tfidf`, shares in [0, 1].

    Raises:
      UserError: there are no classes, or no labels.
    """
    for source in (train, test):
        if source.encoded.label is None or not (source.encoded.label >= 0).any():
            raise UserError(f"{source.name} has no classes to tell apart; task=classify has")
    known = np.flatnonzero(train.encoded.label >= 0)
    if len(known) > _MAX_TRAIN:
        rng = np.random.default_rng(seed)
        known = np.sort(rng.choice(known, _MAX_TRAIN, replace=False))
    train, test = train.take(known), test.take(np.flatnonzero(test.encoded.label >= 0))
    label, wanted = train.encoded.label, test.encoded.label
    majority = np.argmax(np.bincount(label))
    out = {"majority": float((wanted == majority).mean())}
    if len(np.unique(label)) < 2 or not any(train.texts()):
        return out | {"tfidf": out["majority"]}
    from threadpoolctl import threadpool_limits

    # Sparse arithmetic gains nothing from the threads of a BLAS, which get into each other's way.
    with threadpool_limits(1):
        out["tfidf"] = _tfidf(train, test)
    return out


def _tfidf(train: Any, test: Any) -> float:
    # Imported where it is needed: that takes a second.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.model_selection import GroupKFold, cross_val_score

    label, groups, texts = train.encoded.label, train.encoded.group, train.texts()
    words = TfidfVectorizer(
        ngram_range=(1, 2),
        min_df=2 if len(texts) >= _MANY else 1,
        token_pattern=r"\S+",  # words as the tokenizer has written them
        sublinear_tf=True,
    )
    x = words.fit_transform(texts)
    penalty = _INVERSE_PENALTIES[1]
    folds = min(_FOLDS, len(np.unique(groups)))
    if folds > 1:
        cuts = list(GroupKFold(folds).split(x, label, groups))
        if all(len(np.unique(label[rows])) > 1 for rows, _ in cuts):
            scores = [
                cross_val_score(_classifier(one), x, label, cv=cuts).mean()
                for one in _INVERSE_PENALTIES
            ]
            penalty = _INVERSE_PENALTIES[int(np.argmax(scores))]
    predicted = _classifier(penalty).fit(x, label).predict(words.transform(test.texts()))
    return float((predicted == test.encoded.label).mean())


def _classifier(inverse_penalty: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=inverse_penalty, max_iter=1000, tol=1e-3)

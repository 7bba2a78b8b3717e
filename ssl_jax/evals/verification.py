"""Verification: do two images show the same, by the distance of their features?

The pairs are, in this order of preference,

    eval.verification.pairs="FILE"    LFW's pairs.txt, by the names of the test split's files
    eval.data="pairs:FILE"            the pairs of that data set
    eval.data="faces:DIR"             the pairs of DIR/pairs.txt
    any labels                        `num_pairs` pairs of the test split, half of them of one
                                      class, drawn once and for all by the seed

The score is minus the squared Euclidean distance of unit-length features. Accuracy follows LFW
(Huang et al. 2007, "image-restricted"): of ten folds, the threshold with the highest accuracy on
nine (0, 0.01, ..., 3.99; the lowest of equals) is applied to the tenth; the mean and the standard
deviation over folds are the result. Folds are those of the file, and otherwise every tenth pair of
either kind. TAR@FAR is the largest share of same pairs that a threshold accepts with at most that
share of the others, over all pairs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.config.fields import at_least
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec, Method
from ssl_jax.evals import roc
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model
from ssl_jax.evals.ranking import unit_rows
from ssl_jax.modalities.image import IMAGE

NEEDS = ()
FITS = False
METRICS = {
    "accuracy": Metric(
        "verification",
        "accuracy of telling pairs apart",
        sentence="accuracy of {model} in telling pairs apart",
    ),
    "auroc": Metric("verification AUROC", "area under the ROC curve of pairs", shown=False),
    "tar_far_1": Metric("TAR@FAR 1e-1", "same pairs accepted at FAR 1e-1", shown=False),
    "tar_far_2": Metric("TAR@FAR 1e-2", "same pairs accepted at FAR 1e-2", shown=False),
    "tar_far_3": Metric("TAR@FAR 1e-3", "same pairs accepted at FAR 1e-3"),
    "threshold": Metric("threshold", unit="", better=None, shown=False),
    "pairs": Metric("pairs", unit="", better=None, shown=False),
}
FOLDS = 10
THRESHOLDS = np.arange(0, 4, 0.01)  # of squared distances
_PAIRS_FILE = "pairs.txt"


class Pairs(NamedTuple):
    """Pairs of examples.

    Attributes:
      first, second: int [p], their rows.
      same: bool [p].
      fold: int [p], 0 to 9.
    """

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    fold: np.ndarray


def applies(method: Method, spec: DataSpec) -> bool:
    """Whether the data are images."""
    del method
    return spec.modality == IMAGE.name


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    feature: str = "h",
    seed: int = 0,
    pairs: Annotated[str | None, "A file of pairs in the format of LFW's pairs.txt."] = None,
    num_pairs: Annotated[int, at_least(2 * FOLDS), "Pairs that are drawn without a file."] = 6000,
    flip: Annotated[bool, "Adds the features of the mirrored image before scaling."] = False,
) -> dict[str, float]:
    """The metrics of the test split.

    Args:
      model: the model to evaluate.
      prober: provides the test split.
      feature: the output to evaluate, [n d].
      seed: draws pairs where there is no file.
      pairs: of a file.
      num_pairs: of drawn pairs.
      flip: see the option; the protocol of insightface.

    Raises:
      UserError: the file is malformed or names other images, or there are neither pairs nor labels.
    """
    source = prober.test
    chosen = pairs_of(source, pairs, num_pairs, seed)
    needed = np.unique(np.concatenate([chosen.first, chosen.second]))

    def encode(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        def output(batch: Mapping[str, jax.Array]) -> jax.Array:
            return model.outputs(batch, (feature,))[feature]

        h = output(batch)
        if flip:
            h = h + output({**batch, "image": jnp.flip(batch["image"], axis=2)})
        return {"h": h}

    rows = prober.features(encode, source, needed)
    h, index = rows["h"], rows["index"]
    if not np.isfinite(h).all():
        raise UserError(f"features {feature!r} are not finite; evaluate an earlier checkpoint")
    # Images that could not be read have no features; their pairs are left out.
    readable = np.isin(chosen.first, index) & np.isin(chosen.second, index)
    chosen = Pairs(*(column[readable] for column in chosen))
    first, second = (h[np.searchsorted(index, side)] for side in (chosen.first, chosen.second))
    return of_distances(squared_distances(first, second), chosen.same, chosen.fold)


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Squared distances of unit-length rows, float64 [n] in [0, 4]."""
    difference = unit_rows(first).astype(np.float64) - unit_rows(second)
    return (difference**2).sum(axis=1)


def of_distances(distance: np.ndarray, same: np.ndarray, fold: np.ndarray) -> dict[str, float]:
    """The metrics of pairs.

    Args:
      distance: float [p], in [0, 4].
      same: bool [p].
      fold: int [p].

    Raises:
      UserError: all pairs are of one kind, or there is one fold.
    """
    if same.all() or not same.any():
        raise UserError("verification needs pairs of the same and of different things")
    folds = np.unique(fold)
    if len(folds) < 2:
        raise UserError(f"verification needs at least two folds of pairs; there are {len(same)}")
    right = (distance[:, None] < THRESHOLDS) == same[:, None]  # (p, t)
    accuracies, thresholds = [], []
    for number in folds:
        held_out = fold == number
        best = int(right[~held_out].mean(axis=0).argmax())
        accuracies.append(right[held_out, best].mean())
        thresholds.append(THRESHOLDS[best])
    scores = -distance
    positive, negative = scores[same], scores[~same]
    return {
        "accuracy": float(np.mean(accuracies)),
        "accuracy_std": float(np.std(accuracies)),
        "auroc": roc.area(positive, negative),
        **{
            f"tar_far_{exponent}": roc.true_at_false(positive, negative, 10.0**-exponent)
            for exponent in (1, 2, 3)
        },
        "threshold": float(np.mean(thresholds)),
        "pairs": float(len(same)),
    }


def pairs_of(source: Any, file: str | None, num_pairs: int, seed: int) -> Pairs:
    """The pairs of a source, see the docstring of this module.

    Raises:
      UserError: as `evaluate_model`.
    """
    if file is None and getattr(source, "group_size", 1) == 2:
        first = np.arange(0, len(source), 2)
        same = source.labels[first] == source.labels[first + 1]
        return Pairs(first, first + 1, same, _folds(same))
    if file is None and hasattr(source, "root"):
        beside = os.path.join(source.root, _PAIRS_FILE)
        file = beside if os.path.exists(beside) else None
    if file is not None:
        if source.names is None:
            raise UserError(f"{source.name} has no names of files, which {file} is about")
        return of_lfw(file, source.names)
    labels = source.read_labels()
    if labels is None or not (labels >= 0).any():
        raise UserError(f"{source.name} has neither pairs nor labels; set eval.verification.pairs")
    return drawn(labels, num_pairs, seed)


def of_lfw(path: str, names: Sequence[str]) -> Pairs:
    """The pairs of a file in the format of LFW's pairs.txt.

    Its first line is the number of folds and that of pairs of each kind in a fold (or the latter
    alone, for one fold). Each fold has its same pairs, `name i j`, and then its others,
    `name i other j`.

    Args:
      path: of the file.
      names: of the images, NAME/NAME_0001.jpg.

    Raises:
      UserError: the file has another format, or names an image that is not there.
    """
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            lines = [line.split() for line in file.read().splitlines() if line.strip()]
        head = [int(number) for number in lines[0]]
        folds, of_kind = head if len(head) == 2 else (1, *head)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, IndexError) as error:
        raise UserError(f"{path} does not begin with the numbers of folds and of pairs") from error
    rows = lines[1:]
    if len(rows) != 2 * folds * of_kind:
        raise UserError(f"{path} announces {2 * folds * of_kind} pairs and has {len(rows)}")
    row_of = {os.path.splitext(name.rpartition("/")[2])[0]: row for row, name in enumerate(names)}

    def row(name: str, number: str) -> int:
        image = f"{name}_{number:0>4}"
        if image not in row_of:
            raise UserError(f"{path} names {image}, which is not among the {len(names)} images")
        return row_of[image]

    listed = []
    for number, cells in enumerate(rows):
        same = number % (2 * of_kind) < of_kind
        if len(cells) != (3 if same else 4):
            raise UserError(f"{path} line {number + 2} is no {'same' if same else 'other'} pair: "
                            f"{' '.join(cells)[:80]!r}")  # fmt: skip
        first, second = (cells[:2], (cells[0], cells[2])) if same else (cells[:2], cells[2:])
        listed.append((row(*first), row(*second), same, number // (2 * of_kind)))
    columns = [np.array(column) for column in zip(*listed, strict=True)]
    pairs = Pairs(*columns)
    return pairs if folds > 1 else pairs._replace(fold=_folds(pairs.same))


def drawn(labels: np.ndarray, num_pairs: int, seed: int) -> Pairs:
    """Pairs of labelled examples, half of one class and half of two, uniform within each kind.

    Args:
      labels: int [n], -1 for none.
      num_pairs: how many; a pair may be drawn twice.
      seed: of the draw.

    Raises:
      UserError: there are not two examples of one class, and another class.
    """
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(labels >= 0)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    _, start, counts = np.unique(labels[rows], return_index=True, return_counts=True)
    weights = counts * (counts - 1.0)
    others = counts * (len(rows) - counts.astype(float))
    if not weights.any() or not others.any():
        raise UserError("verification needs two examples of one class, and another class")
    half = num_pairs // 2
    of_class = rng.choice(len(counts), half, p=weights / weights.sum())
    one = rng.integers(0, counts[of_class])
    step = rng.integers(1, counts[of_class])
    same = start[of_class] + one, start[of_class] + (one + step) % counts[of_class]
    of_class = rng.choice(len(counts), num_pairs - half, p=others / others.sum())
    one = start[of_class] + rng.integers(0, counts[of_class])
    other = rng.integers(0, len(rows) - counts[of_class])
    other += np.where(other >= start[of_class], counts[of_class], 0)  # skips the class of `one`
    first, second = (np.concatenate(sides) for sides in zip(same, (one, other), strict=True))
    is_same = np.arange(num_pairs) < half
    return Pairs(rows[first], rows[second], is_same, _folds(is_same))


def _folds(same: np.ndarray) -> np.ndarray:
    """Every tenth pair of either kind, int [p]."""
    fold = np.empty(len(same), int)
    for kind in (same, ~same):
        fold[kind] = np.arange(kind.sum()) % FOLDS
    return fold

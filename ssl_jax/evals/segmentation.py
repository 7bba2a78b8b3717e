"""Segmentation with frozen features: the class of each pixel from the features of its patch.

    knn       patches of test take the classes of the most similar patches of train
              (`ssl_jax.evals.dense.neighbours`)
    linear    a linear classifier of patches, as DINOv2's linear segmentation (Oquab et al. 2023,
              Sec. 7.4), trained on the frozen features (`ssl_jax.evals.dense.linear`)

The patches are the patch tokens of a ViT, or the positions of a stage of a convolutional net, by
default of the last layer. Scores of patches are interpolated (bilinear) to the pixels of the mask.
`miou` is the intersection over union of a class, of the pixels of all test images together,
averaged over the classes that occur; pixels with the label 255 do not count.

k and the learning rate are chosen on a held-out fifth of the *train* images; the test images are
scored once. Nothing is augmented. Raw pixels of the same patches are scored beside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np

from ssl_jax.config.fields import each, not_empty, not_negative, open_fraction, positive
from ssl_jax.core.errors import UserError
from ssl_jax.evals import tokens
from ssl_jax.evals.dense import linear, pixels
from ssl_jax.evals.dense.neighbours import Bank
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model

NEEDS = ("masks",)
FEATURE = "last1/patches"
TOKENS = True
applies = tokens.applies
METRICS = {
    "knn_miou": Metric(
        "kNN mIoU", "mIoU of a kNN segmentation", sentence="mIoU of {model} with a kNN segmentation"
    ),
    "linear_miou": Metric(
        "linear mIoU",
        "mIoU of a linear segmentation",
        sentence="mIoU of {model} with a linear segmentation",
    ),
    "knn_accuracy": Metric("kNN pixel accuracy", shown=False),
    "linear_accuracy": Metric("linear pixel accuracy", shown=False),
    "val_knn_miou": Metric("kNN mIoU, held out of train", shown=False),
    "val_linear_miou": Metric("linear mIoU, held out of train", shown=False),
    "k": Metric("neighbours", unit="", better=None, shown=False),
    "learning_rate": Metric("learning rate", unit="", better=None, shown=False),
    "rate_at_edge": Metric("rate at the end of its grid", unit="", better=None, shown=False),
    "knn_iou_{label:d}": Metric("kNN IoU of class {label}", shown=False),
    "linear_iou_{label:d}": Metric("linear IoU of class {label}", shown=False),
}
_RAW = "raw pixels"
Encode = Callable[[Any], Mapping[str, jax.Array]]


class Part(NamedTuple):
    """Images: features float32 [n p d] of their patches, and masks uint8 [n h w]."""

    x: np.ndarray
    masks: np.ndarray


@dataclasses.dataclass(frozen=True)
class Options:
    """The options besides the output."""

    classifiers: Annotated[
        tuple[Literal["knn", "linear"], ...], not_empty, "What tells the classes of patches."
    ] = ("knn", "linear")
    ks: Annotated[tuple[int, ...], each(positive), not_empty, "Numbers of neighbours."] = (
        1, 10, 30, 90,
    )  # fmt: skip
    temperature: Annotated[float, positive, "tau of kNN, in units of cosine similarity."] = 0.02
    bank_patches: Annotated[int, positive, "Patches of train in the bank of kNN."] = 100_000
    learning_rates: Annotated[
        tuple[float, ...], each(positive), not_empty, "Rates of the linear classifiers."
    ] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    weight_decay: Annotated[float, not_negative, "Decay of their weights."] = 1e-3
    batch_size: Annotated[int, positive, "Images of a step."] = 16
    steps: Annotated[int, positive, "Steps of the linear classifiers."] = 1000
    val_fraction: Annotated[
        float, open_fraction, "Share of the train images that k and the rate are chosen on."
    ] = 0.2
    max_train_images: Annotated[
        int, positive, "Train images, evenly spaced; their features are in host memory."
    ] = 2000
    max_test_images: Annotated[int, positive, "Test images, evenly spaced."] = 2000


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    seed: int = 0,
    feature: str = FEATURE,
    options: Options,
) -> dict[str, float]:
    """Fits on train and scores on test.

    Args:
      model: its output `feature` is [n p d], the p positions of a grid on the images.
      prober: provides the splits; their sources have masks.
      seed: of the held-out part, the bank and the order of the images.
      feature: name of the output.
      options: see `Options`.

    Returns:
      For each classifier `miou`, pixel `accuracy` and the IoU of each class that occurs on test;
      `val_..._miou`, by which k and the rate are chosen; the two; and whether the rate is an end
      of the grid (widen it).

    Raises:
      UserError: the model has no such output, its positions form no grid, the splits have other
        classes, or there are too few images.
    """

    def encode(batch: Any) -> dict[str, jax.Array]:
        return {"x": tokens.patches(model, batch, feature, evaluation="segmentation")}

    shape = prober.features(encode, prober.train, np.arange(1), targets=())["x"].shape
    image = prober.train.spec.arrays["image"].shape
    grid = tokens.grid(shape[1], image, feature, evaluation="segmentation")
    model.kept[__name__] = grid, seed, options
    return _measure(encode, prober, grid, seed, options)


def baselines(model: Model, prober: Any, source: Any = None) -> dict[str, dict[str, float]]:
    """The same with the raw pixels of the patches as features."""
    del source
    grid, seed, options = model.kept[__name__]

    @jax.jit
    def encode(batch: Any) -> dict[str, jax.Array]:
        return {"x": pixels.pixel_patches(batch["image"], grid)}

    return {_RAW: _measure(encode, prober, grid, seed, options)}


def check(known: Known, *, feature: str, val_fraction: float, **options: Any) -> str:
    """A note if patches are so large that masks are coarse.

    Raises:
      UserError: the positions of the output form no grid, the splits have other classes, or there
        are too few train images.
    """
    image = known.train.spec.arrays["image"].shape
    rows, columns = tokens.grid(
        known.outputs[feature].shape[1], image, feature, evaluation="segmentation"
    )
    _check_classes(known.train, known.test)
    _check_counts(min(known.num_train, options["max_train_images"]), val_fraction)
    if min(rows, columns) >= 4:
        return ""
    return (
        f"segmentation: eval.segmentation.feature={feature!r} has {rows}x{columns} positions on "
        f"images of {image[0]}x{image[1]}; an earlier stage or smaller patches tell more"
    )


def measures(known: Known, *, classifiers: Sequence[str], **options: Any) -> tuple[str, ...]:
    """Names of the metrics that `evaluate_model` returns, without those of single classes."""
    del known, options
    names = [
        name
        for classifier in classifiers
        for name in (f"{classifier}_miou", f"{classifier}_accuracy", f"val_{classifier}_miou")
    ]
    chosen = {"knn": ["k"], "linear": ["learning_rate", "rate_at_edge"]}
    return (*names, *(name for classifier in classifiers for name in chosen[classifier]))


def _measure(
    encode: Encode, prober: Any, grid: tuple[int, int], seed: int, options: Options
) -> dict[str, float]:
    names = _check_classes(prober.train, prober.test)
    examples = tokens.train_examples(prober)
    if options.max_train_images < len(examples):
        chosen = np.linspace(0, len(examples) - 1, options.max_train_images).astype(int)
        examples = examples[chosen]
    held_out_count = _check_counts(len(examples), options.val_fraction)
    train = _joined(_parts(encode, prober, prober.train, examples))
    order = np.random.default_rng(seed).permutation(len(train.x))
    fitted, held_out = (
        Part(train.x[rows], train.masks[rows])
        for rows in (np.sort(order[held_out_count:]), np.sort(order[:held_out_count]))
    )
    counts = pixels.cell_counts(fitted.masks, grid, len(names))
    if not counts.any():
        raise UserError("no pixel of the train images has a class")
    subset = prober.evenly(prober.test, options.max_test_images)
    subset = np.arange(len(prober.test)) if subset is None else subset

    out: dict[str, float] = {}
    for classifier in options.classifiers:
        choices, score = _FIT[classifier](fitted.x, counts, seed, options)
        val = [
            pixels.mean_iou(pixels.confusion(scores, held_out.masks, grid))
            for scores in score(held_out.x, range(len(choices)))
        ]
        best = int(np.argmax(val))
        total = np.zeros((len(names), len(names)), np.int64)
        for part in _parts(encode, prober, prober.test, subset):
            (scores,) = score(part.x, (best,))
            total += pixels.confusion(scores, part.masks, grid)
        if not total.any():
            raise UserError("no pixel of the test images has a class")
        out[f"{classifier}_miou"] = pixels.mean_iou(total)
        out[f"{classifier}_accuracy"] = pixels.accuracy(total)
        out[f"val_{classifier}_miou"] = val[best]
        for label, value in enumerate(pixels.ious(total)):
            if np.isfinite(value):
                out[f"{classifier}_iou_{label}"] = float(value)
        out[{"knn": "k", "linear": "learning_rate"}[classifier]] = float(choices[best])
        if classifier == "linear":
            out["rate_at_edge"] = float(len(choices) > 1 and best in (0, len(choices) - 1))
    return out


# Fits a classifier; returns the values to choose from, and (features, numbers of choices) ->
# scores [n p c] of each.
Score = Callable[[np.ndarray, Sequence[int]], Iterator[np.ndarray]]


def _fit_knn(
    x: np.ndarray, counts: np.ndarray, seed: int, options: Options
) -> tuple[tuple[int, ...], Score]:
    ks = tuple(dict.fromkeys(options.ks))
    bank = Bank.of(x, counts, limit=options.bank_patches, seed=seed)

    def score(x: np.ndarray, choices: Sequence[int]) -> Iterator[np.ndarray]:
        chosen = tuple(ks[choice] for choice in choices)
        yield from bank.scores(x, chosen, options.temperature).values()

    return ks, score


def _fit_linear(
    x: np.ndarray, counts: np.ndarray, seed: int, options: Options
) -> tuple[tuple[float, ...], Score]:
    fitted = linear.fit(
        x, counts, rates=options.learning_rates, decay=options.weight_decay, steps=options.steps,
        batch_size=options.batch_size, seed=seed,
    )  # fmt: skip

    def score(x: np.ndarray, choices: Sequence[int]) -> Iterator[np.ndarray]:
        for choice in choices:
            heads = jax.tree.map(lambda a, i=choice: a[i : i + 1], fitted.heads)
            yield fitted._replace(heads=heads).scores(x)[0]

    return options.learning_rates, score


_FIT = {"knn": _fit_knn, "linear": _fit_linear}


def _parts(encode: Encode, prober: Any, source: Any, indices: np.ndarray) -> Iterator[Part]:
    """The images `indices` with their masks, a part at a time; unreadable ones are left out."""
    size = prober.config.eval.batch_size
    for first in range(0, len(indices), size):
        rows = prober.features(encode, source, indices[first : first + size], targets=())
        yield Part(rows["x"], source.masks.read(rows["index"]))


def _joined(parts: Iterator[Part]) -> Part:
    return Part(*map(np.concatenate, zip(*parts, strict=True)))


def _check_classes(train: Any, test: Any) -> tuple[str, ...]:
    """The names of the classes.

    Raises:
      UserError: the splits have other ones.
    """
    if train.masks.classes != test.masks.classes:
        raise UserError(
            f"the masks of {train.name} have {len(train.masks.classes)} classes, and those of "
            f"{test.name} {len(test.masks.classes)} or others; take splits of one data set"
        )
    return test.masks.classes


def _check_counts(count: int, fraction: float) -> int:
    """The number of held-out images.

    Raises:
      UserError: none is left to fit on, or to choose on.
    """
    held_out = round(fraction * count)
    if not 1 <= held_out < count:
        raise UserError(
            f"eval.segmentation.val_fraction={fraction:g} of {count} train images leaves none to "
            "fit on or none to choose on"
        )
    return held_out

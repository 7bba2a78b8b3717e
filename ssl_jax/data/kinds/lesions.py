"""`lesions`: drawn discs like photographs of a retina, with small marks of five kinds.

Any number of examples, without a download. Everything large in an image (colour, light, position
of the disc) says nothing of the label: only marks of a few pixels do, which differ in form and not
in colour. So it stands for medical images, in which small local variations decide (Raghu et al.
2019, section 1), as `shapes` stands for photographs of one object.

With `label="findings"` an image has a label for each kind of mark, present or not; with "grade" it
has the number of kinds that are present as its class, from 0 to 4 (4: four or five).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np

from ssl_jax.config.fields import open_fraction, positive
from ssl_jax.data import counter
from ssl_jax.data.image import Canvas
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.image_source import ArraySource
from ssl_jax.data.kind import Facts
from ssl_jax.data.request import Request

FINDINGS = ("dot", "ring", "bar", "cross", "pair")
SPLITS = ("train", "test")
IMAGE_SIZE = 64
CHANNELS = 3
NUM_GENERATED = 10_000
NUM_GRADES = 5
MARKS = 3  # of each kind that is present
_MARK_RADIUS = 0.055  # of the image's side
_INK = np.array([0.30, 0.06, 0.05], np.float32)
_GLOBAL = 7  # random numbers of an image besides those of its marks
_NUMBERS = _GLOBAL + len(FINDINGS) * (1 + 3 * MARKS)
_BLOCK_PIXELS = 1 << 18


def sizes(num_generated: int = NUM_GENERATED) -> dict[str, int]:
    """Examples of each split: `test` is a fifth of `train` on top."""
    return {"train": num_generated, "test": max(num_generated // 5, 1)}


def dataset(
    location: str,
    request: Request,
    *,
    num_generated: Annotated[
        int, positive, "Examples of the train split; test is a fifth of it on top."
    ] = NUM_GENERATED,
    label: Annotated[
        Literal["findings", "grade"], "Several labels an image, or one class of five."
    ] = "findings",
    prevalence: Annotated[
        float, open_fraction, "Share of the images that have marks of a kind."
    ] = 0.4,
) -> Lesions:
    """The data set; `location` is empty."""
    del location
    request.refuse_host_crops("lesions")
    canvas = request.canvas(IMAGE_SIZE, CHANNELS)
    return Lesions(canvas, num_generated, label, prevalence, request.seed)


@dataclasses.dataclass(frozen=True)
class Lesions:
    """The drawn discs, in both splits."""

    canvas: Canvas
    num_generated: int
    label: str
    prevalence: float
    seed: int
    splits = SPLITS

    def source(self, split: str) -> ArraySource:
        uniform = draw_numbers(self.seed, split, sizes(self.num_generated)[split])
        findings = findings_of(uniform, self.prevalence)
        images = render(uniform, findings, self.canvas.size)
        if self.canvas.channels == 1:
            images = np.round(images @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[..., None]
        labels: dict[str, Any] = {"label_matrix": findings, "label_names": FINDINGS}
        if self.label == "grade":
            grades = np.minimum(findings.sum(axis=1), NUM_GRADES - 1).astype(np.int32)
            labels = {"labels": grades, "num_classes": NUM_GRADES}
        return ArraySource(name=f"lesions[{split}]", canvas=self.canvas, images=images, **labels)


def draw_numbers(seed: int, split: str, count: int) -> np.ndarray:
    """The random numbers of the first `count` examples, float64 [count numbers] in [0, 1)."""
    stream = counter.key(seed, counter.Stream.LESIONS, SPLITS.index(split))
    counters = np.arange(count)[:, None] * _NUMBERS + np.arange(_NUMBERS)
    return counter.uniform(stream, counters)


def findings_of(uniform: np.ndarray, prevalence: float) -> np.ndarray:
    """Which kinds of marks are present, int8 [n k]."""
    return (_of_marks(uniform)[:, :, 0] < prevalence).astype(np.int8)


def _of_marks(uniform: np.ndarray) -> np.ndarray:
    """The numbers of the kinds of marks, [n k 1 + 3 * MARKS]."""
    return uniform[:, _GLOBAL:].reshape(len(uniform), len(FINDINGS), -1)


def render(uniform: np.ndarray, findings: np.ndarray, size: int) -> np.ndarray:
    """Draws images.

    Args:
      uniform: of `draw_numbers`, [n numbers].
      findings: int8 [n k].
      size: side of the images, pixels.

    Returns:
      uint8 [n size size 3].
    """
    out = np.empty((len(uniform), size, size, 3), np.uint8)
    block = max(1, _BLOCK_PIXELS // size**2)
    for start in range(0, len(uniform), block):
        rows = slice(start, start + block)
        out[rows] = _draw(uniform[rows].astype(np.float32), findings[rows], size)
    return out


def _draw(uniform: np.ndarray, findings: np.ndarray, size: int) -> np.ndarray:
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    across, down = centres[None, None, :], centres[None, :, None]
    x, y, radius, warmth, light, toward, spot = uniform[:, :_GLOBAL].T[:, :, None, None]
    x, y, radius = 0.45 + 0.1 * x, 0.45 + 0.1 * y, 0.38 + 0.06 * radius
    u, v = across - x, down - y
    distance = np.hypot(u, v)
    inside = np.clip((radius - distance) * size + 0.5, 0, 1)[..., None]  # [n s s 1]
    angle = 2 * np.pi * toward
    shade = 1 + (0.3 + 0.5 * light) * (u * np.cos(angle) + v * np.sin(angle))
    paper = np.stack([0.75 + 0 * warmth, 0.30 + 0.3 * warmth, 0.12 + 0.25 * warmth], axis=-1)
    image = paper * shade[..., None]  # [n s s 3]
    # A bright spot as that of the optic nerve: larger than any mark, and always there.
    turn = 2 * np.pi * spot
    nerve = np.hypot(u - 0.6 * radius * np.cos(turn), v - 0.6 * radius * np.sin(turn))
    image = image + 0.25 * np.clip((0.10 - nerve) * 20, 0, 1)[..., None]
    numbers = _of_marks(uniform)
    for kind in range(len(FINDINGS)):
        rows = np.flatnonzero(findings[:, kind])
        for mark in range(MARKS if len(rows) else 0):
            far, where, turned = numbers[rows, kind, 1 + 3 * mark : 4 + 3 * mark].T[..., None, None]
            reach = 0.85 * radius[rows] * np.sqrt(far)
            a = u[rows] - reach * np.cos(2 * np.pi * where)
            b = v[rows] - reach * np.sin(2 * np.pi * where)
            cos, sin = np.cos(2 * np.pi * turned), np.sin(2 * np.pi * turned)
            p, q = (cos * a + sin * b) / _MARK_RADIUS, (cos * b - sin * a) / _MARK_RADIUS
            outside = _OUTLINES[FINDINGS[kind]](p, q) * _MARK_RADIUS * size
            cover = np.clip(0.5 - outside, 0, 1)[..., None]
            image[rows] += cover * (_INK - image[rows])
    return np.round(255 * np.clip(inside * image, 0, 1)).astype(np.uint8)


# Distances beyond the outlines of marks of radius 1.
_OUTLINES = {
    "dot": lambda u, v: np.hypot(u, v) - 0.6,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.75) - 0.22,
    "bar": lambda u, v: np.maximum(np.abs(v) - 0.25, np.abs(u) - 1.1),
    "cross": lambda u, v: np.maximum(
        np.minimum(np.abs(u), np.abs(v)) - 0.2, np.maximum(np.abs(u), np.abs(v)) - 0.9
    ),
    "pair": lambda u, v: np.hypot(np.abs(u) - 0.65, v) - 0.42,
}


def known(location: str, options: Mapping[str, Any]) -> Facts:
    """The facts of a data set with these options."""
    del location
    classes = NUM_GRADES if options["label"] == "grade" else None
    return Facts(sizes(options["num_generated"]), classes, IMAGE_SIZE, CHANNELS)


KIND = ImageKind(
    name="lesions",
    dataset=dataset,
    known=known,
    num_labels=lambda location, options: len(FINDINGS) * (options["label"] == "findings"),
)

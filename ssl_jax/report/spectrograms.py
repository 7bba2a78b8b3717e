"""Spectrograms of recordings with the classes of their frames below."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from ssl_jax.core.items import Spectrograms
from ssl_jax.report import figures
from ssl_jax.report.curves import Chart

_MAX_DRAWN = 4
_WINDOW = 400  # samples of a column, 25 ms at 16 kHz
_RANGE = 7.0  # of the natural logarithm of the power: what is 60 dB quieter is black
_STRIP = 0.12  # height of a strip of classes over the height of the spectrogram
_SMALLEST_NUMBER = 0.02  # width of a run that has its number over the whole width


@dataclasses.dataclass(frozen=True)
class Drawings:
    """Spectrograms under a note."""

    note: str
    charts: tuple[Chart, ...]


def draw(item: Spectrograms) -> Drawings | None:
    """Draws the first recordings of an item; None without any."""
    samples = np.asarray(item.samples, np.float64)[:_MAX_DRAWN]
    if not len(samples):
        return None
    kinds = {name: np.asarray(classes) for name, classes in item.classes.items()}
    below = ", ".join(kinds)
    charts = tuple(
        Chart(
            f"window {number + 1}" + f"; below: {below}" * bool(below),
            _drawing(number, x, {name: classes[number] for name, classes in kinds.items()}),
        )
        for number, x in enumerate(samples)
    )
    return Drawings(item.note, charts)


def log_power(x: np.ndarray, columns: int = 256) -> np.ndarray:
    """The logarithm of the power of `columns` windows of samples [s], float64 [columns bins]."""
    padded = np.pad(np.nan_to_num(x), _WINDOW // 2)
    starts = np.linspace(0, len(padded) - _WINDOW, columns).astype(int)
    windows = padded[starts[:, None] + np.arange(_WINDOW)] * np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(windows, axis=1)) ** 2
    return np.log(power + 1e-12)


def runs(classes: np.ndarray) -> list[tuple[int, int, int]]:
    """(first, end, class) of the runs of equal classes [t], without those of -1."""
    edges = np.flatnonzero(np.diff(classes)) + 1
    bounds = [0, *edges.tolist(), len(classes)]
    every_run = [(first, end, int(classes[first])) for first, end in itertools.pairwise(bounds)]
    return [run for run in every_run if run[2] >= 0]


def _drawing(number: int, x: np.ndarray, kinds: dict[str, np.ndarray]) -> Markup:
    def paint(axes: Axes) -> None:
        power = log_power(x)
        top = power.max()
        axes.imshow(
            power.T, aspect="auto", origin="lower", extent=(0, 1, 0, 1), cmap="magma",
            vmin=top - 2 * _RANGE, vmax=top,
        )  # fmt: skip
        for place, classes in enumerate(kinds.values(), start=1):
            for first, end, label in runs(classes):
                left, right = first / len(classes), end / len(classes)
                axes.fill_between(
                    [left, right], -place * _STRIP, (1 - place) * _STRIP - 0.01,
                    color=figures.class_colour(label), linewidth=0,
                )  # fmt: skip
                if right - left >= _SMALLEST_NUMBER:
                    axes.text(
                        (left + right) / 2, (0.5 - place) * _STRIP, str(label),
                        ha="center", va="center", fontsize=8, color=figures.PAPER,
                    )  # fmt: skip
        axes.set_xlim(0, 1)
        axes.set_ylim(-len(kinds) * _STRIP, 1)
        axes.set_axis_off()

    return figures.svg_figure(
        f"spectrogram{number}", f"spectrogram {number + 1}", paint, (540, 200)
    )

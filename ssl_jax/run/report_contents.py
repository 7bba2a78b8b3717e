"""Computes what the report page shows of a few examples.

These are the items of `Method.show`; activation maps if the encoder is a convolutional net of
images; and which patches of other images are nearest to one of an image.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from etils import epath

from ssl_jax import data, parallel
from ssl_jax.checkpoint import steps
from ssl_jax.checkpoint.choice import folder_and_step
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Images, Item
from ssl_jax.core.layer_outputs import LayerOutput, grid_shape, select
from ssl_jax.core.method import Batch, Method, Weights
from ssl_jax.evals.dense import correspondence
from ssl_jax.experiment.build import Experiment, held_out_keys
from ssl_jax.models.activation_maps import activation_maps
from ssl_jax.pretrained import trained_run
from ssl_jax.run.probing import Prober

_SHOWN_EXAMPLES = 6
_FEWEST_ROWS = 4  # of the positions of which correspondences are shown


def examples(prober: Prober, source: data.Source) -> dict[str, np.ndarray]:
    """A batch of a few examples.

    They come from the test split if it has the arrays that the method trains on, else from the
    training data.

    Args:
      prober: gives the test split.
      source: the training data.
    """
    chosen = _split(prober, source)
    rows = np.linspace(0, len(chosen) - 1, min(_SHOWN_EXAMPLES, len(chosen))).astype(int)
    return chosen.batch(rows)


def shown_items(experiment: Experiment, w: Weights, batch: Batch) -> dict[str, Item]:
    """The items of `Method.show`, as NumPy arrays.

    The examples are masked as in the held-out evaluation. If the run `log.beside` is of the same
    method, its pictures of the same examples stand beside those of this run.

    Args:
      experiment: the experiment that ran.
      w: the weights.
      batch: the examples, see `examples`.
    """
    items = _shown(experiment.method, w, batch)
    beside = experiment.config.log.beside
    if beside is None:
        return items
    other = trained_run.load(beside)
    method = other.experiment.method
    if method.title != experiment.method.title:
        return items
    note = f" Marked by a star: {beside}, step {other.step:,}."
    others = _shown(method, other.weights, batch)
    return {title: _with_columns_of(item, others.get(title), note) for title, item in items.items()}


def _shown(method: Method, w: Weights, batch: Batch) -> dict[str, Item]:
    return parallel.gather(jax.jit(method.show)(w, held_out_keys(batch["index"]), batch))


def _with_columns_of(item: Item, other: Item | None, note: str) -> Item:
    """The item with those columns of another run's that are not its own, each after its like.

    Items other than a table of named columns of images of one size stay as they are, also if the
    other run's has other columns or sizes.
    """
    both = (item, other)
    if not all(isinstance(one, Images) and not isinstance(one.pixels, tuple) for one in both):
        return item
    if not item.columns or item.columns != other.columns or item.pixels.shape != other.pixels.shape:
        return item
    columns: list[str] = []
    pixels: list[np.ndarray] = []
    for number, name in enumerate(item.columns):
        own, others = (np.asarray(one.pixels[:, number]) for one in both)
        columns.append(name)
        pixels.append(own)
        if not np.array_equal(own, others):
            columns.append(f"{name} *")
            pixels.append(others)
    if len(columns) == len(item.columns):
        return item
    return dataclasses.replace(
        item, pixels=np.stack(pixels, axis=1), columns=tuple(columns), note=item.note + note
    )


def activation_items(experiment: Experiment, w: Weights, batch: Batch) -> dict[str, Item]:
    """Activation maps of the examples by the stages of a convolutional net, as NumPy arrays.

    Beside them are those of the run `log.beside`, if there is one, on the same images. Nothing for
    other nets and for host crops.

    Args:
      experiment, w, batch: as of `shown_items`.
    """
    if "image" not in batch:
        return {}
    images = {"image": batch["image"]}
    maps = _maps(experiment.method, w, images)
    if not maps:
        return {}
    note = (
        "Power of the activations of each stage, the mean of their squares over channels; white: "
        "the maximum of the map."
    )
    beside = experiment.config.log.beside
    if beside is not None:
        other = trained_run.load(beside)
        other_maps = _maps(other.experiment.method, other.weights, images)
        if other_maps:
            note += f" Left: this run; right, marked by a star: {beside}, step {other.step:,}."
        else:
            note += f" {beside} has no stages of maps to show beside."
        maps |= {f"{name} *": pixels for name, pixels in other_maps.items()}
    pixels = np.stack(list(maps.values()), axis=1)[..., None]
    item = Images(pixels, inputs=batch["image"], columns=tuple(maps), note=note)
    return {"Activation maps": item}


def correspondence_items(experiment: Experiment, w: Weights, batch: Batch) -> dict[str, Item]:
    """The central patch of each example, and the nearest patch of every other example.

    The patches are those of the last layer; of a convolutional net, of the last stage with at
    least 4x4 positions. Nothing for encoders without patches and for host crops.

    Args:
      experiment, w, batch: as of `shown_items`.
    """
    if "image" not in batch or len(batch["image"]) < 2:
        return {}
    images = np.asarray(batch["image"])
    layers = parallel.gather(_layers(experiment.method, w, {"image": batch["image"]}))
    shapes = {
        name: grid_shape(output.patches.shape[1], *images.shape[1:3])
        for name, output in layers.items()
    }
    names = [name for name, shape in shapes.items() if shape and min(shape) >= _FEWEST_ROWS]
    if not names:
        return {}
    layer = max(names, key=lambda name: int(name.lstrip("layerstg")))
    rows, columns = grid = shapes[layer]
    center = rows // 2 * columns + columns // 2
    queries = np.full(len(images), center)
    nearest = correspondence.nearest_patches(select(layers, f"{layer}/patches"), queries)
    large = correspondence.enlarged(images)
    pixels = np.stack([
        np.stack([correspondence.boxed(large[j], patch, grid) for j, patch in enumerate(row)])
        for row in nearest
    ])  # fmt: skip
    asked = np.stack([correspondence.boxed(image, center, grid) for image in large])
    others = np.arange(len(images))[None, :] != np.arange(len(images))[:, None]
    pixels = pixels[others].reshape(len(images), len(images) - 1, *pixels.shape[2:])
    note = (
        f"Left: an image with its central patch. Right of it: the patch of each other image that "
        f"is nearest by cosine, of {rows}x{columns} patches ({layer}). The images are spread "
        "evenly over the split, not picked."
    )
    return {"Nearest patches": Images(pixels, inputs=asked, note=note)}


def check_beside(experiment: Experiment) -> None:
    """Checks that the run `log.beside` is there and encodes images like those of this run.

    Raises:
      UserError: it is not a run, it has no checkpoint or not that of the step, or it encodes texts
        or images with another number of channels.
    """
    beside = experiment.config.log.beside
    if beside is None:
        return
    folder, step = folder_and_step(beside)
    config = trained_run.read_config(folder)
    saved = steps.committed(epath.Path(folder) / "checkpoints")
    if not saved:
        raise UserError(f"log.beside={beside} has no checkpoint yet")
    if step is not None and step not in saved:
        raise UserError(
            f"log.beside={beside}: the run has no checkpoint of step {step:,}; it has those of "
            f"steps {', '.join(map(str, sorted(saved)))}"
        )
    own, other = (
        spec.evaluated.arrays.get("image")
        for spec in (experiment.spec, data.spec_from_config(config.data))
    )
    if own is None or other is None or own.shape[-1] != other.shape[-1]:
        raise UserError(
            f"log.beside={beside} encodes {_inputs(other)}, and this run {_inputs(own)}; "
            "activation maps are compared on the same images"
        )


def _inputs(image: jax.ShapeDtypeStruct | None) -> str:
    if image is None:
        return "texts"
    channels = image.shape[-1]
    return f"images with {channels} channel{'' if channels == 1 else 's'}"


def _maps(method: Method, w: Weights, images: Batch) -> dict[str, np.ndarray]:
    """Stage -> activation maps [n h w] as NumPy arrays; empty without stages of maps."""
    shape = images["image"].shape[1:3]
    maps = jax.jit(lambda layers: activation_maps(layers, shape))
    return parallel.gather(maps(_layers(method, w, images)))


def _layers(method: Method, w: Weights, images: Batch) -> dict[str, LayerOutput]:
    return jax.jit(method.layers)(w, images)  # compiled once, for all that is shown of layers


def _split(prober: Prober, source: data.Source) -> data.Source:
    try:
        test = prober.test
    except UserError:  # the test split does not exist
        return source
    return test if test.spec.arrays == source.spec.arrays else source

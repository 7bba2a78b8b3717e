"""Augmentation: views as matrix products against a gathered crop and a depthwise-conv blur.

    python -m benchmarks.augmentation [--batch 64] [--canvas 256] [--size 224] [--rounds 9]

Both sides make one SimCLR view of every image (crop, flip, colour jitter, greyscale, blur) from
uint8, under jit, on the default device. The other side is what one writes first in JAX: the crop
gathers four neighbours of every output pixel (`jax.scipy.ndimage.map_coordinates`), the blur is a
depthwise convolution with one kernel an image; its crop is bilinear and unsmoothed where ours is
bicubic and antialiased, so it does less work. Jitter and greyscale are the same code, and the
random numbers the same. Before timing, both sides are compared with the same interpolation.

Sides alternate within a round; the table shows medians over rounds, and the spread of the ratio.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.views import image
from ssl_jax.views.geometry import mirror_after, sample_crops, sample_flips
from ssl_jax.views.ops import between, uniforms
from ssl_jax.views.resample import crop_and_resize

SIGMA = (0.1, 2.0)


# ------------------------------------------------------------------------------------- both sides


def matrix_crop(key, images, size, method="bicubic", antialias=True):
    boxes = _boxes(key, images)
    lines = images.swapaxes(2, 3)
    lines = crop_and_resize(lines, boxes, size=size, method=method, antialias=antialias)
    return lines.swapaxes(2, 3)


def gather_crop(key, images, size):
    """Bilinear, one image at a time under vmap, as with `jax.scipy.ndimage`."""

    def crop(pixels, box):
        top, left, height, width = box
        y = top + (jnp.arange(size) + 0.5) * height / size - 0.5
        x = left + (jnp.arange(size) + 0.5) * width / size - 0.5
        where = jnp.meshgrid(y, x, indexing="ij")
        channels = [
            jax.scipy.ndimage.map_coordinates(pixels[..., c], where, order=1, mode="nearest")
            for c in range(pixels.shape[-1])
        ]
        return jnp.stack(channels, -1)

    return jax.vmap(crop)(images.astype(jnp.float32) / 255, _boxes(key, images))


def _boxes(key, images):
    crop_key, flip_key = jax.random.split(key)
    n, height, width, _ = images.shape
    boxes = sample_crops(jax.random.split(crop_key, n), (height, width))
    return mirror_after(boxes, sample_flips(jax.random.split(flip_key, n)))


def colour(key, images):
    jitter, grey = jax.random.split(key)
    n = images.shape[0]
    images = image.color_jitter(jax.random.split(jitter, n), images)
    return image.grayscale(jax.random.split(grey, n), images)


def matrix_blur(key, images):
    return image.gaussian_blur(jax.random.split(key, images.shape[0]), images, sigma=SIGMA)


def conv_blur(key, images):
    n, height, _, channels = images.shape
    apply, sigma = uniforms(jax.random.split(key, n), 2)
    sigma = between(sigma, *SIGMA)
    radius = height // 20
    taps = jnp.arange(-radius, radius + 1)
    kernels = jnp.exp(-(taps**2) / (2 * sigma[:, None] ** 2))
    kernels = kernels / kernels.sum(1, keepdims=True)

    def blur(pixels, kernel):
        down = jnp.tile(kernel[:, None, None, None], (1, 1, 1, channels))
        pixels = pixels[None]
        for weights in (down, down.swapaxes(0, 1)):
            pixels = jax.lax.conv_general_dilated(
                pixels,
                weights,
                (1, 1),
                "SAME",
                feature_group_count=channels,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        return pixels[0]

    blurred = jax.vmap(blur)(images, kernels)
    return jnp.where((apply < 0.5)[:, None, None, None], blurred, images)


def view(crop, blur):
    def make(key, images):
        keys = jax.random.split(key, 3)
        return blur(keys[2], colour(keys[1], crop(keys[0], images)))

    return make


# ---------------------------------------------------------------------------------------- timing


def median_times(functions, arguments, rounds):
    """Seconds of each function, alternating: `{name: [seconds, one a round]}`."""
    for name, function in functions.items():
        jax.block_until_ready(function(*arguments[name]))
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments[name]))
            times[name].append(time.perf_counter() - start)
    return times


def check_equal(images, size):
    """The two sides compute the same thing where they mean the same thing."""
    images, key = images[:4], jax.random.key(1)
    both = [
        view(lambda k, x: matrix_crop(k, x, size, "bilinear", False), matrix_blur),
        view(lambda k, x: gather_crop(k, x, size), conv_blur),
    ]
    ours, theirs = (np.asarray(jax.jit(make)(key, images)) for make in both)
    inner = slice(size // 20, -(size // 20))  # borders: renormalised here, zeros there
    difference = np.abs(ours - theirs)[:, inner, inner].max()
    if difference > 1e-4:
        raise SystemExit(f"the two sides differ by {difference:.2g}")
    return difference


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--canvas", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    n, size = options.batch, options.size

    # Smooth images: noise would make the comparison of interpolations meaningless.
    coarse = np.random.default_rng(0).integers(0, 256, (n, 17, 17, 3)).astype(np.float32)
    images = jax.image.resize(coarse, (n, options.canvas, options.canvas, 3), "bilinear")
    images = images.astype(jnp.uint8)
    key = jax.random.key(0)
    print(f"equal to {check_equal(images, size):.1e} with the same interpolation\n")

    ours = {
        "crop + flip": (lambda k, x: matrix_crop(k, x, size), images),
        "blur": (matrix_blur, None),
        "view": (view(lambda k, x: matrix_crop(k, x, size), matrix_blur), images),
    }
    other = {
        "crop + flip": (lambda k, x: gather_crop(k, x, size), images),
        "blur": (conv_blur, None),
        "view": (view(lambda k, x: gather_crop(k, x, size), conv_blur), images),
    }
    cropped = jax.jit(ours["crop + flip"][0])(key, images)
    functions, arguments = {("jitter + grey", "both"): jax.jit(colour)}, {}
    arguments["jitter + grey", "both"] = (key, cropped)
    for side, stages in (("matrix", ours), ("gather", other)):
        for stage, (function, source) in stages.items():
            functions[stage, side] = jax.jit(function)
            arguments[stage, side] = (key, cropped if source is None else source)
    times = median_times(functions, arguments, options.rounds)

    milliseconds = {name: 1e3 * statistics.median(t) / n for name, t in times.items()}
    print(f"{'ms an image':16}{'matrix':>10}{'gather':>10}{'ratio':>10}")
    for stage in ours:
        matrix, gather = milliseconds[stage, "matrix"], milliseconds[stage, "gather"]
        if stage == "view":
            both = milliseconds["jitter + grey", "both"]
            print(f"{'jitter + grey':16}{both:10.3f}{both:10.3f}{1:10.2f}")
        print(f"{stage:16}{matrix:10.3f}{gather:10.3f}{gather / matrix:10.2f}")
    ratios = [g / m for g, m in zip(times["view", "gather"], times["view", "matrix"], strict=True)]
    print(
        f"\na view {options.canvas} -> {size}: {statistics.median(ratios):.2f}x as fast "
        f"(rounds {min(ratios):.2f} to {max(ratios):.2f}), "
        f"{1e3 / milliseconds['view', 'matrix']:.0f} views/s; batch {n}, {options.rounds} rounds"
    )
    device = jax.devices()[0]
    print(
        f"jax {jax.__version__}, numpy {np.__version__}, Python {platform.python_version()}; "
        f"{device.platform} ({device.device_kind}), {_processor()}, {os.cpu_count()} cores; "
        f"load {os.getloadavg()[0]:.1f} at the end"
    )


def _processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()

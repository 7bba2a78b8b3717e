"""RandAugment and random erasing against the ops of a SimCLR view, on the default device.

    python -m benchmarks.rand_augment [--batch 32] [--size 224] [--rounds 7]

All sides take uint8 images of the final size, as host crops are: SimCLR's flip, colour jitter,
greyscale and blur; a flip with RandAugment (rand-m9-mstd0.5-inc1, bicubic or bilinear); random
erasing of a quarter of the images; and MAE's whole chain for fine-tuning. Sides alternate within a
round; the table shows medians, and ratios of medians to SimCLR's.
"""

from __future__ import annotations

import argparse
import os
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.augmentation import median_times
from ssl_jax.views import make_views

SIDES = {
    "SimCLR": dict(ops=("flip", "color_jitter", "grayscale", "gaussian_blur")),
    "RandAugment, bicubic": dict(ops=("flip", "rand_augment")),
    "RandAugment, bilinear": dict(
        ops=("flip", "rand_augment"), rand_augment=dict(method="bilinear")
    ),
    "random erasing": dict(ops=("flip", "normalize", "random_erasing")),
    "MAE fine-tuning": dict(ops=("flip", "rand_augment", "normalize", "random_erasing")),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    n, size = options.batch, options.size
    coarse = np.random.default_rng(0).integers(0, 256, (n, 17, 17, 3)).astype(np.float32)
    images = jax.image.resize(coarse, (n, size, size, 3), "bilinear").astype(jnp.uint8)
    keys = jax.random.split(jax.random.key(0), n)
    functions = {name: jax.jit(make_views(views, num_views=1)) for name, views in SIDES.items()}
    times = median_times(functions, dict.fromkeys(SIDES, (keys, images)), options.rounds)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    print(f"{'ms an image':24}{'time':>8}{'ratio':>8}")
    for name, seconds in medians.items():
        print(f"{name:24}{1e3 * seconds / n:8.2f}{seconds / medians['SimCLR']:8.2f}")
    device = jax.devices()[0]
    print(
        f"\n{size} pixels, batch {n}, {options.rounds} rounds; {device.platform} "
        f"({device.device_kind}), {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f} at the end"
    )


if __name__ == "__main__":
    main()

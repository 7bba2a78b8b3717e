"""Compares MoCo's cost with end-to-end training: python -m benchmarks.moco_cost_tpu [--batches 64]

Nothing runs: the TPU compiler (extra `aot`) gives the needs of a train step of the MoCo v1 recipe
on one chip. MoCo encodes keys without a gradient, so their activations are not kept, and its queue
does not grow with the batch; end to end the backward pass goes through queries and keys. The MoCo
v2 paper (Chen et al. 2020b) gives 5.0 GB of GPU memory and 53 hours for MoCo at batch 256, 7.4 GB
and 65 hours end to end, and an estimate of 93.0 GB at batch 4096.

Times are lower bounds by the chip's published peaks, for 200 epochs of ImageNet, not predictions.
"""

from __future__ import annotations

import argparse

import jax

from ssl_jax import config as config_lib
from ssl_jax import data
from ssl_jax.experiment import tpu_fit as fitting
from ssl_jax.hardware import tpu

CONFIG = "moco_v1:imagenet"
_IMAGES = 200 * 1_281_167


def compile_step(dictionary: str, batch_size: int, model: str, topology: str) -> fitting.Fit:
    """One train step of the recipe with this dictionary, encoder and batch."""
    config = config_lib.load(CONFIG)
    config.batch_size = batch_size
    config.model.name = model
    config.method.dictionary = dictionary
    config = config_lib.resolve(config)
    tpu_slice = tpu.parse(topology)
    spec = data.spec_from_config(config.data)
    return fitting.check(fitting.build(config, spec, tpu_slice), tpu_slice)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", default="64,128", help="images, comma-separated")
    parser.add_argument("--dictionaries", default="queue,bank,end_to_end")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--topology", default="v5e:1x1")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    from rich.console import Console

    from benchmarks import machine

    tpu_slice = tpu.parse(arguments.topology)
    table = machine.table(
        f"MoCo v1, {arguments.model}, 224 px, compiled for {tpu_slice}; "
        f"{tpu_slice.generation.usable_hbm_bytes / tpu.GIB:.2f} GiB a chip are usable",
        *("batch", "dictionary", "GiB a chip", "fits", "GB of HBM an image", "GFLOP an image"),
        *("at least hours",),
        packages=("libtpu",),
    )
    for batch in map(int, arguments.batches.split(",")):
        for dictionary in arguments.dictionaries.split(","):
            fit = compile_step(dictionary, batch, arguments.model, arguments.topology)
            cells = [f"{fit.peak_bytes / tpu.GIB:.2f}", "yes" if fit.fits else "no"]
            if fit.program is None:
                cells += ["–"] * 3
            else:
                scale = fit.shards / batch  # from a device's batch to an image
                hours = fit.step_seconds_bound * _IMAGES / batch / 3600
                cells += [
                    f"{fit.program.bytes_accessed * scale / 1e9:.2f}",
                    f"{fit.program.flops * scale / 1e9:.1f}",
                    f"{hours:.1f}",
                ]
            table.add_row(str(batch), dictionary, *cells)
            print(
                batch, dictionary, *cells, f"({fit.compile_seconds:.0f} s to compile)", flush=True
            )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()

"""Compiles the train step for TPUs on a machine without TPUs, and reports whether it fits.

    ssl_jax aot --config=simclr:imagenet --topology=v5e:8x8,v5e:4x4 [--json]

The train step is compiled by the real TPU compiler, which runs on any Linux machine:
pip install 'ssl_jax[aot]'. Nothing is trained and no data are read. An unknown data set needs
data.num_examples (and data.num_classes, if it has labels) in the config. Compilation takes seconds
for a small net and minutes for a ResNet-50, and often less for a step that does not fit.

The report gives, per device: the peak memory and the memory that programs can use; FLOPs, HBM
traffic and bytes sent in a step, with every iteration of a loop counted; from these and the chip's
published peaks, a lower bound of the time of a step, and the resulting upper bound of images (for
text: tokens, including padding) per second and chip. The bound is not a prediction. If the step
does not fit, the report lists changes that make it fit.

Exit codes: 0 the step fits all slices, 2 it does not fit one of them, 1 error.

--json prints only a list with one object per slice. All figures are of one device (a chip, or a
core if a chip has two devices) and one step:

    topology, accelerator_type      the slice's two names
    chips, hosts, devices           of the slice
    mesh                            {"data": 64, "fsdp": 1, "tensor": 1}
    batch_size                      global
    fits                            whether the compiler placed it
    peak_bytes                      peak memory; if the step does not fit, what the compiler
                                    reports, to 0.01 GiB
    state_bytes                     the training state, which is part of the peak
    hbm_bytes, hbm_capacity_bytes   memory that a program can use, and that the device has
    flops, bytes_accessed,          see `ssl_jax.hlo.Program`; null if the step does not fit
    wire_bytes, unknown_loops       or the program cannot be read
    seconds                         {"compute": ..., "hbm": ..., "ici": ...}: lower bounds
    step_seconds_bound              the longest of them
    images_per_second_per_chip_bound, tokens_per_second_per_chip_bound
                                    the one for the data's unit; the other is null
    collectives                     [{"kind", "group", "in_loop", "count", "bytes", "wire_bytes",
                                    "op_name"}], summed by the first three
    temporaries                     [{"shape", "bytes", "op_name", "source"}], the largest arrays
                                    alive at the peak (approximately)
    advice                          changes that make it fit, as text; empty if it fits
    compile_seconds                 duration of the compilation
"""

from __future__ import annotations

import json

import jax
from absl import flags
from rich import box
from rich.console import Console
from rich.table import Table

from ssl_jax import data
from ssl_jax.cli import app
from ssl_jax.core.console import make_console
from ssl_jax.core.errors import UserError
from ssl_jax.experiment import preflight
from ssl_jax.experiment import tpu_fit as fitting
from ssl_jax.experiment.preflight import bytes_text
from ssl_jax.experiment.tpu_fit import Fit
from ssl_jax.hardware import tpu

DOES_NOT_FIT = 2


def define_flags() -> None:
    app.define_config_flag()
    flags.DEFINE_list(
        "topology", None, "Slices, e.g. v5e:8x8,v4-32: topologies or accelerator types."
    )
    flags.DEFINE_bool("json", False, "Print JSON and nothing else.")


def main() -> int:
    options = flags.FLAGS
    if not options.topology:
        raise UserError("--topology is missing, e.g. --topology=v5e:8x8 or --topology=v5litepod-64")
    # Everything here runs on the CPU; the target devices are not present.
    jax.config.update("jax_platforms", "cpu")
    slices = [tpu.parse(name) for name in options.topology]
    config = app.read_config()
    spec = data.spec_from_config(config.data)
    experiments = [fitting.build(config, spec, tpu_slice) for tpu_slice in slices]
    console = make_console(highlight=False)
    fits, advice = [], []
    for tpu_slice, experiment in zip(slices, experiments, strict=True):
        if options.json:
            fits.append(fitting.check(experiment, tpu_slice))
        else:
            with console.status(f"compiling for {tpu_slice}"):
                fits.append(fitting.check(experiment, tpu_slice))
        advice.append(fitting.advice(fits[-1], experiment))
    if options.json:
        print(json.dumps([fitting.as_json(*pair) for pair in zip(fits, advice, strict=True)]))
    elif len(fits) == 1:
        _print_page(fits[0], advice[0])
    else:
        _print_table(console, fits, advice)
    return 0 if all(fit.fits for fit in fits) else DOES_NOT_FIT


def _print_page(fit: Fit, advice: list[str]) -> None:
    config, program = fit.config, fit.program
    micro = config.get("micro_batch_size", None)
    axes = " x ".join(f"{name} {size}" for name, size in fit.mesh.items())
    lines = [
        ("slice", f"{fit.slice}: {fit.slice.chips} chips, {fit.slice.hosts} host"
                  f"{'s' if fit.slice.hosts > 1 else ''}, mesh {axes}"),
        ("batch", f"{config.batch_size} = {config.batch_size // fit.shards} a device x "
                  f"{fit.shards}" + (f", micro_batch_size {micro}" if micro else "")),
        ("memory", _memory(fit)),
        ("", f"including {bytes_text(fit.state_bytes)} state, {bytes_text(fit.batch_bytes)} batch"),
    ]  # fmt: skip
    if program is not None:
        seconds = fit.seconds
        lines += [
            ("compute", f"{program.flops / 1e9:,.5g} GFLOP a device and step, at least "
                        f"{_number(1e3 * seconds['compute'])} ms"),
            ("HBM traffic", f"{bytes_text(program.bytes_accessed)}, at least "
                            f"{_number(1e3 * seconds['hbm'])} ms"),
            ("sent", f"{bytes_text(program.wire_bytes)}, at least "
                     f"{_number(1e3 * seconds['ici'])} ms"),
            ("upper bound", _bound(fit)),
        ]  # fmt: skip
        if program.unknown_loops:
            lines.append(("note", f"{program.unknown_loops} loops whose iterations depend on data "
                                  "are counted as one iteration"))  # fmt: skip
    elif fit.fits:
        lines.append(("note", "the installed jaxlib cannot read the program that the installed "
                              "libtpu wrote, so nothing more is known about it"))  # fmt: skip
    lines.append(("compiled in", f"{fit.compile_seconds:.0f} s"))
    parts = [preflight.text(lines)]
    if program is not None:
        parts += [_columns(_collectives(fit))] * bool(program.collectives)
        parts.append(_columns(_temporaries(fit)))
    print("\n\n".join(parts))
    print(*_advice_lines(advice), sep="\n", end="\n" * bool(advice))


def _memory(fit: Fit) -> str:
    need = f"{bytes_text(fit.peak_bytes)} of {bytes_text(fit.usable_bytes)} a device"
    difference = bytes_text(abs(fit.usable_bytes - fit.peak_bytes))
    return (
        f"{need}: fits, {difference} left"
        if fit.fits
        else (f"{need}: DOES NOT FIT, by {difference}")
    )


def _bound(fit: Fit) -> str:
    seconds = fit.seconds
    names = {"compute": "matrix units", "hbm": "HBM", "ici": "links"}
    return (
        f"{fit.per_second_per_chip_bound:,.0f} {fit.unit}/s a chip, by the "
        f"{names[max(seconds, key=seconds.get)]} and published peaks; not a prediction"
    )


def _collectives(fit: Fit) -> list[tuple[str, ...]]:
    return [
        ("collective", "devices", "count", "of arrays", "sent"),
        *(
            (
                row["kind"] + (" (in a loop)" if row["in_loop"] else ""),
                str(row["group"]),
                str(row["count"]),
                bytes_text(row["bytes"]),
                bytes_text(row["wire_bytes"]),
            )
            for row in fitting.collectives_by_kind(fit.program)
        ),
    ]


def _temporaries(fit: Fit) -> list[tuple[str, ...]]:
    return [
        ("largest arrays", "alive at the peak", "made in", "by"),
        *(
            (bytes_text(array.bytes), array.shape, array.source, array.op_name.partition("/")[2])
            for array in fit.program.temporaries
            if array.bytes > 0.001 * fit.peak_bytes
        ),
    ]


def _columns(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _print_table(console: Console, fits: list[Fit], advice: list[list[str]]) -> None:
    # 80 columns wide.
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("slice", no_wrap=True)
    unit = f"{fits[0].unit}/s"
    for column in ("memory, GiB", "fits", "TFLOP", "HBM GiB", "sent MiB", "ms", unit):
        table.add_column(column, justify="right", no_wrap=True)
    for fit in fits:
        row = [
            f"{fit.slice.topology}\n{fit.slice.accelerator_type}",
            f"{fit.peak_bytes / tpu.GIB:.2f} of {fit.usable_bytes / tpu.GIB:.2f}",
            "yes" if fit.fits else "[bold]NO[/]",
        ]
        if fit.program is not None:
            row += [
                _number(fit.program.flops / 1e12),
                _number(fit.program.bytes_accessed / tpu.GIB),
                _number(fit.program.wire_bytes / 2**20),
                _number(1e3 * fit.step_seconds_bound),
                _number(fit.per_second_per_chip_bound),
            ]
        table.add_row(*row)
    console.print(table)
    print(f"a device and step; ms at least, {unit} a chip at most, by published peaks")
    for fit, lines in zip(fits, advice, strict=True):
        if lines:
            title, *changes = _advice_lines(lines)[1:]
            print(f"\n{fit.slice}: {title}", *changes, sep="\n")


def _advice_lines(advice: list[str]) -> list[str]:
    return (
        ["", "changes that make it fit, or help:", *(f"  {line}" for line in advice)]
        if advice
        else []
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

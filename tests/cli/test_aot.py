"""The command that compiles for TPUs: what it prints, its exit codes, what it advises."""

import dataclasses
import json
import subprocess
import sys
import types

import jax
import pytest
from rich.console import Console

from ssl_jax import data, hlo, modalities, parallel
from ssl_jax.cli import aot
from ssl_jax.config import base_config, load
from ssl_jax.experiment import tpu_fit
from ssl_jax.hardware import tpu
from tests import commands
from tests.commands import ROOT
from tests.methods.rows.row import CONFIGS
from tests.methods.table import ROWS

needs_libtpu = pytest.mark.skipif(not tpu.is_installed(), reason="libtpu is not installed")
TINY = (
    "--config=configs/simclr.py:digits",
    "--config.model.widths=(4,8,8)",
    "--config.method.hidden_dim=16",
    "--config.method.output_dim=8",
)
TOO_LARGE = ("--config.batch_size=4194304", "--config.data.num_examples=10000000")


# JAX is left to choose its platform.
ENVIRONMENT = commands.environment(devices=8)
del ENVIRONMENT["JAX_PLATFORMS"]


def run(*arguments):
    return commands.finish("aot", *arguments, environment=ENVIRONMENT, timeout=300)


@pytest.mark.slow
@needs_libtpu
def test_json_is_all_that_is_printed_and_figures_are_of_the_slices():
    done = run(*TINY, "--topology=v5litepod-4,v4:2x2x1", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = json.loads(done.stdout)
    assert (first["topology"], first["accelerator_type"]) == ("v5e:2x2", "v5litepod-4")
    assert (second["topology"], second["accelerator_type"]) == ("v4:2x2x1", "v4-8")
    for one in (first, second):
        assert one["fits"] and one["advice"] == []
        assert (one["chips"], one["devices"], one["batch_size"]) == (4, 4, 256)
        assert one["mesh"] == {"data": 4, "fsdp": 1, "tensor": 1}
        assert 0 < one["state_bytes"] < one["peak_bytes"] < one["hbm_bytes"]
        assert one["hbm_bytes"] < one["hbm_capacity_bytes"]
        assert one["flops"] > 0 and one["bytes_accessed"] > 0 and one["unknown_loops"] == 0
        assert one["step_seconds_bound"] == max(one["seconds"].values()) > 0
        bound = 256 / 4 / one["step_seconds_bound"]
        assert one["images_per_second_per_chip_bound"] == pytest.approx(bound)
        assert one["wire_bytes"] == sum(row["wire_bytes"] for row in one["collectives"]) > 0
        assert {row["kind"] for row in one["collectives"]} >= {"all-reduce"}
        assert one["temporaries"][0]["bytes"] >= one["temporaries"][-1]["bytes"]
    assert first["flops"] == second["flops"]
    assert first["seconds"]["compute"] == first["flops"] / 197e12


@pytest.mark.slow
@needs_libtpu
def test_what_does_not_fit_is_an_answer_with_advice_and_exit_code_2():
    done = run(*TINY, *TOO_LARGE, "--topology=v5e:2x2")
    assert (done.returncode, done.stderr) == (2, ""), done.stdout
    assert "of 15.75 GiB a device: DOES NOT FIT, by" in done.stdout
    for change in ("micro_batch_size=", "--topology=v5e:", "batch_size=2097152", "dtype=bfloat16"):
        assert change in done.stdout
    assert "v4:2x2x1 (v4-8) 30.75 GiB" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((*TINY,), "--topology is missing"),
        ((*TINY, "--topology=v5e:8x9"), "Did you mean 'v5e:8x8'?"),
        (("--topology=v5e:2x2",), "--config is missing"),
        (
            ("--config=configs/simclr.py:folder", "--config.data.name=folder:/x",
             "--topology=v5e:2x2"),
            "set data.num_examples (and data.num_classes",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(arguments, expected):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and expected in line


@pytest.mark.slow
def test_without_libtpu_it_says_what_to_install():
    hide = "import ssl_jax.hardware.tpu as tpu; tpu.is_installed = lambda: False"
    code = f"{hide}; from ssl_jax.cli import app; app.main()"
    command = [sys.executable, "-c", code, "aot", *TINY, "--topology=v5e:2x2"]
    done = subprocess.run(
        command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "pip install 'ssl_jax[aot]'" in line


# What is printed and advised, without compiling anything

PROGRAM = hlo.Program(
    peak_bytes=8 * tpu.GIB,
    argument_bytes=tpu.GIB,
    output_bytes=tpu.GIB,
    alias_bytes=tpu.GIB,
    temp_bytes=7 * tpu.GIB,
    code_bytes=0,
    flops=197 * 10**9,
    bytes_accessed=819 * 10**7,
    collectives=[
        hlo.Collective("all-gather", 4096, 3072, 4, op_name="jit(train_step)/a"),
        hlo.Collective("all-gather", 8192, 6144, 4, op_name="jit(train_step)/b"),
        hlo.Collective("all-reduce", 4096, 61440, 4, trips=10, in_loop=True),
    ],
    temporaries=[hlo.Temporary("bf16[8,8]", tpu.GIB, "jit(train_step)/conv", "models/x.py:3")],
    unknown_loops=0,
)


def made(topology="v5e:2x2", program=PROGRAM, peak=None, **overrides):
    """A Fit and its experiment, as `tpu_fit.check` would return it."""
    config = ROWS["simclr"].load(batch_size=256, **overrides)
    mesh = parallel.make_mesh(devices=jax.devices()[:4])
    experiment = tpu_fit.Experiment.build(config, data.spec_from_config(config.data), mesh)
    outcome = tpu_fit.Fit(
        slice=tpu.parse(topology),
        config=config,
        mesh={"data": 4, "fsdp": 1, "tensor": 1},
        shards=4,
        state_bytes=tpu.GIB,
        batch_bytes=2**20,
        fits=program is not None,
        peak_bytes=peak or 8 * tpu.GIB,
        program=program,
        compile_seconds=1.0,
    )
    return outcome, experiment


def test_the_bound_is_the_slowest_of_compute_memory_and_links():
    outcome, _ = made()
    assert outcome.seconds["compute"] == pytest.approx(1e-3)
    assert outcome.seconds["hbm"] == pytest.approx(1e-2)
    assert outcome.step_seconds_bound == outcome.seconds["hbm"]
    assert outcome.per_second_per_chip_bound == pytest.approx(256 / 4 / 1e-2)


def test_text_counts_tokens():
    outcome = dataclasses.replace(made()[0], unit="tokens", units=512)
    assert outcome.per_second_per_chip_bound == pytest.approx(512 * 256 / 4 / 1e-2)
    said = tpu_fit.as_json(outcome, [])
    assert said["images_per_second_per_chip_bound"] is None
    assert said["tokens_per_second_per_chip_bound"] == outcome.per_second_per_chip_bound
    text = data.spec_from_config(load(f"{CONFIGS}/bert.py:base_512").data)
    assert modalities.of(text).units(text) == 512 and outcome.unit == modalities.of(text).unit
    assert made()[0].unit == "images" and made()[0].units == 1


def test_two_devices_of_a_chip_share_its_peaks():
    outcome, _ = made("v3-8")
    assert outcome.seconds["compute"] == pytest.approx(PROGRAM.flops / 61.5e12)


def test_collectives_are_summed_by_kind_and_the_page_shows_them(capsys):
    outcome, _ = made()
    rows = tpu_fit.collectives_by_kind(PROGRAM)
    assert [(row["kind"], row["count"], row["wire_bytes"]) for row in rows] == [
        ("all-reduce", 10, 61440),
        ("all-gather", 2, 9216),
    ]
    assert rows[1]["op_name"] == "jit(train_step)/b"
    aot._print_page(outcome, [])
    page = capsys.readouterr().out
    assert "8.00 GiB of 15.75 GiB a device: fits, 7.75 GiB left" in page
    assert "all-reduce (in a loop)  4        10     40.0 KiB   60.0 KiB" in page
    assert "1.00 GiB        bf16[8,8]          models/x.py:3  conv" in page
    assert "6,400 images/s a chip, by the HBM and published peaks; not a prediction" in page


def test_several_slices_are_one_table_of_80_columns(capsys):
    fits = [made()[0], made("v5p:16x16x24", program=None, peak=100 * tpu.GIB)[0]]
    aot._print_table(Console(width=80), fits, [[], ["change this"]])
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert "8.00 of 15.75" in printed and "100.00 of 95.73" in printed
    assert "v5p:16x16x24 (v5p-12288): changes that make it fit, or help:\n  change this" in printed


def test_a_program_that_cannot_be_read_still_says_whether_it_fits(capsys):
    outcome, _ = made()
    outcome = dataclasses.replace(outcome, program=None)
    aot._print_page(outcome, [])
    assert "fits, 7.75 GiB left" in (page := capsys.readouterr().out)
    assert "cannot read the program" in page
    assert tpu_fit.as_json(outcome, [])["flops"] is None


def advised(*arguments, **options):
    return "\n".join(tpu_fit.advice(*made(*arguments, program=None, **options)))


@needs_libtpu
def test_advice_works_its_figures_out():
    text = advised(peak=17 * tpu.GIB)
    # 16 GiB beside the state: half of them in micro-batches of half the batch.
    assert "micro_batch_size=128: encodes 32 examples per device" in text
    assert "(estimate: 9.00 GiB or more, of 15.75)" in text
    assert "--topology=v5e:2x4 (v5litepod-8): 32 examples per device instead of 64" in text
    assert "batch_size=128, which changes the training recipe" in text
    assert "v6e:2x2 (v6e-4) 31.24 GiB" in text
    assert "mesh.fsdp=4: splits parameters and optimizer state" in text


@needs_libtpu
def test_advice_goes_further_where_less_is_not_enough():
    text = advised(peak=65 * tpu.GIB)
    assert "micro_batch_size=32" in text and "v5e:4x8 (v5litepod-32)" in text
    assert (
        "dtype=bfloat16: halves the size of the activations" in text and "not enough alone" in text
    )
    assert "v6e" not in text and "v5p:2x2x1 (v5p-8) 95.73 GiB" in text


@needs_libtpu
def test_advice_leaves_out_what_is_done_already():
    text = advised(peak=17 * tpu.GIB, dtype="bfloat16", mesh__data=4)
    assert "dtype" not in text and "--topology" not in text


def test_what_fits_needs_no_advice():
    assert tpu_fit.advice(*made()) == []


@pytest.mark.parametrize(
    ("name", "remat", "said"),
    [
        ("resnet18", None, False),
        ("bert_base", "none", True),  # the default of the net's own option
        ("bert_base", "full", False),
    ],
)
def test_recomputing_is_advised_where_a_model_can_and_does_not(name, remat, said):
    config = base_config()
    config.model.update(name=name, remat=remat)
    advice = list(tpu_fit._recompute(types.SimpleNamespace(config=config)))
    assert len(advice) == said and all("model.remat=dots" in line for line in advice)

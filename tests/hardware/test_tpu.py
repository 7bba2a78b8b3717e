"""The table of TPUs, both names of a slice, and what the compiler says of them."""

import os
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from ssl_jax import parallel
from ssl_jax.core.errors import UserError
from ssl_jax.hardware import tpu
from ssl_jax.parallel import distributed

needs_libtpu = pytest.mark.skipif(not tpu.is_installed(), reason="libtpu is not installed")
SLICES = [one for generation in tpu.GENERATIONS for one in generation.slices]


@pytest.mark.parametrize("one", SLICES, ids=str)
def test_both_names_lead_to_the_slice(one):
    assert tpu.parse(one.topology) == one
    assert tpu.parse(one.accelerator_type) == one
    assert one.chips % one.hosts == 0


def test_names_are_unique():
    names = [name for one in SLICES for name in (one.topology, one.accelerator_type)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("name", "topology", "chips", "devices", "hosts"),
    [
        ("v5litepod-64", "v5e:8x8", 64, 64, 16),
        ("v5e-64", "v5e:8x8", 64, 64, 16),
        ("v5litepod-8", "v5e:2x4", 8, 8, 1),
        ("v5e:1x1", "v5e:1x1", 1, 1, 1),
        ("v4-32", "v4:2x2x4", 16, 16, 4),  # counts cores, of which two make a device
        ("v5p-16", "v5p:2x2x2", 8, 8, 2),
        ("V6E-64", "v6e:8x8", 64, 64, 16),
        ("v3-8", "v3:2x2", 4, 8, 1),  # each core is a device
        ("tpu7x-8", "tpu7x:2x2x1", 4, 8, 1),
    ],
)
def test_what_a_name_stands_for(name, topology, chips, devices, hosts):
    one = tpu.parse(name)
    assert one.topology == topology
    assert (one.chips, one.devices, one.hosts) == (chips, devices, hosts)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v5e:8x9", "Did you mean 'v5e:8x8'?"),
        ("v5e:4x2", "Did you mean 'v5e:2x4'?"),
        ("v5litepod-60", "Did you mean 'v5litepod-64'?"),
        ("v4-16x", "slices of v4: v4:2x2x1 (v4-8), v4:2x2x2 (v4-16)"),
        ("v5:8x8", "such as v2:4x4 (v2-32)"),
        ("v5epod-8", "Did you mean 'v5litepod'?"),
        ("8x8", "write a topology or an accelerator type"),
        ("", "write a topology or an accelerator type"),
        ("v5e:x", "slices of v5e"),
        ("v5e-0", "Did you mean 'v5litepod-1'?"),
    ],
)
def test_a_wrong_name_lists_the_right_ones(name, expected):
    with pytest.raises(UserError, match="unknown TPU topology") as error:
        tpu.parse(name)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("kind", "flops"),
    [
        ("TPU v2", 22.5e12),
        ("TPU v3", 61.5e12),
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5e", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("TPU7x", 1153.5e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA L4", 121e12),
        ("cpu", None),
    ],
)
def test_the_peak_of_a_device(kind, flops):
    assert parallel.peak_flops(kind) == flops


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total "
            "memory required for HLO temporaries (16.39G) exceeds available HBM (15.75G). HLO",
            (16.39, 15.75),
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 512.00M of 0.25G hbm.",
            (0.5, 0.25),
        ),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 20.0M of 16.0M", None),
        ("INTERNAL: something", None),
    ],
)
def test_the_compilers_answer_that_memory_is_short(message, expected):
    exceeded = tpu.hbm_exceeded(RuntimeError(message))
    assert exceeded == (expected and tuple(round(size * tpu.GIB) for size in expected))


def test_quiet_hides_what_is_written_below_python_and_shows_it_after_a_failure(capfd):
    with tpu.quiet():
        os.write(2, b"noise")
        print("more", file=sys.__stderr__)
    assert capfd.readouterr().err == ""
    with pytest.raises(RuntimeError), tpu.quiet():
        os.write(2, b"the reason")
        raise RuntimeError
    assert capfd.readouterr().err == "the reason"
    with pytest.raises(UserError), tpu.quiet():
        os.write(2, b"noise")
        raise UserError("said elsewhere")
    assert capfd.readouterr().err == ""
    os.write(2, b"on again")
    assert capfd.readouterr().err == "on again"


def test_without_libtpu(monkeypatch):
    monkeypatch.setattr(tpu, "is_installed", lambda: False)
    tpu._devices.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'ssl_jax\[aot\]'"):
        tpu.devices("v5e:2x2")


@needs_libtpu
@pytest.mark.parametrize("generation", tpu.GENERATIONS, ids=lambda generation: generation.name)
def test_the_compiler_knows_every_slice_as_the_table_does(generation):
    for one in generation.slices:
        if one.devices > 2048:  # the larger ones take seconds
            continue
        try:
            devices = tpu.devices(one)
        except UserError as error:
            pytest.skip(str(error))  # a libtpu from before this generation
        assert len(devices) == one.devices, one
        assert tpu.generation_of(devices[0].device_kind) == generation


@needs_libtpu
@pytest.mark.parametrize(
    "generation",
    [generation for generation in tpu.GENERATIONS if generation.name != "tpu7x"],  # seconds
    ids=lambda generation: generation.name,
)
def test_usable_memory_is_what_the_compiler_says(generation):
    device = tpu.devices(generation.slices[0])[0]
    x = jax.ShapeDtypeStruct((2**15, 2**15), jnp.float32, sharding=SingleDeviceSharding(device))
    with pytest.raises(jax.errors.JaxRuntimeError) as error, tpu.quiet():
        jax.jit(lambda *xs: sum(x[0, 0] for x in xs)).lower(*[x] * 32).compile()
    needed, available = tpu.hbm_exceeded(error.value)
    assert needed > 100 * tpu.GIB
    assert abs(available - generation.usable_hbm_bytes) < 0.02 * tpu.GIB


# A machine that has libtpu only to compile with


@pytest.mark.parametrize(
    ("paths", "plugins", "environ", "expected"),
    [
        ((), (), {}, "cpu"),
        (("/dev/nvidiactl",), ("jax_cuda12_plugin",), {}, "cuda,cpu"),
        (("/dev/nvidiactl",), (), {}, None),  # JAX says that the plugin is missing
        ((), (), {"TPU_WORKER_HOSTNAMES": "a,b"}, None),
    ],
)
def test_an_absent_tpu_is_skipped(paths, plugins, environ, expected, monkeypatch):
    monkeypatch.setattr(tpu, "is_installed", lambda: True)
    monkeypatch.setattr(distributed.os.path, "exists", lambda path: path in paths)
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: name in plugins)
    monkeypatch.setattr(distributed.glob, "glob", lambda pattern: [])
    for name in [name for name in os.environ if name.startswith("TPU_")]:
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    chosen = {}
    monkeypatch.setattr(distributed, "jax", _Jax(chosen))
    distributed.skip_absent_tpu()
    assert chosen.get("jax_platforms") == expected


def test_a_tpu_that_is_there_is_used(monkeypatch):
    monkeypatch.setattr(tpu, "is_installed", lambda: True)
    monkeypatch.setattr(
        distributed.glob, "glob", lambda pattern: ["/dev/accel0"] * ("accel" in pattern)
    )
    chosen = {}
    monkeypatch.setattr(distributed, "jax", _Jax(chosen))
    distributed.skip_absent_tpu()
    assert not chosen


class _Jax:
    """As much of jax as is looked at: its config, with no platforms chosen."""

    def __init__(self, chosen):
        self.config = self
        self.jax_platforms = None
        self.update = chosen.__setitem__

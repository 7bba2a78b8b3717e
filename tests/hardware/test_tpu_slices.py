"""What slices are called where one asks for them. Names and sizes: tests/hardware/test_tpu.py."""

import subprocess
import sys

import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.hardware import tpu_slices

SLICES = [one for generation in tpu_slices.GENERATIONS for one in generation.slices]


def test_nothing_but_python_is_needed():
    script = (
        "import sys; from ssl_jax.hardware import tpu_slices; tpu_slices.parse('v4-32');"
        "print(sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names))"
    )
    # -S: no installed package can be imported, -P and the path: from this checkout all the same.
    code = f"import sys; sys.path.insert(0, {tpu_slices.__file__.rpartition('/ssl_jax/')[0]!r})"
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", f"{code}; {script}"], capture_output=True, text=True
    )
    assert done.stdout == "['__main__', 'ssl_jax']\n", done.stderr


@pytest.mark.parametrize(
    ("name", "runtime_version", "gke_accelerator", "hosts", "host_chips"),
    [
        ("v3-8", "tpu-ubuntu2204-base", "tpu-v3-device", 1, 4),
        ("v3-32", "tpu-ubuntu2204-base", "tpu-v3-slice", 4, 4),
        ("v4-8", "tpu-ubuntu2204-base", "tpu-v4-podslice", 1, 4),
        ("v5litepod-1", "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", 1, 1),
        ("v5litepod-8", "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", 1, 8),
        ("v5litepod-16", "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", 4, 4),
        ("v5p-16", "v2-alpha-tpuv5", "tpu-v5p-slice", 2, 4),
        ("v6e-256", "v2-alpha-tpuv6e", "tpu-v6e-slice", 64, 4),
    ],
)
def test_what_to_ask_for(name, runtime_version, gke_accelerator, hosts, host_chips):
    one = tpu_slices.parse(name)
    assert (one.runtime_version, one.gke_accelerator) == (runtime_version, gke_accelerator)
    assert (one.hosts, one.host_chips) == (hosts, host_chips)


def test_what_is_not_offered_says_what_is():
    with pytest.raises(UserError, match="does not offer tpu7x as TPU VMs, only v2, v3, v4, v5e"):
        _ = tpu_slices.parse("tpu7x-8").runtime_version
    with pytest.raises(UserError, match="GKE does not offer v2; it offers v3, v4, v5e"):
        _ = tpu_slices.parse("v2-8").gke_accelerator


@pytest.mark.parametrize("one", SLICES, ids=str)
def test_hosts_share_the_chips(one):
    assert one.hosts * one.host_chips == one.chips
    assert one.host_chips in (1, 4, 8)

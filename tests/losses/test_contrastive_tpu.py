"""What the TPU compiler says of NT-Xent: memory, arithmetic and traffic at batches that matter."""

import pytest

pytest.importorskip("libtpu", reason="the TPU compiler is in the extra `aot`")

from benchmarks.contrastive_tpu import Case, compile_case


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case("v5e:1x1", 2**14, "float32", "blockwise", 32), marks=pytest.mark.slow),
        pytest.param(Case("v5e:1x1", 2**17, "bfloat16", "blockwise", 224), marks=pytest.mark.slow),
        Case("v5e:4x4", 2**17, "bfloat16", "blockwise", 56),
        pytest.param(Case("v5e:4x4", 2**20, "bfloat16", "blockwise", 320), marks=pytest.mark.slow),
        pytest.param(Case("v5e:4x4", 2**20, "bfloat16", "ring", 100), marks=pytest.mark.slow),
    ],
    ids=lambda case: f"{case.topology}-{case.views}-{case.implementation}",
)
def test_memory_flops_and_wire_bytes_stay_within_their_bounds(case):
    found = compile_case(case)
    assert found.hbm_bytes <= case.goal_mib * 2**20
    assert found.flops_ratio <= (1.1 if case.topology == "v5e:1x1" else 1.05)
    if case.implementation == "ring":  # once forward, once backward
        assert found.wire_ratio <= 2
    elif found.wire_ratio is not None:
        assert found.wire_ratio <= 1.05

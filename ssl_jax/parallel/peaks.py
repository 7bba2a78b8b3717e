"""Published peak matrix throughput of accelerators, for the model FLOP utilisation (MFU)."""

from __future__ import annotations

# Dense bfloat16 FLOP/s of one device as `jax.Device.device_kind` names it (vendors' data sheets).
# A prefix match: "NVIDIA H100 80GB HBM3" is "NVIDIA H100". Longer names come first.
_BF16_FLOPS = {
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
    "TPU v3": 61.5e12,  # a core; a chip has two
    "TPU v2": 22.5e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
    "NVIDIA A10": 125e12,
    "Tesla V100": 125e12,  # float16
    "Tesla T4": 65e12,  # float16
}


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of one device of this kind, None where it is not known (CPUs)."""
    for name, flops in _BF16_FLOPS.items():
        if device_kind.startswith(name):
            return flops
    return None

"""Published peak matrix throughput of accelerators, for the model FLOP utilisation (MFU)."""

from __future__ import annotations

from ssl_jax.hardware import tpu

# Dense bfloat16 FLOP/s of one GPU, from the vendors' data sheets. The keys are prefixes of
# `jax.Device.device_kind`: "NVIDIA H100 80GB HBM3" matches "NVIDIA H100". Longer prefixes come
# first. `ssl_jax.hardware.tpu` has the figures of TPUs.
_GPU_BF16_FLOPS = {
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
    """Dense bfloat16 FLOP/s of one device of this kind, None if unknown (CPUs)."""
    generation = tpu.generation_of(device_kind)
    if generation is not None:
        return generation.flops / generation.devices
    for name, flops in _GPU_BF16_FLOPS.items():
        if device_kind.startswith(name):
            return flops
    return None

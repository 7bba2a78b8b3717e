"""Self-supervised pretraining in JAX.

import ssl_jax

run = ssl_jax.load("runs/demo")
h = run.features(images)["h"]  # images uint8 [n h w c] -> float32 [n d]
"""

import importlib

__version__ = "0.1.0"
__all__ = ["Method", "Weights", "load", "losses"]

# Public name -> its module. They are imported when first used: launchers read
# `ssl_jax.hardware.tpu_slices` on machines without JAX.
_PUBLIC = {
    "Method": "ssl_jax.core.method",
    "Weights": "ssl_jax.core.method",
    "load": "ssl_jax.pretrained.trained_run",
}


def __getattr__(name: str) -> object:
    if name == "losses":
        return importlib.import_module("ssl_jax.losses")
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'ssl_jax' has no attribute {name!r}")

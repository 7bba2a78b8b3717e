"""Features of your images: python -m ssl_jax.embed --workdir=runs/x --data=folder:/path --output=f.npz

Writes one row an image, in the order of the source: `h` float32 [n d], `label` (-1: none), and
`name` (file names where the source has them). The output's suffix says the format: .npz or .parquet.
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import numpy as np
from absl import flags
from etils import epath

from ssl_jax import command, data, parallel, pretrained
from ssl_jax.errors import UserError
from ssl_jax.experiment import Experiment, use_compilation_cache
from ssl_jax.probing import Prober

_WORKDIR = flags.DEFINE_string("workdir", None, "The run.")
_STEP = flags.DEFINE_integer("step", None, "The checkpoint's step; default: the latest.")
_DATA = flags.DEFINE_string("data", None, "Data set, e.g. folder:/path; default: the run's own.")
_SPLIT = flags.DEFINE_string("split", "all", "Split to embed.")
_OUTPUT = flags.DEFINE_string("output", None, "File to write: .npz or .parquet.")
_FEATURES = flags.DEFINE_list("features", ["h"], "Which features to write, e.g. h,z.")


def main() -> int:
    for flag in (_WORKDIR, _OUTPUT):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing")
    write = _writer(_OUTPUT.value)
    parallel.initialize()
    config = pretrained.read_config(_WORKDIR.value)
    use_compilation_cache(config.compilation_cache)
    ...


if __name__ == "__main__":
    sys.exit(command.run(main))

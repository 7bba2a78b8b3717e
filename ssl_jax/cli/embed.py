"""Writes features of examples: ssl_jax embed --workdir=runs/x --data=folder:/path --output=f.npz

One row per example, in the order of the source: `h` float32 [n d] (or the outputs of --features),
`label` int32 [n] (-1: none), `index` int32 [n], and `name`, the name of the file if the source has
files. Images that cannot be read are left out and counted. The suffix of the output selects the
format: .npz or .parquet.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import jax
import numpy as np
from absl import flags
from etils import epath

from ssl_jax import data, parallel
from ssl_jax.cli import checkpoint_flags
from ssl_jax.core import storage
from ssl_jax.core.errors import UserError
from ssl_jax.data import class_names
from ssl_jax.experiment.build import Experiment, use_compilation_cache
from ssl_jax.pretrained import trained_run
from ssl_jax.run.probing import Prober

FORMATS = (".npz", ".parquet")


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "The run.")
    checkpoint_flags.define_flags()
    flags.DEFINE_string("data", None, "Data set, e.g. folder:/path; default: the run's own.")
    flags.DEFINE_string("split", "all", "Split to embed, e.g. test or train[:1000].")
    flags.DEFINE_string("output", None, "File to write: .npz or .parquet.")
    flags.DEFINE_list("features", ["h"], "Which features to write, e.g. h,z,last4/mean.")


def main() -> int:
    options = flags.FLAGS
    for name in ("workdir", "output"):
        if not options[name].value:
            raise UserError(f"--{name} is missing")
    output = epath.Path(options.output)
    _check_format(output)
    storage.check_output(output)  # before anything is computed
    config = trained_run.read_config(options.workdir)
    use_compilation_cache(config.compilation_cache)
    parallel.initialize()

    # Uses all devices of this machine; the run may have used another number.
    experiment = Experiment.build(config, data.spec_from_config(config.data), parallel.make_mesh())
    prober = Prober(config, experiment.mesh, options.data, workdir=options.workdir)
    source = prober.source(options.split, "all")
    encoder = trained_run.load_experiment(
        options.workdir, experiment, options.step, weights=options.weights
    )
    names = tuple(options.features)
    with jax.set_mesh(experiment.mesh):
        model = experiment.model(encoder.weights)
        features = prober.features(
            lambda batch: _select(model.outputs(batch, names), names), source
        )
    columns = _columns(features, source, names)
    if jax.process_index() == 0:
        (_write_npz if output.suffix == ".npz" else _write_parquet)(output, columns)
        shape = "x".join(map(str, columns[options.features[0]].shape))
        print(f"{shape} features of {prober.dataset}, step {encoder.step}: {output}")
        known = config.data.class_names
        if known is not None and source.class_names not in (None, known):
            print(f"label counts the classes of the data, {class_names.shown(source.class_names)}; "
                  f"those of the run are {class_names.shown(known)}")  # fmt: skip
        if note := source.problem_summary("left out"):
            print(note)
    return 0


def _check_format(output: epath.Path) -> None:
    if output.suffix not in FORMATS:
        raise UserError(f"--output={output}: the suffix must be one of {', '.join(FORMATS)}")


def _select(outputs: Mapping[str, jax.Array], names: tuple[str, ...]) -> dict[str, jax.Array]:
    """The named outputs; the others are not copied to the host."""
    for name in names:
        if name not in outputs:
            raise UserError(
                f"--features: this method has no {name!r}; it has {', '.join(sorted(outputs))}"
            )
    return {name: outputs[name] for name in names}


def _columns(
    features: dict[str, np.ndarray], source: data.Source, names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    columns = {name: features[name] for name in (*names, "label", "index")}
    if source.names is not None:
        columns["name"] = np.array([source.names[i] for i in features["index"]])
    return columns


def _write_npz(output: epath.Path, columns: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **columns)
    storage.write_whole(output, buffer.getvalue())


def _utf8(name: str) -> str:
    r"""A file name as Parquet can hold it: bytes that are no UTF-8 become \xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _write_parquet(output: epath.Path, columns: dict[str, np.ndarray]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def column(array: np.ndarray) -> pa.Array:
        if array.dtype.kind == "U":
            return pa.array([_utf8(text) for text in array])
        if array.ndim == 1:
            return pa.array(array)
        return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])

    buffer = io.BytesIO()
    pq.write_table(pa.table({name: column(array) for name, array in columns.items()}), buffer)
    storage.write_whole(output, buffer.getvalue())

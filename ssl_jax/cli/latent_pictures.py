"""What `traverse` and `interpolate` share: a run with a decoder, examples, the file to write."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from absl import flags
from etils import epath

from ssl_jax import data
from ssl_jax.cli import checkpoint_flags
from ssl_jax.core import storage
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Images
from ssl_jax.core.method import Method
from ssl_jax.experiment.build import use_compilation_cache
from ssl_jax.pretrained import trained_run
from ssl_jax.pretrained.trained_run import TrainedRun
from ssl_jax.report.picture_files import png
from ssl_jax.run.probing import Prober


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "The run, of an autoencoder or a VAE.")
    checkpoint_flags.define_flags()
    flags.DEFINE_string("data", None, "Data set, e.g. folder:/path; default: the run's own.")
    flags.DEFINE_string("split", None, "Split of the examples; default: the run's test split.")
    flags.DEFINE_string("output", None, "File to write: .png.")


def open_run() -> tuple[TrainedRun, data.Source]:
    """The run and the split that the flags name.

    Raises:
      UserError: a flag is missing, or the run has no decoder of codes.
    """
    options = flags.FLAGS
    for name in ("workdir", "output"):
        if not options[name].value:
            raise UserError(f"--{name} is missing")
    if epath.Path(options.output).suffix != ".png":
        raise UserError(f"--output={options.output}: the suffix must be .png")
    storage.check_output(epath.Path(options.output))
    config = trained_run.read_config(options.workdir)
    use_compilation_cache(config.compilation_cache)
    run = trained_run.load(options.workdir, options.step, weights=options.weights)
    check_decodes(options.workdir, run.experiment.method)
    prober = Prober(config, run.experiment.mesh, options.data, workdir=options.workdir)
    return run, prober.source(options.split or config.eval.test_split, "all")


def check_decodes(workdir: str, method: Method) -> None:
    """Raises UserError if the method does not decode codes to images."""
    if not hasattr(method, "latents"):
        raise UserError(
            f"{workdir} is a run of {method.title}, which decodes no images from codes; use a run "
            "of an autoencoder or a VAE"
        )


def read_examples(texts: Sequence[str], source: data.Source, at_least: int) -> list[int]:
    """The numbers of --examples.

    Args:
      texts: the values of the flag.
      source: the split that they are of.
      at_least: smallest number of examples.

    Raises:
      UserError: one is no number or not of the split, or there are too few.
    """
    numbers = read_numbers("examples", texts, len(source), source.name)
    if len(numbers) < at_least:
        raise UserError(f"--examples names {len(numbers)} of at least {at_least} examples")
    return numbers


def read_numbers(flag: str, texts: Sequence[str], count: int, noun: str) -> list[int]:
    """The numbers of a flag, each from 0 to `count` - 1.

    Args:
      flag: name of the flag.
      texts: its values.
      count: how many there are.
      noun: of what, for messages.

    Raises:
      UserError: one is no number or too large.
    """
    for text in texts:
        if not (text.isascii() and text.isdigit()) or int(text) >= count:
            raise UserError(
                f"--{flag}: {text!r} is not a number from 0 to {count - 1:,}, of {noun}"
            )
    return [int(text) for text in texts]


def batch_of(source: data.Source, rows: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """The images of examples.

    Raises:
      UserError: one of them cannot be read.
    """
    batch = source.batch(np.asarray(rows))
    if source.problems:
        raise UserError(source.problem_summary("among the examples"))
    return {"image": batch["image"]}


def title(source: data.Source, number: int) -> str:
    """What to call an example: its number, and its class if that is known."""
    names, labels = source.class_names, source.labels
    if names is None or labels is None or labels[number] < 0:
        return f"example {number}"
    return f"example {number} ({names[labels[number]]})"


def write(run: TrainedRun, source: data.Source, tables: Sequence[tuple[str, Images]]) -> None:
    """Writes the tables to --output and says so."""
    if jax.process_index() == 0:
        output = epath.Path(flags.FLAGS.output)
        storage.write_whole(output, png(tables))
        print(f"{source.name}, step {run.step}: {output}")

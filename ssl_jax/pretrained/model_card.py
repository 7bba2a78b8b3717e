"""README.md of an exported encoder of images: what it is, how good it is, and how to load it.

The header is the metadata of cards on the Hugging Face Hub. The scores are those of the run's
results.json, with the rows of raw pixels and of the untrained encoder beside; nothing is measured
here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from ssl_jax import config as config_lib
from ssl_jax import evals
from ssl_jax.core.errors import UserError
from ssl_jax.evals.metric import SPREAD
from ssl_jax.pretrained.trained_run import TrainedRun

NAME = "README.md"
_CONFIGURATION = (
    "method", "model", "views", "optimizer", "batch_size", "epochs", "steps", "seed", "dtype",
    "data",
)  # fmt: skip
UNKNOWN_LICENSE = "unknown"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
# How each library loads the folder; `{image}` describes its input.
_LOADING = {
    "transformers": (
        "from transformers import AutoModel\n"
        'model = AutoModel.from_pretrained("{folder}").eval()\n'
        "tokens = model(pixel_values=images).last_hidden_state  # images: {image}"
    ),
    "timm": (
        "import timm\n"
        'model = timm.create_model("local-dir:{folder}", pretrained=True).eval()\n'
        "features = model(images)  # images: {image}"
    ),
    "ssl_jax": "ssl_jax train --config=CONFIG --workdir=runs/next --config.init_from={folder}",
}


def check_license(name: str | None) -> str:
    """The identifier of a licence as the Hub has it; `unknown` for None.

    Raises:
      UserError: it is no identifier.
    """
    if name is None:
        return UNKNOWN_LICENSE
    if not _LICENSE.fullmatch(name):
        raise UserError(
            f"--license={name!r} is no identifier; use one of the Hub's, such as apache-2.0, mit, "
            "cc-by-nc-4.0 or other"
        )
    return name


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a card says besides what the run itself tells.

    Attributes:
      license_name: identifier of the licence of the weights; None: not stated.
      results: the content of the run's results.json; empty without one.
    """

    license_name: str | None = None
    results: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def write(run: TrainedRun, folder: str, library: str, facts: Facts) -> str:
    """Writes README.md into the folder of an exported encoder.

    Args:
      run: whose encoder is exported.
      folder: of the exported files; it has a config.json.
      library: a key of `_LOADING`, which loads the folder.
      facts: the licence and the scores.

    Returns:
      The path of the file.

    Raises:
      UserError: a bad licence.
    """
    path = os.path.join(folder, NAME)
    text = card(run, folder, library, facts)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def card(run: TrainedRun, folder: str, library: str, facts: Facts) -> str:
    """The content of README.md, see `write`."""
    license_name = check_license(facts.license_name)
    config, method = run.config, run.experiment.method
    image = run.experiment.spec.evaluated.arrays["image"].shape
    header = [
        "---",
        f"license: {license_name}",
        f"library_name: {library}",
        "pipeline_tag: image-feature-extraction",
        "tags:",
        "- self-supervised-learning",
        f"- {config.method.name.replace('_', '-')}",
        "- ssl_jax",
        "---",
    ]
    height, width, channels = run.view_shape
    statistics = run.normalization
    kind = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    scale = "standardised by channel, see Inputs" if statistics else "in [0, 1]"
    size = f"float32 [n {channels} {height} {width}], {scale}"
    loading = _LOADING[library].format(folder=os.path.basename(os.path.abspath(folder)), image=size)
    language = "sh" if library == "ssl_jax" else "python"
    classes = run.experiment.spec.num_classes
    data = [
        f"- data set: `{config.data.name}`, split `{config.data.split}`, "
        f"{run.experiment.spec.num_examples:,} images"
        + (f", {classes} classes" if classes else ""),
        f"- stored size: {image[0]}x{image[1]}, {image[2]} channel{'s' * (image[2] > 1)}",
        "- labels in training: "
        + ("yes" if method.learns_from_labels else "none; only the scores below use them"),
    ]
    values = "standardised by channel" if statistics else "values in [0, 1]"
    inputs = [f"{kind} images of {height}x{width} pixels, {values}."]
    if statistics:
        mean, std = statistics
        inputs.append(
            f"Values in [0, 1] minus mean {tuple(mean)}, divided by deviation {tuple(std)}."
        )
    sections = [
        "\n".join(header),
        f"# {config.model.name}, {method.title}",
        f"An encoder of images that {method.title} trained with ssl_jax: step {run.step:,}, "
        f"batches of {config.batch_size:,}.",
        f"## Load\n\n```{language}\n{loading}\n```",
        "## Inputs\n\n" + " ".join(inputs),
        "## Data\n\n" + "\n".join(data),
        "## Scores\n\n" + scores(run, facts.results),
        "## Licence\n\n" + _license_text(license_name),
        "## Configuration\n\n```json\n" + _configuration(config) + "\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _license_text(name: str) -> str:
    if name == UNKNOWN_LICENSE:
        return (
            "Not stated. The licence of the weights may depend on that of the data; `--license` of "
            "`ssl_jax export` writes it."
        )
    return f"`{name}`."


def _configuration(config: Any) -> str:
    whole = json.loads(config_lib.to_json(config))
    return json.dumps({name: whole[name] for name in _CONFIGURATION if name in whole}, indent=2)


def scores(run: TrainedRun, record: Mapping[str, Any]) -> str:
    """The table of the run's final results in Markdown, or that there is none."""
    rows = {name: row for name, row in record.get("results", {}).items() if row}
    if not rows:
        return "The run has no final results."
    section = run.config.eval
    columns = {}
    for key in dict.fromkeys(key for row in rows.values() for key in row):
        metric = None if key.endswith(SPREAD) else evals.describe(key, section)
        if metric is not None and metric.shown:
            columns[key] = metric
    headings = [f"{m.column}{', %' if m.unit == '%' else ''}" for m in columns.values()]
    lines = [
        "| | " + " | ".join(headings) + " |",
        "|---|" + "---|" * len(headings),
    ]
    for name, row in rows.items():
        cells = [_cell(metric, row, key) for key, metric in columns.items()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    measured = record.get("best_step", record["step"])
    notes = [
        f"Measured at step {measured:,} on `{section.data or run.config.data.name}`, split "
        f"`{section.test_split}`, with the encoder frozen; probes are fitted to "
        f"`{section.train_split}`. Values after ± are standard deviations over draws of labels."
    ]
    if measured != run.step:
        notes.append(f"The weights in this folder are those of step {run.step:,}.")
    if record.get("not_computed"):
        notes.append("Some evaluations failed; the run's results.json has the reasons.")
    return "\n".join(lines) + "\n\n" + " ".join(notes)


def _cell(metric: Any, row: Mapping[str, float], key: str) -> str:
    return metric.format(row[key], row.get(key + SPREAD)) if key in row else ""

"""What a config leaves to the pretrained run or folder that it starts from: "init_from" as a value.

    model.name = "init_from"              the encoder there: its name, width, depth and so on
    data.options.tokenizer = "init_from"  the tokenizer there, or where nothing is started from, one
                                          trained on the data as if it were not set
    data.options.tokenizer = "init_from|bpe"  the same, and one that is trained is of this kind

A table is read by the columns of the run that it starts from: their means, deviations and
categories.

So that fine-tuning names a pretrained model once. What the config says of the model itself wins.
Where the tokenizer is that of init_from, the name of a model in a config file is meant for training
from scratch: it gives way to the model there, unless the command line names it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from ssl_jax.config.schema import INIT_FROM
from ssl_jax.core import storage
from ssl_jax.core.errors import UserError

_TABLE = "table:"


def fill_in(config: ConfigDict, overrides: Collection[str] = ()) -> None:
    """Replaces "init_from" by what stands there, in place.

    Args:
      config: the config.
      overrides: dotted keys that the command line sets.

    Raises:
      UserError: there is nothing to start from, or it does not say.
    """
    options = config.data.options
    takes_model = config.model.get("name") == INIT_FROM
    tokenizer, _, trained = str(options.get("tokenizer", None)).partition("|")
    if tokenizer == INIT_FROM:
        if config.init_from is not None:
            options.tokenizer = _folder(config.init_from)
            if "vocab_size" in options:  # it has its own
                del options["vocab_size"]
            takes_model |= "model.name" not in overrides and _config(config.init_from).exists()
        elif trained:
            options.tokenizer = trained
        else:
            del options["tokenizer"]
    if config.init_from is not None and config.data.name.startswith(_TABLE):
        columns = _columns(config.init_from)
        if columns and options.get("columns", None) is None:
            options.columns = ConfigDict(columns)
    if takes_model:
        if config.init_from is None:
            raise UserError(
                "the model is that of init_from, and that is not set: add "
                "--config.init_from=runs/bert, or a folder of the transformers library; or name a "
                "model to train from scratch, e.g. --config.model.name=bert_tiny"
            )
        for name, value in _model(config.init_from).items():
            if name == "name" or config.model.get(name) is None:
                config.model[name] = value


def _folder(source: str) -> str:
    """The folder of a run, without its step, of a file, or of the base model of an adapter."""
    from ssl_jax.checkpoint.choice import folder_and_step
    from ssl_jax.pretrained.formats import peft

    folder, _ = folder_and_step(source)
    if peft.is_adapter_folder(folder):
        return peft.read_config(folder)["base"]
    return os.path.dirname(folder) if os.path.isfile(folder) else folder


def _config(source: str) -> epath.Path:
    """The config.json of a run or folder."""
    return epath.Path(_folder(source)) / "config.json"


def _columns(source: str) -> dict[str, Any] | None:
    """The columns of the table of a run; None if it had none."""
    path = _config(source)
    if not path.exists():
        return None
    data = storage.read_json(path).get("data")
    return data.get("options", {}).get("columns") if isinstance(data, dict) else None


def _model(source: str) -> dict[str, Any]:
    from ssl_jax.models import registry

    path = _config(source)
    if not path.exists():
        raise UserError(f"init_from={source} does not say what its model is: {path} is not there")
    description = storage.read_json(path)
    if "model_type" in description:
        return _of_transformers(description, str(path))
    section = description.get("model")
    if not isinstance(section, dict) or not section.get("name"):
        raise UserError(f"{path} does not say what its model is; set model.name")
    taken = registry.architecture(section["name"], f"{path}: model")
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in section.items()
        if name in taken
    }


def _of_transformers(description: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The options of an encoder like that of a config.json of the transformers library."""
    from ssl_jax.pretrained.formats import (
        hugging_face_config,
        hugging_face_gpt,
        hugging_face_t5,
        hugging_face_vit_config,
    )

    if description["model_type"] == hugging_face_t5.FAMILY:
        return hugging_face_t5.model_options(description, path)
    if description["model_type"] in hugging_face_gpt.FAMILIES:
        return hugging_face_gpt.model_options(description, path)
    if description["model_type"] in hugging_face_vit_config.FAMILIES:
        return hugging_face_vit_config.model_section(description, path)
    return hugging_face_config.model_options(description, path)

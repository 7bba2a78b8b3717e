"""Writes an encoder for other libraries: ssl_jax export --workdir=DIR --output=OUT --to=timm

    torchvision   a ResNet under torchvision's names
    timm          a ResNet or Vision Transformer under timm's names
    hf            BERT or RoBERTa with its heads, for from_pretrained of the transformers library:
                  those of pretraining, or the one that was fine-tuned
    safetensors   any encoder under our own names ("params/...", "buffers/...")

OUT/model.safetensors holds the weights in float32, OUT/config.json the architecture and what its
inputs are: RGB images with values in [0, 1], not standardised any further unless the recipe did. An
encoder of text gets the transformers library's config.json and the tokenizer's files.

With PyTorch and the library at hand, their model is built, loads the file, and its features on
images of the run's own data set (on noise where it is not at hand, on random tokens of text) are
compared with ours: a difference above 1e-3 of the features' size fails the command. Where they are
not installed, do not fit each other, or have no such model (a ResNet of another width), the command
says that it was not compared. `--weights` chooses the parameters, their moving average (momentum,
target or teacher encoder) or their Polyak average; by default those that the run evaluates.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import flags
from etils import epath

from ssl_jax import data
from ssl_jax.core.errors import RunError, UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment import evaluated
from ssl_jax.methods.base.labelled import Labelled
from ssl_jax.models import Net, TextEncoder
from ssl_jax.models.positions import sincos_positions
from ssl_jax.pretrained import formats, trained_run
from ssl_jax.pretrained.formats import hugging_face, task_heads
from ssl_jax.pretrained.formats.task_heads import TaskHeads

TARGETS = ("torchvision", "timm", "hf", "safetensors")
TOLERANCE = 1e-3
_COMPARED = 8
# timm has one for every depth there is here.
_TORCHVISION_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "A finished or running run.")
    flags.DEFINE_string("output", None, "Folder to write; made if missing.")
    flags.DEFINE_enum("to", None, TARGETS, "Whose names the weights get.")
    flags.DEFINE_integer("step", None, "Checkpoint; the latest by default.")
    flags.DEFINE_enum(
        "weights", None, evaluated.CHOICES, "Which weights; default: the run's eval.weights."
    )


def main() -> int:
    given = flags.FLAGS
    for name, example in (("workdir", "runs/x"), ("output", "exported"), ("to", "timm")):
        if not getattr(given, name):
            raise UserError(f"--{name} is missing, e.g. --{name}={example}")
    run = trained_run.load(given.workdir, given.step, dtype="float32", weights=given.weights)
    weights = {
        **run.weights.buffers.get("frozen", {}),
        **run.weights.params,
    }  # a frozen encoder's are buffers
    if "encoder" not in weights:
        raise UserError(
            f"{given.workdir}: method {run.config.method.name} has no encoder to export"
        )
    try:
        os.makedirs(given.output, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={given.output} is no folder: {error.strerror}") from error
    if given.to == "hf":
        return _to_transformers(run, weights, str(run.workdir), given.output)
    params, buffers = (
        jax.tree.map(np.asarray, part.get("encoder", {})) for part in (weights, run.weights.buffers)
    )
    state = (
        {f"params/{path}": x for path, x in by_path(params).items()}
        | {f"buffers/{path}": x for path, x in by_path(buffers).items()}
        if given.to == "safetensors"
        else _named(given.to, params, buffers, run)
    )
    path = os.path.join(given.output, "model.safetensors")
    formats.write_safetensors(path, state)
    with open(os.path.join(given.output, "config.json"), "w", encoding="utf-8") as file:
        json.dump(_description(given.to, run, len(state)), file, indent=2)
        file.write("\n")
    print(f"{path}: {len(state)} arrays, step {run.step}")
    if given.to != "safetensors":
        print(_compare(given.to, path, state, run))
    return 0


def _to_transformers(
    run: trained_run.TrainedRun, weights: dict[str, Any], workdir: str, output: str
) -> int:
    module = run.experiment.method.nets()["encoder"].module
    if not isinstance(module, TextEncoder):
        raise UserError(f"{run.config.model.name} is no encoder of text; use --to=timm")
    vocabulary = run.experiment.spec.vocabulary
    params = jax.tree.map(np.asarray, weights)
    tokenizer = _tokenizer(run, workdir)
    heads = _task_heads(run, module)
    count = hugging_face.write(output, params, module, vocabulary, tokenizer, heads)
    print(f"{os.path.join(output, 'model.safetensors')}: {count} arrays, step {run.step}")
    if "head" in params and heads is None:
        print(
            f"without its head: transformers has none on model.pool={module.pool} as here, see "
            "ssl_jax/pretrained/formats/task_heads.py"
        )
    if tokenizer is None:
        print(
            f"without its tokenizer: neither {workdir} nor {run.config.data.name} has one at hand"
        )
    print(_compare_tokens(output, params["encoder"], module, vocabulary.size))
    return 0


def _task_heads(run: trained_run.TrainedRun, module: TextEncoder) -> TaskHeads | None:
    """What the head of a run that has learned from labelled texts is in transformers."""
    method, task = run.experiment.method, run.experiment.spec.task
    if "head" not in run.weights.params or not isinstance(method, Labelled):
        return None
    head = method.classifier.head.module
    names = run.config.data.options.get("class_names", None)
    try:
        names = names or data.from_config(run.config.data, seed=0).class_names
    except (UserError, OSError):
        names = None
    return task_heads.make(
        hugging_face.family(module),
        task or "classify",
        head.num_outputs,
        pool=module.pool,
        dense=head.dense,
        dropout=head.dropout,
        class_names=names,
    )


def _tokenizer(run: trained_run.TrainedRun, workdir: str) -> str | None:
    """The tokenizer.json of the run: beside its config, or of its data set; None if not there."""
    path = epath.Path(workdir) / "tokenizer.json"
    if path.exists():
        return path.read_text()
    try:
        source = data.from_config(run.config.data, seed=0)
        return source.tokenizer_json()
    except (UserError, OSError):
        return None


def _compare_tokens(folder: str, params: Any, module: TextEncoder, vocab_size: int) -> str:
    """What transformers' model makes of random texts of several lengths, against ours.

    Raises:
      RunError: the last layer's tokens differ.
    """
    reason = missing("torch", "transformers", needed="BertModel")
    if reason:
        return f"not compared with transformers: {reason}"
    rng = np.random.default_rng(0)
    length = min(module.max_length, 64)
    lengths = rng.integers(2, length + 1, (_COMPARED, 1))
    real = np.arange(length) < lengths
    text = {
        "tokens": np.where(real, rng.integers(0, vocab_size, real.shape), 0),
        "segment": real * 1,
        "position": np.where(real, np.arange(length), 0),
        "type": np.where(real, rng.integers(0, module.num_types, real.shape), 0),
    }
    text = {name: x.astype(np.int32) for name, x in text.items()}
    ours = jax.jit(lambda text: Net(module).apply(params, {}, text, train=False)[0][1]["tokens"])
    theirs = transformers_tokens(folder, text)
    difference = np.abs(np.asarray(ours(text)) - theirs)[real].max()
    difference = float(difference / np.abs(theirs[real]).max())
    if not difference <= TOLERANCE:
        raise RunError(
            f"transformers makes other tokens of {folder}: they differ by {difference:.2g} of "
            "their size"
        )
    return (
        f"compared with transformers on {_COMPARED} random texts: tokens differ by {difference:.1g}"
    )


def missing(*libraries: str, needed: str | None = None) -> str | None:
    """Why the libraries cannot be used here, None if they can.

    Args:
      needed: an attribute of the last one, which loads its parts only when they are asked for.
    """
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            return f"{library} is not installed"
        try:
            module = importlib.import_module(library)
            if needed is not None and library == libraries[-1]:
                getattr(module, needed)
        except Exception as error:  # what builds of PyTorch raise that do not fit each other
            cause = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            reason = str(cause).partition("\n")[0]
            return f"{library} is installed but cannot be imported ({reason})"
    return None


def transformers_tokens(folder: str, text: dict[str, np.ndarray]) -> np.ndarray:
    """The last layer's tokens [n l d] of transformers' encoder in a folder.

    Args:
      text: a batch with one text a row. Where there is padding the result means nothing.
    """
    import torch
    import transformers

    net = transformers.AutoModel.from_pretrained(folder).eval()
    tokens, types = (torch.from_numpy(text[name].astype(np.int64)) for name in ("tokens", "type"))
    positions = torch.from_numpy(text["position"].astype(np.int64))
    if net.config.model_type == "roberta":
        positions = positions + net.config.pad_token_id + 1
    with torch.no_grad():
        out = net(
            input_ids=tokens,
            token_type_ids=types,
            position_ids=positions,
            attention_mask=torch.from_numpy((text["segment"] > 0).astype(np.int64)),
        )
    return out.last_hidden_state.numpy()


def _named(
    to: str, params: Any, buffers: Any, run: trained_run.TrainedRun
) -> dict[str, np.ndarray]:
    vit = "patch_embed" in params
    if vit and to == "torchvision":
        raise UserError("Vision Transformers have timm's names here; use --to=timm")
    sincos = None
    if vit and "pos_embed" not in params:
        patch, dim = params["patch_embed"]["proj"]["kernel"].shape[1:4:2]
        side = _image_shape(run)[0] // patch
        sincos = sincos_positions((side, side), dim, run.config.model.positions)
    return formats.to_torch(params, buffers, sincos=sincos)


def _image_shape(run: trained_run.TrainedRun) -> tuple[int, int]:
    """(pixels on a side, channels) of what the encoder sees in evaluation."""
    method = run.experiment.method
    image = run.experiment.spec.evaluated.batch(1)["image"]
    return jax.eval_shape(method.eval_view, image).shape[2:]


def _description(to: str, run: trained_run.TrainedRun, arrays: int) -> dict[str, Any]:
    model = {key: value for key, value in run.config.model.to_dict().items() if value is not None}
    vocabulary = run.experiment.spec.vocabulary
    if vocabulary is None:
        side, channels = _image_shape(run)
        colours = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
        inputs = {"image_size": side, "input": f"{colours}, values in [0, 1]"}
    else:
        inputs = {"input": "tokens", "vocabulary": dataclasses.asdict(vocabulary)}
    return {
        "architecture": model,
        "names": to,
        "arrays": arrays,
        **inputs,
        "method": run.config.method.name,
        "step": run.step,
    }


def _compare(
    to: str, path: str, state: Mapping[str, np.ndarray], run: trained_run.TrainedRun
) -> str:
    """What the other library's model makes of the file, against ours.

    Args:
      state: what is in the file.

    Raises:
      RunError: the features differ.
    """
    # The net first: the reason is then the same wherever the command runs.
    reason = _no_such_net(to, run.config.model, state) or missing("torch", to)
    if reason:
        return f"not compared with {to}: {reason}"
    images, of = _images(run)
    ours = np.asarray(run.encode({"image": images})["h"])
    method = run.experiment.method
    seen = np.asarray(method.eval_view(images), np.float32)
    theirs = torch_features(to, path, run.config.model, seen)
    difference = float(np.abs(ours - theirs).max() / np.abs(ours).max())
    if not difference <= TOLERANCE:
        raise RunError(
            f"{to} makes other features of {path}: they differ by {difference:.2g} of their size"
        )
    return f"compared with {to} on {len(images)} {of}: features differ by {difference:.1g}"


def _images(run: trained_run.TrainedRun) -> tuple[np.ndarray, str]:
    """Images of the run's data set, and what they are; noise where the data are not at hand."""
    name = run.config.data.name
    shape = (_COMPARED, *run.experiment.spec.evaluated.arrays["image"].shape)
    try:
        section = run.config.data.copy_and_resolve_references()
        section.unlock()
        section.host_crops = {}
        source = data.from_config(section, seed=0)
        images = source.batch(np.arange(min(_COMPARED, len(source))))["image"]
        return images, f"images of {name}"
    except (UserError, OSError):
        noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        return noise, f"images of noise, as {name} is not at hand"


def torch_features(to: str, path: str, model: Any, images: np.ndarray) -> np.ndarray:
    """Features [n d] that torchvision's or timm's model of this kind makes with the weights.

    Args:
      model: the config's section.
      images: float32 [n h w c], as the encoder sees them.

    Raises:
      UserError: the library has no such model.
    """
    import torch
    from safetensors.torch import load_file

    state = load_file(path)
    net = _torch_model(to, model, images.shape, state)
    expected = {name for name in net.state_dict() if not name.endswith("num_batches_tracked")}
    if expected != set(state):
        raise RunError(f"{to} has other arrays: {sorted(expected ^ set(state))[:4]}")
    net.load_state_dict(state, strict=False)
    net.eval()
    with torch.no_grad():
        return net(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def _no_such_net(to: str, model: Any, state: Mapping[str, Any]) -> str | None:
    """Why a library has no model for weights under its names, None if it has one."""
    if "patch_embed.proj.weight" in state:
        return None
    width = state["conv1.weight"].shape[0]
    if width != 64:
        return f"it has no ResNet whose first layer has {width} channels"
    if to == "torchvision" and model.name not in _TORCHVISION_RESNETS:
        return f"it has no {model.name}"
    return None


def _torch_model(to: str, model: Any, shape: tuple[int, ...], state: Any) -> Any:
    import torch

    name, channels = model.name, shape[-1]
    if "patch_embed.proj.weight" in state:
        import timm
        from timm.models.vision_transformer import VisionTransformer

        del timm
        dim, _, patch, _ = state["patch_embed.proj.weight"].shape
        blocks = {key.split(".")[1] for key in state if key.startswith("blocks.")}
        heads = (
            model.get("num_heads", None)
            or dict(ti=3, s=6, b=12, l=16, h=16)[name.removeprefix("vit_").rstrip("0123456789")]
        )
        hidden = state["blocks.0.mlp.fc1.weight"].shape[0]
        has_cls = "cls_token" in state
        return VisionTransformer(
            img_size=shape[1], patch_size=patch, in_chans=channels, num_classes=0, embed_dim=dim,
            depth=len(blocks), num_heads=heads, mlp_ratio=hidden / dim, class_token=has_cls,
            qkv_bias="blocks.0.attn.qkv.bias" in state, fc_norm=False,
            init_values=1.0 if "blocks.0.ls1.gamma" in state else None,
            global_pool="token" if (model.get("pool", None) or "cls") == "cls" else "avg",
        )  # fmt: skip
    if reason := _no_such_net(to, model, state):
        raise UserError(f"{to}: {reason}")
    width = state["conv1.weight"].shape[0]
    if to == "torchvision":
        import torchvision

        net = getattr(torchvision.models, name)()
        net.fc = torch.nn.Identity()
    else:
        import timm

        net = timm.create_model(name, num_classes=0)
    if state["conv1.weight"].shape[1:] != net.conv1.weight.shape[1:]:
        size = state["conv1.weight"].shape[-1]
        stride = 1 if size == 3 else 2
        net.conv1 = torch.nn.Conv2d(channels, width, size, stride, size // 2, bias=False)
        if size == 3:
            net.maxpool = torch.nn.Identity()
    return net

"""Exports the encoder of a trained run for other libraries, and compares it with their models."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from etils import epath

from ssl_jax import data, modalities
from ssl_jax.adapt.adapters import is_adapter
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import BASE, FROZEN
from ssl_jax.core.tree_paths import by_path, join
from ssl_jax.data.text.tokenizer import Tokenizer
from ssl_jax.methods.base.labelled import Labelled
from ssl_jax.modalities.image import IMAGE
from ssl_jax.models import ResNet, TextEncoder, ViT
from ssl_jax.models.encoder_decoder import EncoderDecoder
from ssl_jax.pretrained import formats, model_card, released, torch_models
from ssl_jax.pretrained.formats import (
    hugging_face,
    hugging_face_config,
    hugging_face_gpt,
    hugging_face_t5,
    hugging_face_vit,
    hugging_face_vit_config,
    peft,
    task_heads,
    timm_config,
    torch_files,
    word2vec,
)
from ssl_jax.pretrained.formats.task_heads import TaskHeads
from ssl_jax.pretrained.trained_run import TrainedRun

PyTree = Any

TARGETS = ("torchvision", "timm", "hf", "official", "word2vec", "safetensors", "peft")
_COMPARED_IMAGES = 8


def export(
    run: TrainedRun, target: str, folder: str, facts: model_card.Facts | None = None
) -> Iterator[str]:
    """Writes model.safetensors and config.json of the run's encoder, then compares its features.

    For encoders of images, the targets "hf" and "timm" write a model card, README.md, too. The
    target "official" writes checkpoint.pth, with the heads, see `ssl_jax.pretrained.released`.

    Args:
      run: loaded with float32 activations.
      target: one of `TARGETS`.
      folder: created if missing.
      facts: what the model card says of licence and scores.

    Yields:
      Lines for the user: the file, and the result of the comparison.

    Raises:
      UserError: the run has no encoder, the target has no names for it, the licence is no
        identifier, or `folder` cannot be created.
      RunError: the other library computes different features.
    """
    facts = facts or model_card.Facts()
    model_card.check_license(facts.license_name)
    if target == "official":
        released.check(run)
    adapted, run = run, run.merged()
    # A frozen encoder is in the buffers.
    params = {**run.weights.buffers.get(FROZEN, {}), **run.weights.params}
    if "encoder" not in params:
        raise UserError(f"{run.workdir}: method {run.config.method.name} has no encoder to export")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={folder} cannot be a folder: {error.strerror}") from error
    if target == "peft":
        yield from _export_adapters(adapted, folder)
    elif target == "official":
        yield from _export_training_checkpoint(adapted, folder)
    elif target in ("hf", "timm") and run.experiment.spec.modality == IMAGE.name:
        yield from _export_images(run, params, target, folder, facts)
    elif target == "hf":
        yield from _export_to_transformers(run, params, folder)
    elif target == "word2vec":
        yield from _export_word_vectors(run, folder)
    else:
        yield from _export_encoder(run, params, target, folder)


def _export_images(
    run: TrainedRun, params: PyTree, target: str, folder: str, facts: model_card.Facts
) -> Iterator[str]:
    """The targets "hf" and "timm" of an encoder of images, with a model card.

    "hf" is a folder of transformers for a Vision Transformer, of timm for a ResNet, and one with
    our own names for other nets.
    """
    module = _encoder_module(run)
    if target == "hf" and isinstance(module, ViT):
        yield from _export_vit(run, params, folder)
        library = "transformers"
    else:
        names = "timm" if target == "timm" or isinstance(module, ResNet) else "safetensors"
        yield from _export_encoder(run, params, names, folder)
        loadable = timm_config.description(module, run.view_shape, run.normalization) is not None
        library = "timm" if names == "timm" and loadable else "ssl_jax"
    yield f"{model_card.write(run, folder, library, facts)}: model card, for {library}"


def _export_adapters(run: TrainedRun, folder: str) -> Iterator[str]:
    """The target "peft": the base model in a folder `base`, and the adapters beside it."""
    method, module = run.experiment.method, _encoder_module(run)
    is_encoder = isinstance(module, TextEncoder) and not module.causal
    if run.config.adapt.name != "lora" or not is_encoder:
        raise UserError(
            f"--to=peft writes the LoRA adapters of BERT and RoBERTa, and {run.workdir} has none; "
            "use --to=hf"
        )
    heads, vocabulary = _task_heads(run, module), run.experiment.spec.vocabulary
    params = flax.traverse_util.flatten_dict(run.weights.params, sep="/")
    params = {path: np.asarray(x) for path, x in params.items()}
    adapters = {path: x for path, x in params.items() if is_adapter(path)}
    trained = {path: x for path, x in params.items() if not is_adapter(path)}
    base = jax.tree.map(lambda x: np.asarray(x, np.float32), run.weights.buffers[BASE])
    trained_tree = flax.traverse_util.unflatten_dict(trained, sep="/")
    base_folder = os.path.join(folder, "base")
    whole = join(base, trained_tree)
    hugging_face.write(base_folder, whole, module, vocabulary, _tokenizer(run), heads)
    own = peft.write(
        folder,
        adapters,
        hugging_face.to_hugging_face(trained_tree, module, vocabulary, heads),
        hugging_face.names_of_arrays(module, heads and heads.modules),
        rank=method.adapters.hyper.rank,
        alpha=method.adapters.hyper.alpha,
        dropout=method.adapters.hyper.dropout,
        base=base_folder,
    )
    yield f"{os.path.join(folder, 'adapter_model.safetensors')}: {own} arrays, step {run.step}"
    yield f"{base_folder}: the model without the adapters"
    yield from _left_out_head(whole, heads, module)


def _export_training_checkpoint(run: TrainedRun, folder: str) -> Iterator[str]:
    """The target "official": all networks of the run, as the released code of its method saves."""
    path = os.path.join(folder, released.NAME)
    content = released.tree(run, released.all_weights(run))
    torch_files.write(path, content)
    yield f"{path}: {released.summary(content)}, step {run.step}"
    yield "without the optimizer's state: training continues from these weights with a new one"


def _export_encoder(run: TrainedRun, params: PyTree, target: str, folder: str) -> Iterator[str]:
    """The targets other than "hf": the encoder alone, without heads."""
    params, buffers = (
        jax.tree.map(np.asarray, part.get("encoder", {})) for part in (params, run.weights.buffers)
    )
    if target == "safetensors":
        arrays = {f"params/{path}": x for path, x in by_path(params).items()}
        arrays |= {f"buffers/{path}": x for path, x in by_path(buffers).items()}
    else:
        arrays = _torch_arrays(run, params, buffers, target)
    path = os.path.join(folder, "model.safetensors")
    formats.write_safetensors(path, arrays)
    description = _description(run, target, len(arrays))
    if target == "timm":
        shape, module = run.view_shape, _encoder_module(run)
        if known := timm_config.description(module, shape, run.normalization):
            description = {**known, timm_config.OWN: description}
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(description, file, indent=2)
        file.write("\n")
    yield f"{path}: {len(arrays)} arrays, step {run.step}"
    if target != "safetensors":
        yield _compare_features(run, target, path)


def _torch_arrays(
    run: TrainedRun, params: PyTree, buffers: PyTree, target: str
) -> dict[str, np.ndarray]:
    """The encoder's arrays with the names of torchvision or timm."""
    module = _encoder_module(run)
    if not isinstance(module, ViT):
        return formats.to_torch(params, buffers)
    if target == "torchvision":
        raise UserError("ssl_jax has only timm's names for Vision Transformers; use --to=timm")
    if module.num_registers or module.feed_forward != "mlp":
        raise UserError(
            "timm has other names for register tokens and SwiGLU; use --to=hf or --to=safetensors"
        )
    params = {name: x for name, x in params.items() if name != "mask_token"}
    return released.vit(run, params)


def _encoder_module(run: TrainedRun) -> Any:
    return run.experiment.method.nets()["encoder"].module


def _description(run: TrainedRun, target: str, num_arrays: int) -> dict[str, Any]:
    """The content of config.json."""
    experiment = run.experiment
    model = {key: value for key, value in run.config.model.to_dict().items() if value is not None}
    inputs = modalities.of(experiment.spec).describe_inputs(experiment.method, experiment.spec)
    return {
        "architecture": model,
        "names": target,
        "arrays": num_arrays,
        **inputs,
        "method": run.config.method.name,
        "step": run.step,
    }


def _compare_features(run: TrainedRun, target: str, path: str) -> str:
    """Compares the features of images with those of the library's model; returns the result."""
    module = _encoder_module(run)
    # The library's models are checked first, so the reason does not depend on what is installed.
    reason = torch_models.no_such_model(target, module) or torch_models.missing("torch", target)
    if reason:
        return f"not compared with {target}: {reason}"
    images, source = _images(run)
    ours = np.asarray(run.encode({"image": images})["h"])
    views = np.asarray(run.experiment.method.eval_view(images), np.float32)
    theirs = torch_models.features(target, path, module, views)
    difference = torch_models.check_equal(target, path, "features", ours, theirs)
    return f"compared with {target} on {len(images)} {source}: features differ by {difference:.1g}"


def _export_vit(run: TrainedRun, params: PyTree, folder: str) -> Iterator[str]:
    """The target "hf": a Vision Transformer, with the decoder of a run of MAE."""
    method, module = run.experiment.method, _encoder_module(run)
    params = jax.tree.map(np.asarray, params)
    has_decoder = module.cls_token and "decoder" in params
    decoder = method.nets()["decoder"].module if has_decoder else None
    shape = run.view_shape
    hyper = method.hyper if has_decoder else None
    config = hugging_face_vit_config.description(module, shape, decoder, hyper)
    state = released.vit(run, params["encoder"])
    if config["model_type"].startswith("dinov2"):  # where it always has a mask token
        state.setdefault("mask_token", np.zeros((1, module.dim), np.float32))
    else:
        state.pop("mask_token", None)
    if has_decoder:
        state |= released.decoder(run, params)
    count = hugging_face_vit.write(folder, state, config)
    yield f"{os.path.join(folder, 'model.safetensors')}: {count} arrays, step {run.step}"
    left_out = [net for net in params if net != "encoder" and not (net == "decoder" and decoder)]
    if left_out:
        architecture = config["architectures"][0]
        yield f"without {', '.join(left_out)}: {architecture} of transformers has no such nets"
    yield _compare_patches(run, params["encoder"], folder)


def _compare_patches(run: TrainedRun, params: PyTree, folder: str) -> str:
    """Compares the patch tokens of images with those of transformers; returns the result."""
    reason = torch_models.missing("torch", "transformers", needed="ViTModel")
    if reason:
        return f"not compared with transformers: {reason}"
    images, source = _images(run)
    views = np.asarray(run.experiment.method.eval_view(images), np.float32)
    encoder = run.experiment.method.nets()["encoder"]
    (_, out), _ = jax.jit(lambda x: encoder.apply(params, {}, x, train=False))(views)
    theirs = torch_models.transformers_patches(folder, views)
    ours = np.asarray(out["patch_tokens"])
    difference = torch_models.check_equal("transformers", folder, "patch tokens", ours, theirs)
    return (
        f"compared with transformers on {len(images)} {source}: patch tokens differ by "
        f"{difference:.1g}"
    )


def _images(run: TrainedRun) -> tuple[np.ndarray, str]:
    """Images of the run's data set, and what they are; noise if the data are not available."""
    name = run.config.data.name
    try:
        section = run.config.data.copy_and_resolve_references()
        section.unlock()
        section.host_crops = {}
        source = data.from_config(section, seed=0)
        images = source.batch(np.arange(min(_COMPARED_IMAGES, len(source))))["image"]
        return images, f"images of {name}"
    except (UserError, OSError):
        shape = (_COMPARED_IMAGES, *run.experiment.spec.evaluated.arrays["image"].shape)
        noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        return noise, f"images of noise, because {name} is not available"


def _export_to_transformers(run: TrainedRun, params: PyTree, folder: str) -> Iterator[str]:
    """The target "hf": a text encoder with its heads and its tokenizer."""
    module = _encoder_module(run)
    if isinstance(module, EncoderDecoder):
        yield from _export_t5(run, params, module, folder)
        return
    if not isinstance(module, TextEncoder):
        raise UserError(
            f"{run.config.model.name} encodes neither texts nor images; use --to=safetensors"
        )
    if module.causal:
        yield from _export_gpt(run, params, module, folder)
        return
    vocabulary = run.experiment.spec.vocabulary
    params = jax.tree.map(np.asarray, params)
    tokenizer, heads = _tokenizer(run), _task_heads(run, module)
    count = hugging_face.write(folder, params, module, vocabulary, tokenizer, heads)
    yield f"{os.path.join(folder, 'model.safetensors')}: {count} arrays, step {run.step}"
    yield from _left_out_head(params, heads, module)
    if tokenizer is None:
        yield f"without the tokenizer: {run.workdir} and {run.config.data.name} have none"
    yield torch_models.compare_tokens(folder, params["encoder"], module, vocabulary.size)


def _export_gpt(run: TrainedRun, params: PyTree, module: TextEncoder, folder: str) -> Iterator[str]:
    params, tokenizer = jax.tree.map(np.asarray, params), _tokenizer(run)
    vocabulary = run.experiment.spec.vocabulary
    count = hugging_face_gpt.write(folder, params, module, vocabulary, tokenizer)
    yield f"{os.path.join(folder, 'model.safetensors')}: {count} arrays, step {run.step}"
    yield from _left_out_head(params, None, module)
    if tokenizer is None:
        yield f"without the tokenizer: {run.workdir} and {run.config.data.name} have none"
    yield torch_models.compare_next_tokens(folder, params["encoder"], module)


def _export_t5(
    run: TrainedRun, params: PyTree, module: EncoderDecoder, folder: str
) -> Iterator[str]:
    params, tokenizer = jax.tree.map(np.asarray, params), _tokenizer(run)
    vocabulary = run.experiment.spec.vocabulary
    count = hugging_face_t5.write(folder, params, module, vocabulary, tokenizer)
    yield f"{os.path.join(folder, 'model.safetensors')}: {count} arrays, step {run.step}"
    if tokenizer is None:
        yield f"without the tokenizer: {run.workdir} and {run.config.data.name} have none"
    yield torch_models.compare_logits(folder, params["encoder"], module)


def _export_word_vectors(run: TrainedRun, folder: str) -> Iterator[str]:
    """The target "word2vec": the vector of each word, in both formats of word2vec.c."""
    method = run.experiment.method
    if not hasattr(method, "token_vectors"):
        raise UserError(f"method {run.config.method.name} has no word vectors; use --to=hf")
    content = _tokenizer(run)
    if content is None:
        raise UserError(f"{run.workdir} and {run.config.data.name} have no tokenizer: no words")
    special = run.experiment.spec.vocabulary.special
    vectors = np.asarray(method.token_vectors(run.weights.params), np.float32)
    tokens, words = [], []
    for token, text in enumerate(Tokenizer.from_json(content).token_texts()):
        if token not in special and text.startswith(" "):
            tokens.append(token)
            words.append(text.strip())
    for name, binary in (("vectors.txt", False), ("vectors.bin", True)):
        path = os.path.join(folder, name)
        word2vec.write(path, words, vectors[tokens], binary=binary)
        yield f"{path}: {len(words):,} words of {vectors.shape[1]} dimensions, step {run.step}"


def _left_out_head(params: PyTree, heads: TaskHeads | None, module: TextEncoder) -> Iterator[str]:
    if "head" in params and heads is None:
        yield (
            f"without the head: transformers has no such head for model.pool={module.pool}, see "
            "ssl_jax/pretrained/formats/task_heads.py"
        )


def _task_heads(run: TrainedRun, module: TextEncoder) -> TaskHeads | None:
    """The head in transformers of a run that learned from labelled texts; None if there is none."""
    method, task = run.experiment.method, run.experiment.spec.task
    if "head" not in run.weights.params or not isinstance(method, Labelled):
        return None
    head = method.classifier.head.module
    return task_heads.make(
        hugging_face_config.family(module),
        task or "classify",
        head.num_outputs,
        pool=module.pool,
        dense=head.dense,
        dropout=head.dropout,
        class_names=run.class_names,
    )


def _tokenizer(run: TrainedRun) -> str | None:
    """The tokenizer.json of the workdir, else of the data set; None if neither has one."""
    path = epath.Path(run.workdir) / "tokenizer.json"
    if path.exists():
        return path.read_text()
    try:
        return data.from_config(run.config.data, seed=0).tokenizer_json()
    except (UserError, OSError):
        return None

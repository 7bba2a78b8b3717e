"""Runs the models of torchvision, timm and transformers on exported weights, to compare them."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import jax
import numpy as np

from ssl_jax.core.errors import RunError, UserError
from ssl_jax.models import Net, TextEncoder, ViT
from ssl_jax.models.encoder_decoder import EncoderDecoder
from ssl_jax.models.transformer import output_table

# Largest accepted difference of outputs, relative to their largest absolute value.
TOLERANCE = 1e-3
# Depths of the ResNets of each library.
DEPTHS = {"torchvision": (18, 34, 50, 101, 152), "timm": (18, 34, 50, 101, 152, 200)}
_STEM_CHANNELS = 64
_COMPARED_TEXTS = 8


def missing(*libraries: str, needed: str | None = None) -> str | None:
    """Why the libraries cannot be used here; None if they can.

    Args:
      *libraries: names of modules.
      needed: an attribute of the last one, for libraries that import their parts on first use.
    """
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            return f"{library} is not installed"
        try:
            module = importlib.import_module(library)
            if needed is not None and library == libraries[-1]:
                getattr(module, needed)
        except Exception as error:  # incompatible builds of PyTorch raise many kinds of errors
            cause = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            reason = str(cause).partition("\n")[0]
            return f"{library} is installed but cannot be imported ({reason})"
    return None


def check_equal(
    library: str, path: str, outputs: str, ours: np.ndarray, theirs: np.ndarray
) -> float:
    """The difference of two arrays, relative to the largest absolute value of `ours`.

    Args:
      library: whose model computed `theirs`.
      path: of the exported weights.
      outputs: name of what is compared, plural.
      ours, theirs: arrays of one shape.

    Raises:
      RunError: the difference is above `TOLERANCE` or not a number.
    """
    difference = float(np.abs(ours - theirs).max() / np.abs(ours).max())
    if not difference <= TOLERANCE:
        raise RunError(
            f"{library} computes other {outputs} from {path}: the relative difference is "
            f"{difference:.2g}"
        )
    return difference


def no_such_model(library: str, module: Any) -> str | None:
    """Why torchvision or timm has no model for the weights of an encoder; None if it has one.

    Args:
      library: "torchvision" or "timm".
      module: the encoder, a `ResNet` or a `ViT`.
    """
    if isinstance(module, ViT):
        return None
    channels = round(_STEM_CHANNELS * module.width)
    if channels != _STEM_CHANNELS:
        return f"it has no ResNet whose first layer has {channels} channels"
    if module.depth not in DEPTHS[library]:
        return f"it has no resnet{module.depth}"
    return None


def features(library: str, path: str, module: Any, images: np.ndarray) -> np.ndarray:
    """Features [n d] of torchvision's or timm's model with exported weights.

    Args:
      library: "torchvision" or "timm".
      path: the file of the weights.
      module: our encoder, a `ResNet` or a `ViT`.
      images: float32 [n h w c], as the encoder gets them.

    Raises:
      UserError: the library does not have the model.
      RunError: the library's model has other arrays.
    """
    import torch
    from safetensors.torch import load_file

    state = load_file(path)
    if isinstance(module, ViT):
        net = _vit(module, images.shape, "cls_token" in state)
    else:
        net = _resnet(library, module, images.shape[-1])
    expected = {name for name in net.state_dict() if not name.endswith("num_batches_tracked")}
    if expected != set(state):
        raise RunError(f"{library} has other arrays: {sorted(expected ^ set(state))[:4]}")
    net.load_state_dict(state, strict=False)
    net.eval()
    with torch.no_grad():
        return net(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def _vit(module: ViT, shape: tuple[int, ...], has_cls_token: bool) -> Any:
    """timm's Vision Transformer with the options of ours, for images of shape [n h w c]."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=shape[1], patch_size=module.patch_size, in_chans=shape[-1], num_classes=0,
        embed_dim=module.dim, depth=module.depth, num_heads=module.num_heads,
        mlp_ratio=module.mlp_ratio, class_token=has_cls_token, qkv_bias=module.qkv_bias,
        fc_norm=False, init_values=module.layer_scale,
        global_pool="token" if module.pool == "cls" else "avg",
    )  # fmt: skip


def _resnet(library: str, module: Any, channels: int) -> Any:
    """The library's ResNet with the stem of ours, for images with `channels` channels."""
    import torch

    if reason := no_such_model(library, module):
        raise UserError(f"{library}: {reason}")
    name = f"resnet{module.depth}"
    if library == "torchvision":
        import torchvision

        net = getattr(torchvision.models, name)()
        net.fc = torch.nn.Identity()
    else:
        import timm

        net = timm.create_model(name, num_classes=0)
    size, stride = (3, 1) if module.stem == "cifar" else (7, 2)
    net.conv1 = torch.nn.Conv2d(channels, _STEM_CHANNELS, size, stride, size // 2, bias=False)
    if module.stem == "cifar":
        net.maxpool = torch.nn.Identity()
    return net


def compare_tokens(folder: str, params: Any, module: TextEncoder, vocab_size: int) -> str:
    """Compares the last layer's tokens of random texts with those of transformers' model.

    Args:
      folder: the exported model.
      params: of our encoder.
      module: our encoder.
      vocab_size: number of token ids.

    Returns:
      The result in words.

    Raises:
      RunError: the tokens differ.
    """
    reason = missing("torch", "transformers", needed="BertModel")
    if reason:
        return f"not compared with transformers: {reason}"
    rng = np.random.default_rng(0)
    length = min(module.max_length, 64)
    lengths = rng.integers(2, length + 1, (_COMPARED_TEXTS, 1))
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
    difference = check_equal(
        "transformers", folder, "tokens", np.asarray(ours(text))[real], theirs[real]
    )
    return (
        f"compared with transformers on {_COMPARED_TEXTS} random texts: tokens differ by "
        f"{difference:.1g}"
    )


def compare_logits(folder: str, params: Any, module: EncoderDecoder) -> str:
    """Compares the logits of random texts with those of transformers' T5.

    Args:
      folder: the exported model.
      params: of our encoder-decoder.
      module: our encoder-decoder.

    Returns:
      The result in words.

    Raises:
      RunError: the logits differ.
    """
    reason = missing("torch", "transformers", needed="T5ForConditionalGeneration")
    if reason:
        return f"not compared with transformers: {reason}"
    import torch
    import transformers

    rng = np.random.default_rng(0)
    real = np.arange(48) < rng.integers(2, 49, (_COMPARED_TEXTS, 1))
    text = {"tokens": rng.integers(0, module.vocab_size, real.shape), "segment": real * 1}
    text["written"] = rng.integers(0, module.vocab_size, (_COMPARED_TEXTS, 16))
    text = {name: x.astype(np.int32) for name, x in text.items()}
    apply = jax.jit(lambda text: Net(module).apply(params, {}, text, train=False)[0][1]["written"])
    ours = np.asarray(apply(text), np.float32) @ np.asarray(output_table(params), np.float32).T
    net = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    inputs = {name: torch.from_numpy(x.astype(np.int64)) for name, x in text.items()}
    with torch.no_grad():
        theirs = net(
            input_ids=inputs["tokens"],
            attention_mask=inputs["segment"],
            decoder_input_ids=inputs["written"],
        ).logits.numpy()
    difference = check_equal("transformers", folder, "logits", ours, theirs)
    return (
        f"compared with transformers on {_COMPARED_TEXTS} random texts: logits differ by "
        f"{difference:.1g}"
    )


def compare_next_tokens(folder: str, params: Any, module: TextEncoder) -> str:
    """Compares the logits of random texts with those of transformers' GPT-1 or GPT-2.

    Args:
      folder: the exported model.
      params: of our decoder.
      module: our decoder.

    Returns:
      The result in words.

    Raises:
      RunError: the logits differ.
    """
    reason = missing("torch", "transformers", needed="GPT2LMHeadModel")
    if reason:
        return f"not compared with transformers: {reason}"
    import torch
    import transformers

    shape = (_COMPARED_TEXTS, min(module.max_length, 64))
    tokens = np.random.default_rng(0).integers(0, module.vocab_size, shape).astype(np.int32)
    text = {"tokens": tokens, "segment": np.ones_like(tokens)}
    text["position"] = np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape)
    apply = jax.jit(lambda text: Net(module).apply(params, {}, text, train=False)[0][1]["tokens"])
    ours = np.asarray(apply(text), np.float32) @ np.asarray(output_table(params), np.float32).T
    net = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        theirs = net(input_ids=torch.from_numpy(tokens.astype(np.int64))).logits.numpy()
    difference = check_equal("transformers", folder, "logits", ours, theirs)
    return (
        f"compared with transformers on {_COMPARED_TEXTS} random texts: logits differ by "
        f"{difference:.1g}"
    )


def transformers_tokens(folder: str, text: dict[str, np.ndarray]) -> np.ndarray:
    """The last layer's tokens [n l d] of transformers' encoder in a folder.

    Args:
      folder: the exported model.
      text: a batch with one text per row. The result is undefined at padding.
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


def transformers_patches(folder: str, images: np.ndarray) -> np.ndarray:
    """The last layer's patch tokens [n l d] of transformers' Vision Transformer in a folder.

    Args:
      folder: the exported model.
      images: float32 [n h w c], as the encoder gets them.
    """
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    options: dict[str, Any] = {}
    inputs = {"pixel_values": torch.from_numpy(images.transpose(0, 3, 1, 2).copy())}
    length = (images.shape[1] // config.patch_size) * (images.shape[2] // config.patch_size)
    if config.model_type == "vit_mae":  # all patches are visible, in order
        config.mask_ratio = 0.0
        inputs["noise"] = torch.arange(length).expand(len(images), -1)
    elif config.model_type in ("vit", "ijepa"):
        options["add_pooling_layer"] = False
    net = transformers.AutoModel.from_pretrained(folder, config=config, **options).eval()
    with torch.no_grad():
        return net(**inputs).last_hidden_state.numpy()[:, -length:]

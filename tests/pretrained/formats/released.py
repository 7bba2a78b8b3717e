"""Tiny networks with the names and shapes of released files, as NumPy arrays of random numbers.

DINO        facebookresearch/dino, vision_transformer.py and main_dino.py
iBOT        bytedance/ibot, models/head.py and main_ibot.py
DINOv2      facebookresearch/dinov2, models/vision_transformer.py and train/ssl_meta_arch.py
MAE         facebookresearch/mae, models_mae.py
I-JEPA      facebookresearch/ijepa, models/vision_transformer.py
"""

import numpy as np

from ssl_jax.models.positions import sincos_positions

_RNG = np.random.default_rng(0)


def draw(*shape):
    return _RNG.standard_normal(shape, np.float32)


def linear(name, inputs, outputs):
    return {f"{name}.weight": draw(outputs, inputs), f"{name}.bias": draw(outputs)}


def norm(name, dim):
    return {f"{name}.weight": draw(dim), f"{name}.bias": draw(dim)}


def block(name, dim, hidden, *, scaled=False, swiglu=False):
    arrays = norm(f"{name}.norm1", dim) | norm(f"{name}.norm2", dim)
    arrays |= linear(f"{name}.attn.qkv", dim, 3 * dim) | linear(f"{name}.attn.proj", dim, dim)
    if swiglu:
        width = (hidden * 2 // 3 + 7) // 8 * 8
        arrays |= linear(f"{name}.mlp.w12", dim, 2 * width) | linear(f"{name}.mlp.w3", width, dim)
    else:
        arrays |= linear(f"{name}.mlp.fc1", dim, hidden) | linear(f"{name}.mlp.fc2", hidden, dim)
    if scaled:
        arrays |= {f"{name}.ls1.gamma": draw(dim), f"{name}.ls2.gamma": draw(dim)}
    return arrays


def fixed(side, dim, cls_token):
    grid = sincos_positions((side, side), dim).reshape(1, -1, dim)
    return np.pad(grid, ((0, 0), (int(cls_token), 0), (0, 0)))


def vit(dim=16, depth=2, patch=4, channels=1, side=4, *, cls_token=True, sincos=False, **options):
    """A Vision Transformer for images of `side` x `side` patches."""
    count = side * side + int(cls_token)
    arrays = {"cls_token": draw(1, 1, dim)} if cls_token else {}
    arrays["pos_embed"] = fixed(side, dim, cls_token) if sincos else draw(1, count, dim)
    arrays["patch_embed.proj.weight"] = draw(dim, channels, patch, patch)
    arrays["patch_embed.proj.bias"] = draw(dim)
    for i in range(depth):
        arrays |= block(f"blocks.{i}", dim, 4 * dim, **options)
    return arrays | norm("norm", dim)


def dinov2(registers=0, **options):
    arrays = vit(scaled=True, **options) | {"mask_token": draw(1, 16)}
    return arrays | ({"register_tokens": draw(1, registers, 16)} if registers else {})


def mae(decoder_dim=24, depth=2, side=4, values=16):
    """Encoder and decoder, as in the files with `_full` and those for visualisation."""
    arrays = vit(sincos=True, side=side) | linear("decoder_embed", 16, decoder_dim)
    arrays["mask_token"] = draw(1, 1, decoder_dim)
    arrays["decoder_pos_embed"] = fixed(side, decoder_dim, True)
    for i in range(depth):
        arrays |= block(f"decoder_blocks.{i}", decoder_dim, 4 * decoder_dim)
    return arrays | norm("decoder_norm", decoder_dim) | linear("decoder_pred", decoder_dim, values)


def dino_head(dim=16, hidden=12, bottleneck=8, count=24):
    arrays = linear("mlp.0", dim, hidden) | linear("mlp.2", hidden, hidden)
    arrays |= linear("mlp.4", hidden, bottleneck)
    return arrays | {"last_layer.weight_g": draw(count, 1), "last_layer.weight_v": draw(count, 8)}


def below(prefix, arrays):
    return {f"{prefix}{name}": x for name, x in arrays.items()}


def dino():
    """A full checkpoint: the student was wrapped, the teacher was not."""

    def network(prefix):
        return below(f"{prefix}backbone.", vit()) | below(f"{prefix}head.", dino_head())

    loss = {"center": draw(1, 24)}
    return {
        "student": network("module."), "teacher": network(""), "epoch": 800, "dino_loss": loss,
    }  # fmt: skip


def ibot(*, shared=True):
    """A full checkpoint: the student alone has the token of masked patches."""

    def network(prefix, student):
        head = dino_head()
        for name in ("weight_g", "weight_v"):
            first = head[f"last_layer.{name}"]
            head[f"last_layer2.{name}"] = first if shared else draw(*first.shape)
        backbone = vit() | ({"masked_embed": draw(1, 16)} if student else {})
        return below(f"{prefix}backbone.", backbone) | below(f"{prefix}head.", head)

    loss = {"center": draw(1, 24), "center2": draw(1, 1, 24)}
    return {
        "student": network("module.", True), "teacher": network("", False), "ibot_loss": loss,
    }  # fmt: skip


def dinov2_teacher():
    """`teacher_checkpoint.pth` of the training code, with two heads and without centres."""
    heads = below("dino_head.", dino_head()) | below("ibot_head.", dino_head(count=20))
    return {"teacher": below("backbone.", dinov2()) | heads}


def ijepa(dim=12):
    predictor = linear("predictor_embed", 16, dim) | block("predictor_blocks.0", dim, 4 * dim)
    predictor |= norm("predictor_norm", dim) | linear("predictor_proj", dim, 16)
    predictor |= {"mask_token": draw(1, 1, dim), "predictor_pos_embed": fixed(4, dim, False)}
    encoders = (below("module.", vit(cls_token=False, sincos=True)) for _ in range(2))
    context, target = encoders
    return {
        "encoder": context, "predictor": below("module.", predictor), "target_encoder": target,
        "epoch": 300,
    }  # fmt: skip

"""Overrides that rows of images share: small nets, cheap views, a quick step."""

from __future__ import annotations

# What most rows do not test, in few operations, so that a step compiles in half the time: SGD, no
# probe, and views that draw no random numbers. The row "simclr" has all that the config has; so has
# "dinov2", whose KoLeo term has huge gradients where images look alike, and "dino-vit", which is
# compared with it.
QUICK = {"optimizer.name": "sgd", "eval.online": False, "steps": 100}
CONVNET = {"model.widths": (4, 8)}
# The whole image, enlarged; the second of two views is its middle.
VIEW = {
    **QUICK,
    "views.ops": ("center_crop",),
    "views.center_crop.size": 16,
    "views.center_crop.fraction": 1.0,
}
VIEWS = {**VIEW, "views.overrides.1.center_crop.fraction": 0.7}
# And two small views of less.
CROPS = {
    **VIEWS,
    "views.families.local.count": 2,
    "views.families.local.center_crop.size": 8,
    "views.families.local.center_crop.fraction": 0.5,
    "views.families.local.overrides.1.center_crop.fraction": 0.4,
}
# Overrides for tests that watch such a row learn: the views, optimizer and stages of "simclr".
LEARNING = dict(
    views__ops=("random_affine", "gaussian_noise"),
    optimizer__name="adamw",
    model__widths=(4, 8, 8),
)

"""Objectives as pure functions of arrays."""

from ssl_jax.losses.clusters import cluster_cross_entropy
from ssl_jax.losses.colorization import rebalancing_weights, soft_cross_entropy
from ssl_jax.losses.contrastive import (
    info_nce,
    margin_triplet,
    nt_logistic,
    nt_xent,
    unit_length,
)
from ssl_jax.losses.cpc import cpc
from ssl_jax.losses.implementation import choose_implementation, choose_one_sided
from ssl_jax.losses.inpainting import (
    discriminator_loss,
    generator_loss,
    psnr,
    weighted_squared_error,
)
from ssl_jax.losses.instance import (
    bank_logits,
    enqueue,
    init_bank,
    init_queue,
    log_normalizer,
    nce,
    nearest_keys,
    softmax_over_bank,
    softmax_over_candidates,
    update_bank,
)
from ssl_jax.losses.isotropy import invariance, sigreg
from ssl_jax.losses.koleo import koleo
from ssl_jax.losses.language import token_cross_entropy
from ssl_jax.losses.masked_images import (
    patch_error,
    patch_target_statistics,
    smooth_l1_of_blocks,
)
from ssl_jax.losses.patch_distillation import masked_distillation, sinkhorn_offset
from ssl_jax.losses.reconstruction import squared_error
from ssl_jax.losses.redundancy import barlow_twins, vicreg
from ssl_jax.losses.self_distillation import (
    centred_targets,
    prototype_logits,
    self_distillation,
    target_statistics,
    update_centre,
)
from ssl_jax.losses.siamese import byol, simsiam
from ssl_jax.losses.sinkhorn import sinkhorn
from ssl_jax.losses.variational import (
    active_latents,
    bernoulli_log_likelihood,
    gaussian_kl,
    gaussian_log_likelihood,
    negative_elbo,
)
from ssl_jax.losses.word_vectors import (
    negative_sampling,
    sampled,
    scale_row_gradients,
    shared_negatives,
    word_softmax,
)

__all__ = [
    "active_latents",
    "bank_logits",
    "barlow_twins",
    "bernoulli_log_likelihood",
    "byol",
    "centred_targets",
    "choose_implementation",
    "choose_one_sided",
    "cluster_cross_entropy",
    "cpc",
    "discriminator_loss",
    "enqueue",
    "gaussian_kl",
    "gaussian_log_likelihood",
    "generator_loss",
    "info_nce",
    "init_bank",
    "init_queue",
    "invariance",
    "koleo",
    "log_normalizer",
    "margin_triplet",
    "masked_distillation",
    "nce",
    "nearest_keys",
    "negative_elbo",
    "negative_sampling",
    "nt_logistic",
    "nt_xent",
    "patch_error",
    "patch_target_statistics",
    "prototype_logits",
    "psnr",
    "rebalancing_weights",
    "sampled",
    "scale_row_gradients",
    "self_distillation",
    "shared_negatives",
    "sigreg",
    "simsiam",
    "sinkhorn",
    "sinkhorn_offset",
    "smooth_l1_of_blocks",
    "soft_cross_entropy",
    "softmax_over_bank",
    "softmax_over_candidates",
    "squared_error",
    "target_statistics",
    "token_cross_entropy",
    "unit_length",
    "update_bank",
    "update_centre",
    "vicreg",
    "weighted_squared_error",
    "word_softmax",
]

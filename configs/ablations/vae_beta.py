"""beta-VAE: the trade-off of reconstruction and disentanglement (Higgins et al. 2017, Sec. 3)

    ssl_jax sweep --config=ablations/vae_beta:small_shapes --workdir=runs/beta

Variants:
  small_shapes  4096 generated images of 16x16, dense layers, five seeds: half an hour of one core
  shapes        generated images of 64x64, the nets of Burgess et al. 2018, three seeds

beta is the weight of the KL; 1 is a VAE. Over beta are drawn the reconstruction error of the test
images (nats an image, with one z) and three scores of disentanglement. No values of other work
stand beside them: Higgins et al. score other data with another metric.
"""

from ssl_jax.configs.common import check_variant
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed, product

VARIANTS = ("small_shapes", "shapes")
BETAS = (1.0, 2.0, 4.0, 8.0, 16.0)
SCORES = ("mig", "dci", "factor_vae_metric")
# Neither page nor curves: a cell is one of many.
_SPARE = {
    "eval.every_epochs": 0.0,
    "eval.names": (),
    "eval.final_names": SCORES,
    "eval.online": False,
    "eval.collapse_every_steps": 0,
    "eval.baselines": (),
    "log.tensorboard": False,
    "log.report": False,
}
# The dense nets of vae:digits, on shapes.
_SMALL = {
    **_SPARE,
    "data.name": "shapes",
    "data.image_size": 16,
    "data.options.num_generated": 4096,
    "model.widths": (256,),
    "nets.decoder.widths": (256,),
    "epochs": 40.0,
    "checkpoint.every_epochs": 40.0,
    "eval.max_train_examples": 4096,
    "eval.dci.max_train_examples": 500,
    "eval.factor_vae_metric.rendered_images": 50_000,
}


def get_sweep(variant: str = "small_shapes") -> Sweep:
    """The grid of one variant."""
    check_variant("ablations/vae_beta", variant, VARIANTS)
    is_small = variant == "small_shapes"
    cells = [
        Cell(
            labels,
            "vae:digits" if is_small else "vae:shapes",
            {
                "method.beta": labels["beta"],
                "seed": labels["seed"],
                **(_SMALL if is_small else _SPARE),
            },
        )
        for labels in product(beta=BETAS, seed=range(5 if is_small else 3))
    ]
    shared = dict(x="beta", x_label="beta")
    curves = (
        Curve(measure="held_out/reconstruction", percent=False,
              measure_label="reconstruction error, nats", **shared),
        Curve(measure="mig/score", percent=False, measure_label="MIG", **shared),
        Curve(measure="dci/disentanglement", percent=False, measure_label="DCI, disentanglement",
              **shared),
        Curve(measure="factor_vae_metric/score", measure_label="FactorVAE, %", **shared),
    )  # fmt: skip
    setting = {
        "small_shapes": "4096 generated shapes of 16x16, dense layers, 10 latents, 40 epochs",
        "shapes": "200,000 generated shapes of 64x64, conv net, 10 latents, 100 epochs",
    }[variant]
    title = "beta-VAE: reconstruction and disentanglement"
    return Sweep(title, by_seed(cells), setting=setting, curves=curves)

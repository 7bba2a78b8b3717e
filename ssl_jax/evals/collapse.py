"""Diagnostics of collapse in embeddings, and a monitor that warns during training.

Complete collapse: every example gets the same embedding, the spread `std_z` goes to 0.
Dimensional collapse: embeddings differ, but along a few directions only; the effective rank is low.
Collapse of targets: a teacher or an assignment gives all images the same distribution over
prototypes, either one prototype or all equally; the information of the targets goes to 0. Targets
of patches may tell their position only: their variance over images goes to 0.

Sources: RankMe, Garrido et al. 2023, Eq. 1; effective rank, Roy & Vetterli 2007; alignment and
uniformity, Wang & Isola 2020, Sec. 4; spread of normalised outputs, Chen & He 2021 (SimSiam),
Fig. 2; dimensional collapse, Jing et al. 2022; both collapses of targets, Caron et al. 2021 (DINO),
Sec. 5.3.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ssl_jax.config.fields import positive
from ssl_jax.core.arrays import Array
from ssl_jax.evals.metric import Metric

NEEDS = ()
LOGGED_AS = "collapse/"
METRICS = {
    "rankme_h": Metric("RankMe", "effective rank of the features (RankMe)", unit="", shown=False),
    "effective_rank_h": Metric("rank", "effective rank of the features", unit="", shown=False),
    "std_h": Metric("spread", "spread of the normalised features", unit="", shown=False),
    "uniformity_h": Metric(
        "uniformity", "uniformity of the features", unit="", better="lower", shown=False
    ),
}
# Metrics of training that the monitor reads besides `diagnostics`: of methods with prototypes, and
# of methods that predict representations of patches, normalised to a variance of 1.
_PROTOTYPES = ("prototypes_used", "target_entropy")
_PATCHES = "patch_target_variance"
TARGETS = (*_PROTOTYPES, _PATCHES)
_PAIRS = 2**22  # squared distances in a block: 16 MiB of float32


def diagnostics(
    z: Float[Array, "n v d"] | None = None,
    h: Float[Array, "n c"] | None = None,
    *,
    max_rows: int = 4096,
) -> dict[str, Array]:
    """Measures embeddings of one batch. Jittable; everything is computed in float32.

    Args:
      z: projections [n v d] of v views of n examples, not necessarily normalised.
      h: features [n c].
      max_rows: only the first `max_rows` examples are used.

    Returns:
      float32 scalars:
      `rankme_z` and `effective_rank_z` of the first views [n d], `rankme_h` and `effective_rank_h`:
      between 1 and min(n, d). If n is smaller than d it limits them, so compare equal n only.
      `std_z`: spread of z over all examples and views, see `spread`; 0: collapsed, 1: uniform.
      `alignment`, the mean over pairs of views, if v > 1, and `uniformity`, the mean over views, if
      n > 1. Metrics of z or h are missing if z or h is None.
    """
    values: dict[str, Array] = {}
    if h is not None:
        values |= _ranks(h[:max_rows], "h")
    if z is not None:
        z = z[:max_rows].astype(jnp.float32)
        values |= _ranks(z[:, 0], "z")
        unit = _unit(z)
        views = [unit[:, view] for view in range(z.shape[1])]
        values["std_z"] = spread(z.reshape(-1, z.shape[-1]))
        if len(views) > 1:
            pairs = [alignment(a, b) for a, b in itertools.combinations(views, 2)]
            values["alignment"] = jnp.stack(pairs).mean()
        if z.shape[0] > 1:
            values["uniformity"] = jnp.stack([uniformity(view) for view in views]).mean()
    return values


def evaluate(
    train: Mapping[str, np.ndarray],
    *,
    devices: Sequence[jax.Device] | None = None,
    max_rows: Annotated[
        int, positive, "Number of examples to use, evenly spaced in the split."
    ] = 25600,
) -> dict[str, float]:
    """Ranks, spread and uniformity of the train features `h` [n d]; needs no labels.

    Args:
      train: `h` float [n d].
      devices: the first device is used.
      max_rows: number of examples to use, evenly spaced in the split; RankMe uses 25,600.
    """
    h = train["h"]
    rows = np.linspace(0, len(h) - 1, min(max_rows, len(h))).astype(int)
    with jax.default_device(devices[0] if devices else None):
        h = jnp.asarray(h[rows])
        values = _ranks(h, "h") | {"std_h": spread(h), "uniformity_h": uniformity(_unit(h))}
    return {name: float(value) for name, value in values.items()}


def rankme(singular_values: Float[Array, " d"], epsilon: float = 1e-7) -> Float[Array, ""]:
    """exp(-sum p log p), with p = s / sum(s) + epsilon, not normalised again (RankMe, Eq. 1).

    Args:
      singular_values: s, float32 [d], of embeddings that are not centred.
      epsilon: 0 gives the effective rank of Roy & Vetterli, with 0 log 0 = 0.

    Returns:
      float32 [].
    """
    s = singular_values
    p = s / jnp.maximum(jnp.sum(s), jnp.finfo(s.dtype).tiny) + epsilon
    return jnp.exp(jnp.sum(jax.scipy.special.entr(p)))


def spread(x: Float[Array, "n d"]) -> Float[Array, ""]:
    """sqrt(d) times the standard deviation of normalised rows [n d], averaged over dimensions.

    It is 1 for directions that are uniform on the sphere, and 0 for equal directions.
    """
    unit = _unit(x.astype(jnp.float32))
    return jnp.std(unit, axis=0).mean() * math.sqrt(x.shape[-1])


def alignment(
    x: Float[Array, "n d"], y: Float[Array, "n d"], alpha: float = 2.0
) -> Float[Array, ""]:
    """Mean ||x_i - y_i||^alpha of unit vectors [n d]; 0 if the views of each example are equal."""
    square = jnp.sum(jnp.square(x - y), axis=-1)
    return jnp.mean(square ** (alpha / 2))


def uniformity(x: Float[Array, "n d"], t: float = 2.0) -> Float[Array, ""]:
    """log of the mean over i < j of exp(-t ||x_i - x_j||^2), of unit vectors [n d], n > 1.

    0 if all vectors are equal; lower is more uniform. It is computed in blocks of rows.
    """
    x = jnp.asarray(x)
    n = x.shape[0]
    rows = max(1, min(n, _PAIRS // n))

    squares = jnp.sum(jnp.square(x), axis=-1)  # 1, or 0 for an embedding that is all zero

    def potential(row: Array) -> Array:
        """Sum over j != i of exp(-t ||x_i - x_j||^2) for one i."""
        products = jnp.einsum("nd,d->n", x, x[row], precision=jax.lax.Precision.HIGHEST)
        # Rounding can push a distance below 0. The diagonal is masked, not subtracted.
        distance = jnp.maximum(squares + squares[row] - 2.0 * products, 0.0)
        return jnp.sum(jnp.where(jnp.arange(n) == row, 0.0, jnp.exp(-t * distance)))

    sums = jax.lax.map(potential, jnp.arange(n), batch_size=rows)
    return jnp.log(jnp.mean(sums) / (n - 1))


def _unit(x: Array) -> Array:
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _ranks(x: Array, name: str) -> dict[str, Array]:
    # Use the SVD: in the eigenvalues of the Gram matrix, singular values below 3e-4 of the largest
    # are lost in float32 rounding, which changes the entropy of low-rank embeddings.
    s = jnp.linalg.svd(x.astype(jnp.float32), compute_uv=False)
    return {f"rankme_{name}": rankme(s), f"effective_rank_{name}": rankme(s, epsilon=0.0)}


class Alarm(NamedTuple):
    """A report of the monitor. `active` is False when a cause has ended."""

    step: int
    cause: str  # "non-finite", "complete", "dimensional", "targets" or "patches"
    message: str  # one line: the observation and its likely causes
    active: bool


@dataclasses.dataclass(frozen=True)
class Monitor:
    """Watches diagnostics during training. Immutable: `update` returns the next monitor.

    A cause is reported once, when it is present in `patience` consecutive updates, and again only
    after it has ended. Low values alone are no evidence of collapse: an untrained network without
    normalisation starts with a spread of 0.1 or less, and a healthy contrastive run may lose 9/10
    of the effective rank of its random head. The monitor therefore looks for a fall from the
    highest value so far to a level that healthy runs do not reach. For runs without such a fall it
    applies stricter limits after `grace` updates.

    To resume, call `update` again with the logged rows; no checkpoint is needed.

    Attributes:
      patience: consecutive updates before a cause is reported or has ended.
      grace: updates before the limits for runs without a fall apply.
      fallen_spread: complete collapse: `std_z` below this and below half its highest value.
      constant_spread: complete collapse: `std_z` below this, after `grace`.
      fallen_rank: dimensional collapse: effective rank over its highest value below this.
      single_rank: dimensional collapse: effective rank below this, after `grace`.
      fallen_information: collapse of targets: their information (nats) below this and below half
        its highest value.
      no_information: collapse of targets: information below this, after `grace`.
      fallen_variance: collapse of patches: variance of their targets over images below this and
        below half its highest value.
      no_variance: collapse of patches: variance below this, after `grace`.
    """

    patience: int = 3
    grace: int = 10
    fallen_spread: float = 0.1
    constant_spread: float = 0.02
    fallen_rank: float = 0.05
    single_rank: float = 1.2
    fallen_information: float = 0.05
    no_information: float = 0.02
    fallen_variance: float = 0.02
    no_variance: float = 0.01

    updates: int = 0
    highest_spread: float = 0.0
    highest_rank: float = 0.0
    highest_information: float = 0.0
    highest_variance: float = 0.0
    # For each cause: number of consecutive updates that contradict its state.
    streaks: tuple[tuple[str, int], ...] = ()
    active: frozenset[str] = frozenset()

    def update(self, step: int, values: Mapping[str, float]) -> tuple[Monitor, list[Alarm]]:
        """Processes one row of diagnostics.

        Args:
          step: step of the row.
          values: the metrics of `diagnostics`, those of `TARGETS` if the method has them, and other
            scalars (the loss), which must be finite. Without z the monitor uses the rank of h.

        Returns:
          The next monitor and the new alarms, usually none.
        """
        values = {name: float(value) for name, value in values.items()}
        non_finite = sorted(name for name, value in values.items() if not math.isfinite(value))
        spread_now = values.get("std_z", math.nan)
        name = "z" if "rankme_z" in values else "h"
        rank_now = values.get(f"rankme_{name}", math.nan)
        present_causes = {"non-finite": bool(non_finite)}
        monitor = self
        if math.isfinite(spread_now):
            highest = max(self.highest_spread, spread_now)
            monitor = dataclasses.replace(monitor, highest_spread=highest)
            present_causes["complete"] = self._below(
                spread_now, min(self.fallen_spread, 0.5 * highest), self.constant_spread, "complete"
            )
        if math.isfinite(rank_now):
            highest = max(self.highest_rank, rank_now)
            monitor = dataclasses.replace(monitor, highest_rank=highest)
            present_causes["dimensional"] = self._below(
                rank_now, self.fallen_rank * highest, self.single_rank, "dimensional"
            )
            # Complete collapse has a low rank as well: report only complete collapse.
            if present_causes.get("complete") or "complete" in self.active:
                present_causes["dimensional"] = "dimensional" in self.active
        used, entropy = (values.get(name, math.nan) for name in _PROTOTYPES)
        # H(mean q) - mean H(q): how much a target says of its image.
        information = math.log(used) - entropy if used > 0 else math.nan
        if math.isfinite(information):
            highest = max(self.highest_information, information)
            monitor = dataclasses.replace(monitor, highest_information=highest)
            present_causes["targets"] = self._below(
                information, min(self.fallen_information, 0.5 * highest), self.no_information,
                "targets",
            )  # fmt: skip
        variance = values.get(_PATCHES, math.nan)
        if math.isfinite(variance):
            highest = max(self.highest_variance, variance)
            monitor = dataclasses.replace(monitor, highest_variance=highest)
            present_causes["patches"] = self._below(
                variance, min(self.fallen_variance, 0.5 * highest), self.no_variance, "patches"
            )
        text = {
            "non-finite": f"{', '.join(non_finite)} not finite. Likely: learning rate too high, "
            "warm-up too short, or an overflow in low precision.",
            "complete": f"complete collapse, the spread of z is {spread_now:.3f} (1 = uniform, "
            f"highest so far {monitor.highest_spread:.2f}): all examples get nearly the same "
            "embedding. Likely: a stop-gradient, predictor or other guard against constant "
            "outputs is missing or too weak, or the learning rate is too high.",
            "dimensional": f"dimensional collapse, the effective rank of {name} is {rank_now:.1f} "
            f"(highest so far {monitor.highest_rank:.1f}): embeddings differ along few directions "
            "only. Likely: too little pressure to spread (temperature too high, decorrelation or "
            "centring too weak) or augmentation stronger than the differences between images.",
            "targets": "collapse of the targets: all images get nearly the same one, with an "
            f"entropy of {entropy:.2f} nats over {used:.1f} prototypes in use. Likely: "
            + (
                "nothing makes the targets use all prototypes (centring or Sinkhorn is off or too "
                "weak)."
                if used < 2
                else "the targets are too flat (the teacher's temperature is too high)."
            ),
            "patches": f"collapse of the targets of patches, their variance over images is "
            f"{variance:.3f} (highest so far {monitor.highest_variance:.3f}): they tell the "
            "position and hardly the image. Likely: pixels are small beside the positions "
            "(views.normalize), the target encoder follows before the predictor has learned (raise "
            "method.momentum), or the predictor learns too slowly (nets.predictor.kernel_init, "
            "optimizer.base_lr).",
        }
        return monitor._report(step, present_causes, text)

    def _below(self, value: float, fallen: float, constant: float, cause: str) -> bool:
        limit = max(fallen, constant) if self.updates >= self.grace else fallen
        # Hysteresis: an active cause ends at 1.5 times the limit.
        return value < (1.5 * limit if cause in self.active else limit)

    def _report(
        self, step: int, present_causes: Mapping[str, bool], text: Mapping[str, str]
    ) -> tuple[Monitor, list[Alarm]]:
        """Updates the active causes and returns alarms for those that began or ended."""
        streaks, active, alarms = dict(self.streaks), set(self.active), []
        for cause, present in present_causes.items():
            changed = present != (cause in active)
            streaks[cause] = streaks.get(cause, 0) + 1 if changed else 0
            # Report non-finite values at once: they do not become finite again.
            needed = 1 if cause == "non-finite" and present else self.patience
            if streaks[cause] < needed:
                continue
            streaks[cause] = 0
            if present:
                active.add(cause)
                alarms.append(Alarm(step, cause, f"step {step}: {text[cause]}", True))
            else:
                active.remove(cause)
                passed = f"step {step}: {cause} values have passed"
                alarms.append(Alarm(step, cause, passed, False))
        monitor = dataclasses.replace(
            self,
            updates=self.updates + 1,
            streaks=tuple(sorted(streaks.items())),
            active=frozenset(active),
        )
        return monitor, alarms

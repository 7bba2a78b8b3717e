"""Values and gradients of pytorch-metric-learning, to 1e-5.

Its conventions: distances are euclidean and embeddings of unit length; the pair, triplet and SupCon
losses are means over what is not 0; margins of ArcFace are in degrees.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.losses.contrastive import nt_xent
from ssl_jax.losses.metric import class_losses
from ssl_jax.losses.metric.lifted_structured import lifted_structured
from ssl_jax.losses.metric.n_pair import n_pair
from ssl_jax.losses.metric.pair import pair
from ssl_jax.losses.metric.supcon import supcon
from ssl_jax.losses.metric.triplet import triplet

peer = pytest.importorskip("pytorch_metric_learning")
torch = pytest.importorskip("torch")

from pytorch_metric_learning import distances, losses, miners  # noqa: E402

N, D, CLASSES = 60, 16, 10


def batch(seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(CLASSES), N // CLASSES)).astype(np.int32)
    centres = rng.normal(size=(CLASSES, D))
    return (centres[labels] + rng.normal(size=(N, D))).astype(np.float32), labels


def nt_xent_of_rows(z, labels):
    """Of the first two examples of each class as the two views of an image."""
    order = np.argsort(labels, kind="stable").reshape(CLASSES, -1)
    return nt_xent(z[order[:, 0]], z[order[:, 1]], temperature=0.07)


def margin_miner(kind):
    return miners.TripletMarginMiner(margin=0.2, type_of_triplets=kind)


CASES = {
    "pair": (functools.partial(pair, power=1), losses.ContrastiveLoss(), None),
    "pair, squared distance": (
        functools.partial(pair, power=1, distance="squared", positive_margin=0.1, margin=0.7),
        losses.ContrastiveLoss(0.1, 0.7, distance=distances.LpDistance(power=2)),
        None,
    ),
    "triplet, all": (
        functools.partial(triplet, margin=0.05, mining="all"), losses.TripletMarginLoss(), None,
    ),
    "triplet, soft": (
        functools.partial(triplet, margin=0.05, mining="all", soft_margin=True),
        losses.TripletMarginLoss(smooth_loss=True),
        None,
    ),
    "triplet, batch hard": (
        functools.partial(triplet, margin=0.3, mining="batch_hard"),
        losses.TripletMarginLoss(margin=0.3),
        miners.BatchHardMiner(),
    ),
    "triplet, semi-hard": (
        functools.partial(triplet, margin=0.3, mining="semi_hard", mining_margin=0.2),
        losses.TripletMarginLoss(margin=0.3),
        margin_miner("semihard"),
    ),
    "triplet, hard": (
        functools.partial(triplet, margin=0.3, mining="hard"),
        losses.TripletMarginLoss(margin=0.3),
        margin_miner("hard"),
    ),
    "triplet, easy": (
        functools.partial(triplet, margin=0.3, mining="easy", mining_margin=0.2),
        losses.TripletMarginLoss(margin=0.3),
        margin_miner("easy"),
    ),
    "lifted": (lifted_structured, losses.LiftedStructureLoss(), None),
    "n-pair": (functools.partial(n_pair, l2_normalize=True), losses.NPairsLoss(), None),
    "supcon": (
        functools.partial(supcon, temperature=0.1, reduction="mean_nonzero"),
        losses.SupConLoss(),
        None,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def ours():
    """{name: (loss, gradient)}, in one program."""
    z, labels = batch()

    @jax.jit
    def f(z):
        return {
            name: jax.value_and_grad(lambda z, loss=loss: loss(z, jnp.asarray(labels))[0])(z)
            for name, (loss, _, _) in CASES.items()
        }

    return f(z)


@pytest.mark.parametrize("name", CASES)
def test_losses_of_a_batch(name, ours):
    z, labels = batch()
    _, loss, miner = CASES[name]
    x, y = torch.tensor(z, requires_grad=True), torch.tensor(labels)
    value = loss(x, y, miner(x, y) if miner else None)
    value.backward()
    np.testing.assert_allclose(ours[name][0], value.item(), rtol=1e-5)
    np.testing.assert_allclose(ours[name][1], x.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_nt_xent():
    z, labels = batch()
    keep = np.argsort(labels, kind="stable").reshape(CLASSES, -1)[:, :2].ravel()
    x = torch.tensor(z, requires_grad=True)
    value = losses.NTXentLoss()(x[keep], torch.tensor(labels[keep]))
    value.backward()
    got, gradient = jax.value_and_grad(lambda z: nt_xent_of_rows(z, labels)[0])(z)
    np.testing.assert_allclose(got, value.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-4, atol=1e-6)


def arc(**options):
    return functools.partial(class_losses.arcface, margin=math.radians(28.6), **options)


CLASS_CASES = {
    "arcface": (arc(), losses.ArcFaceLoss(num_classes=CLASSES, embedding_size=D), 1),
    "cosface": (class_losses.cosface, losses.CosFaceLoss(num_classes=CLASSES, embedding_size=D), 1),
    "sphereface": (
        class_losses.sphereface,
        losses.SphereFaceLoss(num_classes=CLASSES, embedding_size=D),
        1,
    ),
    "sub-centres": (
        arc(),
        losses.SubCenterArcFaceLoss(num_classes=CLASSES, embedding_size=D, sub_centers=3),
        3,
    ),
}


@pytest.mark.parametrize("name", CLASS_CASES)
def test_losses_of_classes(name):
    z, labels = batch()
    loss, theirs, subcentres = CLASS_CASES[name]
    x = torch.tensor(z, requires_grad=True)
    value = theirs(x, torch.tensor(labels).long())
    value.backward()
    # Theirs are [d, c k], the sub-centres of a class side by side.
    shape = CLASSES, subcentres, D
    weights = theirs.W.detach().numpy().T.reshape(shape)
    f = jax.jit(jax.value_and_grad(lambda z, w: loss(z, labels, w)[0], (0, 1)))
    got, (dz, dw) = f(z, weights)
    np.testing.assert_allclose(got, value.item(), rtol=1e-5)
    for ours, grad in ((dz, x.grad.numpy()), (dw, theirs.W.grad.numpy().T.reshape(shape))):
        np.testing.assert_allclose(ours, grad, rtol=1e-4, atol=1e-5 * np.abs(grad).max())


def test_outliers_of_sub_centres():
    z, labels = batch()
    theirs = losses.SubCenterArcFaceLoss(num_classes=CLASSES, embedding_size=D, sub_centers=3)
    with torch.no_grad():
        outliers, dominant = theirs.get_outliers(torch.tensor(z), torch.tensor(labels).long())
    weights = theirs.W.detach().numpy().T.reshape(CLASSES, 3, D)
    keep, chosen = class_losses.clean(z, labels, weights)
    assert sorted(outliers.tolist()) == np.flatnonzero(~np.asarray(keep)).tolist()
    ours = unit_rows(weights[np.arange(CLASSES), chosen])
    np.testing.assert_allclose(unit_rows(dominant.numpy().T), ours, rtol=1e-5, atol=1e-6)


def unit_rows(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)

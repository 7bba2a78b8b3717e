"""Changes of patches: elastic deformation, tone curves, crops in zeros, one of three channels."""

import jax
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.views import distortion

KEYS = jax.random.split(jax.random.key(0), 200)
IMAGES = np.random.default_rng(0).random((200, 10, 12, 3)).astype(np.float32)


def apply(op, images=IMAGES, **options):
    return np.asarray(jax.jit(lambda k, x: op(k, x, **options))(KEYS[: len(images)], images))


def test_crops_are_in_the_middle_of_zeros_and_reach_all_places():
    made = apply(distortion.crop_and_pad, size=8)
    border = np.ones((10, 12), bool)
    border[1:9, 2:10] = False
    assert np.all(made[:, border] == 0)
    places = set()
    for image, crop in zip(IMAGES, made[:, 1:9, 2:10], strict=True):
        found = [
            (i, j)
            for i in range(3)
            for j in range(5)
            if np.array_equal(image[i : i + 8, j : j + 8], crop)
        ]
        assert len(found) == 1
        places.update(found)
    assert len(places) == 15


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(UserError, match="size 11 does not fit in images or patches of 10x12"):
        apply(distortion.crop_and_pad, size=11)


def test_one_channel_is_kept_and_each_is_as_frequent():
    made = apply(distortion.drop_channels)
    kept = made.any((1, 2))
    assert np.all(kept.sum(1) == 1)
    for image, result, channel in zip(IMAGES, made, kept.argmax(1), strict=True):
        np.testing.assert_array_equal(result[..., channel], image[..., channel])
    assert np.bincount(kept.argmax(1), minlength=3).min() > 40
    some = apply(distortion.drop_channels, p=0.5)
    assert 60 < np.sum(some.any((1, 2)).sum(1) == 1) < 140
    grey = IMAGES[..., :1]
    np.testing.assert_array_equal(apply(distortion.drop_channels, grey), grey)


def test_tone_curves_keep_ends_and_order_and_differ_by_channel():
    ramp = np.broadcast_to(
        np.linspace(0, 1, 120, dtype=np.float32).reshape(10, 12, 1), (4, 10, 12, 3)
    )
    made = apply(distortion.tone_curve, ramp, p=1.0, strength=1.0).reshape(4, 120, 3)
    np.testing.assert_allclose(made[:, 0], 0, atol=1e-6)
    np.testing.assert_allclose(made[:, -1], 1, atol=1e-6)
    assert np.all(np.diff(made, axis=1) > -1e-6)
    assert np.abs(made[0, :, 0] - made[0, :, 1]).max() > 0.02
    assert np.abs(made[0] - made[1]).max() > 0.02
    same = apply(distortion.tone_curve, ramp, p=1.0, strength=0.0)
    np.testing.assert_allclose(same, ramp, atol=1e-6)


def test_a_shear_moves_rows_and_the_border_is_repeated():
    """Without displacements each row is the row of the image, moved by a slope times its height."""
    rows = np.arange(12, dtype=np.float32) / 12
    image = np.broadcast_to(rows[None, None, :, None], (20, 10, 12, 1))
    made = apply(distortion.elastic, image, p=1.0, amplitude=0.0, shear=20.0)[..., 0]
    slopes = (made[:, 5, 6] - made[:, 4, 6]) * 12
    assert np.all(np.abs(slopes) <= np.tan(np.deg2rad(20)) + 1e-4) and np.ptp(slopes) > 0.2
    for slope, result in zip(slopes, made, strict=True):
        x = np.arange(12)[None] + slope * (np.arange(10)[:, None] + 0.5 - 5)
        np.testing.assert_allclose(result, np.clip(x, 0, 11) / 12, atol=2e-5)


def test_displacements_have_the_given_size_and_are_smooth():
    height = width = 48
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    image = np.stack([y, x], axis=-1).astype(np.float32)[None] / height
    image = np.broadcast_to(image, (40, height, width, 2))
    made = apply(distortion.elastic, image, p=1.0, amplitude=1.5, sigma=4.0, shear=0.0)
    field = ((made - image) * height)[:, 10:-10, 10:-10]
    assert abs(field.std() - 1.5) < 0.15 and abs(field.mean()) < 0.15
    assert np.abs(np.diff(field, axis=1)).mean() < 0.5  # neighbours move alike
    np.testing.assert_array_equal(apply(distortion.elastic, image, p=0.0), image)

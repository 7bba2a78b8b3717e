"""Decoding every kind of image, and host crops."""

import io

import numpy as np
import pytest
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.data import counter
from ssl_jax.data.crops import HostCrops, center_box, random_box, read_families
from ssl_jax.data.image import Canvas


def encode(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def render(encoded, size=8, channels=3, **options):
    canvas = Canvas(size, channels, **options)
    return canvas.render(encoded, canvas.boxes(0, 0, 0))["image"]


def gradient(mode="RGB", width=8, height=8):
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    array = np.stack([x * 30, y * 30, (x + y) * 15], -1).astype(np.uint8)
    return Image.fromarray(array).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "YCbCr", "HSV"])
def test_opaque_modes_become_what_pillow_converts_them_to(mode):
    image = gradient(mode)
    kind = {"CMYK": "tiff", "YCbCr": "tiff", "HSV": "png"}.get(mode, "png")
    encoded = encode(image.convert("RGB") if mode == "HSV" else image, kind)
    decoded = Image.open(io.BytesIO(encoded))
    for channels, target in ((3, "RGB"), (1, "L")):
        expected = np.asarray(decoded.convert(target)).reshape(8, 8, channels)
        np.testing.assert_array_equal(render(encoded, channels=channels), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_white(mode):
    image = gradient().convert(mode)
    alpha = np.full((8, 8), 255, np.uint8)
    alpha[:4] = 0
    alpha[4:6] = 128
    image.putalpha(Image.fromarray(alpha))
    out = render(encode(image)).astype(int)
    opaque = np.asarray(gradient().convert(mode).convert("RGB")).astype(int)
    assert (out[:4] == 255).all()
    np.testing.assert_allclose(out[4:6], (opaque[4:6] * 128 + 255 * 127) / 255, atol=1)
    np.testing.assert_array_equal(out[6:], opaque[6:])


def test_transparent_palette():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([200, 10, 20, 1, 2, 3])
    image.putpixel((0, 0), 1)
    out = render(encode(image, transparency=0))
    assert out[0, 0].tolist() == [1, 2, 3]
    assert (out[1:] == 255).all()


@pytest.mark.parametrize(("kind", "big_endian"), [("png", False), ("tiff", False), ("tiff", True)])
def test_sixteen_bits_keep_their_range(kind, big_endian):
    wide = np.linspace(0, 65535, 64).reshape(8, 8).astype(">u2" if big_endian else "<u2")
    encoded = encode(Image.fromarray(wide), kind)
    expected = (wide.astype(int) >> 8)[..., None]
    np.testing.assert_array_equal(render(encoded, channels=1), expected)
    np.testing.assert_array_equal(render(encoded), np.repeat(expected, 3, -1))


def test_modes_without_a_range_are_refused():
    for array, message in (
        (np.ones((8, 8), np.float32), "floating-point"),
        (np.full((8, 8), 1 << 20, np.int32), "32-bit integer"),
    ):
        with pytest.raises(ValueError, match=message):
            render(encode(Image.fromarray(array), "tiff"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_exif_orientation(kind, orientation):
    """A camera's turned pixels come out upright, whatever the turn."""
    upright = np.zeros((64, 64), np.uint8)
    upright[:32, :32], upright[:32, 32:], upright[32:, :32] = 250, 160, 80
    stored = {  # what a camera that writes this orientation has stored, by the EXIF standard
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright), 7: np.rot90(upright, 2).T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = encode(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
    out = render(encoded, 64, 1)[..., 0].astype(int)
    np.testing.assert_allclose(out[8:56:8, 8:56:8], upright[8:56:8, 8:56:8], atol=4)


def test_orientation_holds_for_crops_and_reduced_decoding():
    """A wide photograph stored on its side: boxes are in upright coordinates at every scale."""
    x = np.linspace(0, 255, 640)
    upright = np.repeat(np.repeat(x[None], 480, 0)[..., None], 3, -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    encoded = encode(stored, "jpeg", quality=95, exif=exif)

    def right_upper_quarter(width, height):
        assert (width, height) == (640, 480)
        return [(320, 0, 640, 240)]

    for size in (16, 100):  # decoded at 1/4 and in full
        out = Canvas(size, 3).render(encoded, right_upper_quarter)["image"]
        columns = out.astype(float).mean((0, 2))
        expected = 127.5 + (np.arange(size) + 0.5) / size * 127.5
        np.testing.assert_allclose(columns[1:-1], expected[1:-1], atol=2)
        assert out.std(0).max() < 3  # nothing varies from row to row


@pytest.mark.parametrize("quality", [75, 95])
def test_reduced_decoding_looks_like_full_decoding(quality):
    """Within what JPEG itself loses: mean absolute difference below 2 of 255."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
    photo = Image.fromarray(small).resize((800, 600), Image.Resampling.BICUBIC)
    encoded = encode(photo, "jpeg", quality=quality)
    whole = Image.open(io.BytesIO(encoded)).convert("RGB")
    for size in (32, 64, 128):
        expected = whole.resize((size, size), Image.Resampling.BICUBIC, (100, 0, 700, 600))
        out = render(encoded, size)
        assert np.abs(out.astype(int) - np.asarray(expected)).mean() < 2


@pytest.mark.parametrize(("width", "height"), [(40, 30), (30, 40), (1, 50), (50, 1), (1, 1)])
def test_any_shape_fills_the_canvas(width, height):
    assert render(encode(gradient("RGB", width, height)), 16).shape == (16, 16, 3)


def test_the_canvas_is_the_central_square():
    array = np.zeros((20, 60, 3), np.uint8)
    array[:, 20:40] = 200
    out = render(encode(Image.fromarray(array)), 10)
    assert (out[:, 2:-2] == 200).all()
    assert center_box(60, 20) == (20, 0, 40, 20)
    assert center_box(100, 100, 0.875) == (6.25, 6.25, 93.75, 93.75)


def test_arrays_are_taken_as_they_are():
    array = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(render(array), array)
    np.testing.assert_array_equal(render(array[..., :1], channels=1), array[..., :1])


@pytest.mark.parametrize(
    ("encoded", "message"), [(b"", "empty"), (b"hello, I am text", "not an image")]
)
def test_what_is_no_image(encoded, message):
    with pytest.raises(ValueError, match=message):
        render(encoded)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp"])
def test_truncated_files_are_errors(kind):
    rng = np.random.default_rng(0)
    encoded = encode(Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)), kind)
    with pytest.raises((OSError, ValueError, SyntaxError)):
        render(encoded[: len(encoded) // 2])


def test_random_crops_have_the_stated_law():
    draws = counter.uniform(0, np.arange(4000 * 40)).reshape(4000, 10, 4)
    boxes = np.array([random_box(400, 300, d, (0.08, 1.0)) for d in draws])
    left, top, right, bottom = boxes.T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 400 and bottom.max() <= 300
    width, height = right - left, bottom - top
    area, aspect = width * height / (400 * 300), width / height
    assert area.min() >= 0.08 - 1e-9 and area.max() <= 1 + 1e-9
    assert aspect.min() >= 3 / 4 - 1e-9 and aspect.max() <= 4 / 3 + 1e-9
    # Small crops always fit, so among them the area is uniform, and so are aspect and place.
    small = area < 0.4
    assert np.abs(np.quantile(area[small], [0.25, 0.5, 0.75]) - [0.16, 0.24, 0.32]).max() < 0.02
    assert np.abs(np.quantile(aspect[small], 0.5) - 25 / 24) < 0.02
    place = (left / (400 - width))[small]
    assert np.abs(np.quantile(place, [0.25, 0.5, 0.75]) - [0.25, 0.5, 0.75]).max() < 0.04


def test_a_crop_that_never_fits_falls_back_on_the_centre():
    draws = np.full((10, 4), 0.999)
    half = 20 / 3  # of a side of 40 / 3
    wide, high = random_box(1000, 10, draws, (0.9, 1.0)), random_box(10, 1000, draws, (0.9, 1.0))
    assert wide == pytest.approx((500 - half, 0, 500 + half, 10))
    assert high == pytest.approx((0, 500 - half, 10, 500 + half))


def test_host_crops_cut_what_their_boxes_say():
    rng = np.random.default_rng(0)
    array = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
    families = {"global": HostCrops(2), "local": HostCrops(3, 7, scale=(0.05, 0.4), ratio=(1, 1))}
    canvas = Canvas(16, 3, crops=families)
    boxes = canvas.boxes(seed=5, step=1, position=3)
    out = canvas.render(encode(Image.fromarray(array)), boxes)
    assert {name: crops.shape for name, crops in out.items()} == canvas.shapes
    assert canvas.shapes == {"image/global": (2, 16, 16, 3), "image/local": (3, 7, 7, 3)}
    cut = boxes(80, 60)
    for view, box in zip([*out["image/global"], *out["image/local"]], cut, strict=True):
        expected = Image.fromarray(array).resize(view.shape[:2], Image.Resampling.BICUBIC, box, 2.0)
        np.testing.assert_array_equal(view, expected)
    assert len(set(cut)) == 5
    assert all(right - left == pytest.approx(bottom - top) for left, top, right, bottom in cut[2:])
    assert cut == canvas.boxes(5, 1, 3)(80, 60)
    for other in ((5, 1, 4), (5, 2, 3), (6, 1, 3)):
        assert not set(cut) & set(canvas.boxes(*other)(80, 60))
    # A family's crops do not depend on the others.
    for name, part in (("global", cut[:2]), ("local", cut[2:])):
        assert Canvas(16, 3, crops={name: families[name]}).boxes(5, 1, 3)(80, 60) == part


def test_an_image_is_decoded_once_for_all_families(monkeypatch):
    """And in enough detail for the smallest crop of any of them."""
    x = np.linspace(0, 255, 640)
    photo = np.repeat(np.repeat(x[None], 480, 0)[..., None], 3, -1).astype(np.uint8)
    encoded, opened = encode(Image.fromarray(photo), "jpeg", quality=95), []
    open_image = Image.open
    monkeypatch.setattr(Image, "open", lambda file: opened.append(file) or open_image(file))
    families = {"global": HostCrops(1, 8, (1, 1), (4 / 3, 4 / 3)), "local": HostCrops(4, 64)}
    canvas = Canvas(8, crops=families)
    boxes = canvas.boxes(0, 0, 0)
    out = canvas.render(encoded, boxes)
    assert len(opened) == 1
    for crop, (left, _, right, _) in zip(out["image/local"], boxes(640, 480)[1:], strict=True):
        expected = (left + (np.arange(64) + 0.5) / 64 * (right - left)) / 640 * 255
        np.testing.assert_allclose(crop.mean((0, 2))[1:-1], expected[1:-1], atol=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "data.image_size is 0; it must be at least 1"),
        ({"size": 8, "channels": 4}, "data.channels is 4; it must be 1 or 3"),
        ({"size": 8, "center": 0.0}, r"data.center is 0.0; it must be in \(0, 1\]"),
    ],
)
def test_bad_canvases(options, message):
    with pytest.raises(UserError, match=message):
        Canvas(**options)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"global": {}}, "data.host_crops.global.count is missing"),
        (
            {"global": {"count": 0}},
            "data.host_crops.global.count is 0; use a whole number from 1 to 1000",
        ),
        (
            {"global": {"count": 2, "scale": (0.5, 0.2)}},
            r"scale is \(0.5, 0.2\).*increasing",
        ),
        ({"local": {"count": 2, "sise": 4}}, "data.host_crops.local.sise.*Did you mean 'size'"),
        ({"a/b": {"count": 2}}, "data.host_crops has a family 'a/b'; use letters"),
    ],
)
def test_bad_host_crops(section, message):
    with pytest.raises(UserError, match=message):
        read_families(section)

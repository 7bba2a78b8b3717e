import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from ssl_jax import parallel
from ssl_jax.checkpoint import digest


def digest_of(array):
    return digest.fetch(digest.dispatch({"x": array}))["x"]


def mix(h):
    """MurmurHash3's finaliser with Python integers."""
    h ^= h >> 16
    h = h * 0x85EBCA6B % 2**32
    h ^= h >> 13
    h = h * 0xC2B2AE35 % 2**32
    return h ^ (h >> 16)


def oracle(array):
    """The digest's definition, one word at a time."""
    array = np.ascontiguousarray(array)
    if array.dtype.itemsize >= 4:
        words = array.reshape(-1).view(np.uint32)
    elif array.dtype.itemsize == 2:
        words = array.reshape(-1).view(np.uint16)
    else:
        words = array.reshape(-1).view(np.uint8)
    first = second = 0
    for i, word in enumerate(words.tolist()):
        h = mix(word ^ (i * 0x9E3779B1 % 2**32))
        first += h
        second += h * (2 * i + 1)
    return f"{first % 2**32:08x}{second % 2**32:08x}"


DTYPES = [
    np.float32,
    np.float16,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    np.int32,
    np.uint32,
    np.int8,
    np.uint8,
    np.int16,
    np.bool_,
    np.complex64,
    np.float64,
    np.int64,
]


def random_array(dtype, shape=(6, 5, 4), seed=0):
    values = np.random.default_rng(seed).standard_normal(shape) * 10
    return (values > 0) if dtype == np.bool_ else values.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_equals_definition(dtype):
    array = random_array(dtype)
    with jax.enable_x64(array.dtype.itemsize == 8):
        on_device = jnp.asarray(array)
        assert on_device.dtype == array.dtype
        assert digest_of(on_device) == digest.Digest(oracle(array), True)


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (257,), (1, 1, 9, 2)])
def test_shapes(shape):
    array = random_array(np.float32, shape)
    assert digest_of(jnp.asarray(array)).value == oracle(array)


def test_does_not_depend_on_sharding():
    array = random_array(np.float32, (16, 24, 3))
    expected = oracle(array)
    for devices in (8, 4, 1):
        fsdp = min(devices, 4)
        mesh = parallel.make_mesh(fsdp=fsdp, devices=jax.devices()[:devices])
        for spec in (P(), P("fsdp"), P(None, "fsdp"), P("data", "fsdp"), P(("data", "fsdp"))):
            sharded = jax.device_put(array, jax.NamedSharding(mesh, spec))
            assert digest_of(sharded).value == expected, (devices, spec)


def test_every_flipped_bit_changes_it():
    array = random_array(np.float32, (5, 3))
    original = digest_of(jnp.asarray(array)).value
    seen = {original}
    for bit in range(array.size * 32):
        flipped = array.copy()
        flipped.reshape(-1).view(np.uint32)[bit // 32] ^= np.uint32(1) << np.uint32(bit % 32)
        seen.add(digest_of(jnp.asarray(flipped)).value)
    assert len(seen) == array.size * 32 + 1


def test_what_a_plain_sum_would_miss():
    array = random_array(np.float32, (64,))
    array[3], array[40] = 0.0, -array[7]
    original = digest_of(jnp.asarray(array)).value
    changed = {
        "negative zero": np.where(np.arange(64) == 3, np.float32(-0.0), array),
        "swapped": array[[*range(10), 11, 10, *range(12, 64)]],
        "swapped opposites": array[[*range(7), 40, *range(8, 40), 7, *range(41, 64)]],
        "rolled": np.roll(array, 1),
        "reversed": array[::-1],
    }
    for name, other in changed.items():
        assert not np.array_equal(array.view(np.uint32), other.view(np.uint32)), name
        assert digest_of(jnp.asarray(other)).value != original, name


def test_nans_are_compared_by_their_bits():
    quiet = np.array([0x7FC00000, 0x3F800000], np.uint32).view(np.float32)
    other = np.array([0x7FC00001, 0x3F800000], np.uint32).view(np.float32)
    assert digest_of(jnp.asarray(quiet)) == digest.Digest(oracle(quiet), False)
    assert digest_of(jnp.asarray(quiet)) == digest_of(jnp.asarray(quiet.copy()))
    assert digest_of(jnp.asarray(quiet)).value != digest_of(jnp.asarray(other)).value


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.complex64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_finite(dtype, bad):
    array = random_array(dtype)
    assert digest_of(jnp.asarray(array)).finite
    array[2, 3, 1] = bad
    assert not digest_of(jnp.asarray(array)).finite


def test_infinite_scalars_are_in_order():
    state = optax.contrib.reduce_on_plateau().init(jnp.ones(3))
    assert np.isinf(state.best_value)
    assert digest_of(state.best_value).finite
    assert not digest_of(jnp.float32(np.nan)).finite

"""Reading compiled programs, against what the programs are known to do."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import hlo, parallel
from ssl_jax.hardware import tpu
from ssl_jax.hlo import collectives, flops, text

needs_libtpu = pytest.mark.skipif(not tpu.is_installed(), reason="libtpu is not installed")


def shape(*dims, dtype=jnp.float32, sharding=None):
    return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)


def read(function, *arguments, **options):
    with tpu.quiet():
        return hlo.read(jax.jit(function, **options).lower(*arguments).compile())


# FLOPs


def test_products_count_two_a_multiply_add():
    assert read(lambda a, b: a @ b, shape(8, 16), shape(16, 32)).flops == 2 * 8 * 16 * 32
    batched = read(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), shape(3, 8, 16), shape(3, 4, 16))
    assert batched.flops == 2 * 3 * 8 * 16 * 4


def test_a_loop_counts_each_of_its_trips():
    def looped(x, w):
        return lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, w)[0].sum()

    one = 2 * 64 * 32 * 32
    arguments = shape(64, 32), shape(10, 32, 32)
    assert read(looped, *arguments).flops == 10 * one
    # A dot for the gradient of each factor besides the forward pass.
    assert read(jax.grad(looped, argnums=1), *arguments).flops == 30 * one


def test_nested_loops_multiply():
    def nested(x, w):
        def outer(x, _):
            return lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ w), x), None

        return lax.scan(outer, x, None, length=4)[0]

    program = read(nested, shape(8, 8), shape(8, 8))
    assert program.flops == 12 * 2 * 8**3
    assert program.unknown_loops == 0


def test_a_loop_that_depends_on_data_counts_once_and_is_reported():
    def until(x, w):
        return lax.while_loop(lambda x: jnp.max(x) < 100, lambda x: x @ w, x)

    program = read(until, shape(8, 8), shape(8, 8))
    assert (program.flops, program.unknown_loops) == (2 * 8**3, 1)


def test_of_branches_the_dearest_counts():
    def branch(i, x, w):
        return lax.switch(i, [lambda x: x @ w, lambda x: (x @ w) @ w, jnp.sin], x)

    assert read(branch, shape(dtype=jnp.int32), shape(8, 8), shape(8, 8)).flops == 2 * 2 * 8**3


CONVOLUTIONS = [
    dict(window_strides=(1, 1), padding="VALID"),
    dict(window_strides=(1, 1), padding="SAME"),
    dict(window_strides=(2, 2), padding="SAME"),
    dict(window_strides=(2, 1), padding=((3, 0), (1, 2))),
    dict(window_strides=(1, 1), padding="SAME", rhs_dilation=(2, 3)),
    dict(window_strides=(1, 1), padding=((1, 1), (1, 1)), lhs_dilation=(2, 2)),
]


def multiply_adds(options, size, kernel, batch, inputs, outputs):
    """By brute force: convolve ones with ones, where each real product adds one."""
    convolved = lax.conv_general_dilated(
        jnp.ones((1, *size, 1)), jnp.ones((*kernel, 1, 1)), **options,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    return round(float(convolved.sum())) * batch * inputs * outputs


def convolution(options, groups=1):
    def convolve(x, w):
        return lax.conv_general_dilated(
            x, w, **options, feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    return convolve


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_a_convolution_counts_real_products_forward_and_backward(options):
    expected = 2 * multiply_adds(options, (9, 8), (3, 4), batch=4, inputs=6, outputs=10)
    convolve = convolution(options)
    x, w = shape(4, 9, 8, 6), shape(3, 4, 6, 10)
    assert read(convolve, x, w).flops == expected
    for argument in (0, 1):
        gradient = jax.grad(lambda x, w: jnp.sum(jnp.sin(convolve(x, w))), argnums=argument)
        # The forward pass, and as much for the gradient.
        assert read(gradient, x, w).flops == 2 * expected


def test_groups_divide_the_work_of_a_convolution():
    options = CONVOLUTIONS[1]
    expected = 2 * multiply_adds(options, (9, 8), (3, 4), batch=4, inputs=6, outputs=10) // 2
    assert read(convolution(options, groups=2), shape(4, 9, 8, 6), shape(3, 4, 3, 10)).flops == (
        expected
    )


def test_valid_pairs_against_brute_force():
    sizes = itertools.product((1, 5), (1, 4, 7), (1, 3), (1, 2, 3), (-1, 0, 2), (1, 2, 4), (1, 2))
    for inputs, outputs, size, stride, low, lhs_dilation, dilation in sizes:
        real = {i * lhs_dilation for i in range(inputs)}
        places = (o * stride + k * dilation - low for o in range(outputs) for k in range(size))
        given = (inputs, outputs, size, stride, low, lhs_dilation, dilation)
        assert flops.valid_pairs(*given) == sum(place in real for place in places), given


# Memory and traffic


def test_peak_has_arguments_results_and_what_is_alive_between():
    size = 4 * 256 * 256
    program = read(lambda x: x + 1, shape(256, 256))
    assert program.peak_bytes == program.argument_bytes + program.output_bytes == 2 * size
    donated = read(lambda x: x + 1, shape(256, 256), donate_argnums=0)
    assert (donated.peak_bytes, donated.alias_bytes) == (size, size)
    chain = read(lambda x: jnp.sin(x @ x) @ x, shape(256, 256))
    assert chain.peak_bytes >= 3 * size


def test_the_largest_arrays_are_named():
    def residuals(x, w):
        return lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, w)[0].sum()

    program = read(jax.grad(residuals, argnums=1), shape(64, 32), shape(10, 32, 32))
    first = program.temporaries[0]
    assert (first.shape, first.bytes) == ("f32[10,64,32]", 4 * 10 * 64 * 32)
    assert first.op_name.startswith("jit(residuals)/")
    assert first.source.startswith("tests/hlo/test_programs.py:")
    sizes = [one.bytes for one in program.temporaries]
    assert sizes == sorted(sizes, reverse=True)


def test_elementwise_work_reads_and_writes_each_array_once():
    program = read(lambda a, b: jnp.sin(a) * b + a, shape(1000), shape(1000))
    assert program.bytes_accessed == 3 * 4000


def test_without_loops_the_traffic_is_what_xla_counts():
    def layer(x, w):
        return jnp.tanh(x @ w) @ w

    lowered = jax.jit(layer).lower(shape(64, 32), shape(32, 32)).compile()
    program = hlo.read(lowered)
    costs = lowered.cost_analysis()
    assert program.bytes_accessed == costs["bytes accessed"]
    # XLA adds one for each element-wise operation.
    assert program.flops <= costs["flops"] <= program.flops + 10 * 64 * 32


def test_a_slice_in_a_loop_moves_the_slice():
    def rows(x):
        return lax.map(lambda row: jnp.sin(row) + 1, x)

    program = read(rows, shape(100, 1000))
    whole = 4 * 100 * 1000
    # Each row is read, perhaps held between two fusions, and written; never the whole array.
    assert 2 * whole <= program.bytes_accessed <= 5 * whole


# Collectives


@pytest.fixture(scope="module")
def mesh():
    return parallel.make_mesh(4, 2, devices=jax.devices()[:8])


def on_devices(mesh, function, *arguments):
    rows = NamedSharding(mesh, P(("data", "fsdp")))
    placed = [shape(*one.shape, dtype=one.dtype, sharding=rows) for one in arguments]
    specs = P(("data", "fsdp"))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=False)
    return read(mapped, *placed)


ROW = 4 * 16 * 128  # bytes of a device's block of [128, 128]

COLLECTIVES = {
    "all-gather": (
        lambda x: lax.all_gather(x, "data", tiled=True)[:16], 4, 4 * ROW, 3 * ROW
    ),
    "all-reduce": (lambda x: lax.psum(x, "fsdp"), 2, ROW, ROW),
    "reduce-scatter": (
        lambda x: jnp.tile(lax.psum_scatter(x, "data", tiled=True), (4, 1)), 4, ROW, 3 * ROW // 4
    ),
    "all-to-all": (
        lambda x: lax.all_to_all(x, "data", 1, 0, tiled=True).reshape(16, 128), 4, ROW, 3 * ROW // 4
    ),
    "collective-permute": (
        lambda x: lax.ppermute(x, "data", [(i, (i + 1) % 4) for i in range(4)]), 8, ROW, ROW
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", COLLECTIVES)
def test_bytes_and_group_of_a_collective(kind, mesh):
    function, group, size, wire = COLLECTIVES[kind]
    program = on_devices(mesh, function, shape(128, 128))
    (found,) = program.collectives
    assert (found.kind, found.group, found.bytes, found.wire_bytes) == (kind, group, size, wire)
    assert (found.trips, found.in_loop) == (1, False)
    assert found.source.startswith("tests/hlo/test_programs.py:")


def test_a_collective_in_a_loop_counts_each_trip(mesh):
    def looped(x):
        def body(_, x):
            return lax.psum(x, "data") / 4

        return lax.fori_loop(0, 6, body, lax.ppermute(x, "fsdp", [(0, 1), (1, 0)]))

    program = on_devices(mesh, looped, shape(128, 128))
    inside, outside = sorted(program.collectives, key=lambda one: one.kind)
    assert (inside.kind, inside.trips, inside.in_loop) == ("all-reduce", 6, True)
    assert inside.wire_bytes == 6 * 2 * 3 * ROW // 4
    assert (outside.kind, outside.trips, outside.in_loop) == ("collective-permute", 1, False)
    assert program.wire_bytes == inside.wire_bytes + outside.wire_bytes


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", 4),
        ("{}", 8),
        ("[2,4]<=[8]", 4),
        ("[4,2]<=[2,4]T(1,0)", 2),
        ("mesh['axis_0'=4] {'axis_0'}", 4),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", 4),
        ("mesh['a'=2,'b'=4] {'a','b'}", 8),
        ("mesh['a'=8] {'a':(2)4}", 4),
    ],
)
def test_every_spelling_of_groups(groups, size):
    instruction = text.Instruction(
        "x", text.Array("f32", (8,)), "all-reduce", ("y",), "%y",
        f", channel_id=1, replica_groups={groups}, use_global_device_ids=true",
    )  # fmt: skip
    module = text.Module({}, "", "HloModule f, num_partitions=8", {})
    assert collectives.group_size(instruction, module) == size


# The text


@pytest.mark.parametrize(
    ("written", "dims", "nbytes", "padded", "space"),
    [
        ("f32[4,5]", (4, 5), 80, 80, 0),
        ("pred[]", (), 1, 1, 0),
        ("bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)S(1)}", (3, 3, 64, 64), 73728, 147456, 1),
        ("f32[128,64]{0,1:T(8,128)}", (128, 64), 32768, 32768, 0),
        ("f32[5]{0:T(128)}", (5,), 20, 512, 0),
        ("s4[10]{0}", (10,), 5, 5, 0),
        ("token[]", (), 0, 0, 0),
        ("f8e4m3fn[16]{0}", (16,), 16, 16, 0),
    ],
)
def test_a_type(written, dims, nbytes, padded, space):
    array = text.parse_shape(written)
    assert (array.dims, array.nbytes, array.padded_bytes) == (dims, nbytes, padded)
    assert array.space == space


def test_a_tuple_type():
    parsed = text.parse_shape("((f32[8]{0}, u8[2]), /*index=1*/s32[]{:T(128)S(2)})")
    assert [str(one) for one in text.leaves(parsed)] == ["f32[8]", "u8[2]", "s32[]"]
    assert len(parsed) == 2 and len(parsed[0]) == 2


def test_what_is_no_program():
    with pytest.raises(ValueError, match="no ENTRY"):
        text.parse("hello")


# For TPUs: other instructions for the same work, and memory on the chip


@pytest.fixture(scope="module")
def chips():
    return parallel.make_mesh(devices=tpu.devices("v5e:2x2"))


@needs_libtpu
def test_on_tpus_an_all_gather_is_exact(chips):
    rows, whole = NamedSharding(chips, P("data")), NamedSharding(chips, P())
    program = read(lambda x: x, shape(4096, 256, sharding=rows), out_shardings=whole)
    (found,) = program.collectives
    assert (found.kind, found.group) == ("all-gather", 4)
    assert (found.bytes, found.wire_bytes) == (4096 * 256 * 4, 4096 * 256 * 4 * 3 // 4)


@pytest.mark.slow
@needs_libtpu
def test_on_tpus_sharded_layers_gather_and_scatter_once_each(chips):
    """Asynchronous collectives, spread over fusions that each name them, count once."""
    layers, width = 4, 1024
    rows = NamedSharding(chips, P("data"))

    def loss(weights, x):
        for w in weights:
            x = jax.nn.relu(x @ w)
        return (x.astype(jnp.float32) ** 2).mean()

    weights = [shape(width, width, dtype=jnp.bfloat16, sharding=rows)] * layers
    x = shape(2048, width, dtype=jnp.bfloat16, sharding=rows)
    program = read(jax.grad(loss), weights, x, out_shardings=[rows] * layers)
    products = 3 * layers - 1  # the data need no gradient
    assert program.flops == products * 2 * 512 * width**2
    gathered = [one for one in program.collectives if one.kind == "all-gather"]
    size = 2 * width**2
    assert sum(one.bytes for one in gathered) == layers * size
    scattered = sum(one.bytes for one in program.collectives if one.kind == "reduce-scatter")
    assert layers * size <= scattered <= 1.1 * layers * size  # the compiler pads them


@pytest.mark.slow
@needs_libtpu
def test_on_tpus_loops_products_and_convolutions_cost_what_they_do_elsewhere(chips):
    whole = NamedSharding(chips, P())

    def work(x, w, image, kernel, a, b):
        looped = lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, w)[0]
        convolved = convolution(CONVOLUTIONS[2])(image, kernel)
        products = jnp.einsum("bij,bkj->bik", a, b)
        return looped.sum() + jnp.sin(convolved).sum() + jnp.sin(products).sum()

    # Many images: the compiler cuts few large ones into strips, which overlap.
    shapes = (256, 128), (10, 128, 128), (256, 16, 16, 8), (3, 3, 8, 16), (8, 64, 32), (8, 48, 32)
    arguments = [shape(*dims, sharding=whole) for dims in shapes]
    program = read(jax.grad(work, argnums=(1, 3, 4)), *arguments)
    loop = 10 * 3 * 2 * 256 * 128 * 128
    convolutions = 2 * 2 * multiply_adds(CONVOLUTIONS[2], (16, 16), (3, 3), 256, 8, 16)
    products = 2 * 2 * 8 * 64 * 48 * 32
    assert program.unknown_loops == 0
    assert program.flops == loop + convolutions + products


@needs_libtpu
def test_on_tpus_what_stays_on_the_chip_is_no_traffic(chips):
    whole = NamedSharding(chips, P())
    program = read(lambda x: jnp.sin(x @ x) @ x, shape(512, 512, sharding=whole))
    size = 4 * 512 * 512
    assert 2 * size <= program.bytes_accessed <= 3 * size
    assert program.peak_bytes >= 2 * size


def test_padding_of_tiles():
    rng = np.random.default_rng(0)
    for _ in range(100):
        dims = tuple(int(size) for size in rng.integers(1, 300, rng.integers(1, 4)))
        order = tuple(reversed(range(len(dims))))
        array = text.Array("f32", dims, order, (8, 128))
        last, before = dims[-1], dims[-2] if len(dims) > 1 else 1
        outer = math.prod(dims[:-2])
        assert array.padded_bytes == 4 * outer * -(-before // 8) * 8 * -(-last // 128) * 128

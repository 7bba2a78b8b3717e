"""Event files beside the protocol buffers and checksums of tensorboardX."""

import math
import struct
import subprocess
import sys

import numpy as np
import pytest

from ssl_jax.run import event_files


def parsed(record):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    (size,) = struct.unpack_from("<Q", record)
    body = record[12 : 12 + size]
    assert len(record) == size + 16
    assert struct.unpack_from("<I", record, 8)[0] == masked_crc32c(record[:8])
    assert struct.unpack_from("<I", record, 12 + size)[0] == masked_crc32c(body)
    event = Event.FromString(body)
    assert event.SerializeToString() == body  # the canonical bytes, without unknown fields
    return event


def test_scalars_are_the_bytes_of_the_protocol_buffer():
    values = {
        "train/loss": 0.1, "zero": 0.0, "negative": -3.5e-20, "infinite": -math.inf,
        "beyond float32": 1e300, "numpy": np.float32(0.2), "count": 7, "Grüße/µ": 1.0,
        "long" * 100: 2.0, "not a number": math.nan,
    }  # fmt: skip
    for step in (0, 1, 127, 128, 10**12):
        event = parsed(event_files.scalars(step, values))
        assert event.step == step and event.wall_time > 1.7e9
        found = {value.tag: value.simple_value for value in event.summary.value}
        with np.errstate(over="ignore"):
            expected = {tag: float(np.float32(value)) for tag, value in values.items()}
        assert math.isnan(found.pop("not a number")) and math.isnan(expected.pop("not a number"))
        assert found == expected
        assert [value.WhichOneof("value") for value in event.summary.value] == (
            ["simple_value"] * len(values)
        )


def test_headers_and_session_starts():
    from tensorboardX.proto.event_pb2 import SessionLog

    assert parsed(event_files.file_header()).file_version == "brain.Event:2"
    event = parsed(event_files.session_start(300))
    assert (event.step, event.session_log.status) == (300, SessionLog.START)


@pytest.mark.parametrize(
    ("data", "crc"),  # RFC 3720, appendix B.4
    [(bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)],
)
def test_checksums_are_those_of_the_standard(data, crc):
    assert event_files.crc32c(data) == crc


def test_nothing_else_is_imported():
    program = (
        "import sys; import ssl_jax.run.event_files as e; "
        "e.scalars(1, {'loss': 1.0}); "
        "print([m for m in ('torch', 'tensorflow', 'tensorboardX') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr

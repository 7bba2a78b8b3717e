"""TensorBoard's event files: what a record is made of.

An event is a protocol buffer (tensorflow/core/util/event.proto and framework/summary.proto), and a
file is a sequence of TFRecords. Three kinds of events are written: the first one of a file, the
start of a session, and scalars. Libraries that write them import PyTorch or TensorFlow where they
are installed, which takes seconds and hundreds of megabytes.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers
_CASTAGNOLI = 0x82F63B78  # polynomial of CRC-32C, its bits reversed (RFC 3720, appendix B.4)
_SESSION_STARTS = 1  # SessionLog.START


def file_header() -> bytes:
    """The record that a file begins with."""
    return _record(_event(step=0, number=3, content=b"brain.Event:2"))


def session_start(step: int) -> bytes:
    """A record after which TensorBoard hides events of `step` and later ones before it."""
    return _record(_event(step, number=7, content=_varint_field(1, _SESSION_STARTS)))


def scalars(step: int, values: Mapping[str, float]) -> bytes:
    """A record of float32 scalars by tag, at a step."""
    summary = b"".join(
        _bytes_field(1, _bytes_field(1, tag.encode()) + _key(2, _FIXED32) + _float32(value))
        for tag, value in values.items()
    )
    return _record(_event(step, number=5, content=summary))


def _event(step: int, number: int, content: bytes) -> bytes:
    """An Event of now, with `content` as field `number`."""
    now = _key(1, _FIXED64) + struct.pack("<d", time.time())
    at = _varint_field(2, step) if step else b""  # proto3 leaves out zeros
    return now + at + _bytes_field(number, content)


def _float32(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:  # beyond the range of float32
        return struct.pack("<f", float("inf") if value > 0 else float("-inf"))


def _key(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _varint_field(number: int, value: int) -> bytes:
    return _key(number, _VARINT) + _varint(value)


def _bytes_field(number: int, content: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _record(data: bytes) -> bytes:
    """A TFRecord: length, checksum of the length, bytes, checksum of the bytes."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _checksum(length), data, _checksum(data)))


def _checksum(data: bytes) -> bytes:
    """The masked CRC-32C of TFRecords."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_CASTAGNOLI if byte & 1 else 0)
    return byte


_REMAINDERS = tuple(map(_remainder, range(256)))


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of bytes, a uint32; RFC 3720."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _REMAINDERS[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF

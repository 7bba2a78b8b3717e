"""Freed memory that goes back to the system."""

import ctypes
import pathlib

import pytest

from ssl_jax.hardware import memory

KIB = 1024


def resident():
    """Memory of this process that no file backs, KiB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_freed_blocks_below_one_that_is_kept_are_released():
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        pytest.skip("this C library keeps what it likes")
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    size = 32 * KIB  # small enough for the heap
    blocks = [libc.malloc(size) for _ in range(2000)]
    for block in blocks:
        libc.memset(block, 1, size)
    full = resident()
    for block in blocks[:-1]:
        libc.free(block)
    kept = resident()
    memory.release()
    released = resident()
    libc.free(blocks[-1])
    assert full - kept < 16 * KIB  # the last block holds the others' memory
    assert kept - released > 48 * KIB  # of 62 MiB


def test_a_c_library_without_it_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.release()

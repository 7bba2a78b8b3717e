"""Cleans and shortens the user's texts for the page."""

from __future__ import annotations


def plain(value: object) -> str:
    """`value` without control characters and lone surrogates (of undecodable file names)."""
    text = "".join(c for c in str(value) if c in "\n\t" or (ord(c) >= 32 and ord(c) != 127))
    return text.encode("utf-8", "replace").decode("utf-8")


def short(value: object, length: int) -> str:
    """`value` on one line of at most `length` characters."""
    text = " ".join(plain(value).split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"

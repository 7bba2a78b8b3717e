"""Text of the user's -> HTML."""

from __future__ import annotations

import html


def esc(value: object) -> str:
    """`value` as HTML text or attribute, without control characters, which no page may hold."""
    text = "".join(c for c in str(value) if c in "\n\t" or (ord(c) >= 32 and ord(c) != 127))
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"), quote=True)

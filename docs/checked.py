"""Each page of the site as it was meant: no Markdown is left in its paragraphs.

MkDocs calls `on_page_content` as a hook. A code block whose first line is not understood, a list
without a blank line above it and a table that is interrupted become text of a paragraph. That
breaks the build.
"""

from __future__ import annotations

import re
from typing import Any

from mkdocs.exceptions import PluginError

_PARAGRAPH = re.compile(r"<(p|td)>(.*?)</\1>", re.DOTALL)
_CODE = re.compile(r"<code[^>]*>.*?</code>", re.DOTALL)
_LEFT = re.compile(r"```|^(?:- |\| )|^\d\. |\[[^\]]*\]\([^)]*\)", re.MULTILINE)
_TABLE = re.compile(r"(<table>.*?</table>)", re.DOTALL)
# The blanks around it: a mean and its deviation stay on one line of a narrow column.
_DEVIATION = re.compile(r"(?<=\d) ± (?=\d)")
# Code that `extra.css` does not break, in text and in the narrow columns of tables.
_SHORT_CODE = re.compile(r"<code>([^<\n]{1,40})</code>")
_SHORT_CODE_IN_TABLE = re.compile(r"<code>([^<\n]{1,26})</code>")


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """The page with its short codes marked and its deviations beside their means.

    Raises:
      PluginError: a paragraph has Markdown that was not understood.
    """
    for _, paragraph in _PARAGRAPH.findall(html):
        text = re.sub(r"<[^>]*>", "", _CODE.sub("", paragraph))
        if left := _LEFT.search(text):
            line = text[left.start() :].partition("\n")[0][:80]
            raise PluginError(f"{page.file.src_uri}: Markdown in a paragraph: {line}")
    parts = _TABLE.split(html)
    for number, part in enumerate(parts):
        in_table = bool(number % 2)
        short = _SHORT_CODE_IN_TABLE if in_table else _SHORT_CODE
        part = short.sub(r'<code class="whole">\1</code>', part)
        parts[number] = (
            _DEVIATION.sub("\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}", part) if in_table else part
        )
    return "".join(parts)

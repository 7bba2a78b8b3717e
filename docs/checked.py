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
# Longer code may be broken, but not behind the "--" of an option.
_LONG_CODE = re.compile(r"<code>[^<]*</code>")
_OPTION = re.compile(r"(?<![\w-])--\w+")


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """The page with what is not to be broken marked: short codes, options, deviations.

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
        if number % 2:  # a table
            part = _DEVIATION.sub("\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}", part)
        short = _SHORT_CODE_IN_TABLE if number % 2 else _SHORT_CODE
        part = short.sub(r'<code class="whole">\1</code>', part)
        parts[number] = _LONG_CODE.sub(_with_whole_options, part)
    return "".join(parts)


def _with_whole_options(code: re.Match[str]) -> str:
    return _OPTION.sub(r'<span class="option">\g<0></span>', code[0])

"""Each page of the site as it was meant: no Markdown is left in its paragraphs.

MkDocs calls `on_page_content` as a hook. A code block whose first line is not understood, a list
without a blank line above it and a table that is interrupted become text of a paragraph. That
breaks the build.
"""

from __future__ import annotations

import functools
import html as html_lib
import re
from typing import Any

from mkdocs.exceptions import PluginError

_PARAGRAPH = re.compile(r"<(p|td)>(.*?)</\1>", re.DOTALL)
_CODE = re.compile(r"<code[^>]*>.*?</code>", re.DOTALL)
_LEFT = re.compile(r"```|^(?:- |\| )|^\d\. |\[[^\]]*\]\([^)]*\)", re.MULTILINE)
_TABLE = re.compile(r"(<table>.*?</table>)", re.DOTALL)
# Text of a table that `extra.css` keeps from becoming a column of single words.
_CELL = re.compile(r"<td>(.*?)</td>", re.DOTALL)
_LONG_TEXT = 50
# The blanks around it: a mean and its deviation stay on one line of a narrow column.
_DEVIATION = re.compile(r"(?<=\d) ± (?=\d)")
# The longest code that `extra.css` does not break, in text and in the narrow columns of tables.
_SHORT, _SHORT_IN_TABLE = 40, 26
_INLINE_CODE = re.compile(r"<code>(.*?)</code>", re.DOTALL)
# Code may be broken on a phone, and longer code anywhere, but not behind the "--" of an option.
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
            part = _CELL.sub(_wide_if_long, part)
            part = _DEVIATION.sub("\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}", part)
        longest = _SHORT_IN_TABLE if number % 2 else _SHORT
        parts[number] = _INLINE_CODE.sub(functools.partial(_marked, longest), part)
    return "".join(parts)


def _wide_if_long(cell: re.Match[str]) -> str:
    is_long = len(re.sub(r"<[^>]*>", "", cell[1])) > _LONG_TEXT
    return f'<td class="long">{cell[1]}</td>' if is_long else cell[0]


def _marked(longest: int, code: re.Match[str]) -> str:
    text = html_lib.unescape(re.sub(r"<[^>]*>", "", code[1]))
    inner = code[1]
    if "<" not in inner:
        inner = _OPTION.sub(r'<span class="option">\g<0></span>', inner)
    is_short = len(text) <= longest and "\n" not in text
    return f'<code class="whole">{inner}</code>' if is_short else f"<code>{inner}</code>"

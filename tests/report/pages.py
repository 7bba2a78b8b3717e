"""Report pages in tests: parsed, with what must hold for every one, and what is drawn on them."""

import html.parser
import re

import numpy as np

VOID = {"meta", "img", "br", "hr", "input", "link", "base"}
LOADING = ("src", "href", "xlink:href", "srcset", "data", "poster", "action", "background")
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src="http://example.com/x.png" onerror=alert(1)>',
    "</style></svg></pre><h1>&amp;",
    "$title $$ ${body} {0} %s",
    "$\\frac{1",
    'class "a" id="b" #010101 1.23456789',
    "line\nbreak\ttab",
]


class Page(html.parser.HTMLParser):
    """Checks nesting while parsing; keeps tags, ids, text and everything that could be loaded."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.ids, self.loads, self.text = [], [], [], [], []
        self.handlers = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self._tag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self._tag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.loads += re.findall(r"url\(([^)]*)\)|@import", data)
        else:
            self.text.append(data)

    def _tag(self, tag, attrs):
        self.tags.append(tag)
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"attribute twice: {tag} {names}"
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in LOADING:
                self.loads.append(value)
            if name == "style":
                self.loads += re.findall(r"url\(([^)]*)\)", value)
            if name.startswith("on"):
                self.handlers.append(name)


def check(text):
    """The page parsed, after what must hold for every one."""
    assert text.startswith("<!DOCTYPE html>")
    page = Page(text)
    for load in page.loads:
        assert load.startswith(
            ("#", "data:image/png;base64,", "data:image/jpeg;base64,", "data:audio/wav;base64,")
        ), load
    assert not page.handlers
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids)), "an id twice"
    for load in page.loads:
        if load.startswith("#"):
            assert load[1:] in page.ids, f"{load} leads nowhere"
    assert not re.search(r'style="[^"]*#010[1-3]', text), "a stand-in colour is left"
    assert len(text.encode()) < 3_000_000
    return page


def digits_like(n, *, channels=1, side=12, classes=3, seed=0):
    """pixels, embedding, labels of well separated classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    pixels = rng.integers(0, 256, (n, side, side, channels), dtype=np.uint8)
    embedding = 5 * np.eye(max(classes, 2))[labels] + rng.normal(size=(n, max(classes, 2)))
    return {"pixels": pixels, "embedding": embedding.astype(np.float32), "labels": labels}

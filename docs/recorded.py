"""Tables and pictures of recorded runs, written where a page has `<!-- NAME -->` for them.

MkDocs calls `on_page_markdown` as a hook; it can import `generate.py`, which is beside this file.
"""

from __future__ import annotations

import ast
import csv
import decimal
import pathlib
import re
import statistics
from collections.abc import Mapping, Sequence

from generate import ROOT, SCORES, mean_and_deviation
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from ssl_jax import config as config_lib


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills in the parts that a page names."""
    del page, config, files
    for name, part in PARTS.items():
        if f"<!-- {name} -->" in markdown:
            markdown = markdown.replace(f"<!-- {name} -->", part())
    return markdown


def fashion_table() -> str:
    """Every method of `sweeps/methods:fashion` that has been run, the best kNN score first."""
    rows = _fashion_runs()
    titles = ("1 label", "8 labels", "kNN", "linear", "kNN untrained", "seeds")
    lines = ["| | " + " | ".join(titles) + " |", "|---" * 7 + "|"]
    for name in ("raw pixels", "PCA"):
        own = [row for row in rows if row.get(f"{name}/knn/top1")]
        if own:
            cells = _score_cells(own, f"{name}/")
            lines.append(f"| {name} | " + " | ".join(cells) + f" | | {len(own)} |")
    methods: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        methods.setdefault(row["method"], []).append(row)
    for name, own in sorted(methods.items(), key=lambda item: -_mean(item[1], "knn/top1")):
        cells = [*_score_cells(own, ""), _score_cells(own, "untrained encoder/")[2]]
        link = f"[{_config_title(name)}](methods/{_method_of(name)}.md)"
        lines.append(f"| {link} | " + " | ".join(cells) + f" | {len(own)} |")
    return "\n".join(lines)


def fashion_pictures() -> str:
    """The picture of each run in `results/gallery`, with its name, in a grid."""
    return _pictures("gallery", "nearest neighbours", "pictures")


def fashion_predictions() -> str:
    """The picture of each run in `results/gallery/predicted`, with its name, in a grid."""
    return _pictures(
        "gallery/predicted", "images, what it sees of them, its output", "pictures wide"
    )


def _pictures(folder: str, what: str, css_class: str) -> str:
    lines = [f'<div class="{css_class}" markdown>']
    for picture in sorted((ROOT / "results" / folder).glob("*.png")):
        title = _config_title(picture.stem)
        lines += ["", "<figure markdown>", f"![{title}: {what}](results/{folder}/{picture.name})",
                  f"<figcaption>{title}</figcaption>", "</figure>"]  # fmt: skip
    return "\n".join([*lines, "", "</div>"])


def _fashion_runs() -> list[dict[str, str]]:
    with (ROOT / "results" / "methods_fashion.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _score_cells(rows: Sequence[Mapping[str, str]], prefix: str) -> list[str]:
    """Mean and deviation over the runs in %, of one run alone without a deviation."""
    return [
        mean_and_deviation(100 * decimal.Decimal(row[prefix + score]) for row in rows)
        for score in SCORES
    ]


def _mean(rows: Sequence[Mapping[str, str]], score: str) -> float:
    return statistics.mean(float(row[score]) for row in rows)


def _config_title(name: str) -> str:
    """What papers call the method of a config: "MoCo v2"."""
    path, _ = config_lib.locate(name)
    first = ast.get_docstring(ast.parse(pathlib.Path(path).read_text(encoding="utf-8")))
    return re.split(r" \(|:|,", first, maxsplit=1)[0].strip()


def _method_of(name: str) -> str:
    return config_lib.load(f"{name}:fashion").method.name


PARTS = {
    "fashion table": fashion_table,
    "fashion pictures": fashion_pictures,
    "fashion predictions": fashion_predictions,
}

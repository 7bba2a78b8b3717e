"""The pages of the site that are generated: methods, config keys, API reference, copies.

MkDocs calls `on_config` and `on_files` as hooks. Everything a page shows is read from where it is
declared: module docstrings, `HyperParameters`, the docstrings of configs, `results/*.csv`.
"""

from __future__ import annotations

import ast
import csv
import dataclasses
import decimal
import importlib
import inspect
import pathlib
import posixpath
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from ssl_jax import adapt
from ssl_jax import config as config_lib
from ssl_jax.adapt.registry import ADAPTERS
from ssl_jax.config import base, fields
from ssl_jax.core import named_methods

ROOT = pathlib.Path(__file__).parents[1]
# Titles of the groups of methods, and the methods in them. Others are listed as "Other methods".
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Contrastive": (
        "simclr", "simclr_v2", "instdisc", "moco", "moco_v3", "nnclr", "cpc_images",
        "cpc_audio",
    ),
    "Without negatives": ("byol", "simsiam", "barlow_twins", "vicreg", "lejepa"),
    "Teachers and clusters": ("dino", "ibot", "dinov2", "swav", "deepcluster_v2"),
    "Masked images and pixels": ("mae", "ijepa", "image_gpt"),
    "Autoencoders": (
        "autoencoder", "denoising_autoencoder", "stacked_denoising_autoencoder", "vae",
    ),
    "Pretext tasks": ("rotnet", "context_prediction", "jigsaw", "colorization", "context_encoder"),
    "Language models": ("bert", "gpt", "t5", "word2vec"),
    "Learning from labels": (
        "supervised", "multilabel", "probe_grid", "metric_learning", "distill", "regression",
        "token_classification", "question_answering", "text_to_text",
    ),
}  # fmt: skip
# Packages of the API reference and what they are for.
PUBLIC = (
    "ssl_jax.losses", "ssl_jax.models", "ssl_jax.views", "ssl_jax.optim", "ssl_jax.evals",
    "ssl_jax.checkpoint", "ssl_jax.core.method", "ssl_jax.config", "ssl_jax.config.fields",
    "ssl_jax.pretrained.trained_run", "ssl_jax.hlo",
)  # fmt: skip
# Files of the repository that are pages too.
COPIES = {
    "results/README.md": "results.md",
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
SCORES = ("few_shot/1", "few_shot/8", "knn/top1", "linear/top1")
SCORE_TITLES = ("1 label", "8 labels", "kNN", "linear")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the generated pages to the navigation."""
    for entry in config.nav:
        if "Methods" in entry:
            entry["Methods"] = [
                "methods/index.md", *(f"methods/{name}.md" for name in named_methods.names())
            ]  # fmt: skip
        if "API" in entry:
            entry["API"] = ["reference/index.md", *(_reference_path(name) for name in PUBLIC)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages and the pictures of `results/`."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    for picture in sorted((ROOT / "results").rglob("*.png")):
        path = picture.relative_to(ROOT).as_posix()
        files.append(File.generated(config, path, content=picture.read_bytes()))
    return files


def pages() -> dict[str, str]:
    """Every generated page: path in the site's source -> Markdown."""
    configs = read_configs()
    out = {
        "methods/index.md": methods_page(configs),
        "config-keys.md": config_keys_page(),
        "reference/index.md": reference_index(),
    }
    out |= {f"methods/{name}.md": method_page(name, configs) for name in named_methods.names()}
    out |= {_reference_path(name): reference_page(name) for name in PUBLIC}
    out |= {page: copied_page(file, page) for file, page in COPIES.items()}
    return out


@dataclasses.dataclass(frozen=True)
class ConfigFile:
    """One config of the package.

    Attributes:
      name: as on the command line, "simclr".
      title: the beginning of its docstring up to an address: "SimCLR (Chen et al. 2020)".
      about: the first paragraph of its docstring, with links to the papers.
      variants: name -> text, as the docstring's table has them.
      published: the paragraphs of the docstring that begin with "Published".
      notes: its other paragraphs.
      methods: variant -> name of the method.
    """

    name: str
    title: str
    about: str
    variants: Mapping[str, str]
    published: Sequence[str]
    notes: Sequence[str]
    methods: Mapping[str, str]


def read_configs() -> list[ConfigFile]:
    """Every config that trains one run."""
    return [_read_config(name) for name in config_lib.names() if "/" not in name]


def _read_config(name: str) -> ConfigFile:
    path, _ = config_lib.locate(name)
    docstring = ast.get_docstring(ast.parse(pathlib.Path(path).read_text(encoding="utf-8")))
    first, *paragraphs = docstring.split("\n\n")
    first = _joined(first)
    title = first.partition(", https://")[0]
    variants, published, notes = {}, [], []
    for paragraph in paragraphs:
        if paragraph.startswith("Variants:\n"):
            variants = _variants(paragraph)
        elif paragraph.startswith("Published"):
            published.append(_joined(paragraph))
        elif not paragraph.startswith("    "):
            notes.append(_joined(paragraph))
    module, _ = config_lib.load_module(name)
    methods = {v: module.get_config(v).method.name for v in module.VARIANTS}
    return ConfigFile(name, title, _with_links(first), variants, published, notes, methods)


def _with_code(text: str) -> str:
    """Text in which options of the command line, such as --config.epochs=1, are code."""
    return re.sub(r"(?<![\w`])--config\.[\w.]+=\S*[\w*]", r"`\g<0>`", text)


def _with_links(text: str) -> str:
    """Text in which a link stands for each address of a paper after a comma."""

    def links(match: re.Match[str]) -> str:
        return f" ({', '.join(f'[paper]({url})' for url in match[0].split(', ')[1:])})"

    return re.sub(r"(?:, https?://[^\s,]+)+", links, text)


def _variants(paragraph: str) -> dict[str, str]:
    """The table below "Variants:"; a line that is indented further continues the one above."""
    variants: dict[str, str] = {}
    for line in paragraph.splitlines()[1:]:
        if entry := re.match(r"  (\w+(?:, \w+)*)  +(\S.*)", line):
            variants[entry[1]] = entry[2]
        else:
            variants[next(reversed(variants))] += f" {line.strip()}"
    return variants


def grouped() -> list[tuple[str, list[str]]]:
    """The titles of the groups, each with the methods in it."""
    names = named_methods.names()
    known = {name for group in GROUPS.values() for name in group}
    other = [name for name in names if name not in known]
    groups = [(title, [n for n in group if n in names]) for title, group in GROUPS.items()]
    return [group for group in [*groups, ("Other methods", other)] if group[1]]


def methods_page(configs: Sequence[ConfigFile]) -> str:
    """The list of methods, with a measured score of each."""
    scores = measured()
    lines = [
        "# Methods",
        "",
        "Each method is one file in `ssl_jax/methods/`. Its page is generated from that file, from",
        "the configs that use it and from the recorded results.",
    ]
    for title, names in grouped():
        lines += ["", f"## {title}", "", "| method | what | configs |", "|---|---|---|"]
        for name in names:
            users = " ".join(f"`{config.name}`" for config in _users(name, configs))
            first = _module(name).__doc__.partition("\n")[0].rstrip(".")
            summary = first.partition(": ")[2] or first
            lines.append(f"| [{title_of(name)}]({name}.md) | {_cell(summary)} | {users} |")
    lines += ["", "## Measured on the digits", "", *MEASURED_NOTE, ""]
    lines += ["| | " + " | ".join(SCORE_TITLES) + " |", "|---" * 5 + "|"]
    for config in configs:
        if config.name in scores:
            name = next(iter(config.methods.values()))
            label = f"[{config.title.partition(' (')[0]}]({name}.md)"
            lines.append(f"| {label} | " + " | ".join(scores[config.name]) + " |")
    return "\n".join(lines) + "\n"


MEASURED_NOTE = (
    "Accuracy in %, mean ± standard deviation of three seeds: a linear classifier on 1 and 8",
    "labels per class, a kNN classifier and a linear probe with all labels. All methods share one",
    "encoder, its views and 600 steps. Differences of a point or two mean nothing at this size.",
    "Machine, commit and the scores of every run are in [Results](../results.md).",
)  # fmt: skip


def method_page(name: str, configs: Sequence[ConfigFile]) -> str:
    """The page of one method."""
    module = _module(name)
    lines = [f"# {title_of(name)}", "", markdown(inspect.cleandoc(module.__doc__))]
    users = _users(name, configs)
    if users:
        example = next(v for v, method in users[0].methods.items() if method == name)
        lines += ["", "## Train it", "", "```console"]
        lines += [f"$ ssl_jax train --config={users[0].name}:{example} --workdir=runs/{name}"]
        lines += ["```"]
    source = f"The keys of `config.method`, declared in `ssl_jax/methods/{name}.py`."
    lines += ["", "## Hyper-parameters", "", source, ""]
    lines += key_table(fields.describe(_hyper_parameters(module), "method"))
    if users:
        lines += ["", "## Configs"]
    for config in users:
        lines += ["", f"### `{config.name}`", "", config.about, ""]
        lines += ["| variant | what |", "|---|---|"]
        for variant, text in config.variants.items():
            if _belongs(variant, name, config):
                lines.append(f"| `{variant}` | {_cell(_with_code(text))} |")
        for note in config.notes:
            lines += ["", _with_code(note)]
    published = [text for config in users for text in config.published]
    if published:
        lines += ["", "## Published scores"]
        for text in published:
            lines += ["", text]
    scores = measured()
    rows = [(c, scores[c.name]) for c in users if c.name in scores]
    if rows:
        lines += ["", "## Measured scores", "", *MEASURED_NOTE, ""]
        lines += ["| config | " + " | ".join(SCORE_TITLES) + " |", "|---" * 5 + "|"]
        lines += [f"| `{c.name}:digits` | " + " | ".join(row) + " |" for c, row in rows]
    source = pathlib.Path(module.__file__).read_text(encoding="utf-8")
    lines += ["", "## Code", "", f'??? note "ssl_jax/methods/{name}.py"', "", "    ```python"]
    lines += [f"    {line}".rstrip() for line in source.splitlines()] + ["    ```"]
    return "\n".join(lines) + "\n"


def measured() -> dict[str, list[str]]:
    """Config -> its scores on the digits as "mean ± standard deviation" in %."""
    with (ROOT / "results" / "methods_digits.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    out = {}
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        out[name] = [
            mean_and_deviation(100 * decimal.Decimal(row[score]) for row in own) for score in SCORES
        ]
    return out


def mean_and_deviation(values: Iterable[decimal.Decimal]) -> str:
    """ "82.1 ± 1.0", or "95.8" where the deviation is 0.0."""
    values = list(values)
    spread = statistics.stdev(values) if len(values) > 1 else decimal.Decimal(0)
    mean, deviation = (
        str(value.quantize(decimal.Decimal("0.1"), decimal.ROUND_HALF_UP))
        for value in (statistics.mean(values), spread)
    )
    return mean if deviation == "0.0" else f"{mean} ± {deviation}"


def config_keys_page() -> str:
    """Every shared config key."""
    lines = [
        "---",
        "hide: [toc]",
        "---",
        "",
        "# All config keys",
        "",
        "The keys that every experiment shares. The keys of `config.method` are on the pages of",
        "the [methods](methods/index.md). On the command line: `--config.batch_size=512`.",
        "",
    ]
    lines += key_table(fields.describe(base.shared_keys({})))
    for name in ADAPTERS:
        keys = fields.describe(adapt.declaration(name), "adapt")
        lines += ["", f"## `adapt.name={name}`", "", *key_table(keys)]
    return "\n".join(lines) + "\n"


def key_table(keys: Iterable[fields.Field]) -> list[str]:
    """A Markdown table of config keys."""
    lines = ['<div class="keys" markdown>', ""]
    lines += ["| key | default | type | meaning |", "|---|---|---|---|"]
    for key in keys:
        value = dict(key.default) if isinstance(key.default, Mapping) else key.default
        default = "" if value is fields.REQUIRED else f"<code>{_verbatim(repr(value))}</code>"
        path = key.path.replace(".", ".<wbr>")  # a narrow column breaks behind a dot
        lines.append(f"| <code>{path}</code> | {default} | {_cell(key.type)} | {_cell(key.doc)} |")
    return [*lines, "", "</div>"]


def reference_index() -> str:
    """The list of public packages."""
    lines = ["# API reference", "", "| package | what |", "|---|---|"]
    for name in PUBLIC:
        doc = importlib.import_module(name).__doc__ or ""
        path = posixpath.basename(_reference_path(name))
        lines.append(f"| [`{name}`]({path}) | {_cell(_joined(doc.partition(chr(10) * 2)[0]))} |")
    return "\n".join(lines) + "\n"


def reference_page(name: str) -> str:
    """The reference of one package, from its docstrings."""
    return f"# {name}\n\n::: {name}\n    options:\n      show_root_heading: false\n"


def _reference_path(name: str) -> str:
    return f"reference/{name.removeprefix('ssl_jax.').replace('.', '-')}.md"


def copied_page(file: str, page: str) -> str:
    """A Markdown file of the repository, its links rewritten for its place in the site."""
    text = (ROOT / file).read_text(encoding="utf-8")
    known = {**COPIES, **{f"docs/{p.name}": p.name for p in (ROOT / "docs").glob("*.md")}}

    def link(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if re.match(r"https?://|#", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(file), target))
        if path in known:
            return f"]({posixpath.relpath(known[path], posixpath.dirname(page))}{anchor})"
        if path.startswith("results/") and path.endswith(".png"):
            return f"]({path})"
        return f"](#){{title='{path} in the repository'}}"

    return re.sub(r"\]\(([^)#\s]+)(#[^)]*)?\)", link, text)


def title_of(name: str) -> str:
    """What papers call the method of this file: "SimCLR"."""
    return _module(name).__doc__.partition(":")[0].partition(" (")[0].strip()


def _module(name: str) -> Any:
    return importlib.import_module(f"ssl_jax.methods.{name}")


def _hyper_parameters(module: Any) -> Any:
    """The dataclass of a method's hyper-parameters."""
    return getattr(module, "HyperParameters", None) or module.LabelledOptions


def _users(name: str, configs: Sequence[ConfigFile]) -> list[ConfigFile]:
    """The configs that use a method."""
    return [config for config in configs if name in config.methods.values()]


def _belongs(entry: str, name: str, config: ConfigFile) -> bool:
    """Whether a line of the variants' table, "squad, squad2" or "glue_TASK", is of this method."""
    patterns = [re.compile(part.replace("TASK", r"\w+")) for part in entry.split(", ")]
    return any(
        method == name and any(pattern.fullmatch(variant) for pattern in patterns)
        for variant, method in config.methods.items()
    )


def markdown(docstring: str) -> str:
    """A docstring as Markdown, in which a list needs a blank line above."""
    return re.sub(r"^((?!- |  ).+)\n(?=- )", r"\1\n\n", docstring, flags=re.MULTILINE)


def _joined(paragraph: str) -> str:
    return " ".join(paragraph.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _verbatim(text: str) -> str:
    """Text for an HTML element in a cell, in which nothing is Markdown."""
    return re.sub(r"[^\w\s.,:;'()-]", lambda match: f"&#{ord(match[0])};", text).replace(
        "_", "&#95;"
    )

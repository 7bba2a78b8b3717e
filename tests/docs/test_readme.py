"""The README: its size, its numbers, its links."""

import csv
import decimal
import pathlib
import re
import statistics

import pytest

from ssl_jax import config as config_lib

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOTS = [f"few_shot/{n}" for n in (1, 2, 4, 8)]
BASELINES = {"raw pixels": "raw pixels/", "untrained encoder": "untrained encoder/"}


def test_the_readme_is_short():
    assert len(README.encode()) <= 8192


def recorded(name):
    with (ROOT / "results" / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def runs():
    return recorded("methods_digits.csv")


def shown(values):
    tenth = decimal.Decimal("0.1")
    mean, deviation = (
        str(value.quantize(tenth, decimal.ROUND_HALF_UP))
        for value in (statistics.mean(values), _deviation(values))
    )
    return mean if deviation == "0.0" else f"{mean} ± {deviation}"


def _deviation(values):
    return statistics.stdev(values) if len(values) > 1 else decimal.Decimal(0)


def rows_of(text, heading):
    """Rows of the table below a heading: label -> cells without bold."""
    table = text.partition(heading)[2].partition("\n\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| (.*\d.*) \|$", table, re.MULTILINE)
    return {label: cells.replace("*", "").split(" | ") for label, cells in rows}


def expected(runs, method, columns, prefix="", by="method"):
    own = [run for run in runs if run[by] == method]
    return [
        shown([100 * decimal.Decimal(run[prefix + column]) for run in own]) for column in columns
    ]


def test_the_table_of_the_demo_is_that_of_the_recorded_runs(runs):
    rows = rows_of((ROOT / "docs/getting-started.md").read_text(encoding="utf-8"), "## Train")
    columns = [*SHOTS, "knn/top1", "linear/top1"]
    assert rows == {
        **{label: expected(runs, "simclr", columns, p) for label, p in BASELINES.items()},
        "SimCLR": expected(runs, "simclr", columns),
    }


def test_the_table_of_methods_is_that_of_the_recorded_runs(runs):
    rows = rows_of(README, "## Methods")
    del rows["method"]  # the head
    columns = ["few_shot/1", "few_shot/8", "knn/top1", "linear/top1"]
    assert [rows.pop(label) for label in BASELINES] == [
        expected(runs, "simclr", columns, prefix) for prefix in BASELINES.values()
    ]
    runs = [*runs, *recorded("methods_digits_newer.csv")]
    of_conv_nets = ("dino", "swav", "deepcluster_v2", "nnclr", "lejepa")
    methods = dict.fromkeys(run["method"] for run in recorded("methods_digits.csv"))
    methods |= dict.fromkeys(of_conv_nets)
    title = re.compile(r'^"""(.+?)(?: \(|:)')
    names = {
        title.match(pathlib.Path(config_lib.locate(name)[0]).read_text())[1]: name
        for name in methods
    }
    assert rows == {label: expected(runs, name, columns) for label, name in names.items()}


def test_what_is_said_of_lightly_is_recorded():
    runs = recorded("peers_lightly.csv")
    text = " ".join(README.split())
    quiet = {
        (run["method"], run["side"]): run for run in runs if run["machine"] == "2 cores, quiet"
    }
    methods = list(dict.fromkeys(method for method, _ in quiet))

    def ratios(column, left_out=()):
        return sorted(
            (float(quiet[name, "ours"][column]) / float(quiet[name, "theirs"][column]), name)
            for name in methods if name not in left_out
        )  # fmt: skip

    (least, slowest), *_, (most, fastest) = ratios("images_per_s", left_out=("mae",))
    assert (slowest, fastest) == ("simclr", "dino")
    assert f"{least:.1f} (SimCLR) to {most:.1f} (DINO) times the images a second" in text
    ((of_mae, _),) = ratios("images_per_s", left_out=set(methods) - {"mae"})
    assert f"MAE with a ViT at {of_mae:.1f}" in text
    (least, smallest), *_, (most, largest) = ratios("mib")
    assert (smallest, largest) == ("mae", "dino")
    assert f"{least:.1f} (MAE) to {most:.1f} (DINO) times the memory" in text


def test_accuracies_beside_lightly_are_level_where_it_is_said():
    runs = recorded("peers_lightly.csv")
    apart = {}
    for method, epochs in dict.fromkeys((run["method"], run["epochs"]) for run in runs):
        for column in ("knn/top1", "linear/top1"):
            scores = [
                list({
                    run["seed"]: 100 * float(run[column])
                    for run in runs
                    if (run["method"], run["epochs"], run["side"]) == (method, epochs, side)
                    and run[column]
                }.values())
                for side in ("ours", "theirs")
            ]  # fmt: skip
            assert [len(side) for side in scores] == [3, 3]
            spread = sum(statistics.variance(side) for side in scores) ** 0.5
            difference = statistics.mean(scores[0]) - statistics.mean(scores[1])
            if abs(difference) > spread:
                apart[method, epochs, column] = round(difference, 1)
    assert not apart
    assert "all ten methods are level within the spread of three seeds" in " ".join(README.split())


def documents():
    paths = [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")]
    return [path for path in paths if not path.is_relative_to(ROOT / ".venv")]


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    generated = ("methods/", "reference/", "results", "benchmarks.md", "config-keys.md")
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text):
        if target.startswith("https://"):
            continue
        if path.parent.name == "docs" and target.startswith(generated):
            continue  # `make docs` checks the links within the site
        linked = path.parent / target if target else path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
            assert anchor in anchors | set(re.findall(r'<a id="([\w-]+)"', linked.read_text()))


def test_every_guide_is_linked_and_in_the_site():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert re.search(rf"[ :-] {page.name}$", navigation, re.MULTILINE), page.name
        if page.name not in ("index.md", "gallery.md"):
            assert f"(docs/{page.name})" in README, page.name

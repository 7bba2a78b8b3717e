"""How the page lies in a browser, where there is one: no table is cut off, at any usual width."""

import html
import json
import re
import shutil
import subprocess

import pytest

from ssl_jax import report

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
# The page as wide as each; a frame of 8 pixels less is a window with a scroll bar.
WIDTHS = (360, 390, 600, 768, 850, 870, 1000, 1092, 1100, 1200, 1292, 1300, 1400)
SHOTS = {f"few_shot/{k}{s}": 0.887 for k in (1, 2, 4, 8) for s in ("", "_std")}
SIX = SHOTS | {"knn/top1": 0.964, "linear/top1": 0.992}
RESULTS = {"raw pixels": SIX, "untrained encoder": SIX, "SimCLR": SIX}
# Of each frame: [how far the table reaches out of what is shown, whether the chart is beside it,
# the chart's width].
MEASURE = """
<script>
addEventListener("load", () => {
  const out = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, box = page.querySelector(".scroll");
    const [table, chart] = [box, page.querySelector("#results figure")].map(
      x => x.getBoundingClientRect());
    const root = page.scrollingElement;
    return [Math.max(box.scrollWidth - box.clientWidth, root.scrollWidth - root.clientWidth),
            chart.left >= table.right, chart.width];
  });
  document.body.textContent = JSON.stringify(out);
});
</script>
"""


def measured(page, tmp_path):
    """What `MEASURE` says of the page at each of WIDTHS."""
    page = re.sub(r"<meta http-equiv=.*?>", "", page)  # else a frame may not be looked into
    frames = "".join(
        f'<iframe style="width: {width}px; border: 0" srcdoc="{html.escape(page)}"></iframe>'
        for width in WIDTHS
    )
    path = tmp_path / "frames.html"
    path.write_text(f'<meta charset="utf-8">{MEASURE}<body>{frames}</body>', encoding="utf-8")
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", f"--user-data-dir={tmp_path}/profile", "--dump-dom",
         path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return dict(zip(WIDTHS, json.loads(re.search(r"\[\[.*\]\]", done.stdout)[0]), strict=True))


@pytest.mark.skipif(not BROWSER, reason="needs a browser")
@pytest.mark.parametrize("spacing", ["0", "0.04em"])  # as in a font that is wider
def test_no_column_is_cut_off(spacing, tmp_path):
    page = report.render(report.ReportInputs(config={}, results=RESULTS))
    page = page.replace("</style>", f"body {{ letter-spacing: {spacing}; }}</style>", 1)
    for width, (cut, beside, chart) in measured(page, tmp_path).items():
        assert cut <= 0, f"{cut} pixels of the table are hidden on {width}"
        assert chart >= 300 or width < 600
        if width >= 1092 and spacing == "0":
            assert beside, f"the chart is not beside the table on {width}"
        if width < 900:
            assert not beside


@pytest.mark.skipif(not BROWSER, reason="needs a browser")
def test_many_columns_stand_above_the_chart(tmp_path):
    many = SIX | {
        f"transformations/{name}": 0.5 for name in ("color", "rotation", "noise", "sobel")
    }
    results = dict.fromkeys(RESULTS, many)
    page = report.render(report.ReportInputs(config={}, results=results))
    for width, (cut, beside, _) in measured(page, tmp_path).items():
        assert not beside and (cut <= 0 or width < 1000)

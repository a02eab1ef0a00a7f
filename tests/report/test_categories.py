"""Many categories side by side: means, table, JSON, CSV and the index page."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser

import pytest

from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.report.categories import CategoryResult, means, results_table, write_results

from ..evaluated import rows_of

METRICS = {"image_auroc": 0.9, "pixel_auroc": None, "pixel_ap": math.nan, "n_test": 6, "threshold": 1.5}
ROWS = [
    CategoryResult("bolt", METRICS, {"features": 1.25}, page="bolt/report.html"),
    CategoryResult(
        "n<u>t ü\udcff", METRICS | {"image_auroc": 0.8, "pixel_auroc": 0.5}, page="n<u>t ü\udcff/report.html"
    ),
    CategoryResult("cap", error="cap: <script>no test images</script>"),
    CategoryResult("screw"),
]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "a":
            self.links.append(dict(attrs)["href"] or "")


def test_a_mean_is_of_those_that_have_the_number():
    assert means(ROWS) == {"image_auroc": (pytest.approx(0.85), 2), "pixel_auroc": (0.5, 1)}
    assert means([]) == {}
    assert [row.status for row in ROWS] == ["done", "done", "failed", "pending"]


def test_the_table_says_of_how_many_and_why_one_failed():
    lines = results_table(ROWS).split("\n")
    assert " ".join(lines[0].split()) == (
        "category image AUROC pixel AUROC pixel AP AUPRO IoU-max best F1 images failed because"
    )
    assert lines[2].split()[:2] == ["bolt", "0.900"] and "no test images" in lines[4]
    assert lines[-2].split()[:3] == ["mean", "0.850", "0.500"]
    assert lines[-1] == "Means are not of all 4 categories: image AUROC of 2, pixel AUROC of 1."
    assert "Means are not" not in results_table(ROWS[:1])


def test_regions_have_columns_where_they_are_known(tmp_path):
    counted = {"region_recall": 0.75, "true_regions": 4, "regions_found": 3, "false_regions_per_image": 1.5}
    rows = [
        CategoryResult("bolt", METRICS | counted),
        CategoryResult("nut", METRICS | counted | {"region_recall": 0.25}),
    ]
    lines = results_table(rows).split("\n")
    assert lines[0].endswith("regions found  false regions  images") and "regions" not in results_table(ROWS)
    assert lines[-1].split()[-3:-1] == ["0.500", "1.500"]
    write_results(tmp_path, "parts", rows, PatchCoreConfig().to_dict())
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["categories"][0]["metrics"]["regions_found"] == 3 and found["mean"]["region_recall"]["value"] == 0.5
    table = rows_of(tmp_path / "results.csv")
    assert (table[0]["true_regions"], table[1]["region_recall"], table[2]["false_regions_per_image"]) == (
        "4",
        "0.25",
        "1.5",
    )
    assert "false regions an image</th>" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_files_for_programs(tmp_path):
    write_results(tmp_path, "parts", ROWS, PatchCoreConfig().to_dict())
    found = json.loads((tmp_path / "results.json").read_text())
    assert (found["name"], found["config"]["selection"]["ratio"]) == ("parts", 0.01)
    assert [c["status"] for c in found["categories"]] == ["done", "done", "failed", "pending"]
    assert found["categories"][0]["metrics"]["pixel_ap"] is None
    assert found["mean"]["pixel_auroc"] == {"value": 0.5, "categories": 1}
    rows = rows_of(tmp_path / "results.csv")
    assert [r["category"] for r in rows] == ["bolt", "n<u>t ü\\xff", "cap", "screw", "mean"]
    assert rows[0]["image_auroc"] == "0.9" and rows[0]["features_s"] == "1.25" and rows[1]["features_s"] == ""
    assert rows[2]["error"].startswith("cap: ") and float(rows[4]["image_auroc"]) == pytest.approx(0.85)


def test_the_page_links_to_each_page_and_takes_no_text_for_markup(tmp_path):
    write_results(tmp_path, "<b>parts</b>", ROWS, PatchCoreConfig().to_dict())
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    page = _Links()
    page.feed(text)
    assert page.links == ["bolt/report.html", "n%3Cu%3Et%20%C3%BC%FF/report.html"]
    assert not {"script", "b>", "u"} & set(page.tags)
    assert "&lt;b&gt;parts" in text and "1 failed" in text and "1 still to come" in text
    assert "Means are not of all 4 categories: image AUROC of 2, pixel AUROC of 1." in text
    assert "style=" not in text and "http" not in text.replace("http-equiv", "")


@pytest.mark.parametrize(("rows", "said"), [
    (ROWS[:1], "Means are of all categories."),
    (ROWS[3:], "There is nothing to average yet."),
    ([ROWS[0], ROWS[0], ROWS[2]], "Each mean is of 2 of 3 categories."),
])  # fmt: skip
def test_the_page_says_whose_means_they_are(rows, said, tmp_path):
    write_results(tmp_path, "parts", rows, PatchCoreConfig().to_dict())
    assert said in (tmp_path / "index.html").read_text(encoding="utf-8")

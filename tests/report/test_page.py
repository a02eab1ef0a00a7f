"""The HTML page as text: complete, escaped, from what evaluate wrote, and refused where that is damaged."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchcore_fast.cli import main
from patchcore_fast.cli.parser import PAGE_IMAGES
from patchcore_fast.errors import DataError
from patchcore_fast.report import overlay
from patchcore_fast.report.layers import write_layers
from patchcore_fast.report.page import IMAGES, write_report
from patchcore_fast.report.page.build import choose
from patchcore_fast.report.page.read import FROM_VERSION_1, read_record
from patchcore_fast.report.sheet import Panel

from ..evaluated import TINY, evaluate

EMPTY = {"meta", "link", "input", "img", "br", "line", "rect", "circle", "polyline"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate(tmp_path_factory.mktemp("page"), good=6, bad=6)


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


class Balance(HTMLParser):
    """Elements closed in the order in which they were opened, ids that occur once, and addresses that are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.addresses += [found[name] for name in ("src", "href") if name in found]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY:
            assert self.open.pop() == tag, self.getpos()


def data_of(text: str) -> dict[str, Any]:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_the_page_is_whole_and_asks_for_nothing(out: Path) -> None:
    path = write_report(out)
    text = path.read_text(encoding="utf-8")
    page = Balance()
    page.feed(text)
    assert path == out / "report.html" and page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(a.startswith(("#", "data:")) for a in page.addresses), page.addresses
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)
    outside = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", text)
    assert not re.search(r"https?://|@import|url\(", outside)
    assert "default-src 'none'" in text


def test_it_shows_what_regions_find(out: Path) -> None:
    metrics = json.loads((out / "metrics.json").read_text())["metrics"]
    text = write_report(out).read_text(encoding="utf-8")
    assert f"Regions above the pixel threshold {metrics['pixel_threshold']:.4g}" in text
    assert metrics["true_regions"] == 6 == metrics["regions_found"] and metrics["n_region_images"] == 12
    assert '1.000</td><td class="num">6 of 6</td>' in text
    false, each = metrics["false_regions"], metrics["false_regions_per_image"]
    assert f'{each:.3f}</td><td class="num">{false} on 12</td>' in text and each == false / 12
    older = json.loads((out / "metrics.json").read_text())  # of versions that knew of no regions
    older["metrics"] = {key: value for key, value in metrics.items() if "region" not in key and "pixel_thr" not in key}
    (out / "metrics.json").write_text(json.dumps(older))
    assert "Regions above" not in write_report(out).read_text(encoding="utf-8")


def test_it_shows_what_was_measured(out: Path) -> None:
    text = write_report(out).read_text(encoding="utf-8")
    result = json.loads((out / "metrics.json").read_text())
    facts = json.loads((out / "report.json").read_text())
    for key in ("image_auroc", "pixel_auroc", "pixel_ap", "aupro", "accuracy"):
        low, high = facts["intervals"]["metrics"][key]
        assert f'{result["metrics"][key]:.3f}</td><td class="num">{low:.3f} to {high:.3f}' in text, key
        assert low - 1e-9 <= result["metrics"][key] <= high + 1e-9
    data = data_of(text)
    assert data["threshold"] == result["metrics"]["threshold"] and data["threshold_source"] == "bank"
    assert [(i["path"], i["score"], i["label"]) for i in data["images"]] == [
        (i["path"], i["score"], i["label"]) for i in result["images"]
    ]
    assert all((i["mask"] is None) == (i["label"] == 0) for i in data["images"])
    (spot,) = facts["defect_types"]
    assert (spot["defect_type"], spot["images"], spot["masks"]) == ("spot", 6, 6)
    assert spot["pixel_auroc"] == pytest.approx(result["metrics"]["pixel_auroc"], abs=1e-3), (
        "the only kind is the whole"
    )
    coverage = facts["bank"]["coverage"]
    assert sum(map(sum, coverage["counts"])) == facts["bank"]["rows"] == sum(coverage["per_image"])
    assert text.count('class="some"') == sum(n > 0 for row in coverage["counts"] for n in row)


def test_layers_compose_to_the_overlay(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photo = np.repeat(np.repeat(rng.integers(60, 200, (8, 8, 3), np.uint8), 16, 0), 16, 1)
    y, x = np.mgrid[:128, :128]
    heat = np.exp(-((x - 40) ** 2 + (y - 80) ** 2) / 900).astype(np.float32)
    mask = heat > 0.6
    files = write_layers(tmp_path, "a/b", Panel(photo, heat, 1.0, "b", 1, True, mask), 0.1, 1.0)
    assert files == {"photo": "a/b_photo.jpg", "heat": "a/b_heat.png", "mask": "a/b_mask.png"}
    layer = np.asarray(Image.open(tmp_path / "a/b_heat.png").convert("RGBA"), np.float32)
    cover = layer[..., 3:] / 255
    found = photo * (1 - cover) + layer[..., :3] * cover
    assert np.abs(found - overlay(photo, heat, vmin=0.1, vmax=1.0)).max() <= 8, "64 levels of heat, of 255 greys"
    border = np.asarray(Image.open(tmp_path / "a/b_mask.png").convert("RGBA"))
    assert (border[mask][:, 3] == 36).all() and (border[~mask][:, 3] > 100).sum() > 50
    assert write_layers(tmp_path, "c", Panel(photo, heat, 1.0, "c", 0, False, mask & False), 0.1, 1)["mask"] is None


def test_names_are_text_whatever_they_hold(out: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    for name, change in (("metrics.json", lambda d: [i.update(path=evil, defect_type=evil) for i in d["images"][:2]]),
                         ("report.json", lambda d: (d.update(name=evil), d["defect_types"][0].update(defect_type=evil),
                                                    d["bank"]["images"].__setitem__(0, evil)))):  # fmt: skip
        content = json.loads((out / name).read_text())
        change(content)
        (out / name).write_text(json.dumps(content))
    text = write_report(out).read_text(encoding="utf-8")
    assert "<script>alert" not in text and "<img" not in text
    assert data_of(text)["images"][0]["path"] == evil
    page = Balance()
    page.feed(text)
    assert page.open == []


def test_few_images_are_the_wrong_ones_first(out: Path) -> None:
    record = read_record(out)
    for i, score in enumerate([1.0, 2.0, 9.0, 3.0, 1.5, 1.0, 8.0, 9.0, 2.5, 9.0, 9.0, 9.0]):
        record.images[i]["score"] = score
    assert [i["label"] for i in record.images] == [0] * 6 + [1] * 6
    assert choose(record, 4.0, 3) == [2, 3, 8], "two wrong verdicts and the nearest to the threshold"
    assert choose(record, 4.0, 99) == list(range(12))
    text = write_report(out, images=2).read_text(encoding="utf-8")
    data = data_of(text)
    assert len(data["images"]) == 2 and len(data["scores"]) == 12
    assert "2 of 12 images are here" in text


def test_without_normal_images_or_threshold(tmp_path: Path) -> None:
    half = evaluate(tmp_path, good=0, train=1)
    text = write_report(half).read_text(encoding="utf-8")
    assert "Only one class of test images" in text and "Curves need normal" not in text, "pixels have both classes"
    assert data_of(text)["threshold_source"] == "none"


def test_the_command(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert PAGE_IMAGES == IMAGES
    assert main(["report", str(out), "--output", str(tmp_path / "page.html"), "--images", "3"]) == 0
    assert str(tmp_path / "page.html") in capsys.readouterr().out
    assert len(data_of((tmp_path / "page.html").read_text())["images"]) == 3
    assert main(["report", str(out), "--images", "0"]) == 2
    assert "--images must be at least 1, got 0" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert not (out / "report.html").exists()


def test_a_bank_that_was_loaded(out: Path, whole: Path, tmp_path: Path) -> None:
    data, bank = whole.parent / "weave", tmp_path / "b.safetensors"
    assert main(["fit", str(data), "--output", str(bank), *TINY]) == 0
    assert main(["evaluate", str(data), "--bank", str(bank), "--output", str(tmp_path / "o")]) == 0
    mine, theirs = (json.loads((f / "report.json").read_text()) for f in (tmp_path / "o", out))
    assert mine["intervals"] == theirs["intervals"] and mine["defect_types"] == theirs["defect_types"]
    assert mine["bank"] == theirs["bank"]
    assert set(mine["seconds"]) == {"predict", "metrics"}, "fitting was another day"


def damaged(out: Path, name: str, change: Any) -> None:
    content = json.loads((out / name).read_text())
    change(content)
    (out / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda o: (o / "report.json").unlink(), r"report\.json: missing; give the folder"),
        (lambda o: (o / "metrics.json").write_text("{"), r"metrics\.json: damaged, no JSON"),
        (lambda o: (o / "metrics.json").write_text("[]"), "a JSON object is wanted, got a list"),
        (lambda o: damaged(o, "report.json", lambda d: d.update(format="x")), "not written by patchcore-fast evaluate"),
        (lambda o: damaged(o, "report.json", lambda d: d.update(format_version=9)), "format version 9"),
        (lambda o: damaged(o, "report.json", lambda d: d.pop("defect_types")), "'defect_types' is missing"),
        (lambda o: damaged(o, "report.json", lambda d: d["layers"].pop()), "12 images but 11 sets of layers"),
        (lambda o: damaged(o, "report.json", lambda d: d["layers"][0].update(photo="../weave/x")), "lies outside"),
        (lambda o: damaged(o, "metrics.json", lambda d: d["images"][0].update(score=None)), r"\[0\]\.score must be"),
        (lambda o: shutil.rmtree(o / "layers"), "missing; evaluate writes it"),
    ],
)  # fmt: skip
def test_damaged_folders_are_refused(out: Path, spoil: Any, words: str) -> None:
    spoil(out)
    with pytest.raises(DataError, match=words):
        write_report(out)
    assert not (out / "report.html").exists()


def test_a_folder_of_the_version_before(out: Path) -> None:
    now = write_report(out).read_text(encoding="utf-8")
    for old, new in {**FROM_VERSION_1, "defects": "defect_types"}.items():
        for name in ("metrics.json", "report.json"):
            (out / name).write_text((out / name).read_text().replace(f'"{new}"', f'"{old}"'))
    damaged(out, "report.json", lambda d: d.update(format_version=1))
    assert '"predicted"' in (out / "metrics.json").read_text() and write_report(out).read_text("utf-8") == now


@pytest.mark.parametrize("images", [0, -1, 2.0, True])
def test_bad_counts(out: Path, images: Any) -> None:
    with pytest.raises(ValueError, match="images must be a positive integer"):
        write_report(out, images=images)


def test_the_heading_names_what_is_not_the_default(out: Path) -> None:
    file = out / "metrics.json"
    plain = write_report(out).read_text()
    assert "scored by" not in plain and "training images of all" not in plain
    told = json.loads(file.read_text())
    told["config"] |= {"scorer": "noising", "shots": 4}  # as before there were groups
    file.write_text(json.dumps(told))
    assert "; scored by noising; 4 training images of all" in write_report(out).read_text()

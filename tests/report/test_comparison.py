"""Methods compared: which lead, what is drawn, and a page that is text whatever sets and methods are called."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from PIL import Image

from patchcore_fast.report.comparison import COLUMNS, Line, Value, best, plot_costs, plot_sets, shown
from patchcore_fast.report.page.build import policy_digest
from patchcore_fast.report.page.comparison import MEANINGS, write_comparison

from . import test_browser
from .test_browser import DESKTOP, PHONE, browser, every, one

NASTY = "</script><img src=x onerror=alert(1)>$title"


def line(name: str | None, method: str, auroc: float, train: float, count: int = 3, **more: Value) -> Line:
    values = {"image_auroc": Value(auroc, 0.01, count), "train_s": Value(train, None, count),
              "image_ms": Value(20 * train, 1.0, count)}  # fmt: skip
    return Line(name, method, values | more)


LINES = [
    line("bolt", "patchcore", 0.98, 10.0, aupro=Value(0.8, 0.02, 3)), line("bolt", "rd", 0.99, 900.0, 2),
    line("bolt", "elfs", 0.98004, 12.0), Line("bolt", NASTY, {}, ["no <b>loss</b>"]),
    line(None, "patchcore", 0.97, 11.0), line(None, "rd", 0.9, 800.0), line(None, "elfs", 0.96, 13.0),
    Line(None, NASTY, {}),
]  # fmt: skip


def test_who_leads() -> None:
    led = best(LINES[:4])
    assert led["image_auroc"] == {"patchcore", "elfs"}  # equal as shown; rd has fewer seeds
    assert led["train_s"] == led["image_ms"] == {"patchcore"}  # less is better
    assert "aupro" not in led  # one alone has no rival
    assert best(LINES[4:])["image_auroc"] == {"patchcore"}


def test_values_as_text() -> None:
    assert shown("aupro", Value(0.98765, 0.0123, 3)) == "0.988 ± 0.012"
    assert shown("peak_mib", Value(1234.5, None, 1)) == "1,234" and shown("aupro", None) == ""
    assert set(MEANINGS) == set(COLUMNS)


def test_pictures(tmp_path: Path) -> None:
    plot_costs(LINES[4:], tmp_path / "costs.png", title="two $ets")
    plot_sets(LINES, tmp_path / "sets.png")
    for name in ("costs", "sets"):
        picture = Image.open(tmp_path / f"{name}.png").convert("RGB")
        assert min(picture.size) > 400 and len(picture.getcolors(1 << 20)) > 50
    with pytest.raises(ValueError, match="no method of 1 has image_auroc"):
        plot_costs([LINES[3]], tmp_path / "none.png")
    with pytest.raises(ValueError, match="no line has any"):
        plot_sets([LINES[3]], tmp_path / "none.png")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    Image.new("RGB", (40, 20), "white").save(folder / "a.png")
    settings = {"patchcore": {"features": {"backbone": "x<y"}}, NASTY: {}}
    pictures = {"Accuracy <and> cost": folder / "a.png", "not there": folder / "b.png"}
    write_comparison(folder / "index.html", f"sets {NASTY}", "4 methods & 1 set", LINES, [f"of {NASTY}"], settings,
                     pictures)  # fmt: skip
    return folder / "index.html"


def test_names_are_text(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert (
        "<img src=x" not in text and "<b>loss" not in text and " style=" not in text and "onerror=alert(1)&gt;" in text
    )
    assert text.count("<script") == text.count("</script") == 1 and text.count("<style") == 1
    addresses = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert addresses and all(a.startswith(("data:", "#")) for a in addresses)
    script, style = (re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1] for tag in ("script", "style"))  # type: ignore[index]
    assert policy_digest(script) in text and policy_digest(style) in text and "default-src 'none'" in text
    data = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert [base64.b64decode(d) for d in data] == [(page.parent / "a.png").read_bytes()] and "not there" not in text


def test_tables_say_all(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    tables = re.findall(r"<table class=\"compared.*?</table>", text, re.DOTALL)
    assert len(tables) == 2 and text.index("Mean over sets") < text.index(">bolt<")
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", tables[1])
    cells = dict(rows)
    assert "0.980<small>± 0.010</small>" in cells["patchcore"] and cells["patchcore"].count("best: ") == 3
    assert "best: " not in cells["rd"] and 'data-value="900"' in cells["rd"] and "n/a" in cells["rd"]
    assert "no &lt;b&gt;loss" in cells["&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;$title"]
    assert "x&lt;y" in text and "Not in the numbers" in text


@pytest.mark.thorough
@pytest.mark.skipif(
    not test_browser.CHROMIUM or not test_browser.DRIVER, reason="no Chromium with chromedriver on PATH"
)
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_fits_and_sorts(page: Path, size: tuple[int, int]) -> None:
    web = browser(size)
    try:
        web.get(page.as_uri())
        wide, inside = web.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide <= inside, "nothing sticks out to the right"
        table = every(web, "table.sortable")[1]

        def order() -> list[str]:
            return [row.text for row in table.find_elements("css selector", "tbody th")]

        def press(column: int) -> None:
            head = table.find_elements("css selector", "thead th button")[column]
            web.execute_script("arguments[0].click()", head)

        press(1)  # of metrics the most first, of costs the least; what has no number is last
        assert order()[:3] in (["rd", "elfs", "patchcore"], ["rd", "patchcore", "elfs"]) and order()[3] == NASTY
        press(3)
        assert order() == ["patchcore", "elfs", "rd", NASTY]
        press(3)
        assert order() == ["rd", "elfs", "patchcore", NASTY]
        press(0)
        assert order()[1:] == ["elfs", "patchcore", "rd"]
        assert one(web, "h1").text.startswith("sets ")
        assert [entry for entry in web.get_log("browser") if entry["level"] != "DEBUG"] == []
    finally:
        web.quit()

"""The report in a real browser, headless Chromium: no console errors; gallery, threshold and keys work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from patchcore_fast.report.page import write_report

from ..evaluated import evaluate

selenium = pytest.importorskip("selenium", reason="selenium is not installed (extra test)")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="no Chromium with chromedriver on PATH")

DESKTOP, PHONE = (1280, 900), (390, 844)
# For what the width of the page cannot change.
of_any_width = pytest.mark.parametrize(
    "driver", [DESKTOP, pytest.param(PHONE, marks=pytest.mark.thorough)], ids=["desktop", "phone"], indirect=True
)


def browser(size: tuple[int, int], script: bool = True) -> Any:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1280,900"):
        options.add_argument(f"--{argument}")
    if size == PHONE:
        metrics = {"width": size[0], "height": size[1], "pixelRatio": 2.0, "touch": True}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    if not script:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(str(DRIVER)))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = evaluate(tmp_path_factory.mktemp("browser"), good=4, bad=5)
    # Two defect types and a missed one, which a trained eye and this data set would not give by themselves.
    metrics, report = (json.loads((out / name).read_text()) for name in ("metrics.json", "report.json"))
    for image in metrics["images"][-2:]:
        image["defect_type"] = "scratch"
    metrics["images"][-1]["score"] = metrics["metrics"]["threshold"] - 0.1
    row = report["defect_types"][0]
    scratch = {"defect_type": "scratch", "images": 2, "true_positives": 1, "aupro": 0.1}
    report["defect_types"] = [row | {"images": 3, "true_positives": 3}, row | scratch]
    (out / "metrics.json").write_text(json.dumps(metrics))
    (out / "report.json").write_text(json.dumps(report))
    return write_report(out)


@pytest.fixture(scope="module", params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def driver(request: pytest.FixtureRequest) -> Iterator[Any]:
    found = browser(request.param)
    yield found
    found.quit()


@pytest.fixture
def web(driver: Any, page: Path) -> Iterator[Any]:
    driver.get(page.as_uri())
    yield driver
    assert [line for line in driver.get_log("browser") if line["level"] != "DEBUG"] == [], "console"


def every(web: Any, css: str) -> list[Any]:
    return web.find_elements("css selector", css)


def one(web: Any, css: str) -> Any:
    return web.find_element("css selector", css)


def cards(web: Any) -> list[tuple[str, float, str]]:
    """(name, score, verdict) of the cards that are shown, in their order."""
    labels = web.execute_script(
        "return [...document.querySelectorAll('#cards li:not([hidden]) button')].map(b => b.getAttribute('aria-label'))"
    )
    parts = [label.rsplit(", ", 2) for label in labels]
    return [(name, float(score.removeprefix("score ")), verdict) for name, score, verdict in parts]


def choose(web: Any, css: str, text: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(one(web, css)).select_by_visible_text(text)


def press(web: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(web).send_keys(*keys).perform()


def focused(web: Any) -> str:
    return web.execute_script("return document.activeElement.getAttribute('aria-label') || document.activeElement.id")


def test_it_fits_and_asks_for_nothing(web: Any) -> None:
    wide, inside = web.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= inside, "nothing sticks out to the right"
    asked = [json.loads(line["message"])["message"] for line in web.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
    assert urls and all(url.startswith(("file:", "data:")) for url in urls)
    broken = web.execute_script("return [...document.images].filter(i => i.complete && !i.naturalWidth).length")
    assert broken == 0 and len(every(web, "#cards img.photo")) == 9
    small = web.execute_script(
        "return [...document.querySelectorAll('button, select, input')].filter(e => e.offsetParent"
        " && e.type != 'checkbox' && !e.closest('th') && e.getBoundingClientRect().height < 30)"
        ".map(e => e.outerHTML.slice(0, 60))"
    )
    assert small == [], "large enough for a finger"


@of_any_width
def test_every_control_has_a_name(web: Any) -> None:
    assert every(web, "h1") and one(web, "html").get_attribute("lang") == "en"
    kinds = "button, select, input, svg[role=img]"
    for element in every(web, f":is({kinds}):not(dialog *)"):
        assert element.accessible_name, element.get_attribute("outerHTML")[:100]
    every(web, "#cards button")[0].click()
    inside = every(web, f"dialog :is({kinds})")
    assert len(inside) == 5 and all(element.accessible_name for element in inside)
    assert one(web, "#viewer").accessible_name.endswith(".png")


@of_any_width
def test_sorting_and_filtering(web: Any) -> None:
    found = cards(web)
    assert len(found) == 9 and [s for _, s, _ in found] == sorted((s for _, s, _ in found), reverse=True)
    choose(web, "#sort", "lowest score first")
    assert [s for _, s, _ in cards(web)] == sorted(s for _, s, _ in found)
    choose(web, "#sort", "name")
    assert [n for n, _, _ in cards(web)] == sorted(n for n, _, _ in found)
    choose(web, "#sort", "wrong verdicts first")
    assert cards(web)[0][2] in ("missed", "false alarm")
    choose(web, "#type", "scratch")
    assert sorted(n for n, _, _ in cards(web)) == ["spot/003", "spot/004"]
    choose(web, "#verdict", "missed")
    assert [n for n, _, _ in cards(web)] == ["spot/004"]
    assert one(web, "#count").text == "1 of 9 images."
    choose(web, "#verdict", "normal")
    assert [(n, v) for n, _, v in cards(web)] == [("spot/004", "missed")], "called normal, which is wrong"
    choose(web, "#type", "all")
    choose(web, "#verdict", "all")
    one(web, "#text").send_keys("GOOD/")
    assert {n.split("/")[0] for n, _, _ in cards(web)} == {"good"} and len(cards(web)) == 4
    one(web, "#text").send_keys("nothing like this")
    assert cards(web) == [] and one(web, "#count").text == "0 of 9 images."


@of_any_width
def test_the_slider_fades_the_heat_and_the_box_hides_the_mask(web: Any) -> None:
    def seen() -> tuple[float, str]:
        return web.execute_script(
            "return [Number(getComputedStyle(document.querySelector('#cards .heat')).opacity),"
            " getComputedStyle(document.querySelector('#cards .mask')).visibility]"
        )

    from selenium.webdriver.common.keys import Keys

    assert seen() == [0.7, "visible"]
    slider, box = one(web, ".controls .opacity"), one(web, ".controls .show-mask")
    slider.send_keys(Keys.HOME)
    box.click()
    assert seen() == [0, "hidden"]
    slider.send_keys(Keys.END)
    box.click()
    assert seen() == [1, "visible"]
    assert {s.get_attribute("value") for s in every(web, ".opacity")} == {"100"}, "gallery and viewer agree"


def test_the_gallery_by_keyboard(web: Any) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    names = [n for n, _, _ in cards(web)]
    assert len(every(web, "#cards button[tabindex='0']")) == 1, "one stop for the tab key"
    web.execute_script("document.querySelector(\"#cards button[tabindex='0']\").focus()")
    at = 0
    wide = web.execute_script("const t = [...document.querySelectorAll('#cards li')].map(x => x.offsetTop);"
                              "return t.filter(x => x === t[0]).length")  # fmt: skip
    steps = ((Keys.ARROW_RIGHT, 1), (Keys.ARROW_DOWN, 1 + wide), (Keys.ARROW_LEFT, wide), (Keys.ARROW_UP, 0),
             (Keys.END, 8), (Keys.ARROW_RIGHT, 8), (Keys.HOME, 0))  # fmt: skip
    for key, at in steps:
        press(web, key)
        assert focused(web).startswith(names[at] + ","), (key, at)
    press(web, Keys.ENTER)
    assert one(web, "#viewer").get_attribute("open") is not None
    assert names[at] in one(web, "#v-name").text and not one(web, "#v-before").is_enabled()
    press(web, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert names[2] in one(web, "#v-name").text and "3 of 9" in one(web, "#v-text").text
    press(web, "m")
    assert one(web, "#v-stage .mask").value_of_css_property("visibility") == "hidden"
    press(web, Keys.ARROW_LEFT, Keys.ESCAPE)
    assert one(web, "#viewer").get_attribute("open") is None
    WebDriverWait(web, 20).until(lambda _: focused(web).startswith(names[1] + ","), "back where one was")


def test_the_viewer_lays_the_layers_over_each_other(web: Any) -> None:
    every(web, "#cards button")[0].click()
    boxes = web.execute_script(
        "return [...document.querySelectorAll('#v-stage img')].map(i => {const r = i.getBoundingClientRect();"
        "return [i.className, r.x, r.y, r.width, r.height, i.naturalWidth / i.naturalHeight]})"
    )
    assert [b[0] for b in boxes] == ["photo", "heat", "mask"]
    assert all(b[1:] == boxes[0][1:] for b in boxes), "one place, one aspect"
    assert one(web, "#v-stage img").get_attribute("alt")
    bottom, inside = web.execute_script(
        "return [document.getElementById('viewer').getBoundingClientRect().bottom, innerHeight]"
    )
    assert bottom <= inside
    one(web, "#v-after").click()
    assert "2 of 9" in one(web, "#v-text").text
    one(web, "#v-close").click()
    assert one(web, "#viewer").get_attribute("open") is None


@of_any_width
def test_the_threshold_moves_counts_line_and_verdicts(web: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    def counts() -> list[int]:
        return [int(one(web, f"#n-{name}").text) for name in ("tp", "fn", "fp", "tn")]

    start, line = counts(), float(one(web, "#threshold-line").get_attribute("x1"))
    assert start[0] + start[1] == 5 and start[2] + start[3] == 4 and start[1] == 1
    slider = one(web, "#threshold")
    slider.send_keys(Keys.END)
    assert counts() == [0, 5, 0, 4] and {v for _, _, v in cards(web)} == {"missed", "normal"}
    assert float(one(web, "#threshold-line").get_attribute("x1")) > line
    slider.send_keys(Keys.HOME)
    assert counts()[1] == counts()[3] == 0, "all lie above"
    slider.send_keys(Keys.ARROW_RIGHT)
    one(web, "#threshold-reset").click()
    assert counts() == start
    assert float(one(web, "#threshold-line").get_attribute("x1")) == pytest.approx(line, abs=0.1)


@of_any_width
def test_the_table_of_defect_types_sorts(web: Any) -> None:
    def first() -> list[str]:
        return [row.text for row in every(web, "table.sortable tbody th")]

    heads = every(web, "table.sortable thead th")
    for column, downward in ((1, ["spot", "scratch"]), (7, ["spot", "scratch"])):
        web.execute_script("arguments[0].click()", heads[column].find_element("tag name", "button"))
        assert heads[column].get_attribute("aria-sort") == "descending" and first() == downward
        web.execute_script("arguments[0].click()", heads[column].find_element("tag name", "button"))
        assert heads[column].get_attribute("aria-sort") == "ascending" and first() == downward[::-1]


def test_without_scripts_the_tables_are_there(page: Path) -> None:
    web = browser(DESKTOP, script=False)
    try:
        web.get(page.as_uri())
        assert "need JavaScript" in one(web, "main").text
        assert len(every(web, ".metrics tbody tr")) == 9 and not one(web, ".controls").is_displayed()
    finally:
        web.quit()

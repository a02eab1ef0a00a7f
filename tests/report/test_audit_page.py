"""The page of an audit in headless Chromium: keys, clicks, counter, the saved list; and its text against attacks."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchcore_fast.data.exclude import read_list
from patchcore_fast.report.images import OUTLINE
from patchcore_fast.report.page.audit import CROP, LIST, SMALL, Card, Shown, measured, write_audit

from . import test_browser
from .test_browser import DESKTOP, PHONE, browser, every, one, press

NAMES = ["train/good/a.png", "train/good/<b onclick='x'>&\".png",
         "train/good/</script><img src=x onerror=alert(1)>.png",
         "train/good/$title.png", "train/good/e\n.png"]  # fmt: skip
SIDE, GRID = 96, (8, 8)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(90, 130, (3, SIDE, SIDE)).astype(np.float32) / 255


def shown(number: int, place: tuple[int, int] = (2, 5)) -> Shown:
    return Shown(NAMES[number], picture(number), GRID, place)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    heat = np.zeros(GRID, np.float32)
    heat[2, 5] = 9
    cards = [Card(shown(i), heat, "suspicion 0.9 <i>", [(shown((i + 1) % 5, (0, 7)), 3.25), (shown((i + 2) % 5), 4.0)])
             for i in range(5)]  # fmt: skip
    path = tmp_path_factory.mktemp("audit") / "audit.html"
    entries = [name.replace("\n", "\\n") for name in NAMES]
    write_audit(path, "<i>set</i>", "5 of 60 & more", cards, entries, (0.0, 9.0))
    return path


def test_names_are_text(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"<(b|i)[ >]", text) and "<img src=x" not in text
    assert text.count("<script") == text.count("</script") == 2 and text.count("<style") == 1 and " style=" not in text
    assert "&lt;i&gt;set&lt;/i&gt;" in text and "$title.png" in text and "e\\n.png" in text
    assert measured() in text.replace("&amp;", "&")
    addresses = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert addresses and all(a.startswith(("data:", "#")) for a in addresses)


def test_pictures_show_the_place_and_its_surroundings(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    uris = re.findall(r'<img (?:class="(\w+)" )?src="data:image/\w+;base64,([^"]+)"', text)

    def opened(data: str) -> Image.Image:
        return Image.open(io.BytesIO(base64.b64decode(data)))

    photo = next(opened(data) for kind, data in uris if kind == "photo")
    cyan = np.abs(np.asarray(photo.convert("RGB")).astype(int) - OUTLINE).max(-1) < 60
    rows, columns = np.nonzero(cyan)
    assert abs(rows.mean() - 2.5 * 12) < 12 and abs(columns.mean() - 5.5 * 12) < 12, "the frame is around the place"
    heat = np.asarray(next(opened(data) for kind, data in uris if kind == "heat").convert("RGBA"))[..., 3]
    at = np.unravel_index(int(heat.argmax()), heat.shape)
    assert abs(at[0] / heat.shape[0] - 2.5 / 8) < 0.1 and abs(at[1] / heat.shape[1] - 5.5 / 8) < 0.1
    assert {opened(data).size for kind, data in uris if kind == "crop"} == {(60, 60)}, "5 of 8 cells"
    assert max(opened(data).width for kind, data in uris if not kind) == SIDE < SMALL and CROP > 60


@pytest.fixture(scope="module", params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def driver(request: pytest.FixtureRequest) -> Iterator[Any]:
    if test_browser.pytestmark.args[0]:
        pytest.skip(test_browser.pytestmark.kwargs["reason"])
    found = browser(request.param)
    yield found
    found.quit()


@pytest.fixture
def web(driver: Any, page: Path) -> Iterator[Any]:
    driver.get(page.as_uri())
    yield driver
    assert [line for line in driver.get_log("browser") if line["level"] != "DEBUG"] == [], "console"


def counter(web: Any) -> str:
    return str(one(web, "#count").text)


def listed(web: Any) -> list[str]:
    return [x for x in one(web, "#text").get_attribute("value").splitlines() if not x.startswith("#")]


def test_it_fits_and_every_control_has_a_name(web: Any) -> None:
    wide, inside = web.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= inside
    broken = web.execute_script("return [...document.images].filter(i => i.complete && !i.naturalWidth).length")
    assert broken == 0 and len(every(web, ".suspect img")) == 5 * (2 + 1 + 4)
    controls = every(web, "button, input, textarea, .suspect")
    assert len(controls) == 5 * 3 + 5 and all(element.accessible_name for element in controls)
    assert len({b.accessible_name for b in every(web, ".choice button")}) == 10
    small = web.execute_script("return [...document.querySelectorAll('.choice button')]"
                               ".filter(b => b.getBoundingClientRect().height < 44).length")  # fmt: skip
    assert small == 0, "large enough for a finger"


def test_keys_decide_and_go_on(web: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    assert counter(web) == "0 of 5 decided, 0 to drop"
    press(web, "d")
    assert counter(web) == "1 of 5 decided, 1 to drop" and listed(web) == [NAMES[0]]
    assert web.execute_script("return document.activeElement.id") == "s2"
    style = web.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert style == "solid", "the focus is seen"
    press(web, "k", Keys.ARROW_LEFT, Keys.ARROW_RIGHT, "D")
    assert (
        counter(web) == "5 of 5 decided, 3 to drop" and web.execute_script("return document.activeElement.id") == "s5"
    )
    assert listed(web) == [NAMES[0], NAMES[2], "train/good/e\\n.png"]
    press(web, "k")
    assert counter(web) == "5 of 5 decided, 2 to drop", "the last one, changed"
    one(web, "#opacity").send_keys(Keys.ARROW_LEFT)
    assert counter(web) == "5 of 5 decided, 2 to drop", "keys of the slider are its own"


def test_clicks_decide_and_take_back(web: Any) -> None:
    drop, keep = (every(web, f"#s3 .to-{what}")[0] for what in ("drop", "keep"))
    web.execute_script("arguments[0].scrollIntoView({block: 'center'})", drop)
    drop.click()
    assert drop.get_attribute("aria-pressed") == "true" and listed(web) == [NAMES[2]]
    keep.click()
    assert (drop.get_attribute("aria-pressed"), keep.get_attribute("aria-pressed")) == ("false", "true")
    assert counter(web) == "1 of 5 decided, 0 to drop" and listed(web) == []
    keep.click()
    assert counter(web) == "0 of 5 decided, 0 to drop"
    drop.click()
    press(web, "k")
    assert counter(web) == "1 of 5 decided, 0 to drop", "a key is for the image that was clicked"


def test_the_list_is_saved_as_fit_reads_it(web: Any, tmp_path: Path) -> None:
    web.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    press(web, "d", "d", "k", "d")
    every(web, ".save")[0].click()
    until = time.monotonic() + 20
    while not (tmp_path / LIST).exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert read_list(tmp_path / LIST) == [NAMES[0], NAMES[1], NAMES[3]]
    assert (tmp_path / LIST).read_text(encoding="utf-8").startswith("# Training images of <i>set</i>")


def test_the_list_can_be_copied(web: Any) -> None:
    press(web, "d")
    copy = one(web, "#copy")
    web.execute_script("arguments[0].scrollIntoView({block: 'center'})", copy)
    copy.click()
    until = time.monotonic() + 5
    while not one(web, "#copied").text and time.monotonic() < until:
        time.sleep(0.05)
    assert one(web, "#copied").text in ("Copied.", "Selected: copy it with the keyboard.")
    assert web.execute_script("return String(getSelection()) || document.activeElement.value").startswith("# Training")


def test_it_asks_the_network_for_nothing(web: Any) -> None:
    asked = [json.loads(line["message"])["message"] for line in web.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
    assert all(url.startswith(("file:", "data:", "blob:")) for url in urls)


def test_without_scripts_the_images_are_there(page: Path) -> None:
    if test_browser.pytestmark.args[0]:
        pytest.skip(test_browser.pytestmark.kwargs["reason"])
    web = browser(DESKTOP, script=False)
    try:
        web.get(page.as_uri())
        assert "edit suspects.txt" in one(web, "header").text and len(every(web, ".suspect .photo")) == 5
        assert not one(web, ".choice").is_displayed()
    finally:
        web.quit()

"""The page: what it answers, what it refuses, and how it looks and works in headless Chromium."""

from __future__ import annotations

import http.client
import io
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchcore_fast.errors import DataError
from patchcore_fast.watch.journal import Entry
from patchcore_fast.watch.recent import CARDS, SCORES, Card, Recent
from patchcore_fast.watch.server import SIDE, Page, is_local

from ..pictures import texture
from ..report import test_browser
from ..report.test_browser import DESKTOP, PHONE, browser, choose, every, one

NASTY = "</script><img src=x onerror=alert(1)>\n.png"
COUNT = 260


def entry(index: int, score: float | None, name: str | None = None) -> Entry:
    error = "photos/broken.png: cannot be read as an image (of no format that is known)" if score is None else None
    return Entry(index, name or f"line 3/{index:04d}.png", 1, 1, 1.7e9 + index, score, score and score > 1.3, 1.3, "",
                 error, {})  # fmt: skip


def filled(root: Path, shift: float = 0.0) -> tuple[Recent, list[Path]]:
    """COUNT images, the last of them with pictures; scores drift by `shift` in the last 200."""
    rng = np.random.default_rng(0)
    recent = Recent(rng.normal(1.0, 0.08, 80).tolist(), 1.3)
    recent.scale = (0.0, 1.0)
    files = [root / "0.png", root / "1.png"]
    for i, path in enumerate(files):
        Image.fromarray(texture(rng, 64 if i else 600)).save(path)
    for index in range(1, COUNT + 1):
        score = float(rng.normal(1.0 + shift * (index > COUNT - 200), 0.08))
        score = score + 0.6 if index % 9 == 0 else score
        y, x = np.mgrid[:48, :48]
        heat = np.exp(-((y - 30) ** 2 + (x - 12) ** 2) / 40).astype(np.float32) * (score > 1.3)
        broken = index == COUNT - 5
        recent.add(Card(entry(index, None if broken else score, NASTY if index == COUNT - 1 else None),
                        None if broken else heat), latency=0.02 + 0.001 * index)  # fmt: skip
    return recent, files


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    recent, files = filled(tmp_path_factory.mktemp("page"))
    with closing(Page(recent, "bottles & <caps>", lambda e: files[e.index % 2])) as page:
        yield page


def ask(page: Page, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", int(page.url.rsplit(":", 1)[1].rstrip("/")), timeout=20)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_state(served: Page) -> None:
    code, headers, body = ask(served, "/state?x=1")
    state = json.loads(body)
    assert code == 200 and headers["Content-Type"] == "application/json" and headers["Cache-Control"] == "no-store"
    assert state["counts"] == {"normal": 231, "anomalous": 28, "unreadable": 1, "images": COUNT}
    assert [image["index"] for image in state["images"]] == [*range(COUNT, COUNT - CARDS, -1)]
    assert state["images"][1]["name"] == NASTY.replace("\n", "\\n") and state["images"][5]["verdict"] == "unreadable"
    assert state["latency"]["p50"] == pytest.approx(0.02 + 0.001 * (COUNT + 1) / 2)
    assert state["chart"].count("<circle") == COUNT - 1 and "<img" not in state["chart"] and state["drift"]


def test_pictures(served: Page) -> None:
    for index in (COUNT, COUNT - 1):
        code, headers, body = ask(served, f"/photo/{index}")
        with Image.open(io.BytesIO(body)) as photo:
            assert (code, headers["Content-Type"], photo.format) == (200, "image/jpeg", "JPEG")
            assert max(photo.size) == (SIDE if index % 2 == 0 else 64)
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    code, headers, body = ask(served, f"/heat/{COUNT // 9 * 9}")
    with Image.open(io.BytesIO(body)) as heat:
        alpha = np.asarray(heat.convert("RGBA"))[..., 3]
    row, column = np.unravel_index(int(alpha.argmax()), alpha.shape)
    assert code == 200 and abs(row / len(alpha) - 30 / 48) < 0.06 and abs(column / alpha.shape[1] - 12 / 48) < 0.06
    code, headers, body = ask(served, f"/photo/{COUNT}", method="HEAD")
    assert code == 200 and body == b"" and int(headers["Content-Length"]) > 1000


@pytest.mark.parametrize("path", ["/photo/1", f"/heat/{COUNT - 5}", "/photo/999999999999999", f"/photo/{COUNT + 1}"])
def test_a_picture_that_is_not_there_is_no_error(served: Page, path: str) -> None:
    assert ask(served, path)[0::2] == (204, b"")


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/photo/../../etc/passwd", "/photo/%2e%2e%2fetc%2fpasswd", "//etc/passwd", "/photo/1/",
     "/photo/-1", "/photo/1e3", "/photo/0", "/photo/" + "9" * 40, "/heat/x", "/scores.csv", "/journal.jsonl", "/state/",
     "http://127.0.0.1/state", "*"],
)  # fmt: skip
def test_nothing_else_is_answered(served: Page, path: str) -> None:
    code, headers, body = ask(served, path)
    assert (code, body) == (404, b"Not here.\n") and headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_sent(served: Page, method: str) -> None:
    assert ask(served, "/state", method=method)[0] == 501


@pytest.mark.parametrize(
    ("host", "answered"),
    [("127.0.0.1:8765", True), ("localhost", True), ("LOCALHOST:1", True), ("[::1]:8765", True), ("192.168.3.4", True),
     (socket.gethostname(), True), ("evil.example", False), ("127.0.0.1.evil.example:8765", False), ("", False),
     ("localhost.evil.example", False), ("127.0.0.1:8765@evil.example", False)],
)  # fmt: skip
def test_a_name_of_elsewhere_is_refused(served: Page, host: str, answered: bool) -> None:
    assert is_local(host) is answered
    for path in ("/", "/state", f"/photo/{COUNT}"):
        assert ask(served, path, Host=host)[0] == (200 if answered else 403)


def test_the_name_that_it_listens_at_is_answered() -> None:
    assert is_local("Line.example:8765", "line.EXAMPLE") and not is_local("", "") and not is_local(":8765", "")
    with closing(Page(Recent([], None), "line", lambda e: Path(), "127.1")) as page:
        assert page.url.startswith("http://127.1:")
        assert ask(page, "/state", Host=page.url.split("/")[2])[0] == 200
        assert ask(page, "/state", Host="evil.example")[0] == 403


def test_the_page_holds_no_markup_of_others(served: Page) -> None:
    code, headers, body = ask(served, "/")
    text = body.decode()
    assert code == 200 and "bottles &amp; &lt;caps&gt;" in text and "<caps>" not in text
    policy = headers["Content-Security-Policy"]
    assert "unsafe" not in policy and policy.count("'sha256-") == 2 and "connect-src 'self'" in policy
    assert " style=" not in text and "http" not in text.replace("http://www.w3.org/2000/svg", "").replace(
        "http-equiv", ""
    )


def test_a_port_that_is_taken(served: Page) -> None:
    port = int(served.url.rsplit(":", 1)[1].rstrip("/"))
    with pytest.raises(DataError, match=rf"nothing can listen at 127.0.0.1, port {port} \(Address already in use\)"):
        Page(Recent([], None), "x", lambda e: Path(), port=port)
    with pytest.raises(DataError, match=r"nothing can listen at 203\.0\.113\.7"):
        Page(Recent([], None), "x", lambda e: Path(), address="203.0.113.7")


def test_what_is_kept_is_bounded() -> None:
    recent = Recent([], None)
    for index in range(1, SCORES + 50):
        recent.add(Card(entry(index, 1.0)), 0.5)
    assert len(recent.scores()) == SCORES and len(recent.cards()) == CARDS and recent.latency(10)["p99"] == 0.5
    assert Recent([], None).latency() == {} and recent.counts.total() == SCORES + 49


@pytest.fixture(scope="module", params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def driver(request: pytest.FixtureRequest) -> Iterator[Any]:
    if test_browser.pytestmark.args[0]:
        pytest.skip(test_browser.pytestmark.kwargs["reason"])
    found = browser(request.param)
    found.wide = request.param[0]
    yield found
    found.quit()


def seen(web: Any, count: int) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(web, 60).until(lambda _: len(every(web, "#cards li")) == count)
    loaded = "return [...document.images].every(i => i.complete)"
    WebDriverWait(web, 60).until(lambda _: web.execute_script(loaded))


def text(web: Any, css: str) -> str:
    """Of what the page puts anew every two seconds: by the time an element is asked it may be another."""
    return str(web.execute_script("return document.querySelector(arguments[0]).textContent", css))


def names(web: Any) -> list[str]:
    shown = "return [...document.querySelectorAll('#cards li:not([hidden]) button')].map(b => b.ariaLabel)"
    return list(web.execute_script(shown))


def test_in_a_browser(driver: Any, served: Page) -> None:
    web = driver
    web.get(served.url)
    seen(web, CARDS)
    wide = web.execute_script("return document.documentElement.scrollWidth")
    assert wide <= web.wide, "nothing sticks out to the right"
    box = "return document.querySelector('#chart svg[role=img][aria-label]').getAttribute('viewBox')"
    assert web.execute_script(box).startswith("0 0 380" if web.wide < 700 else "0 0 1000")
    broken = web.execute_script("return [...document.images].filter(i => !i.naturalWidth).length")
    assert broken == 0 and len(every(web, "#cards img.photo")) == CARDS - 1
    for element in every(web, ":is(button, select, input):not(dialog *)"):
        assert element.accessible_name, element.get_attribute("outerHTML")[:100]
    assert text(web, "#chips").startswith("260") and "p99" in text(web, "#chips")
    assert len(every(web, "#chart circle")) == COUNT - 1 and len(every(web, "#chart .threshold")) == 1
    assert NASTY.replace("\n", "\\n") in names(web)[1]
    choose(web, "#verdict", "anomalous")
    assert names(web) and all(name.endswith("anomalous") for name in names(web))
    choose(web, "#verdict", "unreadable")
    (button,) = every(web, "#cards li:not([hidden]) button")
    button.click()
    assert "cannot be read as an image" in one(web, "#v-text").text
    one(web, "#v-close").click()
    choose(web, "#verdict", "all")
    every(web, "#cards button")[0].click()
    assert f"Image {COUNT}" in one(web, "#v-text").text and one(web, "#v-stage .photo").is_displayed()
    one(web, "#v-close").click()
    assert [line for line in web.get_log("browser") if line["level"] != "DEBUG"] == [], "console"


def test_it_follows_the_line_and_says_when_it_is_lost(driver: Any, tmp_path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    web, wait = driver, WebDriverWait(driver, 60)
    recent, files = filled(tmp_path, shift=0.15)
    page = Page(recent, "bottles", lambda e: files[e.index % 2])
    try:
        web.get(page.url)
        seen(web, CARDS)
        assert text(web, "#drift-text").startswith("Drift: the last 200 scores lie higher than")
        assert "drifted" in one(web, "#drift").get_attribute("class")
        recent.add(Card(entry(COUNT + 1, 2.5, "newest.png")), 0.01)
        wait.until(lambda _: names(web)[0] == "newest.png, score 2.5, anomalous")
        assert len(every(web, "#cards li")) == CARDS and text(web, "#chips b") == "261"
        assert [line for line in web.get_log("browser") if line["level"] != "DEBUG"] == [], "console"
    finally:
        page.close()
    wait.until(lambda _: "No answer" in text(web, "#running"))

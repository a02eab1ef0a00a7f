"""Files of somebody else's evaluation: whatever metrics.json and report.json hold, the page has no markup of theirs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from patchcore_fast.cli import main
from patchcore_fast.errors import DataError
from patchcore_fast.report.page import write_report

from ..evaluated import evaluate

PAYLOADS = {
    "element": "<img src=x onerror=alert(1)>",
    "attribute": "\"></script><svg onload=alert(1)>' onmouseover='alert(1)",
    "address": "javascript:alert(1)//<a href=javascript:alert(1)>",
}
FILES = ("metrics.json", "report.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate(tmp_path_factory.mktemp("attacked"), good=2, bad=2)


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


class Markup(HTMLParser):
    """Elements, scripts and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


def assert_inert(text: str) -> None:
    page = Markup()
    page.feed(text)
    assert page.tags.count("script") == 2 and page.tags.count("style") == 1
    assert not {"img", "iframe", "object", "embed", "base", "form", "foreignobject"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]
    addresses = [value for name, value in page.attributes if name in ("href", "src", "action", "xlink:href")]
    assert all(a.startswith(("#", "data:,")) for a in addresses), addresses
    assert not any(payload in text for payload in PAYLOADS.values())


def leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """(keys, value) of every leaf; of a list its first and last item, for the others are alike."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*at, key))
    elif isinstance(value, list) and value:
        for i in sorted({0, len(value) - 1}):
            yield from leaves(value[i], (*at, i))
    else:
        yield at, value


def put(content: Any, at: tuple[Any, ...], value: Any) -> None:
    for key in at[:-1]:
        content = content[key]
    content[at[-1]] = value


def page_or_refusal(out: Path) -> str | None:
    try:
        return write_report(out).read_text(encoding="utf-8")
    except DataError as error:
        assert "\n" not in str(error) and "\x1b" not in str(error)
        return None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_every_string_at_once(out: Path, name: str, payload: str) -> None:
    content = json.loads((out / name).read_text())
    for at, value in list(leaves(content)):
        if isinstance(value, str) and at[0] not in ("format", "layers"):
            put(content, at, PAYLOADS[payload])
    (out / name).write_text(json.dumps(content))
    text = page_or_refusal(out)
    assert text is not None, "strings are strings, whatever they say"
    assert_inert(text)


TEXT, OTHERS = "<img src=x onerror=alert(1)>", {"list": [], "true": True, "huge": 1e308, "null": None}
# Usually every leaf is replaced by text and by one of the others.
LEAVES = [
    pytest.param(TEXT, 0, 1, id="text"),
    *(pytest.param(v, i, 4, id=n) for i, (n, v) in enumerate(OTHERS.items())),
]
LEAVES += [pytest.param(v, 0, 1, id=f"{n}-all", marks=pytest.mark.thorough) for n, v in OTHERS.items()]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("value, first, step", LEAVES)
def test_every_leaf_replaced_alone(out: Path, name: str, value: Any, first: int, step: int) -> None:
    content = json.loads((out / name).read_text())
    found = list(leaves(content))
    assert len(found) > 40
    for at, before in found[first::step]:
        put(content, at, value)
        (out / name).write_text(json.dumps(content))
        if (text := page_or_refusal(out)) is not None:
            assert_inert(text)
        put(content, at, before)


def test_keys_are_text_too(out: Path) -> None:
    for name, parts in (("metrics.json", ("config", "metrics")), ("report.json", ("seconds", "environment"))):
        content = json.loads((out / name).read_text())
        for part in parts:
            content[part][PAYLOADS["attribute"]] = "1" if part in ("config", "environment") else 1
        (out / name).write_text(json.dumps(content))
    text = page_or_refusal(out)
    assert text is not None
    assert_inert(text)


@pytest.mark.parametrize(
    "name, content",
    [
        ("report.json", b"[" * 100_000),
        ("report.json", b'{"format": ' + b"9" * 5000 + b"}"),
        *[("metrics.json", content) for content in (b"\xff\xfe{}", b"", b"null")],
    ],
    ids=["deep", "long-number", "encoding", "empty", "null"],
)
def test_json_of_hostile_form_is_one_line(out: Path, name: str, content: bytes, capsys: Any) -> None:
    (out / name).write_bytes(content)
    assert main(["report", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_json_and_layers_of_hostile_size(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchcore_fast.report.page.read.LARGEST_LAYER", 10)
    with pytest.raises(DataError, match=r"_photo\.jpg is damaged, [\d,]+ bytes are more"):
        write_report(out)
    monkeypatch.setattr("patchcore_fast.report.page.read.LARGEST_JSON", 10)
    with pytest.raises(DataError, match=r"metrics\.json: damaged, [\d,]+ bytes are more"):
        write_report(out)
    content = json.loads((out / "report.json").read_text())
    content["bank"]["coverage"]["counts"] = [[1] * 1000] * 1000
    monkeypatch.undo()
    (out / "report.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="counts must be rows of one length"):
        write_report(out)


@pytest.mark.parametrize("photo", ["../weave/x", "/etc/passwd", "a\0b", "x" * 300, "layers/" + "y/" * 3000])
def test_layers_elsewhere_are_refused(out: Path, photo: str) -> None:
    content = json.loads((out / "report.json").read_text())
    content["layers"][0]["photo"] = photo
    (out / "report.json").write_text(json.dumps(content))
    with pytest.raises(DataError):
        write_report(out)


def test_the_policy_names_the_one_script_and_the_one_style(out: Path) -> None:
    text = write_report(out).read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None and "unsafe" not in policy[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert " style=" not in text and "innerHTML" not in text


def test_names_that_are_no_text_are_written_out(out: Path) -> None:
    content = json.loads((out / "metrics.json").read_text())
    content["images"][0] |= {"path": "a\udcff\u202egnp.exe\n", "defect_type": "\ud800"}
    (out / "metrics.json").write_text(json.dumps(content))
    text = write_report(out).read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])  # type: ignore[index]
    assert data["images"][0]["path"] == r"a\xff\u202egnp.exe\n" and data["images"][0]["defect_type"] == r"\ud800"

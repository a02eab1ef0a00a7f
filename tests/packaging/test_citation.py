"""CITATION.cff is CFF 1.2 as far as can be told without its schema, and says what the package and the page say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import patchcore_fast

ROOT = Path(__file__).parents[2]
TYPES = {"article", "conference-paper"}


@pytest.fixture(scope="module")
def citation() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    found: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    return found


def test_the_software(citation: dict[str, Any]) -> None:
    assert {"cff-version", "message", "title", "authors"} <= set(citation), "what CFF 1.2 wants"
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert citation["title"] == "patchcore_fast" and citation["license"] == "Apache-2.0"
    assert str(citation["version"]) == patchcore_fast.__version__
    names = re.findall(r'authors = \[\{ name = "(.*?)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert [a["name"] for a in citation["authors"]] == names


def test_references_are_those_of_the_page(citation: dict[str, Any]) -> None:
    page = (ROOT / "docs/method.md").read_text(encoding="utf-8").split("```bibtex")[1].split("```")[0]
    entries = re.split(r"^@", page, flags=re.M)[1:]
    assert len(entries) == len(citation["references"]) == 5
    for entry, reference in zip(entries, citation["references"], strict=True):
        title = re.search(r"title = \{(.*?)\}, ", entry)
        authors = re.search(r"author = \{(.*?)\}[,}]", entry, re.S)
        assert title and authors
        assert title[1].replace("{", "").replace("}", "") == reference["title"]
        assert reference["type"] in TYPES and f"year = {{{reference['year']}}}" in entry
        people = authors[1].replace('{\\"o}', "\u00f6").split(" and ")
        assert people == [f"{a['family-names']}, {a['given-names']}" for a in reference["authors"]]

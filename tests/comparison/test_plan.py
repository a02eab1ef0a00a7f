"""Names of methods are held against what there is, and settings come from defaults, a file, and what all share."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from patchcore_fast.comparison.plan import Cell, Entry, cells, checked_names, entries
from patchcore_fast.config import PatchCoreConfig
from patchcore_fast.config.methods import METHODS, MethodConfig
from patchcore_fast.errors import DataError


@pytest.fixture
def anomalib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of a package of that name, which cannot be imported."""
    for name in ("padim", "efficient_ad"):
        (tmp_path / "anomalib/models/image" / name).mkdir(parents=True)
        (tmp_path / "anomalib/models/image" / name / "__init__.py").touch()
    (tmp_path / "anomalib/__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()


def test_names(anomalib: None) -> None:
    typed = "patchcore, elfs,padim,anomalib:EfficientAd,anomalib:efficient_ad"
    assert checked_names(typed) == tuple(typed.replace(" ", "").split(","))
    assert checked_names(",".join(METHODS)) == tuple(METHODS)
    with pytest.raises(DataError, match=r"of patchcore, elfs, padim,.*'elsf' \(did you mean elfs\?\)"):
        checked_names("patchcore,elsf")
    with pytest.raises(DataError, match=r"no model 'EficientAd' \(did you mean EfficientAd\?\)"):
        checked_names("anomalib:EficientAd")
    with pytest.raises(DataError, match="got elfs more than once"):
        checked_names("elfs,patchcore,elfs")


def test_anomalib_is_wanted_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match="anomalib:Padim needs anomalib: pip install anomalib"):
        checked_names("anomalib:Padim")


def test_settings_lie_over_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[selection]\nratio = 0.2\n[features]\nimage_size = 128\nbackbone = "resnet18"\n')
    (tmp_path / "b.toml").write_text('method = "simplenet"\n[simplenet]\nepochs = 7\nsteps = 2\n')
    files = {"elfs": str(tmp_path / "a.toml"), "simplenet": str(tmp_path / "b.toml")}
    names = ("patchcore", "elfs", "padim", "simplenet", "rd")
    found = {e.name: e.settings for e in entries(names, files, {"image_size": 96})}
    assert found["patchcore"] == PatchCoreConfig(image_size=96).to_dict()
    elfs = PatchCoreConfig.from_dict(found["elfs"])
    assert (elfs.sampler, elfs.ratio, elfs.image_size, elfs.backbone) == ("elfs", 0.2, 96, "resnet18")
    simple = MethodConfig.from_dict(found["simplenet"])
    assert (simple.settings.epochs, simple.settings.steps, simple.base.image_size) == (7, 2, 96)
    # Each method has its own layers, unless all are told which.
    layers = {name: groups["features"]["layers"] for name, groups in found.items()}
    assert layers["patchcore"] == [2, 3] and layers["padim"] == layers["rd"] == [1, 2, 3]
    shared = entries(("patchcore", "padim"), {}, {"layers": (1, 2)})
    assert [e.settings["features"]["layers"] for e in shared] == [[1, 2], [1, 2]]


def test_epochs_are_of_those_that_have_some() -> None:
    asked = {e.name: e.settings for e in entries(("patchcore", "padim", "simplenet", "rd"), {}, {}, 3)}
    assert asked["simplenet"]["simplenet"]["epochs"] == asked["rd"]["rd"]["epochs"] == 3
    assert "epochs" not in asked["padim"]["padim"] and asked["patchcore"] == PatchCoreConfig().to_dict()


def test_of_anomalib_goes_what_it_can_take() -> None:
    padim, patchcore = entries(("anomalib:padim", "anomalib:Patchcore"), {}, {"image_size": 64}, 5)
    assert set(padim.settings) == {"features", "selection", "running", "anomalib"}
    assert padim.settings["features"]["layers"] == [1, 2, 3] and padim.settings["anomalib"] == {"epochs": 5}
    assert patchcore.settings["features"]["layers"] == [2, 3]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"pdim": "a.toml"}, r"pdim is none of --methods padim,anomalib:X \(did you mean padim\?\)"),
        ({"anomalib:X": "a.toml"}, "has no file of settings"),
        ({"padim": "missing.toml"}, "no such file"),
        ({"padim": "of-rd.toml"}, "is of method 'rd', and given for 'padim'"),
    ],
    ids=["unknown", "anomalib", "missing", "another method"],
)
def test_files_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict, said: str) -> None:
    (tmp_path / "of-rd.toml").write_text('method = "rd"\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=said):
        entries(("padim", "anomalib:X"), files, {})


def test_cells() -> None:
    methods = [Entry("patchcore", {"selection": {"seed": 0, "ratio": 1}}), Entry("anomalib:Padim", {})]
    found = cells([Path("sets/bolt"), Path("sets/nut")], methods, range(2))
    assert [(c.set, c.method, c.seed) for c in found] == [
        (s, m, i) for s in ("bolt", "nut") for m in ("patchcore", "anomalib:Padim") for i in (0, 1)
    ]
    assert found[3].file == Path("cells/bolt/anomalib-Padim-1.json")
    assert len({c.file for c in found}) == len(found)
    assert (
        methods[0].seeded(5) == {"selection": {"seed": 5, "ratio": 1}} and methods[0].settings["selection"]["seed"] == 0
    )
    assert isinstance(found[0], Cell)

"""Data sets that a meta.json lists: the same images as in MVTec layout are the same set, and nothing is guessed."""

from __future__ import annotations

import json
import shutil

import pytest

from patchcore_fast.data import scan
from patchcore_fast.data.categories import files_digest, find_categories, has_test
from patchcore_fast.data.check import check_folder
from patchcore_fast.errors import DataError

from ..pictures import write_mvtec

pytestmark = pytest.mark.filterwarnings("error")


def listing(root, *classes, parts=("train", "test")):
    """What ADer's script for MVTec AD makes of a folder; it lists species in whatever order, with double slashes."""
    found = {part: {} for part in parts}
    for part in parts:
        for name in classes:
            images = found[part][name] = []
            for folder in sorted((root / name / part).iterdir(), reverse=True):
                for path in sorted(folder.iterdir()):
                    bad = folder.name != "good"
                    mask = f"{name}/ground_truth/{folder.name}/{path.stem}_mask.png" if bad else ""
                    images.append({"img_path": f"{name}/{part}/{folder.name}//{path.name}", "mask_path": mask,
                                   "cls_name": name, "specie_name": folder.name, "anomaly": int(bad)})  # fmt: skip
    return found


def write_list(root, found, name="meta.json"):
    (root / name).write_text(json.dumps(found))
    return root / name


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """MVTec layout: root/bolt, root/nut, and meta.json beside them."""
    root = tmp_path_factory.mktemp("meta")
    for name in ("bolt", "nut"):
        write_mvtec(root / name, 3, 2, 3, side=48)
    write_list(root, listing(root, "bolt", "nut"))
    return root


@pytest.fixture
def place(made, tmp_path):
    return shutil.copytree(made, tmp_path / "root")


@pytest.mark.filterwarnings("default")
def test_a_class_is_the_set_of_its_folder(made):
    for name in ("bolt", "nut"):
        listed, folder = scan(made / "meta.json" / name), scan(made / name)
        assert listed.train == folder.train and listed.test == folder.test and len(listed.test) == 5
        assert (listed.root, listed.layout, listed.summary.folder) == (made, "list", name)
        assert listed.summary.images == folder.summary.images and listed.summary.masks == 3
        assert has_test(made / "meta.json" / name)


def test_a_list_of_one_class_is_a_set_and_of_several_are_categories(place):
    file = place / "meta.json"
    assert find_categories(file) == [file / "bolt", file / "nut"]
    assert find_categories(file, classes=["nut"]) == [file / "nut"]
    with pytest.raises(DataError, match=r"holds 2 classes \(bolt, nut\); give one of them: .*meta\.json/bolt"):
        scan(file)
    alone = write_list(place, listing(place, "nut"), "one.json")
    assert find_categories(alone) == [] and scan(alone).train == scan(place / "nut").train
    for wrong, said in (("bult", "has no class bult \\(did you mean bolt\\?\\)"), ("bolt/x", "has no class")):
        with pytest.raises(DataError, match=said):
            find_categories(file, classes=[wrong])
    with pytest.raises(DataError, match="is one set and holds no classes"):
        find_categories(place / "nut", classes=["nut"])


def test_folders_in_mvtec_layout_go_before_a_list_that_is_not_named(place):
    assert find_categories(place) == [place / "bolt", place / "nut"]
    inside = write_list(place / "nut", {"train": {"x": []}})
    assert scan(place / "nut").layout == "mvtec"
    assert [f.kind for f in check_folder(place / "nut").findings] == ["list", "other"]
    inside.unlink()
    for name in ("bolt", "nut"):  # as VisA: no folder says train or test
        (place / name / "test").rename(place / name / "Images")
        (place / name / "train").rename(place / name / "Normal")
    moved = json.loads((place / "meta.json").read_text().replace("/test/", "/Images/").replace("/train/", "/Normal/"))
    file = write_list(place, moved)
    assert find_categories(place) == [file / "bolt", file / "nut"]
    assert [r.defect for r in scan(file / "nut").test] == ["good"] * 2 + ["spot"] * 3


def test_the_digest_is_of_what_is_listed(place):
    file = place / "meta.json"
    before = files_digest(file / "nut")
    (place / "nut/train/good/more.png").write_bytes(b"not listed")
    assert files_digest(file / "nut") == before != files_digest(file / "bolt")
    found = listing(place, "bolt", "nut")
    found["test"]["nut"][-1]["specie_name"] = "dent"
    write_list(place, found)
    assert files_digest(file / "nut") != before


def test_what_may_be_a_mistake_is_found(place):
    found = listing(place, "nut")
    found["train"]["nut"].append(found["test"]["nut"][0])  # of test, and anomalous
    found["test"]["nut"][1]["mask_path"] = ""
    found["test"]["nut"][2].update(specie_name="", mask_path=None)
    file = write_list(place, found, "one.json")
    with pytest.warns(UserWarning) as said:
        images = scan(file)
    kinds = {f.kind: f.names for f in images.summary.findings}
    assert set(kinds) == {"left out", "mask missing"}
    assert kinds["left out"] == ("nut/test/spot/000.png",) and len(kinds["mask missing"]) == 2 == len(said)
    assert len(images.train) == 3 and [r.defect for r in images.test][-3:] == ["spot", "spot", "defect"]
    found["train"]["nut"][-1] = {"img_path": "nut/test/good/000.png", "anomaly": 0}
    assert "same split" in {f.kind for f in check_folder(write_list(place, found, "one.json")).findings}


GOOD = {"img_path": "nut/train/good/000.png", "anomaly": 0}
WRONG = {
    "no JSON": ("{", "is no JSON"),
    "deep": ("[" * 100_000, "is no JSON"),
    "no list": ({"nut": []}, "is no list of a data set; wanted:"),
    "an array": ([], "is no list of a data set"),
    "no class": ({"train": {}, "test": {}}, "lists no class"),
    "a part": ({"train": []}, "train must hold lists of images by class, got a list"),
    "a class": ({"train": {"nut": {}}}, r"train\.nut must be a list of images, got a dict"),
    "an entry": ({"train": {"nut": ["a.png"]}}, r"train\.nut\[0\] must be .*, got a str"),
    "no path": ({"train": {"nut": [{"anomaly": 0}]}}, r"train\.nut\[0\] has no img_path"),
    "no anomaly": ({"train": {"nut": [{"img_path": "a"}]}}, r"train\.nut\[0\] has no anomaly"),
    "a path that is no text": ({"train": {"nut": [GOOD | {"img_path": 3}]}}, r"img_path must be text, got 3"),
    "a mask that is no text": ({"test": {"nut": [GOOD | {"mask_path": ["a"]}]}}, r"mask_path must be text"),
    "anomaly as text": ({"train": {"nut": [GOOD | {"anomaly": "0"}]}}, r"anomaly must be 0 or 1, got '0'"),
    "anomaly of a type": ({"train": {"nut": [GOOD | {"anomaly": True}]}}, r"anomaly must be 0 or 1, got True"),
    "another class": ({"train": {"nut": [GOOD | {"cls_name": "bolt"}]}}, r"cls_name is 'bolt' in the class nut"),
    "missing": ({"train": {"nut": [GOOD, GOOD | {"img_path": "nut/no.png"}]}}, r"are not there \(1\): nut/no"),
    "twice": ({"train": {"nut": [GOOD, GOOD | {"img_path": "./nut//train/good/000.png"}]}}, "names an image twice"),
    "one part": ({"train": {"nut": [GOOD]}, "test": {"bolt": []}}, "the class nut is in train and not in test"),
    "a folder": ({"train": {"nut": [GOOD | {"img_path": "nut/train"}]}}, "are not there"),
    "long": ({"train": {"nut": [GOOD | {"img_path": "a" * 5000}]}}, "are not there"),
    **{f"outside {i}": ({"train": {"nut": [GOOD | {"img_path": path}]}}, "must be a path below the folder of the list")
       for i, path in enumerate(("/etc/passwd", "../x.png", "nut/../../x.png", "C:\\x.png", "..\\x.png", "\\\\host\\x",
                                 "", "./", "a\0b"))},
    "a mask outside": ({"test": {"nut": [GOOD | {"anomaly": 1, "mask_path": "/a.png"}]}}, "mask_path must be a path"),
    **{f"a class called {i}": ({"train": {name: []}}, "a class cannot be called")
       for i, name in enumerate(("", "..", "a/b", ".hidden", "a\\b"))},
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_list_is_refused_in_one_line(made, case, tmp_path):
    content, said = WRONG[case]
    (tmp_path / "nut").symlink_to(made / "nut")  # links of the owner are followed
    file = tmp_path / "meta.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=said) as error:
        scan(file / "nut")
    assert str(error.value).startswith(f"{file}: ") and "\n" not in str(error.value) and len(str(error.value)) < 6000

"""Features are extracted once, say what they are of, and a run that was ended goes on."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from patchcore_fast.errors import DataError
from patchcore_fast.experiments import material
from patchcore_fast.experiments.material import check_config, copies_of, gather, held_out_images
from patchcore_fast.model import PatchCore

from ..evaluated import tiny_config
from ..pictures import quiet_scan


@pytest.mark.parametrize(("count", "share", "wanted"), [(31, 0.25, 8), (4, 0.01, 1), (2, 0.9, 1), (1000, 0.25, 40)])
def test_a_seeded_share_is_held_out_and_one_image_stays_in(count, share, wanted):
    out = held_out_images(count, share, 3)
    assert len(set(out.tolist())) == wanted and out.min() >= 0 and out.max() < count and (np.diff(out) > 0).all()
    assert (out == held_out_images(count, share, 3)).all()
    with pytest.raises(DataError, match="at least 2"):
        held_out_images(1, 0.5, 0)


def test_there_are_about_sixty_defects():
    assert [copies_of(n) for n in (1, 8, 10, 20, 40)] == [6, 6, 6, 3, 1]


def test_what_is_held_out_is_in_no_bank(gathered, weave, config):
    folder, found = gathered
    about = json.loads((folder / "experiment.json").read_text())
    assert len(found.rows.grids) == about["train"] == 3 and len(about["held_out"]) == 3
    patches = found.grid[0] * found.grid[1]
    assert len(found.pasted.features) == (3 + 18) * patches and found.pasted.labels.tolist() == [0] * 3 + [1] * 18
    assert not found.pasted.masks[:3].any() and found.pasted.masks[3:].any((1, 2)).all()
    out = {about["held_out"][i] for i in range(3)}
    model = PatchCore(config)
    every = model.training_features(quiet_scan(weave)).features.view(6, patches, -1)
    names = [r.path.relative_to(weave).as_posix() for r in quiet_scan(weave).train]
    inside = [i for i, name in enumerate(names) if name not in out]
    assert torch.allclose(found.rows.features.view(3, patches, -1), every[inside], atol=1e-5)
    assert found.test is not None and found.test.labels.tolist() == [r.label for r in quiet_scan(weave).test]
    assert found.test.known.all() and found.test.masks[found.test.labels == 1].any((1, 2)).all()


def test_what_is_there_is_not_extracted_again(gathered, weave, config, tmp_path, monkeypatch):
    folder, found = gathered
    output = shutil.copytree(folder, tmp_path / "made")
    (output / "features/test.npy").unlink()
    model, seen = PatchCore(config), []
    extractor = model.extractor

    class Counting:
        backbone = extractor.backbone

        def __call__(self, images):
            seen.append(len(images))
            return extractor(images)

    again = gather(quiet_scan(weave), config, Counting(), model.device, output, 0.5, False)
    assert seen == [4]  # the test images, one batch
    assert (again.test.features == found.test.features).all() and (again.test.masks == found.test.masks).all()
    assert (again.pasted.features == found.pasted.features).all()


def test_a_run_that_ends_between_two_files_goes_on(gathered, weave, config, tmp_path, monkeypatch):
    _, found = gathered
    model, write, names = PatchCore(config), material._write, set()
    made = None

    def stopping(path, array):
        write(path, array)
        if path.name not in names:
            names.add(path.name)
            raise KeyboardInterrupt

    monkeypatch.setattr(material, "_write", stopping)
    for _ in range(7):  # it ends after each of the six files, once
        try:
            made = gather(quiet_scan(weave), config, model.extractor, model.device, tmp_path, 0.5, False)
            break
        except KeyboardInterrupt:
            pass
    assert made is not None and sorted(names) == sorted(p.name for p in (tmp_path / "features").iterdir())
    for mine, theirs in ((made.rows, found.rows), (made.pasted, found.pasted), (made.test, found.test)):
        assert (mine.features == theirs.features).all()
    assert (made.pasted.masks == found.pasted.masks).all() and (made.test.masks == found.test.masks).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [({"seed": 1}, "held_out"), ({"sigma": 1.0}, "settings"), ({"image_size": 48}, "size")],
    ids=["seed", "scoring", "size"],
)
def test_another_experiment_is_not_continued(gathered, weave, config, tmp_path, change, said):
    output = shutil.copytree(gathered[0], tmp_path / "made")
    other = config.replace(**change)
    model = PatchCore(other)
    with pytest.raises(DataError, match=f"experiment of other .*{said}"):
        gather(quiet_scan(weave), other, model.extractor, model.device, output, 0.5, False)


@pytest.mark.parametrize("name", ["train.npy", "synthetic_masks.npy"])
def test_a_damaged_file_is_named(gathered, weave, config, tmp_path, name):
    output = shutil.copytree(gathered[0], tmp_path / "made")
    whole = (output / "features" / name).read_bytes()
    (output / "features" / name).write_bytes(whole[:-5])
    model = PatchCore(config)
    with pytest.raises(DataError, match=f"{name}.*made again"):
        gather(quiet_scan(weave), config, model.extractor, model.device, output, 0.5, False)


@pytest.mark.parametrize(
    "change",
    [{"banks": "layer"}, {"augment": "rotate"}, {"shots": 2}, {"ratio": None, "budget": "20"}, 
     {"reduction": "pca", "dim": 4}, {"aspect": "keep"}],
    ids=["banks", "augment", "shots", "budget", "reduction", "aspect"],
)  # fmt: skip
def test_settings_of_other_banks_are_refused(change):
    check_config(tiny_config())
    with pytest.raises(DataError, match="experiments want one bank"):
        check_config(tiny_config(**change))

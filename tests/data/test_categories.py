"""Which folders are categories, and whether their files are still the same."""

from __future__ import annotations

import os

import pytest

from patchcore_fast.data.categories import files_digest, find_categories
from patchcore_fast.errors import DataError

from ..pictures import write_photos


def test_categories_are_the_sub_folders_with_train_or_test(tmp_path):
    write_photos(tmp_path, "nut/train/good/a.png", "nut/test/good/b.png", "bolt/Test/good/a.png", "photos/a.png",
                 ".cache/train/a.png")  # fmt: skip
    (tmp_path / "readme.txt").write_text("text")
    assert [p.name for p in find_categories(tmp_path)] == ["bolt", "nut"]
    assert find_categories(tmp_path / "nut") == []  # a set itself
    assert find_categories(tmp_path / "photos") == []


@pytest.mark.parametrize(("output", "said"), [("nut", "category"), ("nut/results", "category"), (".", "folder of the")])
def test_results_are_not_written_among_the_data(tmp_path, output, said):
    write_photos(tmp_path, "nut/train/good/a.png")
    with pytest.raises(DataError, match=said):
        find_categories(tmp_path, tmp_path / output)
    assert len(find_categories(tmp_path, tmp_path / "results")) == 1


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        find_categories(tmp_path / "nowhere")


def test_the_digest_is_of_names_sizes_and_times(tmp_path):
    write_photos(tmp_path, "a/train/x.png", "b/train/x.png")
    (tmp_path / "a/link").symlink_to("nothing")
    photo = tmp_path / "a/train/x.png"
    before = files_digest(tmp_path / "a")
    assert files_digest(tmp_path / "a") == before != files_digest(tmp_path / "b")
    os.utime(photo, ns=(1, 1))
    touched = files_digest(tmp_path / "a")
    photo.rename(photo.with_name("y.png"))
    assert len({before, touched, files_digest(tmp_path / "a")}) == 3

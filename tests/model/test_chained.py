"""Steps between a store and a selection: clusters, dynamics that survive kill -9, signals."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch

from patchcore_fast.chain import ChainFile, read_chain
from patchcore_fast.cli import chaining
from patchcore_fast.errors import DataError
from patchcore_fast.feature_store import FeatureStore
from patchcore_fast.model import PatchCore, chained, scored
from patchcore_fast.model.choosing import select_store
from patchcore_fast.model.picks import picks_of
from patchcore_fast.model.stored import StoredRows
from patchcore_fast.samplers import PrecomputedSampler, RandomSampler, named, sampler_of
from patchcore_fast.scores import k_means, rarity, representativeness, support, train_proxy

from ..stores import write_store

IMAGES, CELLS = 9, 20
TRUTH = np.arange(IMAGES) % 3


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with FeatureStore(write_store(tmp_path_factory.mktemp("chained") / "store")) as found:
        yield found


@pytest.fixture
def clusters(store, tmp_path):
    path = tmp_path / "clusters.safetensors"
    chained.cluster_store(store, clusters=3, progress=False).save(path)
    return path


def agree(labels: np.ndarray, truth: np.ndarray) -> bool:
    """Whether two labellings are one but for names."""
    return (
        len({*zip(labels.tolist(), truth.tolist(), strict=True)}) == len({*truth.tolist()}) == len({*labels.tolist()})
    )


@pytest.mark.parametrize("method", ["kmeans", "heads"])
def test_images_are_clustered_as_they_were_made(store, method):
    found = chained.cluster_store(store, method=method, clusters=3, progress=False)
    assert agree(found.arrays["labels"], TRUTH) and found.settings["level"] == "image"


def test_embeddings_of_the_network_are_used_where_the_store_has_them(store, tmp_path):
    with FeatureStore(write_store(tmp_path / "embedded", embedded=True)) as found:
        rows, what = chained.embeddings(found)
        assert rows.shape == (IMAGES, 2) and what == "of the network" and (rows == found.embeddings).all()
        labels = chained.cluster_store(found, clusters=3, progress=False)
        assert agree(labels.arrays["labels"], TRUTH) and labels.settings["of"] == what
    rows, what = chained.embeddings(store)
    means = StoredRows(store).features.view(IMAGES, CELLS, -1).double().mean(1).float()
    assert what == "mean patches" and np.allclose(rows, means.numpy())


def test_patches_are_clustered_by_k_means_of_the_rows(store):
    found = chained.cluster_store(store, level="patch", clusters=3, seed=5, progress=False)
    same = k_means(StoredRows(store).features, 3, seed=5, progress=False)
    for name, values in (("labels", same.labels), ("centers", same.centers), ("distances", same.distances)):
        assert torch.equal(torch.from_numpy(found.arrays[name]), values)
    with pytest.raises(ValueError, match="heads are trained on embeddings of images"):
        chained.cluster_store(store, level="patch", method="heads")


def test_given_labels(store):
    found = chained.labelled(store, TRUTH.astype(np.int32), ["a", "b", "c"])
    assert found.settings["level"] == "image" and found.arrays["labels"].tolist() == TRUTH.tolist()
    assert chained.labelled(store, np.repeat(TRUTH, CELLS)).settings["level"] == "patch"
    for wrong in (TRUTH[:-1], TRUTH.astype(float), TRUTH - 1):
        with pytest.raises(DataError, match=r"9 \(image\) or 180 \(patch\) integers >= 0 are wanted"):
            chained.labelled(store, wrong)
    with pytest.raises(DataError, match=r"labels: 180 \(patch\) integers"):
        chained.labelled(store, TRUTH, level="patch")


@pytest.mark.parametrize("level", ["image", "patch"])
def test_the_proxy_is_that_of_scores(store, tmp_path, level):
    path, out = tmp_path / "c.safetensors", tmp_path / "d.safetensors"
    made = chained.cluster_store(store, level=level, clusters=3, progress=False)
    made.save(path)
    file, found = chained.train_store(store, path, out, epochs=3, seed=2, progress=False)
    rows = chained.looked_at(store, level)[0]
    same = train_proxy(rows, torch.from_numpy(made.arrays["labels"]), epochs=3, seed=2, progress=False)
    read = read_chain(out, "dynamics", store)
    assert chained.dynamics_of(read, store, out)[0] == level and read.settings["clusters"] == made.digest
    for name in chained.KEPT:
        assert torch.equal(getattr(found, name), getattr(same, name))
        assert torch.equal(getattr(chained.dynamics_of(read, store, out)[1], name), getattr(same, name))
    assert file.digest == read.digest and not chained.training_file(out).exists()


@pytest.mark.parametrize("epochs", [1, 3])
def test_training_goes_on_after_kill_9_and_ends_with_the_same_file(store, clusters, tmp_path, epochs):
    whole, out = tmp_path / "whole.safetensors", tmp_path / "d.safetensors"
    chained.train_store(store, clusters, whole, epochs=5, progress=False)
    child = os.fork()
    if not child:  # dies at the end of an epoch, before it is written
        done, real = [], ChainFile.save

        def save(self, path):
            done.append(path)
            if len(done) > epochs:
                os.kill(os.getpid(), signal.SIGKILL)
            real(self, path)

        ChainFile.save = save
        chained.train_store(store, clusters, out, epochs=5, progress=False)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    kept = chained.training_file(out)
    assert kept.exists() and not out.exists()
    assert int(read_chain(kept, "training", store).arrays["epoch"][0]) == epochs
    seen = []
    chained.train_store(store, clusters, out, epochs=5, progress=lambda done, total: seen.append(done))
    assert out.read_bytes() == whole.read_bytes() and not kept.exists()
    assert seen[0] == epochs * IMAGES  # what was done is not done again


def test_a_training_of_other_settings_is_not_gone_on_from(store, clusters, tmp_path, monkeypatch):
    out = tmp_path / "d.safetensors"
    real = ChainFile.save

    def save(self, path):
        real(self, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ChainFile, "save", save)
        with pytest.raises(KeyboardInterrupt):
            chained.train_store(store, clusters, out, epochs=4, progress=False)
    with pytest.raises(DataError, match=r"training: is of another training \(seed 0 there and 1 here\): remove it"):
        chained.train_store(store, clusters, out, epochs=4, seed=1, progress=False)
    longer, _ = chained.train_store(store, clusters, out, epochs=6, progress=False)  # more epochs go on
    same, _ = chained.train_store(store, clusters, tmp_path / "e.safetensors", epochs=6, progress=False)
    assert longer.digest == same.digest


def test_signals_are_those_of_scores_and_images_are_spread(store, clusters, tmp_path):
    out = tmp_path / "d.safetensors"
    made, dynamics = chained.train_store(store, clusters, out, epochs=3, progress=False)
    found = scored.score_store(store, scored.SIGNALS, dynamics=(made, str(out)), progress=False)
    rows, image = StoredRows(store).features, torch.arange(IMAGES).repeat_interleave(CELLS)
    wanted = {
        "representativeness": representativeness(rows, progress=False), "rarity": rarity(rows, progress=False),
        "support": -support(rows, image_ids=image, progress=False).distance,
        "difficulty": -dynamics.aum[image], "forgetting": dynamics.forgetting[image], "el2n": dynamics.el2n[image],
        "dynamics": dynamics.mean()[image],
    }  # fmt: skip
    assert set(found.arrays) == set(scored.SIGNALS) and found.settings["dynamics"] == made.digest
    for name, values in wanted.items():
        assert torch.equal(torch.from_numpy(found.arrays[name]), values), name
    with pytest.raises(DataError, match="the mean of the scores of a training"):
        scored.score_store(store, ["dynamics"], progress=False)
    with pytest.raises(ValueError, match="signals must be some of"):
        scored.score_store(store, ["beauty"], progress=False)


def test_clusters_of_patches_serve_the_signals(store):
    made = chained.cluster_store(store, level="patch", clusters=4, progress=False)
    known = k_means(StoredRows(store).features, 4, progress=False)
    found = scored.score_store(store, ["representativeness"], clusters=(made, "c"), progress=False)
    wanted = representativeness(StoredRows(store).features, clusters=known, progress=False)
    assert torch.equal(torch.from_numpy(found.arrays["representativeness"]), wanted)


def test_the_command_line_knows_the_same_names():
    assert chaining.SIGNALS == scored.SIGNALS and set(chaining.GEOMETRY) == set(scored.GEOMETRY)
    assert (chaining.LEVELS, chaining.METHODS) == (chained.LEVELS, chained.METHODS)


class Best(RandomSampler):
    """The rows of largest "rarity" that it is handed."""

    takes_scores = True

    def select(self, features, scores=None):
        assert set(scores) == {"rarity"} and len(scores["rarity"]) == len(features)
        return scores["rarity"].argsort(descending=True, stable=True)[: int(len(features) * self.percentage)]


def test_a_sampler_that_takes_signals_gets_them_and_so_do_held_out_images(store, tmp_path, monkeypatch):
    monkeypatch.setitem(named.NAMED, "random", Best)
    monkeypatch.setattr(named, "RandomSampler", Best)
    config = store.config.replace(sampler="random", ratio=0.1, device="cpu")
    scores = {"rarity": torch.rand(IMAGES * CELLS, generator=torch.Generator().manual_seed(0))}
    chosen, sampler, config = select_store(store, config, scores=scores, progress=False)
    best = scores["rarity"].argsort(descending=True, stable=True)
    assert chosen.indices.tolist() == best[:18].tolist()
    picks_of(store, chosen, sampler, config, scores).save(tmp_path / "p.safetensors")
    model = PatchCore(store.config, PrecomputedSampler(tmp_path / "p.safetensors"), progress=False).fit(store)
    assert model.bank.indices.tolist() == best[:18].tolist() and model.threshold is not None
    told = model.bank.config["selection"]
    assert told["sampler"] == "random" and told["sampler_parameters"]["scores"] == ["rarity"]
    monkeypatch.undo()
    with pytest.raises(ValueError, match="scores: sampler greedy selects by what it measures itself"):
        select_store(store, store.config, scores=scores, progress=False)


def test_mean_patches_stand_for_the_embeddings_that_an_older_store_lacks(store, caplog):
    options = {"images": "elfs", "image_share": 0.5, "clustering": "kmeans"}
    config = store.config.replace(sampler="two-level", sampler_options=options, ratio=0.1, device="cpu")
    chosen, sampler, _ = select_store(store, config, progress=False)
    rows = StoredRows(store)
    where = rows.positions(torch.arange(rows.total))
    assert torch.equal(chosen.indices, sampler_of(config.selection).select(rows.features, positions=where))
    assert len(sampler.images_) == 4 and "an earlier version wrote the store without them" in caplog.text


def test_a_setting_that_a_sampler_refuses_is_told_as_what_it_is(store):
    with pytest.raises(ValueError, match=r"PatchCore.fit: seed must lie in 0..2\*\*32 - 1, got 5000000000$"):
        select_store(store, store.config.replace(seed=5_000_000_000), progress=False)


def test_long_stages_of_a_selection_are_shown(store, capsys):
    options = {"noise_T": 1, "repr": "clusters"}
    config = store.config.replace(sampler="composite", sampler_options=options, ratio=0.1, device="cpu")
    for progress in (False, True):
        _, sampler, _ = select_store(store, config, progress=progress)
        told = capsys.readouterr().err
        assert ("noise_instability" in told) is ("k_means" in told) is progress and sampler.show_progress is False

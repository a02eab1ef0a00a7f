"""Children of a fork, after the parent has used torch's threads: nobody waits for them, and answers are the same."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("timm", reason="the extra pipeline is not installed")

# A parent that uses torch's pool, and children that stop after `limit` seconds, whatever they wait for.
BEFORE = """
import concurrent.futures, multiprocessing, os, signal, sys, time
import torch
torch.set_num_threads(2)
x = torch.randn(900, 130, generator=torch.Generator().manual_seed(0))
(x @ x.T).sum()
torch.ones(1 << 20).double().sum()
limit = 60

def in_child(call):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(limit)
            status = 0 if call() else 2
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]
"""

ENTRIES = """
import logging
logging.getLogger("patchcore_fast").setLevel(logging.ERROR)
from patchcore_fast import scores, scoring
from patchcore_fast.kernels import k_center_greedy, knn, knn_rarity
from patchcore_fast.memory_bank import MemoryBank
from patchcore_fast.model import PatchCore, PatchCoreConfig
from patchcore_fast.samplers import ApproximateGreedyCoresetSampler, ELFSCoresetSampler, GreedyCoresetSampler
from patchcore_fast.scorers import make_scorer
from patchcore_fast.search import build_index
bank, images, where = x[:300].clone(), torch.rand(4, 3, 96, 96), torch.arange(900) // 60
config = PatchCoreConfig(backbone="resnet10t", layers=(1, 2), image_size=96, ratio=0.1, weights="random")
model = PatchCore(config, progress=False).fit(images)
model.save(sys.argv[1])
entries = {
    "k_center_greedy": lambda: k_center_greedy(x, 90).indices,
    "k_center_greedy, torch": lambda: k_center_greedy(x, 90, backend="torch").indices,
    "knn": lambda: knn(x, bank, 3)[1],
    "knn, torch": lambda: knn(x, bank, 3, backend="torch")[1],
    "knn_rarity": lambda: knn_rarity(x, 3),
    "greedy": lambda: GreedyCoresetSampler(0.1).run(x),
    "approximate": lambda: ApproximateGreedyCoresetSampler(0.1).run(x),
    "elfs": lambda: ELFSCoresetSampler(0.1, mode="pseudo", epochs=1, prune_support="rule").select(x, image_ids=where),
    "rarity": lambda: scores.rarity(x),
    "representativeness": lambda: scores.representativeness(x, clusters=8),
    "difficulty": lambda: scores.difficulty(x, epochs=1, clusters=8).aum.shape,
    "support": lambda: scores.support(x, image_ids=where).distance,
    "anomaly_map": lambda: scoring.anomaly_map(x[:, :100].reshape(-1, 10, 10)[:40], (224, 224)),
    "scorer": lambda: make_scorer("influence", bank)(x, bank)[0],
    "search": lambda: build_index("faiss-flat", bank).search(x, 3)[1],
    "memory bank": lambda: MemoryBank(bank, torch.arange(300)).search(x, 2)[1],
    "load": lambda: PatchCore.load(sys.argv[1]).bank.features,
    "predict": lambda: torch.tensor([p.score for p in model.predict(images)]),
    "fit": lambda: PatchCore(config, progress=False).fit(images).bank.indices,
}
for name, call in entries.items():
    wanted = call()
    def same():
        found = call()
        return torch.equal(found, wanted) if isinstance(found, torch.Tensor) else found == wanted
    # Rows of a network, and gradients, may differ in their last digits with the number of threads.
    near = lambda: bool((call() - wanted).abs().max() < 1e-4 * wanted.abs().max())
    other = (lambda: call() is not None) if name == "fit" else same
    print(name, in_child(near if name in ("predict", "scorer") else other))
"""

# In a script of its own: the first entry is called in the child.
FAMILIES = """
from patchcore_fast.kernels import k_center_greedy
from patchcore_fast.samplers import GreedyCoresetSampler

def picks(seed):
    return k_center_greedy(x, 90 + seed).indices.tolist()

def sampled(seed):
    return GreedyCoresetSampler(0.05).select(x).tolist()

class Forking(torch.utils.data.Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, i):
        assert in_child(lambda: picks(i) == wanted[i]) == 0
        return torch.tensor(picks(i)[-1])

context = multiprocessing.get_context("fork")
wanted = [picks(i) for i in range(3)]
print("child", in_child(lambda: picks(1) == wanted[1]))
print("child of a child", in_child(lambda: picks(1) == wanted[1] and in_child(lambda: picks(2) == wanted[2]) == 0))
with context.Pool(2) as pool:
    print("pool", pool.map_async(picks, range(3)).get(limit) == wanted)
with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
    print("futures", list(pool.map(picks, range(3), timeout=limit)) == wanted)
with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
    print("sampler", len(pool.submit(sampled, 0).result(limit)))
loader = torch.utils.data.DataLoader(Forking(), num_workers=1, multiprocessing_context="fork", timeout=limit)
print("loader", [int(i) for i in loader] == [w[-1] for w in wanted[:2]])
print("parent", torch.get_num_threads(), picks(0) == wanted[0])
"""

LATE = """
def late():
    from patchcore_fast.kernels import k_center_greedy
    return len(k_center_greedy(x, 90).indices) == 90

print("imported in the child", in_child(late))
"""


def run(code, *arguments):
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + code, *arguments], capture_output=True, text=True, timeout=300, env=env
    )
    return done.stdout.splitlines(), done.stderr


def test_every_entry_answers_in_a_child(tmp_path):
    pytest.importorskip("faiss")
    lines, errors = run(ENTRIES, str(tmp_path / "bank"))
    assert len(lines) == ENTRIES.count(": lambda: ") and all(line.endswith(" 0") for line in lines), (lines, errors)


def test_every_kind_of_child_answers_and_says_that_torch_has_one_thread():
    lines, errors = run(FAMILIES)
    kinds = ["child 0", "child of a child 0", "pool True", "futures True", "sampler 45", "loader True"]
    assert lines == [*kinds, "parent 2 True"], errors
    told = [line for line in errors.splitlines() if "this process was forked" in line]
    # Once each: two children, two and two of the pools if both got work, the sampler's. In a child of a child, and in a
    # loader's worker, torch has one thread as it is.
    assert 5 <= len(told) <= 7, errors


def test_a_child_that_imports_the_package_itself():
    lines, errors = run(LATE)
    assert lines == ["imported in the child 0"], errors

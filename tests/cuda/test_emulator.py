"""The emulator finds the mistakes it promises to find, and runs what is right; csrc/cuda/emulator/wrong.cu has both."""

import threading

import numpy as np
import pytest
import torch

THREADS = 64
UNWRITTEN = "reads shared memory that nothing has written"
RACE = "with no barrier between them"


def run(emulated, name, how, values=None, threads=THREADS, width=1, blocks=1):
    """A kernel's output: [blocks * threads * width] int32."""
    out = torch.full((max(blocks * threads * width, 1),), -7, dtype=torch.int32)
    values = torch.zeros(1, dtype=torch.int32) if values is None else values
    emulated.test_kernel(name, threads, how, values.data_ptr(), out.data_ptr())
    return out


def turned(per_warp):
    """Each thread's neighbour in a ring of the block, or of its warp."""
    ring = 32 if per_warp else THREADS
    t = torch.arange(THREADS)
    return t // ring * ring + (t + 1) % ring


RIGHT = [
    ("neighbour", 1, turned(False)), ("warp_neighbour", 1, turned(True)),
    ("reuse", 1, 3 * torch.arange(THREADS).flip(0)), ("bytes", -1, torch.arange(THREADS).flip(0)),
    ("beyond", 0, torch.arange(THREADS)), ("diverging", 0, torch.arange(THREADS)),
    ("diverging_warp", 0, torch.arange(THREADS) ^ 1), ("atomic", 0, torch.full((THREADS,), THREADS)),
    ("shared", 163 << 10, torch.full((THREADS,), THREADS)),
]  # fmt: skip

# name, how, what the message says
WRONG = [
    ("neighbour", 0, f"{UNWRITTEN}|{RACE}"),
    ("neighbour", 2, f"{UNWRITTEN}|{RACE}"),  # a barrier of the warp does not order two warps
    ("warp_neighbour", 0, f"{UNWRITTEN}|{RACE}"),
    ("reuse", 0, RACE),
    ("bytes", 5, f"{UNWRITTEN}: 1 bytes at 5 of 64, after __syncthreads at wrong.cu"),
    ("beyond", 1, f"{RACE}|goes beyond its shared memory"),
    ("beyond", 64, "goes beyond its shared memory: 4 bytes at [0-9]+ of 256"),
    ("beyond", -64, "goes beyond its shared memory: 4 bytes at -[0-9]+ of 256"),
    ("diverging", 1, "divergent barrier: thread 0 of block 0 waits in __syncthreads .*, thread 5 has ended"),
    ("diverging", 2, "divergent barrier: .* wrong.cu:[0-9]+, thread 32 waits in __syncthreads at wrong.cu"),
    ("diverging", 3, "divergent barrier: .*, thread 32 has ended"),
    ("diverging_warp", 1, "divergent barrier: .* waits in __shfl_xor_sync .*, thread [0-9]+ has ended"),
    ("diverging_warp", 2, "divergent warp: .* came to __shfl_xor_sync at wrong.cu"),
    ("diverging_warp", 3, "__shfl_xor_sync at wrong.cu:[0-9]+ without all lanes of the warp"),
    ("diverging_warp", 4, "divergent warp"),  # two calls of one function of gpu.h are two places
    ("atomic", 1, f"{UNWRITTEN}|{RACE}"),
    ("atomic", 2, RACE),
    ("atomic", 3, RACE),
    ("shared", (163 << 10) + 4, "CUDA error 1 .*166916 bytes of shared memory"),
]


@pytest.mark.parametrize(("name", "how", "expected"), RIGHT, ids=lambda v: v if isinstance(v, str) else "")
def test_what_is_right_runs_in_any_order(emulated, every_seed, name, how, expected):
    for _ in every_seed():
        assert run(emulated, name, how).tolist() == expected.tolist()


@pytest.mark.parametrize(("name", "how", "message"), WRONG)
def test_what_is_wrong_is_found_in_any_order(emulated, every_seed, name, how, message):
    for _ in every_seed():
        with pytest.raises(RuntimeError, match=message) as found:
            run(emulated, name, how)
        assert "in a test's kernel" in str(found.value)
    assert run(emulated, "neighbour", 1).tolist() == turned(False).tolist()  # and the emulator goes on


def test_copies_arrive_at_the_wait_at_the_latest(emulated, every_seed):
    values = torch.arange(4 * THREADS, dtype=torch.int32)
    group = values.view(-1, 4)[:, [0, 3]].sum(1)
    group[3] = 0  # not valid: zeros
    for _ in every_seed():
        assert torch.equal(run(emulated, "copying", 0, values), (group + values[:THREADS]).flip(0))
        assert torch.equal(run(emulated, "copying", 3, values), group.flip(0))  # the second group is not needed
        for how, message in (
            (1, "touches what cp.async brings, with no wait for it"),
            (2, f"{UNWRITTEN}|touches what cp.async brings|{RACE}"),
            (4, "misaligned address in cp.async"),
        ):
            with pytest.raises(RuntimeError, match=message):
                run(emulated, "copying", how, values)


def test_copies_below_compute_capability_8_are_plain(emulated, every_seed, monkeypatch):
    monkeypatch.setenv("PATCHCORE_FAST_CUDA_EMULATED_ARCH", "75")
    assert emulated.device_info(-1)["arch"] == 75 and emulated.device_info(-1)["shared_limit"] == 64 << 10
    values = torch.arange(4 * THREADS, dtype=torch.int32)
    for _ in every_seed():
        assert run(emulated, "copying", 1, values).tolist() == run(emulated, "copying", 0, values).tolist()
    with pytest.raises(RuntimeError, match="bytes of shared memory"):
        run(emulated, "shared", 65 << 10)


def test_misaligned_vectors_are_found(emulated):
    memory = torch.arange(40, dtype=torch.float32)
    first = -(memory.data_ptr() // 4) % 4
    for offset in range(4):
        out = torch.zeros(32 * 4)
        if offset == 0:
            emulated.test_kernel("misaligned", 32, first, memory.data_ptr(), out.data_ptr())
            assert out[:4].tolist() == memory[first : first + 4].tolist()
        else:
            with pytest.raises(RuntimeError, match="misaligned address for 16 bytes"):
                emulated.test_kernel("misaligned", 32, first + offset, memory.data_ptr(), out.data_ptr())


def test_collectives_mean_what_cuda_says(emulated, every_seed):
    generator = np.random.default_rng(0)
    values = generator.integers(0, 60, THREADS).astype(np.int32)
    values[9] = 40
    lanes = values.reshape(-1, 32).astype(np.int64)
    index = np.arange(32)
    expected = np.empty((2, 32, 14), dtype=np.int64)
    expected[..., 0] = lanes[:, 5:6]
    expected[..., 1] = lanes[:, index // 8 * 8 + 3]
    expected[..., 2] = lanes[:, np.where(index < 3, index, index - 3)]
    expected[..., 3] = lanes[:, np.where(index % 16 >= 14, index, np.minimum(index + 2, 31))]
    expected[..., 4] = lanes[:, index ^ 9]
    expected[..., 5] = ((lanes % 3 == 0) << index).sum(1, keepdims=True)
    expected[..., 6] = (lanes == 17).any(1, keepdims=True)
    expected[..., 7] = 1
    expected[..., 8] = ((lanes[:, :, None] % 5 == lanes[:, None, :] % 5) << index).sum(2)
    expected[..., 9] = lanes.max(1, keepdims=True) << 33
    expected[..., 10] = 1
    expected[..., 11] = lanes.sum(1, keepdims=True)
    expected[..., 12] = lanes.cumsum(1)
    expected[..., 13] = (values % 2).sum() * 4 + 2 + 1
    # __ballot_sync gives an unsigned number, the others signed ones.
    for _ in every_seed():
        found = run(emulated, "collectives", 0, torch.from_numpy(values), width=28).view(torch.int64)
        assert (found.numpy().reshape(2, 32, 14) == expected).all()


def test_the_order_of_threads_and_blocks_is_the_seeds(emulated, every_seed):
    def order():
        counter = torch.zeros(1, dtype=torch.int32)
        return tuple(run(emulated, "order", 5, counter, threads=96, blocks=5).tolist())

    first = {seed: order() for seed in every_seed()}
    assert all(sorted(o) == list(range(5 * 96)) for o in first.values())
    assert len(set(first.values())) == len(first)
    assert first == {seed: order() for seed in every_seed()}  # a seed fixes it
    by_block = np.array(first[0]).reshape(5, 96)
    assert not (np.diff(by_block.min(1)) > 0).all()  # blocks
    assert not (np.diff(by_block) > 0).all(1).any()  # threads of a block


def test_blocks_that_no_card_takes(emulated):
    for threads in (0, 33, 1056):
        with pytest.raises(RuntimeError, match="CUDA error 9"):
            run(emulated, "diverging", 0, threads=threads)
    assert run(emulated, "diverging", 0, threads=1024).tolist() == list(range(1024))
    with pytest.raises(ValueError, match="no test's kernel"):
        run(emulated, "unheard of", 0)


def test_launches_from_several_threads_take_turns(emulated):
    wrong = []

    def work():
        for _ in range(20):
            if run(emulated, "reuse", 1).tolist() != (3 * torch.arange(THREADS).flip(0)).tolist():
                wrong.append(1)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_what_the_module_says_of_itself(emulated):
    assert emulated.info() == {"archs": [], "ptx": 0, "runtime": 0, "emulated": True}
    told = emulated.device_info(-1)
    assert told["runnable"] is True and told["reason"] == "" and told["multiprocessors"] == 2


@pytest.mark.parametrize("brain", [False, True], ids=["float16", "bfloat16"])
def test_every_number_of_two_bytes(emulated, brain):
    bits = torch.arange(1 << 16, dtype=torch.int32)
    expected = bits.to(torch.int16).view(torch.bfloat16 if brain else torch.float16).float()
    found = torch.tensor([emulated.test_half(b, brain) for b in bits.tolist()])
    number = ~expected.isnan()
    assert torch.equal(number, ~found.isnan()) and number.sum() > 60000
    assert torch.equal(found[number].view(torch.int32), expected[number].view(torch.int32))  # signs of zeros too

"""docs/cuda.md against the sources, and the machine code of one architecture where nvcc is."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

table = pytest.importorskip("benchmarks.pages.cuda_table", reason="installed without benchmarks/")

ROOT = Path(__file__).resolve().parents[2]
ARCH = 86
HOT = ("update.update_kernel", "search.search_kernel")
DECIDE = (
    "block.pairs_kernel", "block.resolve_kernel", "neighbours.settle_kernel", "rescue.rescue_kernel",
    "rescue.merge_kernel", "settle.settle_kernel", "settle.scan_kernel",
)  # fmt: skip
FILES = {name.partition(".")[0] for name in (*HOT, *DECIDE)}


def test_the_page_lists_the_kernels_of_the_sources():
    with pytest.raises(SystemExit) as end:
        table.main(["--check"])
    assert end.value.code is None
    found = table.kernels()
    assert set(HOT) <= set(found) and all(found.values())
    declared = sum(path.read_text().count("__global__") for path in table.sources())
    assert declared == len(found)  # the list is read by a pattern: it must not have missed one


def test_the_page_shows_every_kernel_on_every_architecture():
    text = table.PAGE.read_text()
    machine = text.partition(table.MARK.format("machine", "begin"))[2]
    lines = [line.split(" | ") for line in machine.splitlines() if line.startswith("| `")]
    names = {line[0].strip("| `").partition("<")[0] for line in lines}
    # Kernels of which the machine code has no instance are templates that nothing launches.
    assert names == set(table.kernels())
    head = next(line for line in machine.splitlines() if line.startswith("| kernel"))
    assert re.findall(r"sm_(\d+)", head) == [str(arch) for arch in table.ARCHS]
    for line in lines:
        assert all(cell.isdigit() for cell in line[1 : 1 + len(table.ARCHS)]), line
        if line[0].strip("| `").partition("<")[0] in HOT:
            assert line[1 + len(table.ARCHS)] == "none", line  # spills


def test_the_page_is_made_with_the_flags_of_the_build():
    cmake = (ROOT / "csrc" / "CMakeLists.txt").read_text()
    assert "-fmad=false" in cmake and "-fmad=false" in table.FLAGS
    assert "CUDA_STANDARD 17" in cmake and "-std=c++17" in table.FLAGS
    archs = re.search(r'PCF_CUDA_ARCHS "([\d;]+)"', cmake)
    assert archs is not None and tuple(map(int, archs[1].split(";"))) == table.ARCHS


def built(path):
    """What the build of the native module has made of it: facts, none where it is older than a source or for others."""
    newest = max(file.stat().st_mtime for file in (ROOT / "csrc").rglob("*") if file.is_file())
    objects = ROOT.glob(f"build/native-*/CMakeFiles/pcf_cuda.dir/cuda/{path.name}.o")
    found = (table.facts_of(file, path.stem, ARCH) for file in objects if file.stat().st_mtime > newest)
    return next(filter(None, found), [])


@pytest.fixture(scope="module")
def compiled():
    """What nvcc makes for one architecture of the files whose kernels are hot, or decide."""
    try:
        for name in ("nvcc", "cuobjdump", "c++filt"):
            table.tool(name)
    except SystemExit as e:
        pytest.skip(str(e))
    files = [path for path in table.sources() if path.stem in FILES]
    with ThreadPoolExecutor(2) as pool:
        return [f for facts in pool.map(lambda path: built(path) or table.measure(path, ARCH), files) for f in facts]


def test_hot_kernels_do_not_spill(compiled):
    hot = [f for f in compiled if f.name in HOT]
    assert {f.name for f in hot} == set(HOT)
    for f in hot:
        assert not f.counts["spills"] and not f.stack, f
        assert f.counts["wide_loads"], f
        assert max(f.counts["ffma"], f.counts["hmma"]) >= 16, f


def test_arithmetic_is_what_the_mode_says(compiled):
    modes = {f.kernel: f.counts for f in compiled if f.name in HOT}
    tensor = {kernel for kernel in modes if "tf32x3" in kernel}
    halves = {kernel for kernel in modes if re.search(r"<(half|brain)\b", kernel)}
    assert len(tensor) == len(halves) == 4 and len(tensor | halves) < len(modes)
    for kernel, counts in modes.items():
        if kernel in tensor:
            assert counts["hmma"] and counts["hmma"] % 3 == 0, kernel  # three products each
        elif kernel in halves:
            # One instruction for 16 x 8 x 16, of halves as they came: none is made float32 on the way.
            assert counts["hmma"] >= 8 and counts["hmma"] == counts["hmma_half"] and not counts["unpacked"], kernel
            assert counts["hmma"] == 2 * counts["matrix_loads"], kernel
        else:
            # A thread has at least 32 sums, and four columns of each in the loop's body.
            assert not counts["hmma"] and counts["ffma"] >= 128 and counts["wide_shared"], kernel


def test_nothing_fuses_what_decides(compiled):
    """The canonical distance rounds a product and then a sum; one DFMA would round once."""
    decide = [f for f in compiled if f.name in DECIDE]
    assert {f.name for f in decide} == set(DECIDE)
    assert not {f.kernel: f.counts["dfma"] for f in decide if f.counts["dfma"]}

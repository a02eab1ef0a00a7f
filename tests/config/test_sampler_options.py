"""Options of samplers: the table against the constructors, what is refused and how, and each way to give them."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from patchcore_fast.cli import main
from patchcore_fast.config import PatchCoreConfig, SelectionSettings
from patchcore_fast.config.record import laid
from patchcore_fast.config.sampler_options import (
    ELSEWHERE,
    OPTIONS,
    VIEW_KINDS,
    checked_options,
    parsed_options,
    sampler_text,
)
from patchcore_fast.model.views import KINDS
from patchcore_fast.samplers import ELFSImageSampler, SupportedImages, describe_sampler, make_sampler
from patchcore_fast.samplers.named import NAMED

# Arguments that are no options: settings of their own, the width of the projection by either name, the backend.
GIVEN = {*ELSEWHERE, "dimension_to_project_features_to", "reduce_dim", "backend", "preset"}
PIPELINE = {"view_kinds"}  # which the pipeline looks at
DIRECT = [name for name in OPTIONS if name != "two-level"]


@pytest.mark.parametrize("name", DIRECT)
def test_the_table_is_what_the_constructors_take(name: str) -> None:
    taken = {p: q.default for p, q in inspect.signature(NAMED[name]).parameters.items() if p not in GIVEN}
    same = [table for other, table in OPTIONS.items() if NAMED[other] is NAMED[name]]  # presets of one class
    assert set(taken) == {option for table in same for option in table} - PIPELINE
    told = {option: facts.default for option, facts in OPTIONS[name].items() if option not in PIPELINE}
    assert told == {option: taken[option] for option in told}


def test_the_table_of_two_levels_is_what_its_samplers_take() -> None:
    default = inspect.signature(SupportedImages).parameters["prune"].default
    assert OPTIONS["two-level"]["prune"].default == default and tuple(KINDS) == VIEW_KINDS


def test_the_page_has_them_all() -> None:
    page = (Path(__file__).parents[2] / "docs" / "elfs.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| ([\w-]+) \| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", page, re.MULTILINE)
    assert [row for row in told if row[0] in OPTIONS] == [
        (name, option, facts.wanted, "" if facts.default is None else str(facts.default), facts.help)
        for name, table in OPTIONS.items()
        for option, facts in table.items()
    ]


def other(facts: Any) -> Any:
    """A value beside the default, as a person would type it."""
    words = [word for word in facts.words if word != facts.default]
    if words:
        return words[0]
    if facts.kind == "integer":
        return 3
    return 1.5 if facts.high > 2 else 0.25


NOISE = {"instability": "noise"}
NEEDED = {"w_unc": NOISE, "noise_std": NOISE, "noise_T": NOISE, "view_kinds": {"instability": "views"},
          "topk_pool_multiplier": {"w_repr": 1.0}, "proxy_steps": {"instability": "proxy"},
          "difficulty": {"instability": "difficulty"}}  # fmt: skip
# Attributes with another name than the option.
KEPT = {("composite", "approximate_starting_points"): "density_subsample",
        ("composite", "dim_reduce"): "dimension_to_project_features_to"}  # fmt: skip


@pytest.mark.parametrize(("name", "option"), [(name, option) for name in OPTIONS for option in OPTIONS[name]])
def test_each_option_reaches_its_sampler(name: str, option: str) -> None:
    value = other(OPTIONS[name][option])
    assert parsed_options(name, [f"{option} = {value}"]) == {option: value}
    needed: dict[str, Any] = NEEDED.get(option, {})
    if name == "two-level":
        needed = {} if option in ("prune", "patches") else {"images": "elfs", "image_share": 0.5}
    sampler: Any = make_sampler(name, 0.1, options=needed | {option: value})
    assert describe_sampler(sampler)[0] == name
    if name == "two-level":
        first, kinds = sampler.image_sampler, {"elfs": ELFSImageSampler, "support": SupportedImages}
        if option == "images":
            assert type(first) is kinds[value]
        elif option == "patches":
            assert describe_sampler(sampler.patch_sampler)[0] == value
        else:
            assert getattr(first, {"image_share": "percentage", "difficulty": "score"}.get(option, option)) == value
    else:
        assert getattr(sampler, KEPT.get((name, option), option)) == value


def test_what_is_none_and_what_is_not_a_float_of_it() -> None:
    assert checked_options("elfs", {"w_density": -1, "settle": None}) == (("w_density", -1.0),)
    assert checked_options("elfs", [("k_density", 5), ("anchors", 9)]) == (("anchors", 9), ("k_density", 5))
    assert parsed_options("elfs", ["settle=none", "w_repr=1", "w_repr=2"]) == {"settle": None, "w_repr": 2.0}
    several = {"instability": "difficulty", "difficulty": "aum+el2n"}
    assert dict(checked_options("composite", several)) == several
    assert checked_options("composite", {"noise_T": 0, "instability": "proxy"})[1] == ("noise_T", 0)
    assert sampler_text("elfs", {"w_density": -1.0, "mode": "pseudo"}) == "elfs (w_density -1, mode pseudo)"
    assert sampler_text("greedy", None) == sampler_text("greedy", ()) == "greedy"


@pytest.mark.parametrize(
    ("sampler", "options", "message"),
    [
        ("elfs", {"w_dens": 1}, r"sampler elfs has no option 'w_dens' \(did you mean w_density\?\): it has mode"),
        ("greedy", {"w_repr": 1}, "sampler greedy has no option 'w_repr': it has none"),
        ("elfs", {"prune_support": "rule"}, r"is a setting and no option of a sampler: give --prune-support "),
        ("elfs", {"seed": 3}, r"seed is a setting .* give --seed"),
        ("elfs", {"w_repr": 11}, r"w_repr of sampler elfs must be a number in \[-10, 10\], got 11"),
        ("elfs", {"w_repr": float("nan")}, r"must be a number in \[-10, 10\], got nan"),
        ("elfs", {"w_repr": True}, r"must be a number in \[-10, 10\], got True"),
        ("elfs", {"w_repr": "1"}, r"must be a number in \[-10, 10\], got '1'"),
        ("elfs", {"prune_hard": 0.5}, r"prune_hard of sampler elfs must be a number in \[0, 0\.5\), got 0\.5"),
        ("elfs", {"k_density": 2.5}, "must be an integer >= 1, got 2.5"),
        ("elfs", {"mode": "sudo"}, r"mode of sampler elfs must be feature or pseudo, got 'sudo'"),
        ("elfs", {"w_unc": 1}, "w_unc of sampler elfs needs mode=pseudo or instability"),
        ("elfs", {"topk_pool_multiplier": 2}, "needs a weight"),
        ("elfs", {"noise_std": 2}, "goes with instability=noise"),
        ("elfs", {"noise_std": 0, "instability": "noise"}, "must be a number > 0, got 0"),
        ("elfs", {"view_kinds": "flips"}, "goes with instability=views"),
        ("composite", {"w_repr": 1e7}, r"w_repr of sampler composite must be a number in \[-1e\+06, 1e\+06\], got 1"),
        ("composite", {"difficulty": "aum+mean", "instability": "difficulty"},
         r"must be aum, forgetting, el2n, mean or several of aum, forgetting, el2n with \+ .*, got 'aum\+mean'"),
        ("composite", {"difficulty": "aum+aum", "instability": "difficulty"}, r"got 'aum\+aum'"),
        ("composite", {"proxy_steps": 2, "instability": "noise"}, "goes with instability=proxy, got noise"),
        ("composite", {"noise_T": 2, "instability": "proxy"}, "goes with instability=noise, got proxy"),
        ("composite", {"alpha": -1}, "must be a number >= 0, got -1"),
        ("composite", {"settle": 0}, "sampler composite has no option 'settle'"),
        ("lowest-density", {"anchors": 1}, "anchors of sampler lowest-density must be an integer >= 2, got 1"),
        ("two-level", {"prune": 0}, r"prune of sampler two-level must be auto or a number in \(0, 1\), got 0"),
        ("two-level", {"image_share": 0.5}, "image_share of sampler two-level goes with images=elfs"),
        ("two-level", {"images": "elfs", "prune": 0.5}, "prune of sampler two-level goes with images=support"),
        ("two-level", {"images": "elfs", "prune_hard": 0.3}, r"are more than 1 together: 0\.8 and 0\.3"),
        ("approximate", {"number_of_starting_points": 0}, "must be an integer >= 1, got 0"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_told(sampler: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^PatchCoreConfig: selection\.sampler_options .*{message}"):
        SelectionSettings(sampler=sampler, sampler_options=options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"^make_sampler: options: .*{message}"):
        make_sampler(sampler, options=options)


def test_what_are_no_options() -> None:
    with pytest.raises(TypeError, match=r"sampler_options must be names with values, got 3"):
        SelectionSettings(sampler_options=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"sampler_options are of a sampler by its name, a\.B was given as an object"):
        SelectionSettings(sampler="a.B", sampler_parameters={}, sampler_options={"x": 1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"KEY=VALUE"):
        parsed_options("elfs", ["w_repr"])


def test_dicts_and_files_hold_them(tmp_path: Path) -> None:
    config = PatchCoreConfig(sampler="elfs", sampler_options={"w_density": -1, "mode": "pseudo", "epochs": 2})
    assert config.sampler_options == (("epochs", 2), ("mode", "pseudo"), ("w_density", -1.0))
    assert hash(config) == hash(eval(repr(config))) and eval(repr(config)) == config
    assert config.to_dict()["selection"]["sampler_options"] == {"epochs": 2, "mode": "pseudo", "w_density": -1.0}
    assert PatchCoreConfig.from_dict(config.to_dict()) == config
    text = config.to_toml(tmp_path / "c.toml")
    assert '[selection.sampler_options]\nepochs = 2\nmode = "pseudo"\nw_density = -1.0\n' in text
    assert PatchCoreConfig.from_toml(tmp_path / "c.toml") == config
    old = PatchCoreConfig(sampler="elfs").to_dict()
    del old["selection"]["sampler_options"], old["selection"]["count"]  # as banks of earlier versions have it
    assert PatchCoreConfig.from_dict(old) == PatchCoreConfig(sampler="elfs")
    (tmp_path / "c.toml").write_text("[selection]\nsampler = 'elfs'\n[selection.sampler_options]\nw_dens = 1\n")
    assert main(["fit", "--print-config", "--config", str(tmp_path / "c.toml")]) == 2


def test_options_of_the_same_sampler_are_laid_over_each_other() -> None:
    beneath = {"sampler": "elfs", "ratio": 0.1, "sampler_options": {"settle": 0, "w_repr": 1}}
    assert laid(beneath, {"count": 3, "sampler_options": {"w_repr": 2}}) == {
        "sampler": "elfs", "count": 3, "sampler_options": {"settle": 0, "w_repr": 2}}  # fmt: skip
    assert laid(beneath, {"sampler": "greedy"}) == {"sampler": "greedy", "ratio": 0.1}
    assert laid(beneath, {"sampler": "elfs"}) == beneath and laid({}, beneath) == beneath
    assert laid(beneath, {"sampler_options": 3})["sampler_options"] == 3  # for the settings to refuse


def test_what_is_typed_goes_before_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[selection]\nsampler = 'elfs'\n[selection.sampler_options]\nw_density = -1\nsettle = 0\n")

    def printed(*options: str) -> dict[str, Any]:
        assert main(["plan", "--print-config", "--config", str(file), *options]) == 0
        (tmp_path / "out.toml").write_text(capsys.readouterr().out)
        return dict(PatchCoreConfig.from_toml(tmp_path / "out.toml").sampler_options)

    assert printed() == {"w_density": -1, "settle": 0}
    assert printed("--sampler-option", "w_density=2", "--sampler-option", "epochs=3") == {
        "w_density": 2, "settle": 0, "epochs": 3}  # fmt: skip
    assert printed("--sampler-option", "settle=none") == {"w_density": -1}
    assert printed("--sampler", "elfs", "--sampler-option", "w_repr=1") == {"w_density": -1, "settle": 0, "w_repr": 1}
    assert printed("--sampler", "greedy") == {}  # options of another sampler go
    assert printed("--sampler", "two-level", "--sampler-option", "prune=0.2") == {"prune": 0.2}
    for wrong in ("w_dens=1", "w_density=much", "w_density"):
        assert main(["plan", "--print-config", "--config", str(file), "--sampler-option", wrong]) == 2
        assert "--sampler-option: " in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), "--bank", str(file), "--sampler-option", "settle=0"]) == 2
    assert "--sampler-option: belongs to fitting" in capsys.readouterr().err


def test_options_need_no_torch() -> None:
    code = "import sys\nfrom patchcore_fast.cli import main\nmain(sys.argv[1:])\nsys.exit('torch' in sys.modules)"
    options = ["fit", "--print-config", "--sampler", "elfs", "--sampler-option", "w_unc=1"]
    assert subprocess.run([sys.executable, "-c", code, *options], timeout=60, capture_output=True).returncode == 0

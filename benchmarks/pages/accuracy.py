"""Tables of accuracy/grid.py: for the terminal, and for what stands between the marks of docs/accuracy.md."""

from __future__ import annotations

from typing import Any

from benchmarks.accuracy.bootstrap import METRICS, NAMES
from benchmarks.accuracy.samplers import BASELINE, OURS
from benchmarks.accuracy.sets import label
from benchmarks.harness import records
from benchmarks.pages import accuracy_plots

BEGIN, END = "<!-- accuracy:begin -->", "<!-- accuracy:end -->"
NONE = "No results of `benchmarks/accuracy/grid.py` are here yet."

HOW = """\
Made by `benchmarks/accuracy/grid.py`, which has all options; nothing from here on is typed by hand. Every cell selects
a bank from the same features, searches it, and is measured on the test images; all samplers see the same training sets.

* **Contamination** of a share moves that many defect images, counted by the good training images but at most half of
  the defects with masks, into training, at random places of the image order and drawn by the seed; they leave the
  test.
* **Values** are means over seeds (of the sampler and of that draw), then over sets. Maps are {map_size} pixels wide
  with sigma {sigma:g}; the image score is the largest patch distance; AUPRO ends at a false positive rate of 0.3.
* **Intervals** in brackets are bootstrap percentiles (95 %, {resamples} resamples) over test *images*, drawn with
  replacement within good and defective ones; pixels are not resampled on their own. All seeds, contaminations and
  samplers of a set share the resamples, and a difference to greedy is taken resample by resample before it is averaged
  over seeds and sets. Sets and seeds are taken as given: the intervals say nothing about other sets. Pixel metrics of
  resamples come from weighted per-image counts in about 4,096 bins of score; what binning shifts, measured where the
  exact value is known (at most {binned:.1e} here), is taken off.
* **Time** is that of the selection, over greedy's in the same cell (geometric mean); **memory** is the largest peak
  beyond the features.
"""

REGAINED = """\
Image AUROC that contamination takes from greedy, and the part of it that a sampler gives back: (sampler - greedy, both
contaminated) / (greedy clean - greedy contaminated), of means over the sets into which images were moved; "clean" is
measured on the test images that the contaminated ones are measured on.
"""


def _signed(v: list[float]) -> str:
    return f"{v[3]:+.3f} [{v[4]:+.3f}, {v[5]:+.3f}]"


def _cell(v: list[float] | None, sampler: str) -> str:
    if v is None:
        return ""
    return f"{v[0]:.3f} [{v[1]:.3f}, {v[2]:.3f}]" if sampler == BASELINE else f"{v[0]:.3f}, {_signed(v)}"


def _table(head: list[str], lines: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(x) + " |" for x in (head, ["---"] * len(head), *lines)] + [""]


def _share(share: float) -> str:
    return f"{100 * share:g} % contaminated" if share else "clean"


def _rows(result: dict[str, Any], backbone: str, share: float, kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    names = list(result["samplers"])
    found = [r for r in result["means"] if (r["backbone"], r["share"]) == (backbone, share) and not r.get("among")
             and result["samplers"][r["sampler"]]["kind"] in kinds]  # fmt: skip
    return sorted(found, key=lambda r: (r["bank"], r["sampler"] != BASELINE, names.index(r["sampler"])))


def _ratio(value: float) -> str:
    return records.ratio(value) if value >= 0.005 else "< 0.01 x"


def _worst(row: dict[str, Any]) -> str:
    lost = ", ".join(f"{NAMES[m]} {diff:+.3f} ({name})" for m, (name, diff) in row["worst"].items())
    return f"{row['sampler']} at {100 * row['bank']:g} %: {lost}"


def _line(row: dict[str, Any]) -> list[str]:
    cells = [_cell(row["metrics"][m], row["sampler"]) for m in METRICS]
    time = records.seconds(row["select_s"]) if row["sampler"] == BASELINE else _ratio(row["ratio"])
    return [f"{100 * row['bank']:g} %", row["sampler"], *cells, time, records.size(row["extra_bytes"])]


HEAD = ["bank", "sampler", *(NAMES[m] for m in METRICS), "time", "memory"]


def as_markdown(result: dict[str, Any], device: str, name: str, figures: str) -> list[str]:
    """A section for one result file; `figures` is the folder of the figures as the page sees it."""
    place, asked = result["environment"], result["options"]
    ok = [c for c in result["cells"] if c["status"] == "ok"]
    failed = len(result["cells"]) - len(ok)
    backbones = list(dict.fromkeys(c["backbone"] for c in ok))
    seeds = sorted({c["seed"] for c in ok})
    lines = [
        f"### {name} on {device}\n",
        f"{place['device']}; {place['threads']} threads; Python {place['python']}, torch {place['torch']}, "
        f"patchcore_fast {place['patchcore_fast']}; commit {', '.join(result['commits'])}, {place['date']}; backbones "
        f"{', '.join(backbones)} at {asked['image_size']} px; seeds {', '.join(map(str, seeds))}; {len(ok):,} cells"
        f"{f', and {failed} that FAILED' if failed else ''} "
        f"([{name}.json](../benchmarks/results/{device}/{name}.json)).\n",
    ]
    if asked["weights"] == "random":
        lines.append("**The backbone's weights are random: these figures say nothing of accuracy.**\n")
    lines.append(HOW.format(**asked, binned=max((c["binned"] for c in ok), default=0.0)))
    lines += _table(["sampler", "what it is"], [[n, s["about"]] for n, s in result["samplers"].items()])
    lines += _sets(result)
    drawn = list(accuracy_plots.figures(result, f"{device}-{name}"))
    for backbone in backbones:
        lines += _backbone(
            result, backbone, [f for f in drawn if f.startswith(f"{device}-{name}-{label(backbone)}-")], figures
        )
    return lines


def _sets(result: dict[str, Any]) -> list[str]:
    shares = sorted({float(s) for one in result["sets"] for s in one["moved"]} - {0.0})
    lines = [
        [one["name"], f"{one['train']}", f"{one['good']} / {one['defective']}", f"{one['masked']}",
         *(f"{one['moved'].get(f'{s:g}', '')}" for s in shares)]
        for one in result["sets"]
    ]  # fmt: skip
    head = [
        "set",
        "training images",
        "test good / defective",
        "with masks",
        *(f"moved at {100 * s:g} %" for s in shares),
    ]
    text = _table(head, lines)
    if any(not one["moved"].get(f"{s:g}", 1) for one in result["sets"] for s in shares):
        text.append("A set into which no image would be moved is not in the means of that contamination.\n")
    return text


def _backbone(result: dict[str, Any], backbone: str, drawn: list[str], folder: str) -> list[str]:
    lines = [f"#### {label(backbone)}\n"]
    lines += [f"![{f.removesuffix('.png')}]({folder}/{f})\n" for f in drawn]
    details = []
    for share in sorted({r["share"] for r in result["means"] if r["backbone"] == backbone}):
        rows = _rows(result, backbone, share, ("main",))
        means = [r for r in rows if r["set"] is None]
        if not means:
            continue
        most = max(r["sets"] for r in means)
        over = f"{most} set{'s' * (most > 1)}"
        lines.append(f"**{_share(share).capitalize()}, means over {over}.** Greedy with its interval and median time; "
                     "others with their difference to greedy, its interval, and their time to its.\n")  # fmt: skip
        if any(r["sets"] < most for r in means):
            lines.append("Fewer sets: " + ", ".join(f"{r['sampler']} at {100 * r['bank']:g} % ({r['sets']})"
                                                    for r in means if r["sets"] < most) + ".\n")  # fmt: skip
        lines += _table(HEAD, [_line(r) for r in means])
        lines += ["Lowest difference to greedy in any set:\n"] * (most > 1)
        lines += [f"* {_worst(r)}" for r in means if r["sampler"] != BASELINE and most > 1] + [""] * (most > 1)
        each = [r for r in rows if r["set"] is not None]
        order = [one["name"] for one in result["sets"]]
        each.sort(key=lambda r: order.index(r["set"]))
        details += [f"<details><summary>{label(backbone)}, {_share(share)}, each set</summary>\n",
                    *_table(["set", *HEAD], [[r["set"], *_line(r)] for r in each]), "</details>\n"]  # fmt: skip
    lines += _regained(result, backbone)
    lines += _ablation(result, backbone)
    return lines + details


def _regained(result: dict[str, Any], backbone: str) -> list[str]:
    rows = [r for r in result["regained"] if r["backbone"] == backbone]
    if not rows:
        return []
    rows.sort(key=lambda r: (r["share"], r["bank"]))
    lines = [
        [f"{100 * r['share']:g} %", f"{100 * r['bank']:g} %", r["sampler"], str(r["sets"]), _with(r["loss"]),
         _with(r["gain"]), "no loss to speak of" if r["regained"] is None else _part(r)]
        for r in rows
    ]  # fmt: skip
    head = ["contamination", "bank", "sampler", "sets", "greedy loses", "over greedy", "regained"]
    return [REGAINED, *_table(head, lines)]


def _part(row: dict[str, Any]) -> str:
    return f"{row['regained']:.0%}" + ("" if row["low"] is None else f" [{row['low']:.0%}, {row['high']:.0%}]")


def _with(v: list[float]) -> str:
    return f"{v[0]:+.3f} [{v[1]:+.3f}, {v[2]:+.3f}]"


def _ablation(result: dict[str, Any], backbone: str) -> list[str]:
    lines = []
    for share in sorted({r["share"] for r in result["means"]}):
        rows = [r for r in _rows(result, backbone, share, ("main", "ablation")) if r["set"] is None]
        cut = [r for r in rows if result["samplers"][r["sampler"]]["kind"] == "ablation"]
        for bank in sorted({r["bank"] for r in cut}):
            both = [r for r in rows if r["bank"] == bank and (r in cut or r["sampler"] == OURS)]
            for r in both:
                cells = ["" if r["metrics"][m] is None else _signed(r["metrics"][m]) for m in METRICS]
                lines.append([_share(share), f"{100 * bank:g} %", r["sampler"], *cells, _ratio(r["ratio"])])
    if not lines:
        return []
    head = ["training", "bank", "sampler", *(NAMES[m] for m in METRICS), "time"]
    return ["**Ablation**: differences to greedy, means over sets.\n", *_table(head, lines)]


def page(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """What stands between the marks, of device -> name -> result."""
    lines = [x for device, files in found.items() for name, result in files.items()
             for x in as_markdown(result, device, name, "benchmarks")]  # fmt: skip
    return "\n".join(lines).rstrip() if lines else NONE


def as_text(result: dict[str, Any]) -> str:
    """Means over sets for the terminal, each metric with its difference to greedy."""
    text = []
    rows = [r for r in result["means"] if r["set"] is None and not r.get("among")]
    for backbone, share, bank in dict.fromkeys((r["backbone"], r["share"], r["bank"]) for r in rows):
        mine = [r for r in rows if (r["backbone"], r["share"], r["bank"]) == (backbone, share, bank)]
        mine.sort(key=lambda r: r["sampler"] != BASELINE)
        over = max(r["sets"] for r in mine)
        text.append(f"\n{label(backbone)}, {_share(share)}, bank {100 * bank:g} %, means over {over} sets")
        lines = [HEAD[1:], *(_line(r)[1:] for r in mine)]
        widths = [max(len(x[i]) for x in lines) for i in range(len(lines[0]))]
        text += ["  " + "  ".join(c.ljust(w) for c, w in zip(x, widths, strict=True)).rstrip() for x in lines]
        text += [f"  lowest: {_worst(r)}" for r in mine if r["sampler"] != BASELINE and over > 1]
    for r in result["regained"]:
        if r["regained"] is not None:
            where = f"{label(r['backbone'])}, {_share(r['share'])}, bank {100 * r['bank']:g} %"
            text.append(f"  {where}: {r['sampler']} regains {_part(r)} of the {r['loss'][0]:.3f} image AUROC that "
                        "greedy loses")  # fmt: skip
    return "\n".join(text)

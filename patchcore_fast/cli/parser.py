"""Arguments of every command. Nothing that is slow to import is imported here."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from patchcore_fast.cli.bench import add_arguments as add_bench
from patchcore_fast.cli.bench_samplers import add_arguments as add_bench_samplers
from patchcore_fast.cli.chaining import add_chain
from patchcore_fast.cli.compare import add_arguments as add_compare
from patchcore_fast.cli.decision import TARGETS
from patchcore_fast.cli.exclusion import add_exclude
from patchcore_fast.cli.export import add_arguments as add_export
from patchcore_fast.cli.grid import add_arguments as add_grid
from patchcore_fast.cli.options import (
    SCORED,
    STORED,
    add_config,
    add_download,
    add_group,
    add_rank_timeout,
    add_sampler_options,
    add_threshold,
    flag,
)
from patchcore_fast.cli.process import PROGRAM
from patchcore_fast.cli.signals import add_signals
from patchcore_fast.cli.tracking import add_tracking
from patchcore_fast.cli.train import add_arguments as add_train
from patchcore_fast.cli.watch import add_arguments as add_watch
from patchcore_fast.config.base import nearest
from patchcore_fast.config.methods import METHODS
from patchcore_fast.config.running import device
from patchcore_fast.config.selection import SAMPLERS

PRECISIONS = ("float32", "ieee", "tf32x3", "tf32", "bf16")  # kernels.tuning's (a test compares)
DEMO_OUTPUT = "patchcore_fast_demo"
PAGE_IMAGES = 400  # report.page's (a test compares)
DRAWN = 2048  # report.images' LONGEST (a test compares)
FITTED = ("features", "selection", "search", "scoring")  # groups that decide what fit makes
ALONE = ("backbone", "layers", "norm", "weights", "image_size", "crop")
NOTES = {"features": "not together with --bank (but --weights)", "selection": "not together with --bank",
         "search": "not together with --bank",
         "scoring": f"with --bank only {', '.join(map(flag, SCORED))}"}  # fmt: skip


def sides(text: str) -> tuple[int, ...]:
    """`1,3,5`."""
    return tuple(int(part) for part in text.split(","))


def names(text: str) -> list[str]:
    """`bolt,nut`."""
    return [part.strip() for part in text.split(",") if part.strip()]


class _Version(argparse.Action):
    """Looks the version up when asked: reading package metadata takes longer than parsing."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from patchcore_fast import __version__

        print(f"{parser.prog} {__version__}")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """Names what was perhaps meant where a choice or an option is unknown; a command tells of its own options.

    mixed : options may stand between positional arguments also where the first of these may be missing.
    """

    mixed = False
    _within = False  # a call of argparse's own, for the options or for the rest

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.mixed and not self._within:
            self._within = True
            try:
                found, left = self.parse_known_intermixed_args(args, namespace)
            finally:
                self._within = False
        else:
            found, left = super().parse_known_args(args, namespace)
        if left and self.prog != PROGRAM and not self._within:
            near = nearest(left[0].split("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(left)}{near}")
        return found, left

    def error(self, message: str) -> NoReturn:
        if wrong := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            message += nearest(wrong[1], re.findall(r"[\w-]+", wrong[2]))
        super().error(message)


def build_parser() -> argparse.ArgumentParser:
    """The whole parser; `args.run` is (module in patchcore_fast.cli, function)."""
    parser = _Parser(
        prog=PROGRAM,
        description="Find defects in photographs after looking at normal ones (PatchCore), with a fast exact coreset.",
        epilog="New here? Run: patchcore-fast demo",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    parser.set_defaults(run=None)

    def command(name: str, run: tuple[str, str], text: str, example: str) -> _Parser:
        sub = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example:\n  patchcore-fast {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        sub.add_argument("-v", "--verbose", action="store_true", help="debug messages and tracebacks")
        return sub

    demo = command("demo", ("tools", "demo"), "fit and test on three bundled photographs, no download", "demo")
    demo.add_argument("--output", default=DEMO_OUTPUT, metavar="DIR", help="folder (default %(default)s)")
    demo.add_argument("--quick", action="store_true", help="one texture and a shorter timing")

    check = command("check", ("check", "check"), "say what a folder holds and what looks wrong, without a network",
                    "check bottles")  # fmt: skip
    check.add_argument("folder", metavar="DIR", help="normal images, or MVTec layout")
    check.add_argument("--json", action="store_true", help="as JSON, for programs")

    fit = command("fit", ("pipeline", "fit"), "learn what normal images look like",
                  "fit bottles --output bottles.safetensors")  # fmt: skip
    fit.add_argument("folder", nargs="?", metavar="DIR", help="normal images, or MVTec layout (train/good)")
    fit.add_argument("--output", required=True, metavar="FILE", help="memory bank to write (.safetensors)")
    fit.add_argument("--features", metavar="STORE", help="what extract wrote, in place of DIR: no image is read")
    fit.add_argument("--indices", metavar="FILE",
                     help="with --features: rows that were picked before, by select STORE --indices, or a .npy file of "
                          "row numbers or of the rows themselves")  # fmt: skip
    fit.add_argument("--store", metavar="STORE",
                     help="keep features in this folder, not in memory, and go on with what is there")  # fmt: skip
    add_exclude(fit)
    add_rank_timeout(fit)
    add_config(fit)
    for group in FITTED:
        add_group(fit, group)
    add_threshold(fit)
    add_group(fit, "running")

    extract = command("extract", ("extract", "extract"), "compute the features that fit chooses from, and keep them",
                      "extract bottles --output bottles.store")  # fmt: skip
    extract.set_defaults(resumes=True)
    extract.add_argument("folder", metavar="DIR", help="normal images, or MVTec layout (train/good)")
    extract.add_argument("--output", required=True, metavar="STORE",
                         help="folder to write; a run that was interrupted goes on there")  # fmt: skip
    extract.add_argument("--store-dtype", choices=("float16", "float32"),
                         help="of the numbers in the files (default: the precision's)")  # fmt: skip
    add_exclude(extract)
    add_rank_timeout(extract)
    add_config(extract)
    add_group(extract, "features")
    add_group(
        extract,
        "selection",
        (*STORED, "banks"),
        "--banks: with --metric cosine, the rows are for the one kind of bank only",
    )
    add_group(extract, "running")

    plan = command("plan", ("plan", "plan"), "say what a fit will take: patches, bytes, seconds", "plan bottles")
    plan.add_argument("folder", metavar="DIR", help="normal images, or MVTec layout (train/good)")
    plan.add_argument("--json", action="store_true", help="as JSON, for programs")
    add_exclude(plan)
    add_config(plan)
    for group in FITTED:
        add_group(plan, group)
    add_group(plan, "running")

    predict = command("predict", ("predict", "predict"), "score images and draw heat maps",
                      "predict bottles.safetensors photos --output out")  # fmt: skip
    predict.add_argument("bank", metavar="BANK", help="file written by fit or train, or by export")
    predict.add_argument("images", nargs="+", metavar="IMAGES", help="image files and folders of images")
    predict.add_argument("--output", required=True, metavar="DIR",
                         help=f"folder for scores.csv, sheet, heat maps (at most {DRAWN:,} pixels a side)")  # fmt: skip
    predict.add_argument(
        "--no-maps",
        action="store_true",
        help="the same scores without pictures, for which few patches are searched in the whole bank",
    )
    add_group(predict, "features", ["weights"])
    add_group(predict, "scoring", SCORED, "other than the fit's: there is then no threshold")
    add_threshold(predict, "other than the bank's")
    add_group(predict, "running")
    add_download(predict)

    watched = command("watch", ("watch", "watch"), "score new images of a folder as they come",
                      "watch bottles.safetensors incoming --output inspected --page")  # fmt: skip
    add_watch(watched)

    evaluate = command(
        "evaluate", ("evaluate", "evaluate"), "measure accuracy on a folder in MVTec layout, or on many categories",
        "evaluate bottles --output report",
    )  # fmt: skip
    evaluate.add_argument(
        "folder",
        metavar="DIR",
        help="train/good, test/<defect>, ground_truth/<defect>; or such folders, a category each; or a meta.json "
        "(docs/ader.md)",
    )
    evaluate.add_argument("--bank", metavar="BANK", help="use this bank, or model of train, and fit nothing")
    evaluate.add_argument("--classes", type=names, metavar="C,C", help="of many categories only these")
    evaluate.add_argument("--json", metavar="FILE", help="write all numbers here")
    evaluate.add_argument(
        "--output", metavar="DIR",
        help="folder for scores.csv, plots, and what report needs; of many categories also index.html, results.json "
             "and results.csv, and an interrupted run goes on where it was",
    )  # fmt: skip
    add_exclude(evaluate)
    add_tracking(evaluate)
    add_config(evaluate)
    for group in FITTED:
        add_group(evaluate, group, note=NOTES.get(group))
    add_threshold(evaluate)
    add_group(evaluate, "running")
    add_download(evaluate)

    trained = command("train", ("train", "train"), f"train another method than PatchCore: {', '.join(METHODS)}",
                      "train simplenet bottles --output bottles.safetensors")  # fmt: skip
    trained.mixed = True
    add_train(trained)

    alone = command("zeroshot", ("zeroshot", "zeroshot"), "let unlabelled images score each other, without training",
                    "zeroshot photos --output out")  # fmt: skip
    alone.add_argument("folder", metavar="DIR", help="images, most of them normal; of MVTec layout those of test")
    alone.add_argument("--output", required=True, metavar="DIR", help="folder for scores.csv, sheet, heat maps")
    alone.add_argument(
        "--degrees", type=sides, default=(1, 3, 5), metavar="N,N",
        help="odd sides of the neighbourhoods that patches are averaged over (default 1,3,5)",
    )  # fmt: skip
    alone.add_argument(
        "--share", type=float, default=0.3, metavar="S",
        help="of the other images, those that know a patch best and score it (default %(default)s)",
    )  # fmt: skip
    alone.add_argument("--group", type=int, metavar="N", help="score within groups of about N images, drawn by --seed")
    add_group(alone, "features", ALONE)
    add_group(alone, "selection", ["seed"])
    add_group(alone, "scoring", ["sigma"])
    add_group(alone, "running")

    page = command("report", ("report", "report"), "make one HTML page of what evaluate wrote, to look at or to send",
                   "report results")  # fmt: skip
    page.add_argument("folder", metavar="DIR", help="output folder of evaluate")
    page.add_argument("--output", metavar="FILE", help="page to write (default DIR/report.html)")
    page.add_argument("--images", type=int, default=PAGE_IMAGES, metavar="N",
                      help="images in the gallery at most, wrong verdicts first (default %(default)s)")  # fmt: skip

    look = command("inspect", ("inspect", "inspect"), "draw what a selection knew and where the bank comes from",
                   "inspect bottles --output selection --sampler greedy")  # fmt: skip
    look.add_argument("folder", metavar="DIR", help="normal images, or MVTec layout (train/good)")
    look.add_argument("--output", required=True, metavar="OUT", help="folder for the pictures and selection.json")
    look.add_argument("--bank", metavar="FILE", help="show this bank, made of DIR by fit, and select nothing")
    look.add_argument("--plane", choices=("pca", "umap"), default="pca",
                      help="map of all patches (default pca; umap wants umap-learn)")  # fmt: skip
    add_signals(look)
    add_exclude(look)
    add_config(look)
    for group in FITTED:
        add_group(look, group, note=NOTES.get(group))
    add_group(look, "running")
    add_download(look)

    audit = command("audit", ("audit", "audit"), "show the training images that may not belong there",
                    "audit bottles --output audit")  # fmt: skip
    audit.add_argument("folder", metavar="DIR", help="training images, or MVTec layout (train/good)")
    audit.add_argument("--output", required=True, metavar="OUT",
                       help="folder for audit.html, audit.csv and suspects.txt")  # fmt: skip
    audit.add_argument("--top", type=int, default=20, metavar="N",
                       help="images to look at, the most suspicious first (default %(default)s)")  # fmt: skip
    audit.add_argument("--features", metavar="STORE", help="what extract wrote of DIR: no feature is computed again")
    add_exclude(audit)
    add_config(audit)
    add_group(audit, "features")
    add_group(audit, "selection", ["seed"])
    add_group(audit, "running")

    export = command("export", ("export", "export"), "write the model as a file that runs without this package",
                     "export bottles.safetensors --output bottles.onnx")  # fmt: skip
    add_export(export)
    export.add_argument("--weights", default=argparse.SUPPRESS, metavar="W", help="where its weights are now")
    add_download(export)

    decide = command("threshold", ("threshold", "threshold"), "show or change the thresholds of a bank",
                     "threshold bottles.safetensors --max-false-alarms 1/200")  # fmt: skip
    decide.add_argument("bank", metavar="BANK", help="file written by fit or train")
    decide.add_argument("value", nargs="?", type=float, metavar="VALUE",
                        help="the same as --image-threshold; without any: the choices")  # fmt: skip
    add_threshold(decide, only=TARGETS)
    decide.add_argument("--output", metavar="FILE", help="write the bank here and leave BANK as it is")

    calibrate = command("calibrate", ("calibrate", "calibrate"), "set the thresholds of a bank by good images",
                        "calibrate bottles.safetensors new-good --defects some-bad")  # fmt: skip
    calibrate.add_argument("bank", metavar="BANK", help="file written by fit or train")
    calibrate.add_argument("good", metavar="GOOD", help="good images that it was not fitted on: a folder")
    calibrate.add_argument("--defects", metavar="DIR",
                           help="defective images: the image threshold then parts them best from the good ones, unless "
                                "--max-false-alarms says where it lies")  # fmt: skip
    calibrate.add_argument("--output", metavar="FILE", help="write the bank here and leave BANK as it is")
    add_group(calibrate, "decision", TARGETS)
    add_group(calibrate, "features", ["weights"])
    add_group(calibrate, "running")
    add_download(calibrate)

    grow = command("update", ("living", "update"), "let new normal images join a memory bank",
                   "update bottles.safetensors new-photos")  # fmt: skip
    grow.add_argument("bank", metavar="BANK", help="file written by fit")
    grow.add_argument("folder", metavar="DIR", help="new normal images, or MVTec layout (train/good)")
    grow.add_argument("--output", metavar="FILE", help="write the bank here and leave BANK as it is")
    grow.add_argument("--radius", type=float, metavar="R",
                      help="add rows until all new patches are as near (default: as those of the fit)")  # fmt: skip
    grow.add_argument("--add", type=int, metavar="N", help="add so many rows instead")
    grow.add_argument("--size", type=int, metavar="M", help="keep so many rows, chosen of the bank's and the new ones")
    add_group(grow, "features", ["weights"])
    add_group(grow, "running")
    add_download(grow)

    merge = command("merge", ("living", "merge"), "make one memory bank of several",
                    "merge line1.safetensors line2.safetensors --output both.safetensors")  # fmt: skip
    merge.add_argument("banks", nargs="+", metavar="BANK", help="files written by fit with the same settings")
    merge.add_argument("--output", required=True, metavar="FILE", help="memory bank to write (.safetensors)")
    merge.add_argument("--size", type=int, metavar="M", help="keep so many rows of all, by exact greedy")

    select = command("select", ("select", "select"), "pick a coreset from any feature matrix",
                     "select features.npy --ratio 0.1 --output coreset.npy")  # fmt: skip
    select.add_argument("features", metavar="FEATURES",
                        help="2-D array of rows: .npy, .safetensors, or a folder of these; or what extract wrote, "
                             "of which the picks are those of fit")  # fmt: skip
    size = select.add_mutually_exclusive_group()
    size.add_argument("--ratio", type=float, metavar="R", help="part of the rows to keep, between 0 and 1")
    size.add_argument("--budget", metavar="B", help="rows (2000) or bytes (20MB) to keep")
    size.add_argument("--count", type=int, metavar="N", help="so many rows")
    select.add_argument("--output", metavar="FILE", help="rows that were picked, in order (.npy)")
    select.add_argument("--indices", metavar="FILE",
                        help="their row numbers, int64 (.npy), or of a store the picks with what chose them "
                             "(.safetensors), for fit --indices")  # fmt: skip
    choices = tuple(name for name in SAMPLERS if name != "identity")
    select.add_argument("--sampler", choices=choices, default="greedy",
                        help="greedy is exact k-center (default); elfs settles late picks of small banks")  # fmt: skip
    select.add_argument("--method", dest="sampler", choices=choices, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add_sampler_options(select)
    select.add_argument("--prune-support", choices=("none", "ask", "rule"), default="none", help="of elfs, as of fit")
    select.add_argument("--scores", metavar="FILE",
                        help="signals of this store, which score wrote, for a sampler that takes them")  # fmt: skip
    select.add_argument("--radius", type=float, metavar="R",
                        help="end as soon as all rows lie within this distance of a picked one, after the projection "
                             "if there is one; --ratio or --budget is then the most (greedy)")  # fmt: skip
    select.add_argument("--seed", type=int, metavar="N",
                        help="of the projection and of random choices (default 0; a store has its own)")  # fmt: skip
    select.add_argument("--no-projection", action="store_true",
                        help="measure distances in all dimensions instead of 128 random ones")  # fmt: skip
    select.add_argument("--device", type=device, metavar="D", help="cpu, cuda, ...; default cpu")
    select.add_argument("--checkpoint", metavar="FILE",
                        help="keep the picks so far here, and go on from them if it is there; removed when all is "
                             "written (greedy and approximate)")  # fmt: skip
    add_rank_timeout(select)

    several = command("compare", ("compare", "compare"), "measure several methods on the same images, side by side",
                      "compare bottles --methods patchcore,elfs --output compared")  # fmt: skip
    add_compare(several)

    trials = command("grid", ("grid", "grid"), "find out what a selection's settings do to accuracy",
                     "grid bottles --output trials --limit 24")  # fmt: skip
    add_grid(trials)

    bench = command("bench", ("bench", "bench"), "measure how long predict takes with a bank, stage by stage",
                    "bench bank.safetensors bottles/test --threads 1,2")  # fmt: skip
    add_bench(bench)
    add_group(bench, "running", ("device",))
    add_download(bench)

    quick = command("bench-samplers", ("bench_samplers", "bench_samplers"),
                    "compare all samplers on some rows of a feature matrix, in seconds",
                    "bench-samplers features.npy")  # fmt: skip
    add_bench_samplers(quick)

    add_chain(command)

    warmup = command("warmup", ("warmup", "warmup"), "compile the GPU kernels now instead of at their first use",
                     "warmup --dim 128 1024 --autotune")  # fmt: skip
    warmup.add_argument("--dim", type=int, nargs="+", default=[128], metavar="N", help="columns (default 128)")
    warmup.add_argument("--dtype", nargs="+", choices=("float16", "bfloat16", "float32", "float64"),
                        default=["float32"], help="of the features (default float32)")  # fmt: skip
    warmup.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["float32"],
                        help="of the bulk of the work (default float32, the exact one)")  # fmt: skip
    warmup.add_argument("--device", type=device, default="cuda", metavar="D", help="default cuda")
    warmup.add_argument("--autotune", action="store_true", help="time tiles on this GPU and keep the fastest")
    warmup.add_argument("--json", action="store_true", help="as JSON")

    doctor = command("doctor", ("tools", "doctor"), "show versions, devices and which kernels run here", "doctor")
    doctor.add_argument("--json", action="store_true", help="as JSON, for bug reports and programs")
    return parser

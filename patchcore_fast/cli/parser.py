"""Arguments of every command. Nothing that is slow to import is imported here."""

from __future__ import annotations

import argparse
from typing import Any

from patchcore_fast.cli.options import SCORED, add_config, add_download, add_group, add_threshold, flag
from patchcore_fast.config.running import device

PRECISIONS = ("float32", "ieee", "tf32x3", "tf32", "bf16")  # kernels.tuning's (a test compares)
DEMO_OUTPUT = "patchcore_fast_demo"
PAGE_IMAGES = 400  # report.page's (a test compares)
DRAWN = 2048  # report.images' LONGEST (a test compares)
FITTED = ("features", "selection", "search", "scoring")  # groups that decide what fit makes
NOTES = {"features": "not together with --bank (but --weights)", "selection": "not together with --bank",
         "search": "not together with --bank",
         "scoring": f"with --bank only {', '.join(map(flag, SCORED))}"}  # fmt: skip


class _Version(argparse.Action):
    """Looks the version up when asked: reading package metadata takes longer than parsing."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from patchcore_fast import __version__

        print(f"{parser.prog} {__version__}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The whole parser; `args.run` is (module in patchcore_fast.cli, function)."""
    parser = argparse.ArgumentParser(
        prog="patchcore-fast",
        description="Find defects in photographs after looking at normal ones (PatchCore), with a fast exact coreset.",
        epilog="New here? Run: patchcore-fast demo",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    parser.set_defaults(run=None)

    def command(name: str, run: tuple[str, str], text: str, example: str) -> argparse.ArgumentParser:
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
    fit.add_argument("folder", metavar="DIR", help="normal images, or MVTec layout (train/good)")
    fit.add_argument("--output", required=True, metavar="FILE", help="memory bank to write (.safetensors)")
    add_config(fit)
    for group in FITTED:
        add_group(fit, group)
    add_threshold(fit)
    add_group(fit, "running")

    predict = command("predict", ("predict", "predict"), "score images and draw heat maps",
                      "predict bottles.safetensors photos --output out")  # fmt: skip
    predict.add_argument("bank", metavar="BANK", help="file written by fit")
    predict.add_argument("images", nargs="+", metavar="IMAGES", help="image files and folders of images")
    predict.add_argument("--output", required=True, metavar="DIR",
                         help=f"folder for scores.csv, sheet, heat maps (at most {DRAWN:,} pixels a side)")  # fmt: skip
    add_group(predict, "features", ["weights"])
    add_group(predict, "scoring", SCORED, "other than the fit's: there is then no threshold")
    add_threshold(predict, "other than the bank's")
    add_group(predict, "running")
    add_download(predict)

    evaluate = command("evaluate", ("pipeline", "evaluate"), "measure accuracy on a folder in MVTec layout",
                       "evaluate bottles --output report")  # fmt: skip
    evaluate.add_argument("folder", metavar="DIR", help="train/good, test/<defect>, ground_truth/<defect>")
    evaluate.add_argument("--bank", metavar="BANK", help="use this bank instead of fitting on train/good")
    evaluate.add_argument("--json", metavar="FILE", help="write all numbers here")
    evaluate.add_argument("--output", metavar="DIR", help="folder for scores.csv, plots, and what report needs")
    evaluate.add_argument("--log", choices=("tensorboard", "wandb"),
                          help="log metrics and figures below --output too (wandb: offline)")  # fmt: skip
    add_config(evaluate)
    for group in FITTED:
        add_group(evaluate, group, note=NOTES.get(group))
    add_threshold(evaluate)
    add_group(evaluate, "running")
    add_download(evaluate)

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
    add_config(look)
    for group in FITTED:
        add_group(look, group, note=NOTES.get(group))
    add_group(look, "running")
    add_download(look)

    export = command("export", ("export", "export"), "write the model as one file that runs without this package",
                     "export bottles.safetensors --output bottles.onnx")  # fmt: skip
    export.add_argument("bank", metavar="BANK", help="file written by fit")
    export.add_argument("--output", required=True, metavar="FILE", help="file to write, .pt2 (torch.export) or .onnx")
    export.add_argument("--images", metavar="IMAGES", help="compare on these (folder or file) instead of seeded ones")
    export.add_argument("--weights", default=argparse.SUPPRESS, metavar="W", help="where its weights are now")
    add_download(export)

    decide = command("threshold", ("threshold", "threshold"), "show or change the threshold of a bank",
                     "threshold bottles.safetensors 3.2")  # fmt: skip
    decide.add_argument("bank", metavar="BANK", help="file written by fit")
    decide.add_argument("value", nargs="?", type=float, metavar="VALUE",
                        help="score above which an image is anomalous; without it: the choices")  # fmt: skip
    decide.add_argument("--max-false-alarms", type=float, metavar="S",
                        help="instead: share of normal images that may lie above it, 0.01 for 1 %%")  # fmt: skip
    decide.add_argument("--output", metavar="FILE", help="write the bank here and leave BANK as it is")

    select = command("select", ("select", "select"), "pick a coreset from any feature matrix",
                     "select features.npy --ratio 0.1 --output coreset.npy")  # fmt: skip
    select.add_argument("features", metavar="FEATURES.npy", help="2-D array [rows, dimensions] of numbers")
    select.add_argument(
        "--ratio", type=float, required=True, metavar="R", help="part of the rows to keep, between 0 and 1"
    )
    select.add_argument("--output", required=True, metavar="FILE", help="rows that were picked, in order (.npy)")
    select.add_argument("--indices", metavar="FILE", help="their row numbers, int64 (.npy)")
    select.add_argument("--method", choices=("greedy", "elfs", "approximate", "random"), default="greedy",
                        help="greedy is exact k-center (default); elfs also prunes unsupported rows")  # fmt: skip
    select.add_argument("--seed", type=int, default=0, metavar="N", help="of the projection and of random choices")
    select.add_argument("--no-projection", action="store_true",
                        help="measure distances in all dimensions instead of 128 random ones")  # fmt: skip
    select.add_argument("--device", type=device, metavar="D", help="cpu, cuda, ...; default cpu")

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

"""One training of the command train: its epochs told, its curve drawn and logged."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchcore_fast.config.methods import MethodConfig
    from patchcore_fast.config.tracking import TrackingSettings
    from patchcore_fast.data import ImageSet

MODEL, KEPT = "model.safetensors", "checkpoint"  # of each of several categories, in its folder
PICTURE = "curves.png"
SHOWN = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP", "aupro": "AUPRO"}


class Training:
    """Of one set.

    Parameters
    ----------
    evaluate_every : epochs between metrics of the test images, None for none.
    tracking : where the curve is logged.
    built : a model whose backbone is taken.
    """

    def __init__(
        self, config: MethodConfig, evaluate_every: int | None, tracking: TrackingSettings, built: Any = None
    ) -> None:
        self.config, self.every, self.tracking, self.built = config, evaluate_every, tracking, built
        from patchcore_fast.report.problems import Problems  # here: it loads numpy, and the parser imports this file

        self.curve: list[Any] = []  # of all epochs
        self.first = 0  # the epoch that this run began with, 0 where all were there
        self.problems = Problems()  # of the picture
        self._logged: Any = None

    def fit(self, images: ImageSet, folder: Path | None, name: str) -> Any:
        """The fitted model. Files that cannot be read are left out (`unread_`).

        Parameters
        ----------
        folder : of checkpoints, curves.csv and curves.png; None for a method without epochs.  name : of the data.
        """
        from patchcore_fast.methods import make_method

        model: Any = make_method(self.config.method, self.config) if self.built is None else copy(self.built)
        if folder is None:
            return model.fit(images, on_error="return")
        test = images if self.every is not None and images.test else None
        try:
            model.fit(images, on_error="return", checkpoint=folder, test=test, evaluate_every=self.every or 1,
                      on_epoch=lambda row: self._epoch(row, folder, name))  # fmt: skip
        except BaseException:
            if self._logged is not None:
                self._logged.close(failed=True)
                self._logged = None
            raise
        self.curve, self.folder, self.name = model.curve_, folder, name
        self._draw()
        return model

    def log_model(self, path: Path) -> None:
        """Keep the model's file with the curve where the tracking asks for it; the last of the log."""
        if self._logged is not None:
            from patchcore_fast.config import flat

            self._logged.model(path, flat(self.config.to_dict()))
            self._logged.close()

    def text(self) -> str:
        """The curve in a few words; "" for a method without epochs."""
        if not self.curve:
            return ""
        from patchcore_fast.methods.curves import best

        last, epochs = self.curve[-1], len(self.curve)
        said = f"Loss {self.curve[0]['loss']:.4g} after the first epoch"
        said += f", {last['loss']:.4g} after all {epochs}" if epochs > 1 else ""
        if self.first == 0:
            said += "; all of them were there, nothing was trained again"
        elif self.first > 1:
            said += f"; went on after epoch {self.first - 1}"
        lines = [f"{said}."]
        tops = {SHOWN[key]: (last[key], *top) for key, top in best(self.curve).items() if key in SHOWN and key in last}
        if tops:
            told = ", ".join(f"{name} {now:.3f} (best {top:.3f}, epoch {at})" for name, (now, top, at) in tops.items())
            lines.append(f"Test images at the last epoch, which the model is of: {told}.")
        lines.append(f"Curve and checkpoint: {self.folder}")
        return "\n".join(lines)

    def _epoch(self, row: Any, folder: Path, name: str) -> None:
        from patchcore_fast.methods.curves import best
        from patchcore_fast.tracking import curve_logger

        epoch, epochs = int(row["epoch"]), self.config.settings.epochs  # type: ignore[attr-defined]  # it has epochs
        if not self.first:
            self.first = epoch
            if self.tracking.log is not None:
                self._logged = curve_logger(self.tracking, folder, name=name, config=self.config.to_dict(),
                                            first=epoch - 1)  # fmt: skip
        self.curve.append(row)
        tops = {f"best/{key}": value for key, (value, _) in best(self.curve).items()}
        if self._logged is not None:
            values = {key: value for key, value in row.items() if key != "epoch"}
            self._logged.log(values | tops, epoch - 1, last=epoch == epochs)
        if told := [f"{text} {row[key]:.3f}" for key, text in SHOWN.items() if key in row]:
            print(f"Epoch {epoch} of {epochs}: loss {row['loss']:.4g}, {', '.join(told)}", flush=True)

    def _draw(self) -> None:
        from patchcore_fast.names import printable
        from patchcore_fast.report.training import plot_training

        with self.problems.attempt(PICTURE):
            plot_training(self.curve, self.folder / PICTURE, title=f"{printable(self.name)}: {self.config.method}")

"""What people look at: heat-map overlays, contact sheets, ROC and histogram plots, tables, CSV and JSON.

Every file is written whole. matplotlib is imported when a
picture is drawn and used without its global state, so it disturbs neither notebooks nor servers.
"""

from __future__ import annotations

from patchcore_fast.report.images import outline, overlay, save_png, shared_scale
from patchcore_fast.report.plots import plot_histogram, plot_roc
from patchcore_fast.report.sheet import Panel, contact_sheet
from patchcore_fast.report.tables import metrics_table, write_json, write_scores_csv

__all__ = [
    "Panel",
    "contact_sheet",
    "metrics_table",
    "outline",
    "overlay",
    "plot_histogram",
    "plot_roc",
    "save_png",
    "shared_scale",
    "write_json",
    "write_scores_csv",
]

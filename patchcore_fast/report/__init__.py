"""What people look at: heat-map overlays, contact sheets, ROC and histogram plots, how a bank was selected, tables, CSV
and JSON.

Every file is written whole. matplotlib is imported when a picture is drawn and used without its global state, so it
disturbs neither notebooks nor servers.
"""

from __future__ import annotations

from patchcore_fast.report.images import outline, overlay, save_png, shared_scale
from patchcore_fast.report.plane import pca_plane, plot_plane, umap_plane
from patchcore_fast.report.plots import plot_histogram, plot_roc
from patchcore_fast.report.provenance import choose_images, plot_kept_patches, plot_provenance
from patchcore_fast.report.scores_csv import write_scores_csv
from patchcore_fast.report.selection import plot_score_distributions
from patchcore_fast.report.sheet import Panel, contact_sheet
from patchcore_fast.report.tables import metrics_table, write_json

__all__ = [
    "Panel",
    "choose_images",
    "contact_sheet",
    "metrics_table",
    "outline",
    "overlay",
    "pca_plane",
    "plot_histogram",
    "plot_kept_patches",
    "plot_plane",
    "plot_provenance",
    "plot_roc",
    "plot_score_distributions",
    "save_png",
    "shared_scale",
    "umap_plane",
    "write_json",
    "write_scores_csv",
]

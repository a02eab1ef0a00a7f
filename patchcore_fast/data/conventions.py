"""Names that folders and files of this field go by: one table of where masks lie, and what is no data at all.

All comparisons are without regard to case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

try:
    from PIL import Image
except ImportError as error:
    raise ImportError('patchcore_fast.data needs Pillow: pip install "patchcore_fast[pipeline]"') from error

_COMMON = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pbm")
_RARE = (".jfif", ".jpe", ".mpo", ".dib", ".pnm", ".tga", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif",
         ".apng", ".qoi")  # fmt: skip
READABLE = frozenset(Image.registered_extensions())
IMAGE_SUFFIXES = frozenset((*_COMMON, *(s for s in _RARE if s in READABLE)))
# Pictures of some kind that are passed over and said aloud: what Pillow opens beside the above, and what it cannot.
_DOCUMENTS = {".h5", ".hdf", ".pdf", ".ps", ".eps", ".mpg", ".mpeg", ".grib", ".bufr"}
_CAMERA = {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw"}
_NEVER = {".heic", ".heif", ".jxl", ".exr", ".hdr", ".svg", ".dcm"}
OTHER_PICTURES = (READABLE | frozenset(_RARE) | _CAMERA | _NEVER) - IMAGE_SUFFIXES - _DOCUMENTS


class Convention(NamedTuple):
    """Where the mask of `<defect>/<stem>` lies. A folder's name may stand anywhere in the path, a word at the stem."""

    example: str
    folder: str  # folders of masks are called so; "" where a mask lies beside its image
    stem: str  # what the stem of a mask has beside the image's; "/" is a folder of that name with several files
    sure: bool  # whether such a folder holds masks and nothing else, whatever is in it
    source: str


CONVENTIONS = (
    Convention("ground_truth/<defect>/<stem>_mask.png", "ground_truth", "mask", True, "MVTec AD, MPDD, 3CAD"),
    Convention("test_public/ground_truth/bad/<stem>_mask.png", "ground_truth", "mask", True, "MVTec AD 2"),
    Convention("ground_truth/<defect>/<stem>.png", "ground_truth", "", True, "BTAD, VAD"),
    Convention("ground_truth/<defect>/<stem>/000.png", "ground_truth", "/", True, "MVTec LOCO AD, AutoVI"),
    Convention("groundtruth/<defect>/<stem>.png", "groundtruth", "", True, "folders renamed by hand"),
    Convention("ground-truth/<defect>/<stem>.png", "ground-truth", "", True, "folders renamed by hand"),
    Convention("ground truth/<defect>/<stem>.png", "ground truth", "", True, "folders renamed by hand"),
    Convention("<defect>/gt/<stem>.png beside <defect>/rgb/<stem>.png", "gt", "", False, "MVTec 3D-AD"),
    Convention("mask/<defect>/<stem>_mask.png", "mask", "mask", False, "MMAD's DS-MVTec"),
    Convention("Masks/<defect>/<stem>.png beside Images/<defect>/", "masks", "", False, "VisA, anomalib's folders"),
    Convention("Label/<stem>_label.PNG", "label", "label", False, "DAGM 2007"),
    Convention("<defect>/label/<stem>.png beside <defect>/img/", "label", "", False, "BMAD"),
    Convention("labels/<stem>.png", "labels", "", False, "exports of labelling tools"),
    Convention("Mask_images/<stem>_mask.png", "mask_images", "mask", False, "AITEX"),
    Convention("annotations/<stem>.png", "annotations", "", False, "ADE20K and sets made like it"),
    Convention("segmentation/<stem>.png", "segmentation", "segmentation", False, "ISIC"),
    Convention("<stem>_label.bmp beside <stem>.jpg", "", "label", False, "KolektorSDD"),
    Convention("<stem>_GT.png beside <stem>.png", "", "gt", False, "KolektorSDD2"),
    Convention("<stem>_mask.png beside <stem>.jpg", "", "mask", False, "DeepGlobe, labelling tools"),
    Convention("<stem>_segmentation.png beside <stem>.jpg", "", "segmentation", False, "ISIC"),
    Convention("<stem>_labels.png, <stem>_masks.png", "", "labels", False, "labelling tools"),
    Convention("<stem>_masks.png", "", "masks", False, "labelling tools (Cellpose: _masks)"),
    Convention("<stem>_seg.png", "", "seg", False, "labelling tools"),
    Convention("<stem>_ground_truth.png", "", "ground_truth", False, "anomalib's issues"),
    Convention("<stem>_groundtruth.png", "", "groundtruth", False, "anomalib's issues"),
    Convention("<stem>_annotation.png", "", "annotation", False, "labelling tools"),
    Convention("<stem>.png beside <stem>.jpg, drawn in few greys", "", "", False, "Crack500"),
)
SURE_FOLDERS = frozenset(c.folder for c in CONVENTIONS if c.sure)
MASK_FOLDERS = frozenset(c.folder for c in CONVENTIONS if c.folder)
_WORDS = "|".join(sorted((re.escape(w) for c in CONVENTIONS if (w := c.stem.strip("/"))), key=len, reverse=True))
_AFTER = re.compile(rf"(.+?)[ _.\-]+(?:{_WORDS})", re.IGNORECASE)
_BEFORE = re.compile(rf"(?:{_WORDS})[ _.\-]+(.+)", re.IGNORECASE)
_PHOTO = re.compile(r"(.+?)[ _.\-]+(?:rgb|image|img|photo|color|colour)", re.IGNORECASE)

IMAGE_FOLDERS = frozenset(("rgb", "image", "images", "img", "imgs", "photos"))  # say nothing of what they hold
POINT_FOLDERS = frozenset(("xyz", "depth", "pcd", "pointcloud"))  # beside rgb: no photographs (MVTec 3D-AD, Eyecandies)
META = "meta.json"  # a list of a data set, as ADer has it
TRAIN = frozenset(("train", "training"))
TEST = frozenset(("test", "testing", "test_public"))
NORMAL = frozenset(("good", "ok", "normal", "defect_free", "defect-free", "no_defect", "non_defective", "healthy"))
ANOMALOUS = frozenset(("bad", "defect", "defects", "defective", "anomaly", "anomalies", "anomalous", "abnormal", "ko",
                       "nok", "ng", "ungood", "faulty"))  # fmt: skip
LITTER = frozenset(("__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "lost+found", "$recycle.bin", "recycler",
                    "recycled", "system volume information", "found.000", "thumbs.db", "desktop.ini", "ehthumbs.db",
                    "__pycache__"))  # fmt: skip


def is_litter(name: str) -> bool:
    """Whether a file or folder was left by a system or is hidden: no user put it there as data."""
    return name.startswith((".", "~$")) or name.casefold() in LITTER


def is_image_name(name: str) -> bool:
    """Whether a file's name is that of an image, litter (`._x.png`) left out."""
    return not is_litter(name) and "." in name and f".{name.rsplit('.', 1)[1].lower()}" in IMAGE_SUFFIXES


def is_normal(folder: str) -> bool:
    """Whether a class of this name is that of normal images."""
    return folder.casefold() in NORMAL


def stems_of_mask(stem: str) -> Iterator[str]:
    """Stems that the image of a mask with a name like `<stem>_mask` may have; nothing where no word says "mask"."""
    for pattern in (_AFTER, _BEFORE):
        if found := pattern.fullmatch(stem):
            yield found[1]
            yield from stems_of_mask(found[1])


def photo_stem(stem: str) -> str:
    """An image's stem without a word that says "photograph": masks do not repeat it."""
    found = _PHOTO.fullmatch(stem)
    return found[1] if found else stem

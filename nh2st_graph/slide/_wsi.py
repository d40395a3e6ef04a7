"""Read scanners' slides with wsidata and OpenSlide."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nh2st_graph._errors import ImageError, listed, reason
from nh2st_graph._files import parse_json
from nh2st_graph.slide._base import Box, Slide
from nh2st_graph.slide._limits import check_windows
from nh2st_graph.slide._resolution import agreed, plausible_scale

__all__ = ["APERIO", "EXTRA", "OTHER_PACKAGES", "SCANNERS", "WsiSlide", "has_extra"]

EXTRA = 'pip install "nh2st-graph[wsi]"'

#: Endings that OpenSlide reads. Aperio's is a TIFF, which is read without OpenSlide too.
APERIO = ".svs"
_BY_OPENSLIDE = (APERIO, ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".svslide", ".bif", ".czi", ".dcm", ".dicom")

#: Endings that wsidata reads with one more package.
OTHER_PACKAGES = {".isyntax": "pyisyntax", ".vsi": "scyjava"}

SCANNERS = frozenset({*_BY_OPENSLIDE, *OTHER_PACKAGES})


def has_extra() -> bool:
    """Say whether the extra ``[wsi]`` is installed."""
    return importlib.util.find_spec("wsidata") is not None


class WsiSlide(Slide):
    """A slide that wsidata opens, with OpenSlide or another reader that is installed.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    wsi
        The slide as wsidata and LazySlide take it.

    Raises
    ------
    ImageError
        If no reader of wsidata opens the file, or it holds several scenes.
    """

    def __init__(self, path: Path) -> None:
        from wsidata import open_wsi

        self.path = path
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The image is not pyramidal")  # windows can still be read
                # Without a store, nothing is written beside the slide.
                self.wsi: Any = open_wsi(path, store=None)
            self._reader = self.wsi.reader
            about = self._reader.properties
        except Exception as error:  # each reader has its own errors
            package = OTHER_PACKAGES.get(path.suffix.lower())
            advice = f"pip install {package}" if package else "copy it again"
            raise ImageError(
                f"slide {path}: no installed reader opens it ({reason(error)}); {advice}, or export it as a tiled TIFF"
            ) from error
        if getattr(about, "n_scenes", 1) > 1:
            names = listed(about.scene_names)
            self.close()
            raise ImageError(
                f"slide {path} holds {about.n_scenes} scenes ({names}), and its reader shows one of them alone; export "
                "the one that you mean as a tiled TIFF"
            )
        self.sizes = [(int(width), int(height)) for height, width in about.level_shape]
        try:
            check_windows(path, self.sizes[0])
        except ImageError:
            self.close()
            raise
        # The reader's own factors: those of narrow slides differ from ours, and it divides corners by them.
        self._factors = [float(factor) for factor in about.level_downsample]
        self.microns_per_pixel = _scale(about)
        self.scan_origin = _origin(about)

    def region(self, level: int, box: Box) -> tuple[Image.Image, tuple[int, int]]:
        """Read the box; see :meth:`Slide.region`. OpenSlide takes its corner in full-resolution pixels."""
        left, top, right, bottom = box
        factor = self._factors[level]
        corner = round(left * factor), round(top * factor)
        try:
            pixels = self._reader.get_region(*corner, right - left, bottom - top, level=level)
        except Exception as error:  # each reader has its own errors
            raise ImageError(f"slide {self.path} is cut off or damaged ({reason(error)}); copy it again") from error
        return Image.fromarray(np.ascontiguousarray(pixels[..., :3], dtype=np.uint8)), (left, top)

    def close(self) -> None:
        """Close the reader."""
        self._reader.detach_reader()


def _scale(about: Any) -> float | None:
    """Read um per pixel. wsidata gives one number, of x or y; OpenSlide's own properties have both."""
    try:
        raw = _raw(about)
        return agreed((float(raw["openslide.mpp-x"]), float(raw["openslide.mpp-y"])))
    except (KeyError, TypeError, ValueError):
        return plausible_scale(about.mpp)


def _origin(about: Any) -> tuple[int, int]:
    """Read where the scanned area begins, if OpenSlide says it."""
    try:
        raw = _raw(about)
        x, y, *_ = (int(raw[f"openslide.bounds-{side}"]) for side in ("x", "y", "width", "height"))
        return x, y
    except (KeyError, TypeError, ValueError):
        return 0, 0


def _raw(about: Any) -> Any:
    return parse_json(getattr(about, "raw", None) or "{}")

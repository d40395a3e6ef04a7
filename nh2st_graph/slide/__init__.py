"""Image files: levels, windows, resolution and tissue. This room knows no AnnData."""

from nh2st_graph.slide._base import Box, Slide
from nh2st_graph.slide._chosen import check_scale, check_size, chosen_scale, report_size
from nh2st_graph.slide._container import ImageSource, placed_image
from nh2st_graph.slide._limits import check_windows
from nh2st_graph.slide._memory import keep_pixels
from nh2st_graph.slide._open import (
    IMAGE_ENDINGS,
    content_hash,
    image_size,
    open_full,
    open_slide,
    scale_advice,
    scan_origin,
    slide_size,
    thumbnail,
)
from nh2st_graph.slide._pillow import HeldImage
from nh2st_graph.slide._resolution import aperio_scale, plausible_scale
from nh2st_graph.slide._scene import image_exists, image_in, image_name, split_scene
from nh2st_graph.slide._tiff import TiffSlide, open_tiff
from nh2st_graph.slide._tissue import TissueMask, find_tissue, tissue_mask
from nh2st_graph.slide._tissue import check_share as check_share
from nh2st_graph.slide._wsi import WsiSlide

__all__ = [
    "IMAGE_ENDINGS",
    "Box",
    "HeldImage",
    "ImageSource",
    "Slide",
    "TiffSlide",
    "TissueMask",
    "WsiSlide",
    "aperio_scale",
    "check_scale",
    "check_size",
    "check_windows",
    "chosen_scale",
    "content_hash",
    "find_tissue",
    "image_exists",
    "image_in",
    "image_name",
    "image_size",
    "keep_pixels",
    "open_full",
    "open_slide",
    "open_tiff",
    "placed_image",
    "plausible_scale",
    "report_size",
    "scale_advice",
    "scan_origin",
    "slide_size",
    "split_scene",
    "thumbnail",
    "tissue_mask",
]

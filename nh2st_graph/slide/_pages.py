"""Find the slide among the pages of a TIFF: which page it is, and which are its smaller copies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from nh2st_graph._errors import ImageError, listed
from nh2st_graph.slide._colour import LUMA, Colour
from nh2st_graph.slide._layout import ORIENTATION, Layout, Level, UnreadableError, orientation_of, shown_size
from nh2st_graph.slide._log import say_once
from nh2st_graph.slide._resolution import (
    RESOLUTION_UNITS_UM,
    OmeImage,
    Sides,
    aperio_scale,
    dots_sides,
    imagej_sides,
    ome_images,
)
from nh2st_graph.slide._samples import check_range, page_colour
from nh2st_graph.slide._segments import APERIO_LUMA, segment, window

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

__all__ = ["OwnReaderError", "ScenesError", "tiff_layout"]

#: Names of images beside the slide.
_BESIDE = re.compile(r"(?<![a-z])(label|macro|thumbnail|overview|barcode|preview)(?![a-z])", re.IGNORECASE)

#: An image of at most this share of the largest one's area does not have its standing.
_STANDING = 1 / 4


class OwnReaderError(Exception):
    """A scanner's format whose tiles only its own reader places rightly."""


class ScenesError(Exception):
    """Images of equal standing, none of which was chosen, or none of which has the name that was asked for."""


@dataclass(frozen=True, eq=False)
class _Candidate:
    """An image of a file that may be the slide, with the pages that may be its smaller copies."""

    page: TiffPage
    name: str | None = None
    beside: bool = False
    smaller: list[TiffPage] = field(default_factory=list)
    planes: str = ""
    ome: OmeImage | None = None
    described: bool = False

    @property
    def area(self) -> int:
        return int(self.page.imagewidth * self.page.imagelength)

    def shown(self, number: int) -> str:
        name = "" if self.name is None else f" {self.name!r}"
        return f"{number}{name} ({self.page.imagewidth} x {self.page.imagelength} px)"


def tiff_layout(file: TiffFile, scene: str | None = None) -> Layout:
    """Decide what a TIFF shows.

    The largest image is the slide. OME-XML, sub-images, ``NewSubfileType`` and descriptions say which pages are its
    smaller copies and which are other images; a page without a statement is a copy if it shows the same.

    Parameters
    ----------
    file
        The open file.
    scene
        Name or number of another image to take.

    Raises
    ------
    OwnReaderError
        If only the scanner's own reader reads this format rightly.
    ScenesError
        If there are several images of equal standing, or none of the name.
    UnreadableError
        If its pixels cannot be shown rightly.
    ImageError
        If it is damaged.
    """
    vendor = next((each for each in ("ndpi", "scn", "bif") if getattr(file, f"is_{each}", False)), None)
    if vendor is not None:
        raise OwnReaderError(vendor)
    candidates = _by_series(file) or _by_pages(file)
    chosen = _main(candidates) if scene is None else _asked(candidates, scene, Path(file.filename).name)
    layout = _layout(chosen, candidates, scene)
    copies = [level.page for level in layout.levels[1:]]
    images = {number: each for number, each in enumerate(candidates) if not any(each.page is page for page in copies)}
    if scene is None:
        others = [each for each in images.values() if not (each.beside or each is chosen)]
        rivals = [each for each in others if each.area > _STANDING * chosen.area and not _is_copy(each, chosen)]
        pages = [chosen, *rivals]
        if rivals and layout.levels[0].colour.model == "grey" and len({each.page.shape for each in pages}) == 1:
            raise UnreadableError(_planes(chosen.page, len(pages), f"?{chosen.page.axes}"))
        if rivals:
            raise ScenesError(
                f"holds {len(rivals) + 1} images of equal standing: {_listed(candidates)}; choose one by its name or "
                f"number: {Path(file.filename).name}#{_way(candidates, chosen)}"
            )
        if others and chosen.described:
            say_once(
                f"image {file.filehandle.path}: the largest of {_listed(candidates)} is taken; choose another by its "
                f"name or number: {Path(file.filename).name}#{_way(candidates, others[0])}"
            )
    scenes = tuple(each.shown(number) for number, each in images.items()) if len(images) > 1 else ()
    return replace(layout, scenes=scenes)


def _listed(candidates: Sequence[_Candidate]) -> str:
    return listed((each.shown(number) for number, each in enumerate(candidates)), 8)


def _main(candidates: Sequence[_Candidate]) -> _Candidate:
    own = [each for each in candidates if not each.beside] or candidates
    return max(own, key=lambda each: each.area)


def _asked(candidates: Sequence[_Candidate], scene: str, file: str) -> _Candidate:
    chosen = _found(candidates, scene)
    if chosen is not None:
        return chosen
    named = [each for each in candidates if each.name == scene]
    if not named:
        raise ScenesError(f"holds no image {scene!r}: {_listed(candidates)}")
    raise ScenesError(
        f"holds {len(named)} images named {scene!r}: {_listed(candidates)}; only their numbers tell them apart: "
        f"{file}#{_way(candidates, named[0])}"
    )


def _found(candidates: Sequence[_Candidate], scene: str) -> _Candidate | None:
    """Find the one image of a name, or else of a number; ``#NUMBER`` is a number where others have it as their name."""
    named = [each for each in candidates if each.name == scene]
    if len(named) == 1:
        return named[0]
    number = scene.removeprefix("#")
    if not number.isdecimal() or int(number) >= len(candidates):
        return None
    numbered = candidates[int(number)]
    return numbered if not named or any(each is numbered for each in named) else None


def _way(candidates: Sequence[_Candidate], wanted: _Candidate) -> str:
    """Say by what an image is chosen: its number, unless that is the name of another one."""
    number = next(i for i, each in enumerate(candidates) if each is wanted)
    ways = (str(number), wanted.name, f"#{number}")
    return next(way for way in ways if way is not None and (_found(candidates, way) is wanted or way == ways[-1]))


def _by_series(file: TiffFile) -> list[_Candidate]:
    """List images as OME-XML or Philips' XML describes them; none if the file has no such description."""
    images = ome_images(file.ome_metadata if file.is_ome else None)
    pages = {each.page: each for each in images}
    listed = [each for each in file.series if each.kind.lower() in {"ome", "philips"}]
    found = []
    for number, series in enumerate(listed):
        if series.pages[0] is None:
            continue
        page = series.pages[0].aspage()
        smaller = [level.pages[0].aspage() for level in series.levels[1:] if level.pages[0] is not None]
        about = images[number] if len(images) == len(listed) else pages.get(int(page.index))
        # tifffile gives a series without a name one of its own.
        name = about.name if about is not None else series.name
        planes = _planes(page, len(series.pages), series.axes) if len(series.pages) > 1 else ""
        if page.parent is not file:
            planes = "no pixels, which are in other files"
        found.append(_Candidate(page, name, bool(name and _BESIDE.search(name)), smaller, planes, about, True))
    return found


def _planes(page: TiffPage, n_pages: int, axes: str) -> str:
    return f"{page.dtype}, {page.samplesperpixel} samples a pixel, {n_pages} planes (axes {axes})"


def _by_pages(file: TiffFile) -> list[_Candidate]:
    """List images by what their pages say of themselves."""
    planes = ""
    if file.is_imagej and len(file.series[0].axes.replace("S", "")) > 2:
        planes = _planes(file.series[0].keyframe, len(file.series[0].pages), file.series[0].axes)
    found: list[_Candidate] = []
    reduced: list[tuple[int, TiffPage]] = []
    for page, parent in _walk(file):
        if page.subfiletype & 4:  # a mask
            continue
        beside = _says_beside(page, file)
        own = next((each for each in found if each.page is parent), None)
        if file.is_svs and found and page.is_tiled and not beside:
            # By Aperio's definition all tiled pages are the slide, smaller copies, or other focal planes.
            found[0].smaller.append(page)
        elif own is not None and (_is_reduced(page) or page.imagewidth < own.page.imagewidth):
            own.smaller.append(page)
        elif _is_reduced(page) and not beside:
            reduced.append((len(found), page))
        else:
            found.append(_Candidate(page, _page_name(page), beside, planes=planes, described=file.is_svs))
    if not found:
        _, first = max(reduced, key=lambda each: each[1].imagewidth * each[1].imagelength)
        found.append(_Candidate(first, planes=planes))
    for place, page in reduced:
        # A copy follows its image, except for a thumbnail that comes first.
        for own in (*found[:place][::-1], *found[place:]):
            if not own.beside and own.page is not page and _same_view(page, own.page):
                own.smaller.append(page)
                break
    return found


def _walk(file: TiffFile) -> Iterator[tuple[TiffPage, TiffPage | None]]:
    """Yield each page and its sub-images."""
    for each in file.pages:
        page = each.aspage()
        yield page, None
        for sub in page.pages or ():
            yield sub.aspage(), page


def _is_reduced(page: TiffPage) -> bool:
    return bool(page.subfiletype & 1) or (254 not in page.tags and page.tags.valueof(255) == 2)


def _says_beside(page: TiffPage, file: TiffFile) -> bool:
    """Say whether a page is a label or an overview by its own words."""
    if file.is_svs and not page.is_tiled and page.index != 0:
        return True
    second_line = page.description.partition("\n")[2] if page.description.startswith("Aperio") else ""
    words = (second_line.strip()[:8], page.description if len(page.description) < 64 else "", _page_name(page) or "")
    return page.subfiletype == 9 or any(_BESIDE.search(each) for each in words)


def _page_name(page: TiffPage) -> str | None:
    name = page.tags.valueof(285)
    return name.strip("\0 ") if isinstance(name, str) and name.strip("\0 ") else None


def _same_proportions(page: TiffPage, other: TiffPage) -> bool:
    w, h, width, height = (
        int(each) for each in (page.imagewidth, page.imagelength, other.imagewidth, other.imagelength)
    )
    return abs(w * height - h * width) <= max(w, h, width, height)


def _same_view(page: TiffPage, other: TiffPage) -> bool:
    """Say whether two pages have the same proportions, and are stored in the same way."""
    same = _same_proportions(page, other)
    return same and page.is_tiled == other.is_tiled and page.samplesperpixel == other.samplesperpixel


def _layout(chosen: _Candidate, candidates: Sequence[_Candidate], scene: str | None) -> Layout:
    page = chosen.page
    if chosen.planes:
        raise UnreadableError(chosen.planes)
    colour = page_colour(page, chosen.ome)
    orientation = _orientation(page)
    levels = {(int(page.imagewidth), int(page.imagelength)): (page, colour)}
    unsaid = [] if chosen.described else [each.page for each in candidates if not each.beside]
    for smaller in sorted([*chosen.smaller, *unsaid], key=lambda each: -each.imagewidth):
        size = int(smaller.imagewidth), int(smaller.imagelength)
        if (
            size in levels
            or size[0] > page.imagewidth
            or not _same_view(smaller, page)
            or _orientation(smaller) != orientation
        ):
            continue
        try:
            own = page_colour(smaller, chosen.ome)
            if not (chosen.described or _is_reduced(smaller) or _shows(smaller, own, *list(levels.values())[-1])):
                continue
        except (UnreadableError, ImageError):
            continue
        levels[size] = smaller, own
    if colour.bits == 16 and colour.model != "palette":
        check_range(*list(levels.values())[-1])
    return Layout(
        tuple(Level(shown_size(*size, orientation), own, each) for size, (each, own) in levels.items()),
        orientation,
        _resolution(page, chosen.ome),
        _by_openslide(page, colour) and orientation == 1,
        scene,
    )


def _is_copy(other: _Candidate, chosen: _Candidate) -> bool:
    """Say whether another image shows the same, though it is stored in another way, as some thumbnails are."""
    if chosen.described or not _same_proportions(other.page, chosen.page):
        return False
    try:
        pages = [(each.page, page_colour(each.page, each.ome)) for each in (other, chosen)]
        return _shows(*pages[0], *pages[1])
    except (UnreadableError, ImageError):
        return False


def _shows(page: TiffPage, colour: Colour, other: TiffPage, other_colour: Colour, side: int = 64) -> bool:
    """Say whether a page is a smaller copy of another: compare some windows."""
    width, height = int(page.imagewidth), int(page.imagelength)
    factor = other.imagewidth / width
    ours, theirs = [], []
    part = cache(lambda index: segment(page, colour, index))
    whole = cache(lambda index: segment(other, other_colour, index))
    for x, y in ((0.5, 0.5), (0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)):
        left, top = max(0, int(x * width - side / 2)), max(0, int(y * height - side / 2))
        box = left, top, min(left + side, width), min(top + side, height)
        across, down = (
            (round(a * factor), min(round(b * factor), int(end)))
            for a, b, end in ((*box[::2], other.imagewidth), (*box[1::2], other.imagelength))
        )
        ours.append(window(page, box, part))
        large = Image.fromarray(window(other, (across[0], down[0], across[1], down[1]), whole))
        theirs.append(np.asarray(large.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BOX)))
    one, two = (np.concatenate([each.ravel() for each in windows]).astype(np.float32) for windows in (ours, theirs))
    spread = np.abs(two - two.mean()).mean()
    return bool(np.abs(one - two).mean() <= max(2.0, spread / 4))


def _orientation(page: TiffPage) -> int:
    return orientation_of(page.tags.valueof(ORIENTATION))


def _by_openslide(page: TiffPage, colour: Colour) -> bool:
    """Say whether OpenSlide shows a page as we do: it knows the plain cases."""
    plain = colour == Colour("RGB")
    luma = colour.model == "YCbCr" and page.compression == APERIO_LUMA and colour.luma == LUMA
    return (plain or luma) and page.samplesperpixel == 3 and page.planarconfig == 1 and page.photometric in {2, 6}


def _resolution(page: TiffPage, ome: OmeImage | None) -> Sides | None:
    """Read um per pixel of this image: from formats that state it, else from the resolution tags."""
    stated = aperio_scale(page.description)
    if stated is not None:
        return stated, stated
    if ome is not None and ome.sides is not None:
        return ome.sides
    if "XResolution" not in page.tags:
        return None
    # ImageJ writes no unit in its tag for what TIFF has none for, and takes the description before the tag.
    stated_by_imagej = imagej_sides(page.parent.imagej_metadata, page.resolution) if page.parent.is_imagej else None
    if stated_by_imagej is not None:
        return stated_by_imagej
    unit_um = RESOLUTION_UNITS_UM.get(int(page.resolutionunit))
    return dots_sides(page.resolution, unit_um) if unit_um else None

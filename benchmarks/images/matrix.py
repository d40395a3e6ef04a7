"""Read one image from files of many kinds, with and without the extra [wsi], and write what is right or refused.

    python benchmarks/images/matrix.py --out benchmarks/results/images.md

Every combination of colour model, bits, extra sample, codec, tiles or strips, and interleaved or planar samples is
written in all eight orientations, and with every kind of pyramid beside every kind of thumbnail and overview. A file is
right if patches, the whole image and a window are those of the image, within rounding or the codec's loss, or refused
in one line. The exit code is 1 if any is neither.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from unittest import mock

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from tifffile import TiffFile, TiffWriter, imwrite

from nh2st_graph import ImageError
from nh2st_graph.im._patches import PatchCutter
from nh2st_graph.slide import open_full, open_slide

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.images import BESIDE, CODECS, COLOURS, EXTRA, PYRAMIDS, Variant, shown, source_image, stored, write

Pixels = NDArray[np.uint8]

#: Centre, side and size of patches: at full resolution, over the border, and from a smaller copy if there is one.
PATCHES = [((48.0, 32.0), 40.0, 40), ((4.0, 60.0), 24.0, 24), ((60.0, 40.0), 48.0, 12)]

RGB = source_image()


@contextlib.contextmanager
def extra(there: bool) -> Iterator[None]:
    """Read as if the extra were there or not."""
    with contextlib.ExitStack() as stack:
        if not there:
            for file in ("_open", "_tiff"):
                stack.enter_context(mock.patch(f"nh2st_graph.slide.{file}.has_extra", return_value=False))
        yield


def patches(path: Path) -> list[NDArray[np.int_]]:
    with open_slide(path) as slide:
        cutters = [(PatchCutter(slide, np.array([centre]), side), size) for centre, side, size in PATCHES]
        return [cutter.cut(0, size, Image.Resampling.BOX).astype(int) for cutter, size in cutters]


@cache
def _true_patches(pixels: bytes, shape: tuple[int, ...], path: Path) -> list[NDArray[np.int_]]:
    Image.frombytes("RGB", shape[1::-1], pixels).save(path)
    return patches(path)


def outcome(path: Path, expected: Pixels, tolerance: float, folder: Path) -> str:
    """``right``, or the words of the refusal, or how it is wrong."""
    truth = _true_patches(expected.tobytes(), expected.shape, folder / "expected.png")
    try:
        found = patches(path)
        with open_full(path) as image:
            whole = np.asarray(image).astype(int)
    except ImageError as error:
        words = error.args[0].replace(str(path), path.name)
        return f"refused: {words}" if "\n" not in words else "WRONG: an error of several lines"
    except Exception as error:
        return f"WRONG: {type(error).__name__}"
    if whole.shape != expected.shape or np.abs(whole - expected).max() > tolerance:
        return "WRONG: whole image"
    off = max(np.abs(one - two).max() for one, two in zip(found, truth, strict=True))
    return "right" if off <= tolerance + 2 else "WRONG: patches"


def generic(folder: Path) -> tuple[list[str], int]:
    """Write and read the product; return the rows of the table, and how many files were wrong."""
    kinds = [
        Variant(colour, tiled, planar, bits, extra=more, codec=codec)  # type: ignore[arg-type]
        for colour, bits, more, codec, tiled, planar in itertools.product(
            COLOURS, (8, 16), EXTRA, CODECS, (True, False), (False, True)
        )
    ]
    around = [(orientation, "nothing", "none") for orientation in range(1, 9)]
    around += [(1, beside, pyramid) for beside, pyramid in itertools.product(BESIDE, PYRAMIDS)]
    around += [(6, beside, pyramid) for beside, pyramid in zip(BESIDE, PYRAMIDS * 2, strict=False)]
    # A codec has no part in where pages are.
    fewer = [(1, "nothing", "none"), (6, "thumbnail first", "sub-images"), (3, "overview", "pages")]
    found: dict[tuple[str, int, str], dict[tuple[bool, bool], Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    wrong = 0
    path = folder / "image.tif"
    for kind in track([each for each in kinds if each.exists], description="TIFF"):
        for orientation, beside, pyramid in around if kind.codec == "deflate" else fewer:
            variant = Variant(
                kind.colour, kind.tiled, kind.planar, kind.bits, beside, pyramid, orientation, kind.extra, kind.codec
            )
            write(path, variant)
            for there in (True, False):
                with extra(there):
                    said = outcome(path, shown(variant), variant.tolerance, folder)
                if said.startswith("WRONG"):
                    wrong += 1
                    print(f"{said} {'with' if there else 'without'} the extra: {variant}")
                found[kind.colour, kind.bits, kind.extra][kind.tiled, kind.planar][said] += 1
    layouts = [(False, False), (False, True), (True, False), (True, True)]
    rows = [
        "| colour | bits | extra sample | strips | strips, planar | tiles | tiles, planar |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (colour, bits, more), by_layout in found.items():
        cells = [_cell(by_layout[layout]) for layout in layouts]
        rows.append(f"| {colour} | {bits} | {more} | {' | '.join(cells)} |")
    return rows, wrong


def _cell(outcomes: Counter[str]) -> str:
    short = Counter({_short(said): 0 for said in outcomes})
    for said, count in outcomes.items():
        short[_short(said)] += count
    return "; ".join(f"{said} ({count})" for said, count in sorted(short.items(), reverse=True)) or "not written"


def _short(said: str) -> str:
    if not said.startswith("refused"):
        return said
    return "refused: " + said.split(" holds ")[-1].split(" (")[0]


def single(folder: Path) -> Iterator[tuple[str, Callable[[], Path], Pixels, float]]:
    """Files outside the product: what they are, how they are written, what is right, and within what."""
    grey = np.repeat(np.asarray(Image.fromarray(RGB).convert("L"))[..., None], 3, axis=-1)
    ycc = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    deep = RGB.astype(np.uint16)
    with_alpha = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])

    def tiff(pixels: NDArray[np.generic], **options: object) -> Callable[[], Path]:
        def made() -> Path:
            how = {"photometric": "rgb", "tile": (16, 16), "metadata": None, **options}
            name = "image.svs" if "Aperio" in str(options.get("description")) else "image.tif"
            imwrite(folder / name, pixels, **how)
            return folder / name

        return made

    def pillow(image: Image.Image, name: str, **options: object) -> Callable[[], Path]:
        def made() -> Path:
            image.save(folder / name, **options)
            return folder / name

        return made

    def raw(name: str, data: bytes) -> Callable[[], Path]:
        def made() -> Path:
            (folder / name).write_bytes(data)
            return folder / name

        return made

    def aperio(scheme: int, pixels: Pixels, photometric: str) -> Callable[[], Path]:
        tiles = [
            imagecodecs.jpeg2k_encode(pixels[y : y + 16, x : x + 16], codecformat="j2k", mct=False, reversible=True)
            for y in range(0, 64, 16)
            for x in range(0, 96, 16)
        ]
        about = {"description": "Aperio Image Library v11\n96x64|MPP = 0.5", "compression": scheme}

        def made() -> Path:
            options = {"tile": (16, 16), "metadata": None, "photometric": photometric, **about}
            imwrite(folder / "image.svs", iter(tiles), shape=RGB.shape, dtype=np.uint8, **options)
            return folder / "image.svs"

        return made

    def without_tag(made: Callable[[], Path], tag: int) -> Callable[[], Path]:
        def changed() -> Path:
            path = made()
            with TiffFile(path) as file:
                at = file.pages.first.tags[tag].offset
            data = bytearray(path.read_bytes())
            data[at : at + 2] = (65300).to_bytes(2, "little")
            path.write_bytes(data)
            return path

        return changed

    def scenes(**options: object) -> Callable[[], Path]:
        def made() -> Path:
            with TiffWriter(folder / "image.ome.tif", ome=True) as file:
                for name, pixels in {"left": RGB, "right": RGB[::-1]}.items():
                    file.write(pixels, photometric="rgb", metadata={"axes": "YXS", "Name": name}, **options)
            return folder / "image.ome.tif"

        return made

    def chosen(made: Callable[[], Path], scene: str) -> Callable[[], Path]:
        return lambda: Path(f"{made()}#{scene}")

    for scheme, pixels, photometric in (
        (33003, ycc, "rgb"),
        (33003, ycc, "ycbcr"),
        (33005, RGB, "rgb"),
        (34712, RGB, "rgb"),
        (34712, ycc, "ycbcr"),
    ):
        holds = "luma and chroma" if pixels is ycc else "RGB"
        name = f".svs, JPEG 2000 of scheme {scheme}, {holds} under the tag {photometric}"
        yield name, aperio(scheme, pixels, photometric), RGB, 4
    for subsampling in ((2, 2), (2, 1), (4, 1), (4, 2)):
        for tiled in (True, False):
            variant = Variant("YCbCr", tiled, subsampling=subsampling)
            name = f"TIFF, YCbCr {subsampling[0]} x {subsampling[1]} under deflate, {'tiles' if tiled else 'strips'}"
            yield name, lambda v=variant: write(folder / "image.tif", v), RGB, variant.tolerance  # type: ignore[misc]
    for codec in ("webp", "jpegxl", "jpegxr", "zstd", "lzma", "packbits", "png", "jpeg2000", "lerc"):
        yield f"TIFF, RGB, {codec}", tiff(RGB, compression=codec), RGB, 3
    yield "TIFF, RGB and opaque alpha, webp", tiff(with_alpha, compression="webp", extrasamples=["unassalpha"]), RGB, 3
    yield "TIFF, JPEG of RGB", tiff(RGB, compression="jpeg", compressionargs={"outcolorspace": "rgb"}), RGB, 16
    yield (
        "TIFF, big-endian, 16 bits, predictor",
        tiff(deep * 257, byteorder=">", predictor=True, compression="lzw"),
        RGB,
        0,
    )
    yield "BigTIFF", tiff(RGB, bigtiff=True), RGB, 0
    for bits in (10, 12, 14):
        values = deep << (bits - 8)
        yield f"TIFF, {bits} bits in 16, nothing said", tiff(values), RGB, 1
        said = [(281, 3, 3, (2**bits - 1,) * 3, True)]
        yield f"TIFF, {bits} bits in 16, MaxSampleValue {2**bits - 1}", tiff(values, extratags=said), RGB, 1
    yield "TIFF, grey, 12 bits in 16, nothing said", tiff(deep[..., 0] << 4, photometric="minisblack"), RGB, 1
    for dtype in (np.float16, np.float32, np.int8, np.int16, np.uint32):
        yield f"TIFF, {np.dtype(dtype).name}", tiff(RGB.astype(dtype)), RGB, 0
    yield "TIFF, CIE L*a*b*", tiff(RGB, photometric="cielab"), RGB, 0
    yield "TIFF, 4 samples without a word on the fourth", without_tag(tiff(with_alpha), 338), RGB, 0
    yield (
        "TIFF, 1 bit, fax group 4",
        pillow(Image.fromarray(RGB).convert("1"), "image.tif", compression="group4"),
        RGB,
        0,
    )
    planes = np.ascontiguousarray(RGB.transpose(2, 0, 1))
    as_ome = {"ome": True, "metadata": {"axes": "CYX"}}
    yield "OME-TIFF, red, green and blue as three pages", tiff(planes, photometric="minisblack", **as_ome), RGB, 0
    yield "OME-TIFF, RGB in planes", tiff(planes, planarconfig="separate", **as_ome), RGB, 0
    composite = {"imagej": True, "metadata": {"axes": "CYX", "mode": "composite"}, "tile": None, "photometric": None}
    yield "ImageJ, red, green and blue as three pages", tiff(planes, **composite), RGB, 0
    yield "TIFF, three grey pages", tiff(planes, photometric="minisblack", tile=None), RGB, 0
    yield "OME-TIFF, a stack of three", tiff(np.stack([RGB] * 3), ome=True, metadata={"axes": "ZYXS"}), RGB, 0
    yield "OME-TIFF, two scenes of one size", scenes(tile=(16, 16)), RGB, 0
    yield "OME-TIFF, `#left`", chosen(scenes(tile=(16, 16)), "left"), RGB, 0
    yield "OME-TIFF, `#1`, in strips", chosen(scenes(), "1"), RGB[::-1], 0
    image = Image.fromarray(RGB)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        with_exif = Variant(orientation=orientation)
        turned = Image.fromarray(stored(RGB, with_exif))
        yield f"PNG, EXIF orientation {orientation}", pillow(turned, "image.png", exif=exif), RGB, 0
        yield f"JPEG, EXIF orientation {orientation}", pillow(turned, "image.jpg", exif=exif, quality=95), RGB, 16
    yield "JPEG, grey", pillow(image.convert("L"), "image.jpg", quality=95), grey, 16
    yield "JPEG, CMYK", pillow(image.convert("CMYK"), "image.jpg", quality=95), RGB, 16
    yield "PNG, grey", pillow(image.convert("L"), "image.png"), grey, 0
    yield "PNG, grey and alpha", pillow(image.convert("LA"), "image.png"), grey, 0
    quantised = image.quantize(64)
    yield "PNG, palette", pillow(quantised, "image.png"), np.asarray(quantised.convert("RGB")), 0
    glass = np.full_like(RGB, 255)
    one = Image.new("P", image.size)
    one.putpalette([200, 90, 160])
    yield "PNG, palette with a transparent colour", pillow(one, "image.png", transparency=0), glass, 0
    yield "PNG, RGBA", pillow(Image.fromarray(with_alpha), "image.png"), RGB, 0
    yield "PNG, 16 bits", raw("image.png", imagecodecs.png_encode(deep * 257)), RGB, 0
    yield "PNG, grey, 16 bits", raw("image.png", imagecodecs.png_encode(grey[..., 0].astype(np.uint16) * 257)), grey, 0
    yield "PNG, 12 bits in 16", raw("image.png", imagecodecs.png_encode(deep << 4)), RGB, 0
    yield "BMP", pillow(image, "image.bmp"), RGB, 0
    yield "WebP", pillow(image, "image.webp", lossless=True), RGB, 0
    yield "JPEG 2000 (.jp2)", pillow(image, "image.jp2", irreversible=False), RGB, 0
    yield "PFM, floating-point numbers", pillow(Image.fromarray(grey[..., 0].astype(np.float32)), "image.pfm"), RGB, 0


def others(folder: Path) -> tuple[list[str], int]:
    """Write and read the files outside the product; return the rows of their table, and how many were wrong."""
    rows, wrong = ["| file | read |", "| --- | --- |"], 0
    for name, made, expected, tolerance in single(folder):
        path = made()
        said = []
        for there in (True, False):
            with extra(there):
                said.append(outcome(path, expected, tolerance, folder))
        wrong += sum(each.startswith("WRONG") for each in said)
        shown_ = said[0] if said[0] == said[1] else f"with the extra {said[0]}; without it {said[1]}"
        rows.append(f"| {name} | {shown_.replace('|', '/')} |")
    return rows, wrong


def needs_extra(folder: Path) -> list[str]:
    """Read endings of scanners without the extra, and list what is said."""
    from nh2st_graph.slide._wsi import SCANNERS

    rows = ["| ending | without the extra |", "| --- | --- |"]
    for ending in sorted(SCANNERS):
        path = folder / f"slide{ending}"
        path.write_bytes(b"something else")
        with extra(False):
            rows.append(f"| {ending} | {outcome(path, RGB, 0, folder)} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="The page (Markdown).")
    out = parser.parse_args().out
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        other_rows, other_wrong = others(folder)
        scanner_rows = needs_extra(folder)
        rows, wrong = generic(folder)
    n_files = sum(int(count) for row in rows[2:] for count in _counts(row))
    text = [
        "# What is read how",
        "",
        "    python benchmarks/images/matrix.py --out benchmarks/results/images.md",
        "",
        "One image was written in every way below and read again, with and without the extra `[wsi]`. *Right* means "
        "that patches, the whole image and windows are those of the image, within rounding or the codec's loss; both "
        "ways of reading said the same unless a row tells them apart. A refusal is one line, of which the words are "
        f"shown. Of {n_files + 2 * (len(other_rows) - 2)} readings, {wrong + other_wrong} were neither.",
        "",
        "## TIFF",
        "",
        f"Codecs: {', '.join(CODECS)}. In every cell, under deflate: all orientations (1 to 8); pyramids: "
        f"{', '.join(PYRAMIDS)}; beside the image: {', '.join(BESIDE)}. The other codecs have some of them. The "
        "number of readings stands in brackets. 'Not written' is what the format, or tifffile's writer, does not have. "
        "Where an extra sample is associated or unassociated alpha, the image is put on white; an unspecified one is "
        "left out.",
        "",
        *rows,
        "",
        "## Other files",
        "",
        *other_rows,
        "",
        "## Formats of scanners",
        "",
        "OpenSlide, or another reader of wsidata, decides what these files show. `.svs` is read without the extra too, "
        "if it is a TIFF; the files here were not.",
        "",
        *scanner_rows,
        "",
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(text), encoding="utf-8")
    print(f"{out}: {wrong + other_wrong} wrong")
    sys.exit(bool(wrong + other_wrong))


def _counts(row: str) -> list[str]:
    return re.findall(r"\((\d+)\)", row)


if __name__ == "__main__":
    main()

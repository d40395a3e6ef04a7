"""Read what the samples of a TIFF page mean, or say why they cannot be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nh2st_graph.slide._colour import LUMA, N_COLOURS, Colour, Model
from nh2st_graph.slide._layout import UnreadableError
from nh2st_graph.slide._resolution import OmeImage
from nh2st_graph.slide._segments import APERIO_RGB, JPEG, JPEG_2000, grid, of_luma, raw_segment, subsampling

if TYPE_CHECKING:
    from tifffile import TiffPage

__all__ = ["check_range", "page_colour"]

_MODELS: dict[int, Model] = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr"}
_OTHER_MODELS = {4: "a mask", 8: "CIE L*a*b*", 9: "ICC L*a*b*", 10: "ITU L*a*b*", 32803: "a colour filter array"}

#: Values of the tag of extra samples.
_ASSOCIATED, _UNASSOCIATED = 1, 2

#: Codecs that convert luma and chroma by themselves, whatever the colour tag says.
_OWN_COLOURS = frozenset({22610, 34892, 34934, 48124, 50001, 50002, 52546})

#: If no value is above this share of the range, the samples keep fewer bits than they have room for.
_USED = 1 / 4

#: Segments to look at for that, if the file does not state the range, and if it does.
_LOOKED_AT = (256, 16)


def page_colour(page: TiffPage, ome: OmeImage | None = None) -> Colour:
    """Read what the samples of a page mean.

    Parameters
    ----------
    page
        The page.
    ome
        What OME-XML says of it.

    Raises
    ------
    UnreadableError
        If they cannot be shown rightly.
    """
    n_samples, photometric, compression = int(page.samplesperpixel), int(page.photometric), int(page.compression)
    bits = page.bitspersample
    kind = f"{page.dtype}, {n_samples} samples a pixel"
    if compression not in {1, *JPEG} and not _has_codec(compression):
        raise UnreadableError(f"pixels that are packed in a way no codec here unpacks (compression {compression})")
    model = _MODELS.get(photometric)
    if model is None:
        raise UnreadableError(f"{_OTHER_MODELS.get(photometric, f'photometric {photometric}')} ({kind})")
    if compression in JPEG_2000:
        model = "YCbCr" if of_luma(page) else "RGB" if compression == APERIO_RGB else model
    n_colours = N_COLOURS[model]
    extra = tuple(int(each) for each in page.extrasamples)
    # The decoder of JPEG converts, unless colours are in planes or others lie beside them.
    one_piece = compression in JPEG and page.planarconfig == 1
    if model == "YCbCr" and one_piece and not extra:
        model = "RGB"
    elif model == "YCbCr" and (one_piece or compression in _OWN_COLOURS):
        raise UnreadableError(f"luma and chroma in a way that is not known ({kind}, compression {compression})")
    if not isinstance(bits, int) or page.dtype is None or page.dtype.kind not in "ub" or bits > 16:
        raise UnreadableError(f"{page.dtype or f'samples of {bits} bits'}, {n_samples} samples a pixel")
    if page.imagedepth != 1:
        raise UnreadableError(f"{page.imagedepth} layers in one page")
    if n_samples < n_colours or len(extra) != n_samples - n_colours:
        raise UnreadableError(f"{kind}, photometric {photometric}, and does not say what each sample is")
    alpha = next((i for i, each in enumerate(extra, n_colours) if each in {_ASSOCIATED, _UNASSOCIATED}), None)
    premultiplied = alpha is not None and extra[alpha - n_colours] == _ASSOCIATED
    if premultiplied and model not in {"grey", "RGB"}:
        raise UnreadableError(f"associated alpha with {model} ({kind})")
    if premultiplied and photometric == 0:
        raise UnreadableError(f"associated alpha with grey whose 0 is white ({kind})")
    return Colour(
        model,
        bits,
        _top(page, bits, ome) if model != "palette" else 2**bits - 1,
        inverted=photometric == 0,
        alpha=alpha,
        premultiplied=premultiplied,
        palette=_palette(page) if model == "palette" else None,
        **(_luma(page, bits, kind) if model == "YCbCr" else {}),
        **({} if model != "CMYK" else _check_inks(page, kind)),
    )


def _has_codec(compression: int) -> bool:
    from tifffile import TIFF

    try:
        return TIFF.DECOMPRESSORS[compression] is not None
    except KeyError:
        return False


def _top(page: TiffPage, bits: int, ome: OmeImage | None) -> int:
    """Find the value of white: that of all bits, or of those that the file says are used."""
    stated = np.max(page.tags.valueof(281, 2**bits - 1))
    if ome is not None and ome.bits is not None and 8 <= ome.bits < bits:
        return 2**ome.bits - 1
    # The tag may be the highest value that occurs; one less than a power of two is a range.
    return int(stated) if 8 <= int(stated).bit_length() < bits and (stated & (stated + 1)) == 0 else 2**bits - 1


def check_range(page: TiffPage, colour: Colour) -> None:
    """Refuse 16 bits of which few are used, and the file does not say it, or of which more are used than it says.

    Cameras keep 10, 12 or 14 bits in 16. Some segments are looked at.

    Raises
    ------
    UnreadableError
        If so.
    ImageError
        If the page is damaged.
    """
    *_, across, down = grid(page)
    n_colours, highest = N_COLOURS[colour.model], 0
    stated = colour.top < 2**colour.bits - 1
    for index in np.unique(np.linspace(0, across * down - 1, _LOOKED_AT[stated]).astype(int)):
        samples = raw_segment(page, int(index))
        if samples is not None and samples.size:
            highest = max(highest, int(samples[..., :n_colours].max()))
        if stated and highest > colour.top:
            raise UnreadableError(
                f"uint16, {page.samplesperpixel} samples a pixel, whose values reach {highest}, and says that they end "
                f"at {colour.top}"
            )
        if not stated and highest > _USED * colour.top:
            return
    if stated:
        return
    raise UnreadableError(
        f"uint16, {page.samplesperpixel} samples a pixel, whose values end at {highest} of {colour.top}, and does not "
        "say how many bits are used"
    )


def _palette(page: TiffPage) -> NDArray[np.uint8]:
    colours = page.tags.valueof(320)
    if colours is None:
        raise UnreadableError("a palette image without its palette")
    table = np.asarray(colours).reshape(3, -1).T
    # Some writers keep 8 bits where 16 are meant.
    return (table if table.max() < 256 else table >> 8).astype(np.uint8)


def _luma(page: TiffPage, bits: int, kind: str) -> dict[str, Any]:
    if subsampling(page) != (1, 1):
        known = {1, 2, 4}
        plain = bits == 8 and page.samplesperpixel == 3 and page.planarconfig == 1 and page.predictor == 1
        if not plain or not set(subsampling(page)) <= known:
            raise UnreadableError(f"luma and chroma of different size ({kind}, {subsampling(page)})")
    shares, reference = _ratios(page, 529), _ratios(page, 532)
    if reference is not None and (len(reference) != 6 or min(reference[1::2]) <= 2 ** (bits - 2)):
        raise UnreadableError(f"luma and chroma whose white is {reference[1::2]} ({kind})")
    return {"luma": shares or LUMA, "reference": reference}


def _ratios(page: TiffPage, tag: int) -> tuple[float, ...] | None:
    value = page.tags.valueof(tag)
    if value is None:
        return None
    return tuple(float(a / b) if b else 0.0 for a, b in np.reshape(value, (-1, 2)).tolist())


def _check_inks(page: TiffPage, kind: str) -> dict[str, Any]:
    """Refuse inks that are not cyan, magenta, yellow and black from none to full."""
    bits = page.bitspersample
    dots = tuple(np.ravel(page.tags.valueof(336, (0, 2**bits - 1))).tolist())
    if int(page.tags.valueof(332, 1)) != 1 or dots[:2] != (0, 2**bits - 1):
        raise UnreadableError(f"inks that are not cyan, magenta, yellow and black ({kind})")
    return {}

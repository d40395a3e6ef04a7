"""Check that spots lie on the tissue of their image."""

from __future__ import annotations

from nh2st_graph.read import SpatialObject, given_sections
from nh2st_graph.read._docs import documented
from nh2st_graph.section import check_on_tissue, check_section, open_image

__all__ = ["check_placement"]


@documented
def check_placement(adata: SpatialObject, *, library_key: str | None = None, table_key: str | None = None) -> None:
    """Check that the spots of a section lie on the tissue of its image.

    Coordinates in another scale than the image's, or with x and y swapped, give each spot the patch of another place,
    and nothing else would tell. Tissue is found by :func:`tissue_mask` on a small copy of the image. Other readings
    of the coordinates are compared: x and y swapped; multiplied by the section's scale factors, um per pixel, the
    image's downsampling factors, powers of two, or what makes spots as far from the image's corner as the tissue is
    (root mean square); both; and mirrored.

    Parameters
    ----------
    adata
        One section, with a full-resolution image and its scale; several in one, with ``library_key``; or SpatialData.
        Of the spots, those with ``obs["in_tissue"]`` 1 are looked at, where there are any.
    %(library_key)s
    %(table_key)s

    Raises
    ------
    ImageError
        If clearly fewer spots lie on tissue than by another reading of the coordinates: the shares, the likely mistake
        (with the factor), and how to mend it. Also as :func:`~nh2st_graph.im.features` does, for spots outside the
        image or an image that cannot be read.
    DataError
        If the section breaks the contract.

    Notes
    -----
    A reading is clearly better if at least 80 % of the spots lie on tissue by it, 15 points more than as given, and if
    the intersection over union of the spots' footprint with the tissue gains as much, as does the larger of share on
    tissue and share of the tissue under spots, which is high for an array that goes beyond a small piece of tissue, and
    for one inside a large piece. Spots that fill a rectangle need 50 points in the union. Where most spots, and most
    tissue, are off each other without an explanation, a warning says so. Nothing is said of an image without tissue,
    nor of less than 20 spots.
    """
    for section in given_sections(adata, library_key=library_key, table_key=table_key):
        with open_image(check_section(section)) as slide:
            check_on_tissue(section, slide)

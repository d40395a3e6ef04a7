"""Check that spots lie on the tissue of their image."""

from __future__ import annotations

from nh2st_graph.read import SpatialObject, documented, given_sections
from nh2st_graph.section import check_on_tissue, check_section, open_image

__all__ = ["check_placement"]


@documented
def check_placement(adata: SpatialObject, *, library_key: str | None = None, table_key: str | None = None) -> None:
    """Check that the spots of a section lie on the tissue of its image.

    Coordinates of another resolution than the image's, or with x and y swapped, give each spot the patch of another
    place, and nothing else would show it. Tissue is found by :func:`tissue_mask` on a small copy of the image. The
    given coordinates are compared with other readings of them: x and y swapped; multiplied by the section's scale
    factors, um per pixel, the image's downsampling factors, powers of two, or the factor that puts spots as far from
    the image's corner as the tissue is (root mean square); both; and mirrored.

    Parameters
    ----------
    adata
        One section with a full-resolution image and its resolution; an AnnData of several sections; or SpatialData.
        If ``obs["in_tissue"]`` exists, only spots that are in tissue are checked.
    %(library_key)s
    %(table_key)s

    Raises
    ------
    ImageError
        If clearly more spots would lie on tissue by another reading of the coordinates. The message gives both shares,
        the likely mistake with its factor, and the remedy. Also if spots lie outside the image, or the image cannot be
        read.
    DataError
        If the section breaks the contract.

    Notes
    -----
    Another reading is clearly better if at least 80 % of the spots lie on tissue by it, and if three measures gain at
    least 15 points: the share of spots on tissue; the intersection over union of the spots' footprint and the tissue;
    and the larger of the share of spots on tissue and the share of tissue under spots, which is high both for an array
    that goes beyond a small piece of tissue and for one inside a large piece. Spots that fill a rectangle have to gain
    50 points in the intersection over union. A warning is given if most spots and most of the tissue miss each other
    and no reading explains it. Images without tissue, and sections of fewer than 20 spots, are not checked.
    """
    for section in given_sections(adata, library_key=library_key, table_key=table_key):
        with open_image(check_section(section)) as slide:
            check_on_tissue(section, slide)

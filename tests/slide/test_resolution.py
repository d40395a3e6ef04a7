from __future__ import annotations

import pytest

from nh2st_graph.slide import aperio_scale, plausible_scale
from nh2st_graph.slide._resolution import agreed, dots_sides, ome_images

PIXELS = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image><Pixels {}/></Image></OME>'


@pytest.mark.parametrize(
    ("dots", "expected"),
    [
        ((101_600, 101_600), 0.25),
        ((25_400, 25_500), 0.998),
        ((72, 72), None),  # a screen's
        ((300, 300), None),  # a printer's
        ((1, 1), None),
        ((0, 0), None),
        ((50_000, 25_000), None),  # no one scale
        (None, None),
    ],
)
def test_dots_per_inch(dots, expected):
    assert agreed(dots_sides(dots)) == (None if expected is None else pytest.approx(expected, rel=1e-3))


@pytest.mark.parametrize(
    ("um", "expected"), [(0.25, 0.25), (None, None), (0.0, None), (352.8, None), (float("nan"), None)]
)
def test_plausible(um, expected):
    assert plausible_scale(um) == expected


def test_dots_per_centimetre():
    assert agreed(dots_sides((20_000, 20_000), 1e4)) == 0.5


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        (
            "Aperio Image Library v11.2.1\r\n46000x32914 (256x256)|AppMag = 40|MPP = 0.2525|Left = 2",
            0.2525,
        ),
        ("Aperio Image\n1x1|MPP=0.5", 0.5),
        ("Aperio Image\n1x1|AppMag = 40", None),
        ("Another scanner|MPP = 0.5", None),
        ("", None),
    ],
)
def test_aperio(description, expected):
    assert aperio_scale(description) == expected


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ('PhysicalSizeX="0.25" PhysicalSizeY="0.25"', 0.25),
        ('PhysicalSizeX="0.25" PhysicalSizeY="0.25" PhysicalSizeXUnit="µm" PhysicalSizeYUnit="µm"', 0.25),
        ('PhysicalSizeX="250" PhysicalSizeY="250" PhysicalSizeXUnit="nm" PhysicalSizeYUnit="nm"', 0.25),
        ('PhysicalSizeX="0.00025" PhysicalSizeY="0.25" PhysicalSizeXUnit="mm"', 0.25),
        ('PhysicalSizeX="0.5" PhysicalSizeY="0.25"', None),
        ('PhysicalSizeX="1" PhysicalSizeY="1" PhysicalSizeXUnit="pixel" PhysicalSizeYUnit="pixel"', None),
        ('SizeX="100"', None),
        ('PhysicalSizeX=""', None),
        ('PhysicalSizeX="250" PhysicalSizeXUnit="nm"', 0.25),
        ('PhysicalSizeX="2500" PhysicalSizeY="2500" PhysicalSizeXUnit="Å" PhysicalSizeYUnit="Å"', 0.25),
    ],
)
def test_ome(attributes, expected):
    (image,) = ome_images(PIXELS.format(attributes))
    assert agreed(image.sides) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("xml", [None, "", "<OME", "<OME/>"])
def test_ome_that_says_nothing(xml):
    assert ome_images(xml) == []


def test_ome_describes_each_image_by_itself():
    images = "".join(
        f'<Image Name="{name}"><Pixels {sizes} SignificantBits="12"><TiffData IFD="{page}"/></Pixels></Image>'
        for page, (name, sizes) in enumerate({"label": "", "scan": 'PhysicalSizeX="0.5" PhysicalSizeY="1"'}.items())
    )
    found = ome_images(f"<OME>{images}</OME>")
    assert [(each.name, each.page, each.sides, each.bits) for each in found] == [
        ("label", 0, None, 12),
        ("scan", 1, (0.5, 1.0), 12),
    ]


@pytest.mark.parametrize(
    ("dots", "expected"),
    [((50_800, 25_400), (0.5, 1.0)), ((72, 72), None), ((72, 50_800), (352.8, 0.5)), ((0, 1), None)],
)
def test_statements_keep_both_sides(dots, expected):
    assert dots_sides(dots) == (None if expected is None else pytest.approx(expected, rel=1e-3))

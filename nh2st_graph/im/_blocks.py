"""Encoders with the patches that they read: blocks of features, each at a scale of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from anndata import AnnData

from nh2st_graph._errors import ConfigError, setting
from nh2st_graph._files import positive
from nh2st_graph.im._default import default_size, in_full
from nh2st_graph.im._encoders import Encoder, make_encoders
from nh2st_graph.im._names import PatchSize, split_names, split_options
from nh2st_graph.im._patches import microns_per_pixel
from nh2st_graph.im._recipes import Recipe, recipes
from nh2st_graph.im._stain import StainChange, stain_digest
from nh2st_graph.im._views import in_views
from nh2st_graph.section import section_name

if TYPE_CHECKING:
    from squidpy.experimental.im import StainReference

__all__ = [
    "Block",
    "BlockLike",
    "PatchSize",
    "coarse_slide",
    "explicit_blocks",
    "make_blocks",
    "off_scale",
    "sizes_in_um",
]

#: An encoder, or an encoder and its patch.
BlockLike = str | Encoder | tuple[str | Encoder, PatchSize]

#: A resolution this much off counts as another.
_TOLERANCE = 0.05

#: Encoders of these kinds were not trained on slides, or their names do not tell.
_WITHOUT_SCALE = ("squidpy:", "handcrafted", "pixels:", "timm:", "timm-map:", "hf:")
#: Where a repository follows in the name of an encoder.
_HUBS = ("timm:hf-hub:", "timm-map:hf-hub:", "hf:")


class Block(NamedTuple):
    """An encoder, the side of its patches in um, and the reference or the change that their colours are brought to."""

    encoder: Encoder
    patch_um: float
    stain: StainReference | StainChange | None = None

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What features depend on beside the patch as it was scanned; see :class:`Encoder`."""
        known = self.encoder.fingerprint
        return known if self.stain is None else {**known, "stain": stain_digest(self.stain)}

    @property
    def um_per_px(self) -> float:
        """Resolution of the patches that the encoder gets."""
        return self.patch_um / self.encoder.input_size


def make_blocks(
    encoder: str | Sequence[BlockLike], patch_um: PatchSize | None = None, views: int = 1, device: str = "auto"
) -> list[Block]:
    """Make blocks of features.

    Parameters
    ----------
    encoder, patch_um, views, device
        As for :func:`features`. An encoder that is named at several scales is made once.

    Raises
    ------
    ConfigError
        If an encoder cannot be made, or its scale is needed and unknown, or a block occurs twice.
    """
    named: Sequence[BlockLike] = split_names(encoder) if isinstance(encoder, str) else encoder
    sized: list[tuple[str | Encoder, PatchSize]] = [
        (each[0], each[1]) if isinstance(each, tuple) else (each, default_size(each) if patch_um is None else patch_um)
        for each in named
    ]
    given = in_full(sized)
    names = ",".join(dict.fromkeys(each for each, _ in given if isinstance(each, str)))
    # Before encoders are made, since their weights may be large.
    sizes = sizes_in_um(given)
    made = dict(zip(split_names(names), make_encoders(names, device), strict=True)) if names else {}
    turned = {name: in_views(each, views) for name, each in made.items()}
    blocks = [
        Block(turned[each.strip()] if isinstance(each, str) else in_views(each, views), size)
        for (each, _), size in zip(given, sizes, strict=True)
    ]
    for (name, size), n in Counter((block.encoder.name, block.patch_um) for block in blocks).items():
        if n > 1:
            raise ConfigError(f"{setting('features.encoder', name)} occurs twice at {size:g} um; name it once")
    if not blocks:
        raise ConfigError(f"{setting('features.encoder')} names none; give at least one encoder")
    return blocks


def explicit_blocks(blocks: Sequence[tuple[str, PatchSize]]) -> list[tuple[str, float]]:
    """Put encoders in the place of ``auto``, and sizes in um in the place of ``auto``.

    Raises
    ------
    ConfigError
        If the scale of an encoder is needed and unknown, or a size is no number.
    """
    full = in_full(blocks)
    return [(name, size) for (name, _), size in zip(full, sizes_in_um(full), strict=True)]


def sizes_in_um(blocks: Sequence[tuple[str | Encoder, PatchSize]]) -> list[float]:
    """Give the side of the patch of each encoder in um, of ``auto`` too.

    Raises
    ------
    ConfigError
        If the scale of an encoder is needed and unknown, or a size is no number.
    """
    return [_own_field(encoder) if size == "auto" else _number(size) for encoder, size in blocks]


def _number(size: Any) -> float:
    number = positive(size)
    if number is None:
        raise ConfigError(f"{setting('features.patch_um', size)}; give a size in um above 0, or 'auto'")
    return number


def _own_field(encoder: str | Encoder) -> float:
    if isinstance(encoder, str):
        return _named_field(encoder)
    return _field(encoder.name, encoder.input_size, encoder.um_per_px)


def _named_field(name: str) -> float:
    """Find the side of the patch that an encoder was trained at, in um.

    Parameters
    ----------
    name
        Name of the encoder. It is made only if nothing else tells.

    Raises
    ------
    ConfigError
        If the scale of the encoder is unknown.
    """
    recipe = _recipe_of(name)
    if recipe is not None:
        return _field(name, split_options(name)[1].size or recipe.input_size, recipe.um_per_px)
    if name.startswith(_WITHOUT_SCALE):
        return _field(name, 0, None)
    (encoder,) = make_encoders(name, "cpu")
    return _field(name, encoder.input_size, encoder.um_per_px)


def _recipe_of(name: str) -> Recipe | None:
    """Find the recipe of an encoder by its name, or by its repository on a hub."""
    plain = name.partition("?")[0].partition("@")[0]  # options are the encoder's own, which may be of another package
    hub = next((each for each in _HUBS if plain.startswith(each)), None)
    if hub is None:
        return recipes().get(plain)
    return next((each for each in recipes().values() if each.location == plain.removeprefix(hub)), None)


def _field(name: str, input_size: int, um_per_px: float | None) -> float:
    if um_per_px is None:
        raise ConfigError(
            f"{setting('features.patch_um', 'auto')}: the resolution that {name} was trained at is unknown; give a "
            "number of um in its place, such as 224"
        )
    return round(input_size * um_per_px, 6)


def _trained_at(encoder: Encoder) -> list[float]:
    """List the resolutions that an encoder was trained at, the main one first; none if they are unknown."""
    name = encoder.name.partition("?")[0]
    of_lazyslide = (each for each in recipes().values() if name == f"lazyslide:{each.lazyslide}")
    recipe = _recipe_of(encoder.name) or next(of_lazyslide, None)
    others = () if recipe is None else recipe.also_um_per_px
    return [] if encoder.um_per_px is None else [encoder.um_per_px, *others]


def off_scale(blocks: Sequence[Block]) -> Iterator[str]:
    """Say which encoders get patches of another resolution than they were trained at."""
    for block in blocks:
        encoder, known = block.encoder, _trained_at(block.encoder)
        if known and all(abs(block.um_per_px / each - 1) > _TOLERANCE for each in known):
            yield (
                f"a patch of {block.patch_um:g} um into {encoder.input_size} px is {block.um_per_px:.3g} um per px; "
                f"{encoder.name} was trained at {known[0]:.3g} ({encoder.input_size * known[0]:g} um)"
            )


def coarse_slide(section: AnnData, blocks: Sequence[Block]) -> Iterator[tuple[str, str]]:
    """Say which encoders were trained at a finer resolution than a section's image has.

    Yields
    ------
    What the note is of, the same for all images of this resolution, and the note.
    """
    scale, name = microns_per_pixel(section), section_name(section)
    for encoder in dict.fromkeys(block.encoder for block in blocks):
        own = max(_trained_at(encoder), default=None)
        if own is not None and scale > (1 + _TOLERANCE) * own:
            note = (
                f"the image of section {name!r} has {scale:.3g} um per px, coarser than {own:.3g}, at which "
                f"{encoder.name} was trained; details that it looks for are not there"
            )
            yield f"{encoder.name} on {scale:.3g}", note

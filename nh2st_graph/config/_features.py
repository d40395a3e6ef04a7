"""Settings of image features: encoders, and the patches that they read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, ValidationInfo, field_validator, model_validator

from nh2st_graph._errors import nearest
from nh2st_graph._settings import Positive, Section

__all__ = ["BlockConfig", "FeaturesConfig", "PatchSize"]


def _patch_size(given: Any) -> Any:
    """Check a patch's side: a number above 0, or ``auto``."""
    if given == "auto":
        return given
    try:
        size = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        size = math.nan
    if not (math.isfinite(size) and size > 0):
        raise ValueError(f"patch_um = {given!r}; give a size in um above 0, or auto")
    return size


def _text(value: Any) -> str:
    """Write an option as a name has it."""
    if isinstance(value, list | tuple):
        return "/".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",")]


def _in_um(size: PatchSize) -> str:
    return size if isinstance(size, str) else f"{size:g} um"


#: Side of a patch in um, or the side that the encoder was trained at.
PatchSize = Annotated[float | Literal["auto"], PlainValidator(_patch_size)]

#: Stands for the encoders that nh2st_graph.im chooses when a run begins.
_AUTO = "auto"
#: Side of patches where nothing is said, in um.
_SIZE = 224.0
#: Encoders that were the default, now and in earlier versions: whoever wrote them down may not have chosen them.
_DEFAULTS = (_AUTO, "squidpy:summary+texture+histogram")

#: Options of an encoder, which stand in its name: ``uni2-h?size=448&mean=0.7/0.5/0.6``.
_OPTIONS = ("pooling", "size", "mean", "std", "precision", "remote_code")


class BlockConfig(Section):
    """An encoder with its own patch. Options of the encoder may be keys too, and become part of its name.

    Attributes
    ----------
    encoder
        Name of one encoder.
    patch_um
        Side of its patch, in um, or ``auto``; that of ``features.patch_um`` if None.
    """

    encoder: Annotated[str, Field(min_length=1)]
    patch_um: PatchSize | None = None

    @model_validator(mode="before")
    @classmethod
    def _in_full(cls, given: Any) -> Any:
        """Take a name, or a name and a size; and put options into the name."""
        if isinstance(given, str):
            return {"encoder": given}
        if isinstance(given, list | tuple):
            if len(given) != 2:
                raise ValueError(f"features.encoders: {list(given)!r} is not a name and a size; write [NAME, UM]")
            return {"encoder": given[0], "patch_um": given[1]}
        if not isinstance(given, Mapping):
            return given
        unknown = [key for key in given if key not in (*cls.model_fields, *_OPTIONS)]
        if unknown:
            hint = nearest(unknown[0], [*cls.model_fields, *_OPTIONS])
            raise ValueError(f"features.encoders: unknown key {unknown[0]!r}; {hint}")
        options = "&".join(f"{key}={_text(given[key])}" for key in _OPTIONS if given.get(key) is not None)
        values = {key: given[key] for key in given if key in cls.model_fields}
        name = values.get("encoder")
        if options and isinstance(name, str):
            values["encoder"] = f"{name}{'&' if '?' in name else '?'}{options}"
        return values

    @model_validator(mode="after")
    def _check(self) -> BlockConfig:
        if "," in self.encoder:
            raise ValueError(f"features.encoders: {self.encoder!r} joins encoders; give each an entry of its own")
        return self


class FeaturesConfig(Section):
    """How the image of a spot becomes numbers.

    Attributes
    ----------
    encoders
        Encoders, each with its own patch; their features are joined. It replaces ``encoder`` and ``patch_um``: each
        entry is a name, a name and a size (``[uni2-h, 112]``), or keys and values; see :class:`BlockConfig`.
    encoder
        Encoder names joined by commas; see :func:`nh2st_graph.im.features`. With ``encoders``, the names of these.
        ``auto`` is the best without a download: ``handcrafted`` at 112, 224 and 448 um, and beside it
        ``efficientnet-lite0`` at these scales where its weights are installed (the extra ``imagenet``). A run chooses
        when it begins, and its ``config.yaml`` and its model have the choice as ``encoders``.
    patch_um
        Side of a patch on the tissue, in um; ``auto`` is the side that the encoder was trained at. If None, 224, or the
        three scales of ``encoder: auto``, for which a size given here is the only one.
    embeddings
        Features that another package computed, in place of encoders: a folder or a pattern of files, such as
        ``embeddings/{section}.h5``, or ``obsm:KEY``, an entry of each section; see :func:`nh2st_graph.im.embeddings`.
        No image is opened. ``encoder`` and ``patch_um`` then say what the files do not, where they differ from their
        defaults.
    missing
        What happens to spots without an embedding: ``fail`` raises an error, ``drop`` leaves them out.
    views
        Average features over 4 views (rotations) or 8 (mirrored too) of a patch; 1 is the patch alone.
    stain
        Bring the colours of patches to a reference, by squidpy: ``reinhard`` (mean and spread of colours), ``macenko``
        (colours of the two stains), or not (``none``). The reference is fitted on the training sections, all together,
        and kept in the model; see :func:`nh2st_graph.im.stain_reference`.
    stain_views
        Encode each training section as many times more, each time in another stain
        (:class:`nh2st_graph.im.StainJitter`, of each kind in turn); an epoch draws one of them, or the section as it
        is. Validation and prediction see sections as they are. The views of a section are the same in every run.
    stain_jitter
        Strength of these changes, between 0 and 1.
    floor_centres
        Round the centres of patches down to whole pixels, as the code of HisToGene, Hist2ST, HGGEP, mclSTExp, TRIPLEX
        and NH2ST does. Positions of spots stay as they are.
    standardize
        Bring features to z-scores by the statistics of each ``section`` or of the ``train`` sections, or not at all
        (``none``).
    finetune
        Train the encoder (one timm model) together with the model. Otherwise its features come from the cache.
    batch_size
        Patches encoded at a time.
    cache
        Folder of the feature cache; the user's cache folder if None.
    check_placement
        Refuse a section whose spots lie off the tissue while swapped or rescaled coordinates would lie on it; see
        :func:`nh2st_graph.im.check_placement`. Set it to false for images that are not H&E.
    """

    # Before `encoder`, which reads it.
    encoders: Annotated[tuple[BlockConfig, ...], Field(min_length=1)] | None = None
    encoder: str = _AUTO
    patch_um: PatchSize | None = None
    embeddings: Annotated[str, Field(min_length=1)] | None = None
    missing: Literal["fail", "drop"] = "fail"
    views: Literal[1, 4, 8] = 1
    stain: Literal["none", "reinhard", "macenko"] = "none"
    stain_views: Annotated[int, Field(ge=0)] = 0
    stain_jitter: Annotated[float, Field(gt=0, lt=1)] = 0.1
    floor_centres: bool = False
    standardize: Literal["section", "train", "none"] = "section"
    finetune: bool = False
    batch_size: Positive = 64
    cache: Path | None = None
    check_placement: bool = True

    @field_validator("encoder", mode="before")
    @classmethod
    def _name_blocks(cls, value: Any, info: ValidationInfo) -> Any:
        blocks: tuple[BlockConfig, ...] | None = info.data.get("encoders")
        return value if blocks is None else ",".join(block.encoder for block in blocks)

    @field_validator("patch_um")
    @classmethod
    def _default_size(cls, value: PatchSize | None, info: ValidationInfo) -> PatchSize | None:
        """Write the size down, unless ``auto`` has its own."""
        chosen = value is not None or _AUTO in _split(str(info.data.get("encoder", "")))
        return value if chosen else _SIZE

    @property
    def blocks(self) -> list[tuple[str, PatchSize]]:
        """Name and patch of each encoder; empty with embeddings. ``auto`` stays as it is."""
        if self.embeddings is not None:
            return []
        given = [(name, None) for name in _split(self.encoder)]
        named = given if self.encoders is None else [(each.encoder, each.patch_um) for each in self.encoders]
        return [(name, size or self.patch_um or ("auto" if name == _AUTO else _SIZE)) for name, size in named]

    @property
    def names(self) -> str:
        """Names of the encoders, joined by commas; an encoder of several scales once."""
        return self.encoder if self.encoders is None else ",".join(dict.fromkeys(name for name, _ in self.blocks))

    @property
    def smallest_patch_um(self) -> float:
        """Side of the smallest patch of a trained model, in um."""
        return min((float(size) for _, size in self.blocks), default=float(self.patch_um or _SIZE))

    @property
    def stated(self) -> tuple[str | None, float | None]:
        """What the configuration says of embeddings: the name of their encoder and the side of patches, in um."""
        encoder = None if self.encoder in _DEFAULTS else self.encoder
        return encoder, None if self.patch_um in {None, _SIZE} else float(self.patch_um or _SIZE)

    @property
    def described(self) -> str:
        """The encoders in words, with their patches and views if these are not the same for all, or more than one."""
        if self.embeddings is not None:
            return f"{self.stated[0] or 'embeddings'} of {self.embeddings}"
        one = self.encoders is None
        shown = self.encoder if one else ", ".join(f"{name} at {_in_um(size)}" for name, size in self.blocks)
        return shown if self.views == 1 else f"{shown}, {self.views} views"

    @model_validator(mode="after")
    def _check(self) -> FeaturesConfig:
        self._check_embeddings()
        for i, (name, size) in enumerate(self.blocks if self.encoders is not None else ()):
            if (name, size) in self.blocks[:i]:
                raise ValueError(f"features.encoders names {name} at {_in_um(size)} twice; name it once")
        turning = [name for name, _ in self.blocks if name.startswith(("pixels:", "timm-map:"))]
        if self.views > 1 and turning:
            raise ValueError(
                f"features.views = {self.views}: features of {turning[0]} are places of the patch, which have no "
                "average over its views; set features.views to 1"
            )
        if self.finetune and (self.views > 1 or (len(self.blocks) > 1 and self.encoders is not None)):
            raise ValueError(
                "features.finetune = true trains one encoder on one patch; give one in features.encoders, and "
                "features.views = 1"
            )
        if self.finetune and ("," in self.encoder or not self.encoder.startswith(("timm:", "timm-map:"))):
            raise ValueError(
                f"features.finetune = true needs one timm model as features.encoder, is {self.encoder!r}; "
                "name one such as timm:resnet18, or set features.finetune to false"
            )
        if self.stain_views and (self.finetune or self.stain != "none"):
            other = "features.finetune = true" if self.finetune else f"features.stain = {self.stain}"
            raise ValueError(
                f"features.stain_views = {self.stain_views} encodes training sections in other stains beforehand, "
                f"which does not go with {other}; leave one of them out"
            )
        return self

    def _check_embeddings(self) -> None:
        """Refuse settings of encoders beside embeddings."""
        if self.embeddings is None:
            if self.missing != "fail":
                raise ValueError(f"features.missing = {self.missing!r} is for features.embeddings, which is not set")
            return
        with_encoders = {
            "features.encoders": self.encoders is not None,
            "features.patch_um = auto": self.patch_um == "auto",
            f"features.views = {self.views}": self.views > 1,
            f"features.stain = {self.stain}": self.stain != "none",
            f"features.stain_views = {self.stain_views}": self.stain_views > 0,
            "features.finetune = true": self.finetune,
            "features.floor_centres = true": self.floor_centres,
        }
        given = next((key for key, is_given in with_encoders.items() if is_given), None)
        if given is not None:
            raise ValueError(
                f"features.embeddings = {self.embeddings!r} takes features as they are, and {given} is for encoders; "
                "leave one of them out"
            )

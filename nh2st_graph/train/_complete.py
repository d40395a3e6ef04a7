"""Complete sections: compute image features and graph, or use those that a section has, if they still agree with it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph import im
from nh2st_graph._errors import ConfigError, DataError, ImageError, ModelError, said_of, setting
from nh2st_graph.config import Config, FeaturesConfig, GraphConfig
from nh2st_graph.gr import graph_keys, has_graph
from nh2st_graph.gr._build import connect
from nh2st_graph.im._blocks import Block, coarse_slide, explicit_blocks, off_scale
from nh2st_graph.im._encoders import full_names, needs_network, other_kinds, outside_places, refuse_places
from nh2st_graph.im._features import add_features, feature_bar, feature_keys, view_features, warn_once
from nh2st_graph.im._jitter import section_jitters
from nh2st_graph.im._made_from import (
    Fingerprint,
    differences,
    floored,
    other_encoders,
    other_releases,
    other_versions,
    stored_encoders,
)
from nh2st_graph.im._names import split_names
from nh2st_graph.im._views import in_views
from nh2st_graph.nn import LARGE
from nh2st_graph.section import Key, check_features, copy_of, full_image, open_image, section_name
from nh2st_graph.slide import Slide, content_hash, image_exists
from nh2st_graph.train._embeddings import Embeddings

if TYPE_CHECKING:
    from squidpy.experimental.im import StainReference

__all__ = ["Completed", "Completer", "Sources"]

logger = logging.getLogger("nh2st_graph")


@dataclass(frozen=True)
class Sources:
    """Where encoders and cached features may come from.

    Attributes
    ----------
    trust
        Whether files, folders and hubs that the configuration names are used. Those of a saved model are facts about
        its training, and are not, unless the caller says so.
    encoder
        Name of an encoder to use in place of the configuration's, such as the same weights at another place.
    cache
        Folder of cached features in place of the configuration's; False for none.
    embeddings
        Where features of another package are, in place of the configuration's.
    folder
        Folder or archive that the model was loaded from; None if it was not.
    """

    trust: bool = True
    encoder: str | None = None
    cache: Path | Literal[False] | None = None
    embeddings: str | None = None
    folder: Path | None = None

    def without_encoders(self, features: FeaturesConfig) -> bool:
        """Whether features are those of another package, so that neither encoders nor images are needed."""
        return self.embeddings is not None or (features.embeddings is not None and self.encoder is None)

    def cache_of(self, features: FeaturesConfig) -> Path | Literal[False] | None:
        """Choose the folder of cached features; None for the user's."""
        return self.cache if self.cache is not None or not self.trust else features.cache

    def encoder_of(self, features: FeaturesConfig) -> str:
        """Choose the names of the encoders.

        Raises
        ------
        ModelError
            If it leads to a file, a folder or a hub that the caller did not name.
        """
        if self.encoder is not None:
            return self.encoder
        if not self.trust:
            refuse_places(features.names)
        return features.names


class Completer:
    """Computes features and graph of checked sections; encoders are made once, when they are first needed.

    So all sections get features of the same weights, even if the file of weights changes meanwhile.

    Parameters
    ----------
    config
        The configuration.
    sources
        Where encoders and cached features may come from.
    expected
        Fingerprints of the encoders that the model was trained with; None if they are unknown.
    stain
        Reference that the colours of patches are brought to.
    """

    def __init__(
        self,
        config: Config,
        sources: Sources | None = None,
        expected: Sequence[Fingerprint] | None = None,
        stain: StainReference | None = None,
    ) -> None:
        self.config = config.with_blocks(explicit_blocks(config.features.blocks))
        self.sources, self.expected, self.stain = sources or Sources(), expected, stain
        self._said: set[str] = set()
        self._embeddings = Embeddings(config.features, self.sources.embeddings, self.sources.trust, expected)

    def kept(self, section: AnnData) -> AnnData:
        """Leave out the spots without features, if the configuration says so."""
        return self._embeddings.kept(section) if self.sources.without_encoders(self.config.features) else section

    def make_encoders(self, sections: Iterable[AnnData], *, for_views: bool = False) -> None:
        """Make the encoders now if a section lacks their features, so that bad ones show before images are read.

        For views in other stains, they are always made.
        """
        if self.sources.without_encoders(self.config.features):
            return
        if for_views or any(self._features_key(each) is None for each in sections):
            self._made  # noqa: B018 - raises

    @property
    def _cache(self) -> Path | Literal[False] | None:
        """The folder of cached features; that of an untrusted model is only named."""
        used, of_model = self.sources.cache_of(self.config.features), self.config.features.cache
        if used is None and of_model is not None and "cache" not in self._said:
            self._said.add("cache")
            logger.info("training kept features in %s, which are not used unless you name it as cache", of_model)
        return used

    @cached_property
    def blocks(self) -> list[Block]:
        """The encoders with their patches; one of several scales is made once."""
        made = self._made
        blocks = [Block(made[name], float(size), self.stain) for name, size in self.config.features.blocks]
        if self.expected is None:  # the scale of a trained model is what it is
            for note in off_scale(blocks):
                warn_once(note, note, self._said)
        return blocks

    @cached_property
    def _made(self) -> dict[str, im.Encoder]:
        """The encoders by their names in the configuration."""
        features = self.config.features
        names = self.sources.encoder_of(features)
        if self.expected is not None:
            # Before they are made, which may ask a hub.
            self._refuse(names, other_kinds(names, self._expected_once(self.expected)))
        try:
            several = features.encoders is not None and self.sources == Sources() and self.expected is None
            with said_of("features.encoders", "features.encoder", when=several):
                made = im.make_encoders(names, self.config.train.device)
        except ConfigError as error:
            if self.sources.encoder is not None or (self.expected is None and self.sources.trust):
                raise
            raise ConfigError(_as_the_models(error.args[0], names)) from error
        own = _own_names(features)
        if len(made) != len(own):
            raise ConfigError(
                f"{setting('features.encoder', names)} names {len(made)} encoders for the {len(own)} of the model "
                f"({', '.join(own)}); name as many, in this order"
            )
        return {name: in_views(each, features.views) for name, each in zip(own, made, strict=True)}

    @property
    def encoders(self) -> list[im.Encoder]:
        """The encoder of each block."""
        return [block.encoder for block in self.blocks]

    def _expected_once(self, fingerprints: Sequence[Fingerprint]) -> Sequence[Fingerprint]:
        """Give the fingerprint of each encoder once, where one has several scales."""
        names = [name for name, _ in self.config.features.blocks]
        if len(names) != len(fingerprints):
            return fingerprints
        first = {name: names.index(name) for name in names}
        return [fingerprints[i] for i in first.values()]

    def _refuse(self, names: str, other: Sequence[str]) -> None:
        """Refuse encoders that are not those of training."""
        if not other:
            return
        told = f"(other {', '.join(other)})"
        if self.sources.encoder is None:
            raise ModelError(
                f"the saved model names the encoder {names!r}, which is not the one that it was trained with {told}; "
                f"copy the folder again, or give the encoder's weights as {setting('features.encoder')}"
            )
        raise ModelError(
            f"encoder {names} is not the one that the model was trained with {told}; give its weights as "
            f"{setting('features.encoder')}"
        )

    @contextmanager
    def opened(self, adata: AnnData, need_image: bool, *, for_views: bool = False) -> Iterator[Opened]:
        """Copy a section, with spots in order of their names, and open its image if that is needed.

        With embeddings, no image is. For views in other stains, it always is.
        """
        section = _sorted_by_name(adata)
        if self.sources.without_encoders(self.config.features):
            self._embeddings.add(section)
            yield Opened(section, Key.obsm.image, None, ExitStack())
            return
        key = self._features_key(section)
        with ExitStack() as stack:
            stale = [] if key is None else self._stale(section, section.uns[key])
            slide = None
            if need_image or key is None or stale:
                slide = self._open(section, stale, stack)
            elif for_views:
                slide = self._open_for_views(section, stack)
            yield Opened(section, None if stale else key, slide, stack)

    def _open(self, section: AnnData, stale: Sequence[str], stack: ExitStack) -> Slide:
        try:
            slide = stack.enter_context(open_image(section))
        except (DataError, ImageError) as error:
            if not stale:
                other = _stored_features(section) if self.expected is None else ""
                raise type(error)(error.args[0] + other) from None
            raise DataError(
                f"section {section_name(section)!r}: its stored image features were made from other content "
                f"({', '.join(stale)}), and cannot be computed again: {error.args[0]}"
            ) from None
        if stale:
            logger.warning(
                "section %r: its stored image features were made from other content (%s); computing them again",
                section_name(section),
                ", ".join(stale),
            )
        return slide

    def _open_for_views(self, section: AnnData, stack: ExitStack) -> Slide:
        try:
            return stack.enter_context(open_image(section))
        except (DataError, ImageError) as error:
            raise type(error)(
                f"{setting('features.stain_views', self.config.features.stain_views)} needs the images of training "
                f"sections, and that of {section_name(section)!r} cannot be used: {error.args[0]}"
            ) from None

    def complete(self, opened: Opened, *, with_views: bool = False) -> Completed:
        """Write features and graph into an opened section, encode its views if asked for, and close its image."""
        section, wanted, views = opened.section, self.config.features, None
        with opened.stack:
            if opened.key is not None:
                section.obsm[Key.obsm.image] = section.obsm[opened.key]
                section.uns[Key.uns.image] = section.uns[opened.key]
            else:
                assert opened.slide is not None
                self._check_encoders()
                for what, note in coarse_slide(section, self.blocks):
                    warn_once(what, note, self._said)
                with feature_bar(self.config.train.progress) as bar:
                    add_features(
                        section,
                        opened.slide,
                        self.blocks,
                        bar=bar,
                        batch_size=wanted.batch_size,
                        cache=self._cache,
                        check_placement=wanted.check_placement,
                        floor_centres=wanted.floor_centres,
                    )
            check_features(section)
            if with_views:
                assert opened.slide is not None
                views = self._views(section, opened.slide)
        _add_graph(section, self.config.graph)
        return Completed(section, views)

    def taken(self, section: AnnData, features: NDArray[Any], entry: Mapping[str, Any]) -> AnnData:
        """Copy a checked section with features that are given, in its order, and with a graph; see :meth:`opened`."""
        given = AnnData(obs=section.obs, obsm={**section.obsm, Key.obsm.image: features}, uns=dict(section.uns))
        given.uns[Key.uns.image] = dict(entry)
        section = _sorted_by_name(given)
        check_features(section)
        _add_graph(section, self.config.graph)
        return section

    def _views(self, section: AnnData, slide: Slide) -> NDArray[np.float32 | np.uint8]:
        wanted = self.config.features
        with feature_bar(self.config.train.progress) as bar:
            return view_features(
                section,
                slide,
                self.blocks,
                section_jitters(section, wanted.stain_views, wanted.stain_jitter),
                bar=bar,
                batch_size=wanted.batch_size,
                cache=self._cache,
                floor_centres=wanted.floor_centres,
            )

    def _check_encoders(self) -> None:
        """Refuse other encoders than those that the model was trained with."""
        if self.expected is None:
            return
        now = [each.fingerprint for each in self.blocks]
        self._refuse(",".join(dict.fromkeys(each.name for each in self.encoders)), other_encoders(self.expected, now))
        self._say_versions(other_versions(self.expected, now))

    def _say_versions(self, versions: Sequence[str]) -> None:
        if versions:
            self._say(f"image features are of other releases than in training: {', '.join(versions)}")

    def _say(self, text: str, level: int = logging.WARNING) -> None:
        """Log, once for all sections."""
        if text not in self._said:
            self._said.add(text)
            logger.log(level, "%s", text)

    def _features_key(self, section: AnnData) -> str | None:
        """Find the key of the wanted features, the usual key or the user's own; None if they are missing."""
        wanted = self.config.features
        own, given = _own_names(wanted), split_names(self.sources.encoder or wanted.names)
        blocks = [(own.index(name), size) for name, size in wanted.blocks]
        named = (full_names(",".join(each)) for each in (own, given) if len(each) == len(own))
        names = [[each[i] for i, _ in blocks] for each in named]
        sizes = [size for _, size in blocks]
        for key in (Key.obsm.image, *section.obsm):
            # A prediction has an entry in uns with an encoder too, but without a patch size.
            known = section.uns.get(key)
            if (
                isinstance(known, Mapping)
                and key in section.obsm
                and full_names(str(known.get(Key.features.encoder))) in names
                and _close(known.get(Key.features.patch_um, np.nan), sizes)
                and int(known.get(Key.features.views, 1)) == wanted.views
                and str(known.get(Key.features.stain, {}).get("method", "none")) == wanted.stain
                and bool(known.get(Key.features.floor_centres, False)) == wanted.floor_centres
            ):
                return key
        return None

    def _stale(self, section: AnnData, entry: Mapping[str, Any]) -> list[str]:
        """List what stored features do not agree with: the section as it is now, or the encoder."""
        before = stored_encoders(entry)
        if before is None:
            return self._stale_by_key(section, entry)
        changed = differences(section, entry)
        now = self.expected if self.expected is not None else self._known_encoders()
        changed += [f"encoder ({each})" for each in other_encoders(before, now or before)]
        versions = other_releases(before) if now is None else other_versions(before, now)
        if versions and not changed and self.expected is None and now is not None and _has_image(section):
            return [f"release of {each}" for each in versions]
        self._say_versions([] if changed else versions)
        if not changed and not _has_image(section):
            self._say("stored image features are used without their images, which are not there", logging.INFO)
        return changed

    def _known_encoders(self) -> list[Fingerprint] | None:
        """Describe the encoders, if that needs no hub and no file that the caller did not name; None otherwise."""
        name = self.sources.encoder or self.config.features.names
        if "_made" not in self.__dict__:
            own = self.sources.trust or self.sources.encoder is not None
            if needs_network(name) or (not own and outside_places(name)):
                return None
        try:
            return [each.fingerprint for each in self.blocks]
        except ConfigError:  # its file is gone, and the features are there
            return None

    def _stale_by_key(self, section: AnnData, entry: Mapping[str, Any]) -> list[str]:
        """Compare features of an earlier version, which have a cache key alone, if image and encoder are there."""
        unknown = "stored image features are of an earlier version, and what they were made from cannot be checked"
        keys = entry.get("cache_key")
        if keys is None or not _has_image(section) or self._known_encoders() is None:
            self._say(unknown)
            return []
        blocks = [(each.encoder.input_size, _earlier(each.fingerprint), each.patch_um) for each in self.blocks]
        placed = floored(section) if self.config.features.floor_centres else section
        try:
            with open_image(section) as slide:
                image_hash = content_hash(full_image(section).path)
                now = feature_keys(placed, slide, image_hash, blocks)
        except (ConfigError, DataError, ImageError):
            self._say(unknown)
            return []
        return [] if [str(key) for key in np.atleast_1d(keys)] == now else ["positions, resolution, image or encoder"]


class Opened(NamedTuple):
    """A checked section, the key of its features if it has them, and its open image, which the stack closes."""

    section: AnnData
    key: str | None
    slide: Slide | None
    stack: ExitStack


class Completed(NamedTuple):
    """A section with features and graph, and its features in other stains, ``(n_spots, n_views, n_features)``."""

    section: AnnData
    views: NDArray[np.float32 | np.uint8] | None = None


def _sorted_by_name(adata: AnnData) -> AnnData:
    """Copy a section with spots in order of their names.

    If it has this order already, counts on disk stay there, and a large section shares its values.
    """
    names = adata.obs_names.to_numpy(dtype=str)
    if adata.is_view or not (names[1:] >= names[:-1]).all():
        return adata[np.argsort(names, kind="stable")].copy()
    return copy_of(adata, share=adata.n_obs >= LARGE)


def _stored_features(section: AnnData) -> str:
    """Say which features a section has, and how to use them; nothing if it has none that an encoder has made."""
    known = section.uns.get(Key.uns.image)
    if Key.obsm.image not in section.obsm or not isinstance(known, Mapping) or Key.features.encoder not in known:
        return ""
    names, sizes = str(known[Key.features.encoder]), np.atleast_1d(known.get(Key.features.patch_um, np.nan)).tolist()
    asked = [setting("features.encoder", names), setting("features.patch_um", sizes[0])]
    if len(sizes) > 1:
        asked = [setting("features.encoders", [list(block) for block in zip(split_names(names), sizes, strict=True)])]
    return f"; to take the features that it has, give {' and '.join(asked)}"


def _has_image(section: AnnData) -> bool:
    """Whether the section's image is there, so that features could be computed again."""
    try:
        return image_exists(full_image(section).path)
    except (DataError, ImageError):
        return False


def _earlier(fingerprint: Fingerprint) -> Fingerprint:
    """Give a fingerprint as earlier versions wrote it, without torch's release."""
    versions = {name: each for name, each in fingerprint.get("versions", {}).items() if name != "torch"}
    return {**fingerprint, "versions": versions} if "versions" in fingerprint else fingerprint


def _as_the_models(message: str, names: str) -> str:
    """Say in a message of encoders that the saved model names them, not the caller."""
    for name in (names, *split_names(names)):
        message = message.replace(setting("features.encoder", name), f"the model's encoder {name!r}")
    return message


def _own_names(features: FeaturesConfig) -> list[str]:
    """List the different names of the encoders."""
    return list(dict.fromkeys(name for name, _ in features.blocks))


def _close(known: Any, wanted: Sequence[float | str]) -> bool:
    """Whether stored features have patches of these sizes; one number stands for all blocks."""
    sizes, asked = np.atleast_1d(np.asarray(known, dtype=float)), np.array(wanted, dtype=float)
    return len(sizes) in {1, len(asked)} and bool(np.isclose(sizes, asked).all())


def _add_graph(section: AnnData, config: GraphConfig) -> None:
    """Build the graph, or take the user's own, and write it under squidpy's default keys."""
    if config.mode == "given":
        connectivities, distances = graph_keys(section, config.neighbors_key)
        if "metric" in section.uns.get(config.neighbors_key, {}).get("params", {}):
            # Over such edges, genes would reach a prediction that must come from the image alone.
            raise DataError(
                f"section {section_name(section)!r}: uns['{config.neighbors_key}'] is a graph of features, as scanpy "
                "builds it from expression, not of positions; build one with sq.gr.spatial_neighbors_..., and name its "
                f"entry in {setting('graph.neighbors_key')}"
            )
        section.obsp[Key.obsp.connectivities] = section.obsp[connectivities]
        section.obsp[Key.obsp.distances] = section.obsp[distances]
        section.uns[Key.uns.neighbors] = section.uns.get(config.neighbors_key, {}) | {
            "connectivities_key": Key.obsp.connectivities,
            "distances_key": Key.obsp.distances,
        }
        return
    settings = config.model_dump(exclude={"neighbors_key"})
    if not has_graph(section, **settings):
        connect(section, **settings)

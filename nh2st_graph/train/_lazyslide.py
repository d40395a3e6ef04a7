"""A fitted model as LazySlide takes models that predict from the features of tiles."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import ConfigError, DataError, ModelError, setting
from nh2st_graph.im import recipes
from nh2st_graph.section import Key, changed_entry, unknown_patient
from nh2st_graph.slide import check_scale
from nh2st_graph.train._lattice import say_other_pitch
from nh2st_graph.train._predicted import predicted_expression

if TYPE_CHECKING:
    from nh2st_graph.train._model import FittedModel

__all__ = ["LazySlideModel", "as_lazyslide", "features_name", "lazyslide_encoder"]


class LazySlideModel:
    """A fitted model with the methods that ``zs.tl.feature_prediction`` calls.

    LazySlide hands over the features and the corners of all tiles at once. The graph is built from these corners by the
    settings of the model, however many tiles there are, and the prediction is that of :func:`nh2st_graph.tl.predict`.

    Parameters
    ----------
    fitted, name, microns_per_pixel
        As for :func:`as_lazyslide`.

    Attributes
    ----------
    name
        Begins the key of the table that LazySlide writes.
    features_model_name
        Begins the key of the table whose features LazySlide takes, unless it is told another; None if the encoder is
        unknown.
    """

    #: LazySlide gives the corners of tiles to models that say so, and all tiles in one call.
    needs_coords = True
    whole_slide = True

    def __init__(
        self, fitted: FittedModel, name: str = Key.tables.prediction, microns_per_pixel: float | None = None
    ) -> None:
        self.fitted, self.name, self.microns_per_pixel = fitted, name, microns_per_pixel
        self.model: Any = fitted.module
        self.features_model_name = features_name(fitted)

    def __repr__(self) -> str:
        return f"LazySlideModel({self.fitted!r}, name={self.name!r})"

    def predict(
        self, features: NDArray[Any], coords: NDArray[Any] | None = None, *args: Any, **kwargs: Any
    ) -> dict[str, NDArray[np.float32]]:
        """Predict all tiles of a slide.

        Parameters
        ----------
        features
            ``(n_tiles, n_features)``, of the model's own encoder.
        coords
            ``(n_tiles, 2)``, the same corner of each tile, x then y, in pixels of level 0.
        *args, **kwargs
            What later versions of LazySlide add; it is not used.

        Returns
        -------
        Log expression of each gene, ``(n_tiles,)``; NaN for a gene that training barely measured.

        Raises
        ------
        DataError
            If there are no coordinates, or the features are not as many as those of the model's encoder.
        """
        if coords is None:
            raise DataError(
                f"model {self.name!r} builds a graph of tiles, and got no coordinates; call it by "
                "zs.tl.feature_prediction of LazySlide 0.13 or later, or give the corners of the tiles as coords"
            )
        values = np.asarray(features.toarray() if hasattr(features, "toarray") else features)
        if values.ndim != 2 or values.shape[1] != self.fitted.n_features:
            encoder = self.fitted.config.features.described
            raise DataError(
                f"model {self.name!r} got features of shape {values.shape}, expected (n_tiles, "
                f"{self.fitted.n_features}): those of its encoder ({encoder}); name their table by "
                f"{setting('feature_key')}, or let ng.tl.predict(wsi, model) encode the tiles"
            )
        section = _section(self.name, np.asarray(coords, dtype=np.float64), len(values), self.microns_per_pixel)
        say_other_pitch(section, self.fitted.lattice)
        prepared = self.fitted.preparation.with_features(section, values.astype(np.float32, copy=False))
        expression = predicted_expression(self.fitted, prepared.graph)
        if self.fitted.confidence is not None:
            expression[:, self.fitted.confidence.barely_measured] = np.nan
        return dict(zip(self.fitted.genes, expression.T, strict=True))

    def get_transform(self) -> None:
        """Say that there is no transform: the model reads no pixels."""

    def to(self, device: Any) -> LazySlideModel:
        """Stay on the CPU, as :func:`nh2st_graph.tl.predict` does."""
        return self

    def try_compile(self, **compile_kws: Any) -> None:
        """Leave the network as it is: compiled, it would round otherwise."""


def as_lazyslide(
    model: FittedModel, name: str = Key.tables.prediction, *, microns_per_pixel: float | None = None
) -> LazySlideModel:
    """Give a model to LazySlide: ``zs.tl.feature_prediction(wsi, model.as_lazyslide())``.

    The model is also registered in LazySlide under its name, so that ``zs.tl.feature_prediction(wsi, name)`` takes it
    in this process. A model that was registered under the name before is replaced.

    Parameters
    ----------
    model
        A fitted model.
    name
        Its name in LazySlide. The table of predictions is ``{name}_{tile_key}``.
    microns_per_pixel
        Resolution of the slide, ``wsi.properties.mpp``. LazySlide does not tell it to models. A graph with a radius in
        um needs it; with it, tiles that lie much nearer or farther than the spots of training are warned of.

    Returns
    -------
    The model as LazySlide's ``FeaturePredictionModelProtocol``.

    Raises
    ------
    ConfigError
        If LazySlide is not installed, has a model of its own of this name, or the resolution is needed or is none.
    ModelError
        If the model reads pixels or array positions.

    Examples
    --------
    >>> import lazyslide as zs
    >>> import nh2st_graph as ng
    >>> import wsidata
    >>> wsi = wsidata.open_wsi("slide.svs")
    >>> zs.pp.find_tissues(wsi)
    >>> zs.pp.tile_tissues(wsi, 224, mpp=0.5)
    >>> zs.tl.feature_extraction(wsi, "uni2")
    >>> zs.tl.feature_prediction(wsi, ng.load("model").as_lazyslide())  # wsi.tables["nh2st_graph_tiles"]
    """
    if find_spec("lazyslide_models") is None:
        raise ConfigError('LazySlide is not installed; run: pip install "nh2st-graph[wsi]"')
    if model.config.features.finetune:
        raise ModelError(
            "the model fine-tunes its encoder, and reads pixels where LazySlide gives features; predict the slide with "
            "ng.tl.predict(wsi, model)"
        )
    if "array" in model.module.needs:
        raise ModelError(
            f"the model's method, {model.config.model.name!r}, reads array positions, which tiles of LazySlide do not "
            "have; predict a slide without tiles with ng.tl.predict(wsi, model)"
        )
    if model.config.graph.mode == "radius" and model.config.graph.radius_um is not None and microns_per_pixel is None:
        raise ConfigError(
            "the model's graph has a radius in um; give the resolution of the slide, wsi.properties.mpp, as "
            f"{setting('microns_per_pixel')}"
        )
    if microns_per_pixel is not None:
        check_scale(f"model {name!r}", None, microns_per_pixel)
    given = LazySlideModel(model, name, microns_per_pixel)
    _register(given)
    return given


def _register(given: LazySlideModel) -> None:
    """Register a class in LazySlide that makes the model without arguments."""
    from lazyslide_models import MODEL_REGISTRY, ModelTask, register

    before: Any = MODEL_REGISTRY.get(given.name) if given.name in MODEL_REGISTRY else None
    if before is not None and not issubclass(before, LazySlideModel):
        raise ConfigError(f"LazySlide has a model {given.name!r} of its own; give another {setting('name')}")
    if before is not None:
        del MODEL_REGISTRY[given.name]

    class Registered(LazySlideModel):
        __doc__ = LazySlideModel.__doc__

        def __init__(self, model_path: Any = None, token: Any = None) -> None:
            super().__init__(given.fitted, given.name, given.microns_per_pixel)

    fitted = given.fitted
    register(
        key=given.name,
        task=ModelTask.feature_prediction,
        description=f"Predict the log expression of {len(fitted.genes)} genes by {fitted.config.model.name}.",
        encode_dim=fitted.n_features,
        vision_encoder=given.features_model_name,
    )(Registered)


def lazyslide_encoder(model: FittedModel) -> str | None:
    """Give LazySlide's name of the encoder of a model, if LazySlide computes the same features."""
    features = model.config.features
    if features.views > 1 or features.stain != "none" or features.finetune:
        return None
    if features.embeddings is not None:
        known = (model.origin.get("encoders") or [{}])[0].get("name")
        recipe = recipes().get(str(known))
        return known if recipe is None else recipe.lazyslide
    if len(features.blocks) != 1:
        return None
    name = features.blocks[0][0]
    if "@" in name or "?" in name:  # other weights, another input size or precision
        return None
    if name.startswith("lazyslide:"):
        return name.removeprefix("lazyslide:")
    recipe = recipes().get(name)
    return None if recipe is None else recipe.lazyslide


def features_name(model: FittedModel) -> str | None:
    """Name the table of features of a model, without the tiles: LazySlide's name of its encoder, or ours.

    Returns
    -------
    None if the encoder of embeddings is unknown.
    """
    known, features = lazyslide_encoder(model), model.config.features
    if known is not None or features.embeddings is not None:
        return known
    # Where weights are is nobody's business, and names of tables have no other signs.
    plain = re.sub(r"@[^,? ]*", "", features.described)
    stained = plain if features.stain == "none" else f"{plain} {features.stain}"
    return re.sub(r"[^A-Za-z0-9._]+", "-", stained).strip("-")


def _section(name: str, corners: NDArray[np.float64], n_tiles: int, microns_per_pixel: float | None) -> AnnData:
    """Make a section of tiles. Corners stand for centres: a graph reads differences alone."""
    if corners.shape != (n_tiles, 2):
        raise DataError(f"model {name!r} got coords of shape {corners.shape}, expected ({n_tiles}, 2)")
    digits = len(str(n_tiles))
    obs = pd.DataFrame(
        {
            Key.obs.section: pd.Categorical([name] * n_tiles),
            Key.obs.patient: pd.Categorical([unknown_patient(name)] * n_tiles),
        },
        index=[f"{i:0{digits}}" for i in range(n_tiles)],
    )
    section = AnnData(obs=obs, obsm={Key.obsm.spatial: corners})
    if microns_per_pixel is not None:
        section.uns[Key.uns.spatial] = {name: changed_entry({}, microns_per_pixel=float(microns_per_pixel))}
    return section

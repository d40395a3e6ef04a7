"""Tile encoders of LazySlide's registry: ``lazyslide:NAME``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nh2st_graph._errors import ConfigError, nearest, reason, setting
from nh2st_graph.im._encoders import Encoder, register_encoder
from nh2st_graph.im._hub import access_to
from nh2st_graph.im._names import allowed_options
from nh2st_graph.im._network import digest_of, find_device
from nh2st_graph.im._recipes import recipes

__all__ = ["LazySlideEncoder"]

#: LazySlide's own side of a tile where neither the transform nor the model says one.
_SIDE = 224


@register_encoder("lazyslide")
class LazySlideEncoder(Encoder):
    """The features of a tile encoder of LazySlide's registry, by its own transform.

    Parameters
    ----------
    name
        A key of ``lazyslide_models.MODEL_REGISTRY`` with the task ``vision`` or ``multimodal``. Options follow as
        ``?KEY=VALUE``: ``size``, the side of the patches that its transform is given, and ``precision``.
    device
        ``"auto"`` (a CUDA device if there is one, else the CPU), or a torch device.

    Raises
    ------
    ConfigError
        If LazySlide is not installed, its registry has no such tile encoder, or its weights cannot be loaded.

    Notes
    -----
    Patches have the side to which the transform resizes them, so that they are resampled once. Licences are those of
    the models' authors. Some models run code of their repository.
    """

    prefix = "lazyslide"
    options = frozenset({"size", "precision"})

    def __init__(self, name: str, device: str = "auto") -> None:
        import torch

        self.name = f"{self.prefix}:{name}"
        key, options = allowed_options(name, self.options)
        self.check(name)
        _check_key(key)
        self.device, self.precision = find_device(device)
        if options.precision is not None:
            self.precision = getattr(torch, options.precision)
        self._model = _load(key, self.name)
        self._model.to(self.device)
        self._transform = self._model.get_transform()
        side, self.interpolation = _resized(self._transform, self._model)
        self.input_size = options.size or side
        self.um_per_px = next((each.um_per_px for each in recipes().values() if each.lazyslide == key), None)
        network = self._model.model
        self.normalisation: dict[str, Any] = _statistics(self._transform)
        self.fingerprint = {
            "encoder": self.prefix,
            "architecture": key,
            "weights": digest_of(network) if isinstance(network, torch.nn.Module) else None,
            "input_size": self.input_size,
            "interpolation": self.interpolation,
            "transform": " ".join(repr(self._transform).split()),
            "precision": str(self.precision),
            "versions": {each: version(each) for each in ("lazyslide-models", "torch", "torchvision", "timm")},
        }

    def encode(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the model; see :meth:`Encoder.encode`."""
        import torch

        if self._transform is None:
            images = torch.from_numpy(np.ascontiguousarray(patches))
        else:
            images = torch.stack([self._transform(np.ascontiguousarray(patch)) for patch in patches])
        autocast = (
            nullcontext() if self.precision == torch.float32 else torch.autocast(self.device.type, self.precision)
        )
        with torch.inference_mode(), autocast:
            output = self._model.encode_image(images.to(self.device))
        features = np.asarray(output.float().cpu() if isinstance(output, torch.Tensor) else output, dtype=np.float32)
        if features.ndim != 2:
            raise ConfigError(
                f"{setting('features.encoder', self.name)} gives {features.shape[1:]} for a patch, expected one "
                "vector; choose another tile encoder"
            )
        return features

    @classmethod
    def check(cls, name: str) -> None:
        """Refuse an encoder of LazySlide where that is not installed."""
        if find_spec("lazyslide_models") is None:
            raise ConfigError(
                f"{setting('features.encoder', f'{cls.prefix}:{name}')} needs LazySlide, which is not installed; run: "
                'pip install "nh2st-graph[wsi]"'
            )

    @staticmethod
    def outside(name: str) -> str:
        """Say that LazySlide asks the hub, whose code some of its models run."""
        return f"the hub's repository of LazySlide's {name.partition('?')[0]}"

    @staticmethod
    def remote(name: str) -> bool:
        """Say that the weights come from a hub."""
        return True

    @staticmethod
    def architecture(name: str) -> str:
        """Say which model a name stands for."""
        return name.partition("?")[0]


def _check_key(key: str) -> None:
    """Refuse a model that is not in LazySlide's registry, or does not encode tiles."""
    from lazyslide_models import MODEL_REGISTRY, list_models

    where = setting("features.encoder", f"lazyslide:{key}")
    encoders = sorted({*list_models("vision"), *list_models("multimodal")})
    if key not in MODEL_REGISTRY:
        raise ConfigError(f"{where}: LazySlide's registry has no model {key!r}; {nearest(key, encoders)}")
    if key not in encoders or not hasattr(MODEL_REGISTRY[key], "encode_image"):
        raise ConfigError(f"{where}: this model of LazySlide does not encode tiles; {nearest(key, encoders)}")


def _load(key: str, name: str) -> Any:
    """Make the model with its weights."""
    from lazyslide_models import MODEL_REGISTRY

    kind: Any = MODEL_REGISTRY[key]
    where = setting("features.encoder", name)
    page = getattr(kind, "hf_url", None)
    try:
        with access_to(f"the model {key}", where, page=page, instead="copy the hub's cache from another machine"):
            return kind()
    except ConfigError:
        raise
    except Exception as error:  # any of the libraries that its models are written with
        raise ConfigError(
            f"{where}: LazySlide cannot load it ({reason(error)}); see {page or 'its model card'}"
        ) from error


def _steps(transform: Any) -> Sequence[Any]:
    steps: Sequence[Any] = getattr(transform, "transforms", [transform])
    return steps


def _resized(transform: Any, model: Any) -> tuple[int, str]:
    """Find the side to which a transform resizes images, and how; else the side of the model."""
    for step in _steps(transform):
        size = getattr(step, "size", None)
        if type(step).__name__ in {"Resize", "RandomResizedCrop"} and size is not None:
            side = size[0] if isinstance(size, Sequence) else size
            filter_ = getattr(getattr(step, "interpolation", None), "value", "bilinear")
            return int(side), filter_ if filter_ in {"bicubic", "bilinear", "lanczos"} else "bilinear"
    own: Any = getattr(model, "img_size", None) or _SIDE
    return int(own[0] if isinstance(own, Sequence) else own), "bicubic"


def _statistics(transform: Any) -> dict[str, Any]:
    """Find the mean and standard deviation of a transform, for the record."""
    for step in _steps(transform):
        if type(step).__name__ == "Normalize":
            return {"mean": [float(v) for v in step.mean], "std": [float(v) for v in step.std]}
    return {}

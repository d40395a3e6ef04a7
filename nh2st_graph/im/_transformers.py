"""Models of ``transformers`` as encoders: ``hf:ORG/NAME`` or ``hf:FOLDER``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from logging import CRITICAL
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nh2st_graph._errors import ConfigError, listed, reason, setting
from nh2st_graph.im._encoders import register_encoder
from nh2st_graph.im._hub import access_to
from nh2st_graph.im._names import Options, allowed_options
from nh2st_graph.im._network import UNREADABLE, NetworkEncoder, digest_of, find_device, unreadable
from nh2st_graph.im._recipes import Recipe, recipes
from nh2st_graph.im._timm_build import RANDOM, RANDOM_SEED
from nh2st_graph.im._weights import state_of
from nh2st_graph.im._without_numbers import without_numbers

if TYPE_CHECKING:
    import torch

__all__ = ["TransformersEncoder", "check_installed"]

#: A repository of the hub, with a revision or without.
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")

#: Parts of a model that no image goes through.
_TEXT = ("text_model", "text_projection")

#: Weights that encoding does not use, so that they may be missing.
_UNUSED = ("pooler.", "embeddings.mask_token")


@register_encoder("hf")
class TransformersEncoder(NetworkEncoder):
    """The features of a vision model of ``transformers``.

    Parameters
    ----------
    name
        ``ORG/NAME``: a repository of the Hugging Face hub, by the recipe of a known encoder (``ORG/NAME@REVISION`` for
        a revision); or a folder that ``save_pretrained`` wrote. Options follow as ``?KEY=VALUE&KEY=VALUE``:
        ``pooling`` (``cls``, ``mean`` of patch tokens, ``cls+mean``, or ``model``, its own vector), ``size``, ``mean``,
        ``std``, ``precision``, and ``remote_code=true``, which lets code of the repository run.
    device
        ``"auto"`` (a CUDA device if there is one, else the CPU), or a torch device.
    recipe
        The recipe, if the name is one of the table of encoders.

    Raises
    ------
    ConfigError
        If ``transformers`` is not installed, the model is not there or needs code of its own, its weights are
        incomplete, its tokens need a pooling, or the device does not exist.

    Notes
    -----
    Input size, resampling, mean and standard deviation are those of the recipe, else of the model's image processor. A
    patch already has its physical size, so that it is not cropped. Position embeddings are resampled by the model.
    """

    prefix = "hf"
    options = frozenset({"pooling", "size", "mean", "std", "precision", "remote_code"})

    def __init__(self, name: str, device: str = "auto", *, recipe: Recipe | None = None) -> None:
        self.name = name if recipe else f"{self.prefix}:{name}"
        if recipe is None:
            self.check(name)
        else:
            check_installed(self.name)
        plain, options = allowed_options(self.name, self.options)
        where, file = find_device(device), ""
        if recipe is None:
            place = plain.partition(":")[2]
            recipe = _of_repository(place)
        else:
            place, file = recipe.location, plain.partition("@")[2]
        self._pooling = options.pooling or (recipe.pooling if recipe else None)
        with _loading(self.name, place, recipe, local=bool(file)):
            loader = _Loader.of(place, file, recipe, options)
            known = _input(place, self.name, recipe, options)
            self.input_size = known.pop("size")
            prefix = self._check(loader.sketch(), loader.config)
            model = self._loaded(loader)
        self.um_per_px = None if recipe is None else recipe.um_per_px
        self._normalise_by(known, options)
        assert self._pooling is not None
        weights = digest_of(model, names=False)
        from nh2st_graph.im._tokens import VisionModel

        self._run(VisionModel(model, self._pooling, self.input_size, prefix), where, options)
        self.fingerprint = self._described(type(model).__name__, weights)

    def _loaded(self, loader: _Loader) -> torch.nn.Module:
        """Load the weights, which have to be all that encoding uses, and drop what no image goes through."""
        model, lacking = loader.load(self.name)
        missing = [key for key in lacking if self._pooling == "model" or not key.startswith(_UNUSED)]
        if missing:
            raise ConfigError(
                f"{setting('features.encoder', self.name)}: the weights of {loader.file or loader.source} belong to "
                f"another model (they lack {listed(sorted(missing), 2)}); name that model"
            )
        for part in _TEXT if self._pooling == "model" else (*_TEXT, "pooler"):
            if hasattr(model, part):
                setattr(model, part, None)
        return model

    def _check(self, sketch: torch.nn.Module, config: Any) -> int:
        """Refuse a model of which no vector is known, before its weights are loaded; count its prefix tokens."""
        import torch

        from nh2st_graph.im._tokens import images_of, run

        where, side, aligned = setting("features.encoder", self.name), self.input_size, hasattr(sketch, "text_model")
        try:
            with torch.inference_mode(), torch.device("meta"):
                images = torch.empty(1, 3, side, side)
                output = run(sketch if self._pooling == "model" else images_of(sketch), images, side)
        except (AttributeError, TypeError):
            raise ConfigError(f"{where}: {type(sketch).__name__} is no model of images; name another") from None
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"{where} takes no images of {side} px ({reason(error)}); give another size") from None
        hidden = getattr(output, "last_hidden_state", None)
        tokens = hidden.shape[1] if hidden is not None and hidden.ndim == 3 else None
        if self._pooling is None:
            if tokens is not None and not aligned:
                raise ConfigError(
                    f"{where} gives {tokens} tokens for a patch, and no pooling is known; name it: "
                    f"{self.name}{'&' if '?' in self.name else '?'}pooling=cls (or mean, or cls+mean, or model for its "
                    "own vector)"
                )
            self._pooling = "model"
        if self._pooling == "model":
            return 0
        patch = getattr(getattr(config, "vision_config", config), "patch_size", None)
        if tokens is None or not isinstance(patch, int):
            raise ConfigError(f"{where}: pooling={self._pooling}, and the model gives no tokens; leave pooling out")
        prefix = int(tokens) - (side // patch) ** 2
        if "cls" in self._pooling and prefix < 1:
            raise ConfigError(f"{where}: pooling={self._pooling}, and the model has no class token; give pooling=mean")
        return prefix

    def _described(self, architecture: str, weights: str) -> dict[str, Any]:
        """Describe what the features depend on; a digest stands for the weights."""
        import torch
        import transformers

        return {
            "encoder": self.prefix,
            "architecture": architecture,
            "weights": weights,
            "input_size": self.input_size,
            "interpolation": self.interpolation,
            **self.normalisation,
            "pooling": self._pooling,
            "precision": str(self.precision),
            "versions": {"transformers": transformers.__version__, "torch": str(torch.__version__)},
        }

    @classmethod
    def check(cls, name: str) -> None:
        """Refuse a name that is neither a repository nor a folder, and a missing ``transformers``."""
        full = f"{cls.prefix}:{name}"
        check_installed(full)
        place = allowed_options(name, cls.options)[0]
        if not _REPOSITORY.fullmatch(place) and not Path(place).expanduser().is_dir():
            raise ConfigError(
                f"{setting('features.encoder', full)}: {place} is neither a folder nor a repository of the hub; give "
                "hf:ORG/NAME or hf:FOLDER"
            )

    @staticmethod
    def outside(name: str) -> str:
        """Say which folder or repository a name leads to."""
        place = name.rpartition("?")[0] or name
        return f"the folder {place}" if Path(place).expanduser().is_dir() else f"the hub's repository {place}"

    @staticmethod
    def remote(name: str) -> bool:
        """Whether the weights come from a hub."""
        return not Path(name.rpartition("?")[0] or name).expanduser().is_dir()


def check_installed(name: str) -> None:
    """Refuse an encoder that ``transformers`` would load, if it is not there."""
    if find_spec("transformers") is None:
        raise ConfigError(
            f"{setting('features.encoder', name)} needs the library transformers, which is not installed; run: "
            'pip install "nh2st-graph[transformers]"'
        )


@dataclass(frozen=True)
class _Loader:
    """How ``transformers`` loads a model.

    Attributes
    ----------
    kind
        A class of models, or ``AutoModel``.
    config
        Its configuration.
    source, revision
        Folder or repository of its weights.
    file
        A file of weights, or ``random``, in place of the source; empty if there is none.
    code
        What lets code of the repository run.
    """

    kind: Any
    config: Any
    source: str
    revision: str
    file: str
    code: dict[str, Any]

    @classmethod
    def of(cls, place: str, file: str, recipe: Recipe | None, options: Options) -> _Loader:
        """Find the class and the configuration."""
        import transformers

        named = None if recipe is None else recipe.architecture
        kind: Any = transformers.AutoModel if named is None else getattr(transformers, named)
        code: dict[str, Any] = {"trust_remote_code": bool(options.remote_code)} if named is None else {}
        source, revision = _at_revision(place)
        if file:
            assert recipe is not None
            config = kind.config_class(**recipe.arguments)
        else:
            configs = transformers.AutoConfig if named is None else kind.config_class
            config = configs.from_pretrained(source, revision=revision, **code)
        return cls(kind, config, source, revision, file, code)

    def sketch(self) -> torch.nn.Module:
        """Make the model without numbers."""
        with without_numbers():
            return self._new().eval()

    def load(self, name: str) -> tuple[torch.nn.Module, list[str]]:
        """Make the model with its weights, and list those that were missing; what is missing is always the same."""
        import torch

        with torch.random.fork_rng(devices=[]), _quiet():
            torch.default_generator.manual_seed(RANDOM_SEED)
            if self.file == RANDOM:
                return self._new(), []
            weights = {"state_dict": state_of(Path(self.file), name)} if self.file else {}
            model, info = self.kind.from_pretrained(
                None if self.file else self.source,
                config=self.config,
                revision=self.revision,
                output_loading_info=True,
                dtype=torch.float32,
                **self.code,
                **weights,
            )
        return model, list(info["missing_keys"])

    def _new(self) -> torch.nn.Module:
        # Only AutoModel is asked whether code of a repository may run.
        model: torch.nn.Module = (
            self.kind.from_config(self.config, **self.code) if self.code else self.kind(self.config)
        )
        return model


def _of_repository(place: str) -> Recipe | None:
    """Find the recipe of a repository of the hub, if there is one that says which class loads it."""
    name = place.partition("@")[0].casefold()
    known = (each for each in recipes().values() if each.source == "transformers" and each.architecture is not None)
    return next((each for each in known if each.location.casefold() == name), None)


def _at_revision(place: str) -> tuple[str, str]:
    """Split a repository from its revision; a folder has none."""
    if Path(place).expanduser().is_dir():
        return str(Path(place).expanduser()), "main"
    name, _, revision = place.partition("@")
    return name, revision or "main"


def _input(place: str, name: str, recipe: Recipe | None, options: Options) -> dict[str, Any]:
    """Find the input of a model: of its recipe, else of its image processor."""
    if recipe is not None:
        return {
            "size": options.size or recipe.input_size,
            "mean": recipe.mean,
            "std": recipe.std,
            "interpolation": recipe.interpolation,
        }
    from PIL.Image import Resampling
    from transformers import AutoImageProcessor

    source, revision = _at_revision(place)
    try:
        processor: Any = AutoImageProcessor.from_pretrained(
            source, revision=revision, trust_remote_code=bool(options.remote_code)
        )
    except (OSError, ValueError) as error:
        if "preprocessor_config" not in str(error) and "image processor" not in str(error):
            raise
        if options.size is None or options.mean is None or options.std is None:
            raise ConfigError(
                f"{setting('features.encoder', name)}: nothing says which images its model takes; give all of "
                f"?size=224&mean=0.5/0.5/0.5&std=0.5/0.5/0.5, with the numbers of its authors"
            ) from None
        return {"size": options.size, "mean": options.mean, "std": options.std, "interpolation": "bicubic"}
    size = processor.crop_size if getattr(processor, "do_center_crop", None) else processor.size
    side = size.get("height") or size.get("shortest_edge")
    normal = getattr(processor, "do_normalize", True)
    return {
        "size": options.size or int(side),
        "mean": processor.image_mean if normal else (0.0, 0.0, 0.0),
        "std": processor.image_std if normal else (1.0, 1.0, 1.0),
        "interpolation": Resampling(int(processor.resample)).name.lower(),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the bars and reports of loading off the terminal; what is wrong is said in an error."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _loading(name: str, place: str, recipe: Recipe | None, *, local: bool) -> Iterator[None]:
    """Say in one line why a model cannot be loaded from where its name leads."""
    where = setting("features.encoder", name)
    local = local or Path(place).expanduser().is_dir()
    instead = f"give a file: '{recipe.name}@FILE'" if recipe else "give a folder: hf:FOLDER"
    page = recipe.access if recipe else None
    try:
        with nullcontext() if local else access_to(place, where, page=page, instead=instead):
            yield
    except ConfigError:
        raise
    except (ImportError, *UNREADABLE) as error:
        text = str(error)
        if "trust_remote_code" in text:
            raise ConfigError(
                f"{where}: its model is code of {place}, which is not run; if you trust it, write "
                f"hf:{place}?remote_code=true"
            ) from None
        if "ignore_mismatched_sizes" in text:
            raise ConfigError(
                f"{where}: its weights belong to another model (a size mismatch with its configuration); name that "
                "model"
            ) from None
        raise ConfigError(f"{where}: its model cannot be loaded ({unreadable(error)}); {instead}") from error

"""The encoders of the table, by name: ``uni2-h``, ``uni2-h@FILE``, ``efficientnet-lite0``."""

from __future__ import annotations

from pathlib import Path

from nh2st_graph._errors import ConfigError, setting
from nh2st_graph.im._encoders import KNOWN, Encoder, register_encoder
from nh2st_graph.im._recipes import Recipe, recipes
from nh2st_graph.im._timm import TimmEncoder
from nh2st_graph.im._timm_build import RANDOM
from nh2st_graph.im._transformers import TransformersEncoder, check_installed
from nh2st_graph.im._weights import check_file, check_package

__all__: list[str] = []


class _Table:
    """Makes an encoder by its recipe."""

    options = TimmEncoder.options

    def __call__(self, name: str, device: str = "auto") -> Encoder:
        self.check(name)
        recipe = _recipe(name)
        kind = TransformersEncoder if recipe.source == "transformers" else TimmEncoder
        return kind(name, device, recipe=recipe)

    @staticmethod
    def check(name: str) -> None:
        """Refuse an encoder that this package cannot build, or whose weights need a file or a package."""
        recipe, source = _recipe(name), _source(name)
        where = setting("features.encoder", name)
        if recipe.architecture is None:
            other = recipe.lazyslide
            what = f"give lazyslide:{other}" if other else "register an encoder of your own"
            raise ConfigError(f"{where}: only code of its authors builds {recipe.title}; {what}; see {recipe.access}")
        if recipe.source == "transformers":
            check_installed(name)
        if source:
            return
        if recipe.source == "file":
            raise ConfigError(
                f"{where}: the weights of {recipe.title} are a file, which {recipe.access} has; give it as "
                f"{recipe.name}@FILE"
            )
        if recipe.source == "package":
            check_package(recipe.location, name)

    @staticmethod
    def check_file(name: str) -> None:
        """Refuse a file of weights that does not exist."""
        source = _source(name)
        if source not in {"", RANDOM}:
            check_file(Path(source).expanduser(), name)

    @staticmethod
    def outside(name: str) -> str | None:
        """Say which file a name leads to; where the table's own weights are is this package's word."""
        source = _source(name)
        return f"the file {source}" if source not in {"", RANDOM} else None

    @staticmethod
    def remote(name: str) -> bool:
        """Whether the weights come from a hub."""
        return not _source(name) and _recipe(name).source in {"hub", "timm", "transformers"}

    @staticmethod
    def kind(name: str) -> str:
        """Say what its fingerprint calls the encoder."""
        return TransformersEncoder.prefix if _recipe(name).source == "transformers" else TimmEncoder.prefix

    @staticmethod
    def architecture(name: str) -> str | None:
        """Say which architecture a name stands for."""
        architecture = _recipe(name).architecture
        return architecture.partition(".")[0] if architecture else None


def _recipe(name: str) -> Recipe:
    return recipes()[name.partition("@")[0].partition("?")[0]]


def _source(name: str) -> str:
    """Say what stands behind ``@``: nothing, ``random``, or a file."""
    plain = name.rpartition("?")[0] or name
    return plain.partition("@")[2]


register_encoder(KNOWN)(_Table())

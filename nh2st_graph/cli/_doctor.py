"""Say what this machine has for the work, what is missing, and how to install it."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nh2st_graph import __version__
from nh2st_graph._files import cache_root
from nh2st_graph._progress import phase
from nh2st_graph.cli._output import AsJson, Quiet, conclude
from nh2st_graph.cli._tables import in_bytes

if TYPE_CHECKING:
    from nh2st_graph.im import Recipe

__all__ = ["doctor"]

_PACKAGE = "nh2st-graph"
#: What each extra brings.
_BRINGS = {
    "imagenet": "two small encoders trained on ImageNet, without a download; 'auto' takes one of them",
    "scatter": "faster message passing on large sections; the numbers are the same",
    "transformers": "encoders of the library transformers: hf:ORG/NAME, Phikon, Midnight, PLIP",
    "wsi": "slides in the formats of scanners (OpenSlide), and LazySlide's tissue and encoders",
}
#: Memory and disk that a small run needs, in bytes: training on four sections of HER2ST takes 1.9 GB.
_MEMORY, _DISK = 2.5e9, 1e9

State = Literal["ok", "note", "missing", "bad"]
_MARKS: dict[State, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "note": ("-", "dim"),
    "missing": ("missing", "yellow"),
    "bad": ("bad", "bold red"),
}


@dataclass(frozen=True)
class Check:
    """What was found of one thing.

    Attributes
    ----------
    name
        The thing.
    state
        ``ok``; ``note``, a fact that needs nothing; ``missing``, without which the main job runs; ``bad``, it does not.
    found
        What was found, in words.
    todo
        What to do; empty if nothing is left to do.
    command
        The command that does it, if one does.
    """

    name: str
    state: State
    found: str
    todo: str = ""
    command: str = ""


def doctor(
    check_gated: Annotated[
        bool,
        typer.Option("--check-gated", help="Ask the Hugging Face hub which gated encoders your token may download."),
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check what this machine has: libraries, GPU, extras, caches, memory and disk. Installs nothing.

    It says what is missing, what for, and the command that installs it. Without --check-gated, no network is asked. The
    exit code is 0 if training and prediction can run, and 1 if they cannot.

    Example: nh2st-graph doctor
    """
    phase("looking")
    checks = list(examine(check_gated))
    phase()
    runs = all(check.state != "bad" for check in checks)
    facts = {"command": "doctor", "can_run": runs, "checks": [asdict(check) for check in checks]}
    conclude(lambda: _print(checks, runs), lambda: facts)
    if not runs:
        raise typer.Exit(1)


def examine(check_gated: bool) -> Iterator[Check]:
    """Look at everything, the most important first. What cannot be looked at is bad, and stops nothing."""
    looks: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("Python", _python),
        ("libraries", _libraries),
        ("PyTorch", _torch),
        ("torch-scatter", _scatter),
        ("OpenSlide", _openslide),
        ("extras", _extras),
        ("feature cache", _cache),
        ("working folder", _folder),
        ("memory", _memory),
        ("cores", _cores),
        ("hub", _hub),
    ]
    for name, look in [*looks, *([("gated encoders", _gated)] if check_gated else [])]:
        try:
            yield from look()
        except Exception as error:  # a broken library raises anything; the others are still to be looked at
            said = " ".join(str(error).split()) or type(error).__name__
            yield Check(name, "bad", f"cannot be used: {said}", "Install this package again into a new environment.")


def _python() -> Iterator[Check]:
    wanted = Requirement(f"python{metadata.metadata(_PACKAGE)['Requires-Python']}").specifier
    found = f"{platform.python_version()}, {platform.platform(terse=True)}, {sys.executable}"
    if wanted.contains(platform.python_version(), prereleases=True):
        yield Check("Python", "ok", found)
    else:
        yield Check("Python", "bad", found, f"Make an environment with a Python of {wanted}.")
    yield Check(_PACKAGE, "ok", __version__)


def _requirements(extra: str = "") -> list[Requirement]:
    """List what the package needs, or what an extra adds."""
    wanted = map(Requirement, metadata.requires(_PACKAGE) or ())
    environment = {"extra": extra}
    if not extra:
        return [each for each in wanted if each.marker is None or each.marker.evaluate(environment)]
    return [each for each in wanted if each.marker is not None and "extra" in str(each.marker)
            and each.marker.evaluate(environment)]  # fmt: skip


def _lacking(wanted: Sequence[Requirement]) -> list[str]:
    """Name what is not installed, or in another version."""
    found = []
    for each in wanted:
        try:
            fits = each.specifier.contains(metadata.version(each.name), prereleases=True)
        except metadata.PackageNotFoundError:
            fits = False
        if not fits:
            found.append(f"{each.name}{each.specifier}")
    return found


def _install(requirements: Sequence[str], *options: str) -> str:
    """Write the command that installs packages into this environment, which may have no pip."""
    own = shlex.quote(sys.executable)
    lead = f"{own} -m pip install" if find_spec("pip") is not None else f"uv pip install --python {own}"
    return " ".join([lead, *options, *map(shlex.quote, requirements)])


def _libraries() -> Iterator[Check]:
    wanted = _requirements()
    lacking = _lacking(wanted)
    if lacking:
        todo = "These libraries are missing, or have another version. Install them:"
        yield Check("libraries", "bad", ", ".join(lacking), todo, _install(lacking))
    else:
        yield Check("libraries", "ok", f"all {len(wanted)} are installed")


def _torch() -> Iterator[Check]:
    import torch

    yield Check("PyTorch", "ok", torch.__version__)
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield Check("GPU", "ok", f"{', '.join(names)}; CUDA {torch.version.cuda}")
    elif torch.backends.mps.is_available():
        yield Check("GPU", "ok", "Apple's, by MPS")
    elif shutil.which("nvidia-smi") is None:
        yield Check("GPU", "note", "none; everything runs on the CPU")
    else:
        built = "without CUDA" if torch.version.cuda is None else f"for CUDA {torch.version.cuda}"
        todo = "Update the driver, or install a PyTorch for its CUDA, as https://pytorch.org/get-started says."
        yield Check("GPU", "missing", f"one is there, but this PyTorch, built {built}, cannot use it", todo)


def _scatter() -> Iterator[Check]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        import torch_geometric.typing as pyg
    name = "torch-scatter"
    if pyg.WITH_TORCH_SCATTER:
        yield Check(name, "ok", f"{metadata.version(name)}, used by PyG")
        return
    here = find_spec("torch_scatter") is not None
    about = next((str(each.message) for each in said if name in str(each.message)), "built for another PyTorch")
    found = f"installed, but PyG cannot use it ({about})" if here else f"not installed; it brings {_BRINGS['scatter']}"
    todo = "To build torch-scatter for this PyTorch, which takes some minutes" + (
        ":" if shutil.which("c++") or shutil.which("g++") else ", and a C++ compiler, which is not here:"
    )
    again = ["--force-reinstall", "--no-deps", "--no-cache-dir"] if here and find_spec("pip") else []
    # It is built with the setuptools of this environment.
    command = f"{_install(['setuptools'])} && {_install([name], '--no-build-isolation', *again)}"
    yield Check(name, "missing", found, todo, command)


def _openslide() -> Iterator[Check]:
    if find_spec("openslide") is None:
        yield Check("OpenSlide", "note", "not installed; tiled TIFF, Aperio's .svs, JPEG and PNG are read without it")
        return
    import openslide

    yield Check("OpenSlide", "ok", openslide.__library_version__)


def _extras() -> Iterator[Check]:
    for extra in sorted(metadata.metadata(_PACKAGE).get_all("Provides-Extra") or ()):
        if extra == "scatter":  # has its own check
            continue
        wanted = _requirements(extra)
        brings = _BRINGS.get(extra, ", ".join(each.name for each in wanted))
        lacking = _lacking(wanted)
        if lacking:
            todo = f"To install the extra {extra}:"
            yield Check(f"extra {extra}", "missing", f"not installed; it brings {brings}", todo, _install(lacking))
        else:
            yield Check(f"extra {extra}", "ok", brings)


def _cache() -> Iterator[Check]:
    folder = cache_root()
    n_files, size = 0, 0
    for path in folder.rglob("*") if folder.is_dir() else ():
        try:
            size += path.stat().st_size if path.is_file() else 0
        except OSError:  # another process has just removed it
            continue
        n_files += path.is_file()
    yield _place("feature cache", folder, f"{in_bytes(size)} in {n_files:,} files, ", "NH2ST_GRAPH_CACHE=FOLDER")


def _folder() -> Iterator[Check]:
    yield _place("working folder", Path.cwd(), "", "")


def _place(name: str, folder: Path, about: str, instead: str) -> Check:
    """Look whether something can be written below a folder, and how much."""
    above = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(above).free
    found = f"{folder} ({about}{in_bytes(free)} free)"
    other = f"Take another by the environment variable: {instead}" if instead else "Change into another folder."
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        # Without a cache, features are computed anew, and commands say so.
        state: State = "missing" if instead else "bad"
        return Check(name, state, f"{found}: nothing can be written there", other)
    if free < _DISK:
        return Check(name, "bad", f"{found}: less than {in_bytes(_DISK)}", f"Make room. {other}")
    return Check(name, "ok", found)


def _memory() -> Iterator[Check]:
    import psutil

    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    limit = _of_container("memory.max", "memory/memory.limit_in_bytes")
    if limit is not None and limit < total:
        used = _of_container("memory.current", "memory/memory.usage_in_bytes") or 0
        free, total = min(free, limit - used), limit
    found = f"{in_bytes(free)} free of {in_bytes(total)}"
    if free < _MEMORY:
        todo = f"Close other programs or take a larger machine: a small run takes {in_bytes(_MEMORY)}."
        # A run on a few spots takes less.
        yield Check("memory", "missing", found, todo)
    else:
        yield Check("memory", "ok", found)


def _of_container(*names: str) -> int | None:
    """Read a limit of the container or job, in the layout of cgroups 2 or 1; None if there is none."""
    for name in names:
        try:
            return int((Path("/sys/fs/cgroup") / name).read_text())
        except (OSError, ValueError):
            continue
    return None


def _cores() -> Iterator[Check]:
    import torch

    from nh2st_graph.config import Config

    there = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    threads = Config().train.n_threads or torch.get_num_threads()
    yield Check("cores", "ok", f"{usable} of {there} may be used; training takes {threads}")


def _hub() -> Iterator[Check]:
    from huggingface_hub import constants, get_token

    offline = "; the hub is switched off (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else ""
    if get_token() is None:
        found = f"no token{offline}; only gated encoders and private models need one"
        yield Check("Hugging Face hub", "note", found)
    else:
        yield Check("Hugging Face hub", "ok", f"there is a token{offline}")


def _gated() -> Iterator[Check]:
    """Ask the hub for each gated encoder."""
    from concurrent.futures import ThreadPoolExecutor

    from nh2st_graph.im import recipes

    gated = [each for each in recipes().values() if each.gated and each.source in {"hub", "transformers"}]
    phase("asking the hub")
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(_access, gated))
    for access, names in _by(answers, [each.name for each in gated]):
        state: State = "ok" if access == "yes" else "note"
        todo = "" if access in {"yes", "no answer"} else "Ask for access on its page: nh2st-graph encoders NAME"
        words = {"yes": "may be downloaded", "no": "you have no access", "no answer": "the hub does not answer"}
        yield Check("gated encoders", state, f"{words[access]}: {', '.join(names)}", todo)


def _by(answers: Sequence[str], names: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    for answer in ("yes", "no", "no answer"):
        found = [name for name, said in zip(names, answers, strict=True) if said == answer]
        if found:
            yield answer, found


def _access(recipe: Recipe) -> str:
    """Ask whether this machine's token may download an encoder."""
    from huggingface_hub import auth_check
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        auth_check(recipe.location)
    except RepositoryNotFoundError:  # that of gated ones is one of these
        return "no"
    except Exception:  # of any layer between here and the hub
        return "no answer"
    return "yes"


def _print(checks: Sequence[Check], runs: bool) -> None:
    console = Console()
    shown = Table.grid(padding=(0, 2))
    shown.add_column(no_wrap=True)
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")
    for check in checks:
        mark, style = _MARKS[check.state]
        shown.add_row(Text(mark, style), check.name, Text(check.found))
    console.print(shown)
    todo = dict.fromkeys((check.todo, check.command) for check in checks if check.todo)
    if todo:
        console.print("\nWhat can be done", style="bold")
    for text, command in todo:
        console.print(text, markup=False, highlight=False)
        if command:
            console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)
    last = "can run" if runs else "cannot run before what is bad is mended"
    console.print(f"\nTraining and prediction {last}.", style="bold")

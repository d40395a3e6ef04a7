"""Settings of the documentation: ``sphinx-build -W docs docs/_build/html``. It needs no network."""

import os
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.logging import getLogger

import nh2st_graph

logger = getLogger(__name__)

project = "nh2st-graph"
author = "nh2st_graph developers"
release = nh2st_graph.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "nh2st-graph"
highlight_language = "none"
suppress_warnings = ["ref.python"]  # a class may stand in two rooms

myst_enable_extensions = ["attrs_block", "deflist"]
myst_heading_anchors = 3

# Tutorials run whenever the pages are built, in a folder that goes afterwards; what fails there, fails the build.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 1800
nb_merge_streams = True
os.environ["NH2ST_GRAPH_CACHE"] = str(Path(__file__).parent / "_build" / "cache")
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent / "tutorials"), *sys.path])
# Of other packages, and of a notebook without widgets.
_SILENT = ["ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::SyntaxWarning", "ignore:IProgress not found"]
os.environ["PYTHONWARNINGS"] = ",".join(_SILENT)

autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_ivar = True  # attributes are listed where they stand in the class, once
napoleon_custom_sections = ["Shapes"]


def setup(app: Sphinx) -> None:
    """Warn of public names that the API reference lacks."""
    app.connect("env-check-consistency", _check_reference)


def _check_reference(app: Sphinx, env: BuildEnvironment) -> None:
    known = env.domaindata["py"]["objects"]
    rooms = [each for each in map(partial(getattr, nh2st_graph), nh2st_graph.__all__) if isinstance(each, ModuleType)]
    for room in rooms:
        for name in room.__all__:
            found = getattr(room, name)
            own = f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', name)}"
            if f"{room.__name__}.{name}" not in known and own not in known:
                logger.warning("%s.%s is public, and not in the API reference", room.__name__, name)

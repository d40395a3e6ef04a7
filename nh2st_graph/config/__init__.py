"""The typed configuration.

A configuration is read from YAML, changed by ``--set key=value``, checked as a whole and written back complete into the
run folder. An unknown key or a wrong value is a :class:`~nh2st_graph.ConfigError` that names the key.
"""

from nh2st_graph._settings import Positive, Share
from nh2st_graph.config._arguments import with_arguments as with_arguments
from nh2st_graph.config._changes import changes as changes
from nh2st_graph.config._changes import flatten as flatten
from nh2st_graph.config._earlier import completed_keys as completed_keys
from nh2st_graph.config._earlier import current_keys as current_keys
from nh2st_graph.config._features import BlockConfig, FeaturesConfig, PatchSize
from nh2st_graph.config._load import builtin_config, load_config
from nh2st_graph.config._load import read_config as read_config
from nh2st_graph.config._load import stored_yaml as stored_yaml
from nh2st_graph.config._messages import RUN_FORMAT
from nh2st_graph.config._schema import (
    FORMATS,
    Config,
    DataConfig,
    EvaluateConfig,
    GraphConfig,
    SyntheticConfig,
    TrainConfig,
)
from nh2st_graph.config._schema import (
    in_keys as in_keys,
)
from nh2st_graph.config._schema import (
    other_keys as other_keys,
)
from nh2st_graph.config._yaml import parse_yaml as parse_yaml
from nh2st_graph.config._yaml import read_yaml as read_yaml
from nh2st_graph.models import MethodConfig, ModelConfig

__all__ = [
    "FORMATS",
    "RUN_FORMAT",
    "BlockConfig",
    "Config",
    "DataConfig",
    "EvaluateConfig",
    "FeaturesConfig",
    "GraphConfig",
    "MethodConfig",
    "ModelConfig",
    "PatchSize",
    "Positive",
    "Share",
    "SyntheticConfig",
    "TrainConfig",
    "builtin_config",
    "load_config",
]

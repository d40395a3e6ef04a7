"""The typed configuration.

A configuration is read from YAML, changed by ``--set key=value``, checked as a whole and written back complete into the
run folder. An unknown key or a wrong value is a :class:`~nh2st_graph.ConfigError` that names the key.
"""

from nh2st_graph._settings import Positive, Share
from nh2st_graph.config._arguments import with_arguments
from nh2st_graph.config._changes import changes, flatten
from nh2st_graph.config._earlier import completed_keys, current_keys
from nh2st_graph.config._features import BlockConfig, FeaturesConfig, PatchSize
from nh2st_graph.config._load import builtin_config, load_config, read_config, stored_yaml
from nh2st_graph.config._messages import RUN_FORMAT
from nh2st_graph.config._schema import (
    FORMATS,
    Config,
    DataConfig,
    EvaluateConfig,
    GraphConfig,
    SyntheticConfig,
    TrainConfig,
    in_keys,
    other_keys,
)
from nh2st_graph.config._yaml import parse_yaml, read_yaml
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
    "changes",
    "completed_keys",
    "current_keys",
    "flatten",
    "in_keys",
    "load_config",
    "other_keys",
    "parse_yaml",
    "read_config",
    "read_yaml",
    "stored_yaml",
    "with_arguments",
]

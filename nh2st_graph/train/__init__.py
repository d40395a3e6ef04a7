"""The engine: prepare sections, train in stages, and keep a fitted model.

Names load on first use (``__init__.pyi`` lists them), so that a prediction does not load Lightning.
"""

from nh2st_graph._errors import late_names

__getattr__, __dir__, __all__ = late_names(__name__, __file__)

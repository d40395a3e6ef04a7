"""The engine: prepare sections, train in stages, and keep a fitted model.

Names load on first use (``__init__.pyi`` lists them), so that a prediction does not load Lightning.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""The methods, one file each, behind one interface.

Names load on first use (``__init__.pyi`` lists them), so that settings can be read without loading torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""What a user calls: fit, predict, embed, evaluate, and whole runs in a folder.

Names load on first use (``__init__.pyi`` lists them), so that arguments can be checked without loading torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

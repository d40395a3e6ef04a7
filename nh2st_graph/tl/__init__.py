"""What a user calls: fit, predict, embed, evaluate, and whole runs in a folder.

Names load on first use (``__init__.pyi`` lists them), so that arguments can be checked without loading torch.
"""

from nh2st_graph._errors import late_names

__getattr__, __dir__, __all__ = late_names(__name__, __file__)

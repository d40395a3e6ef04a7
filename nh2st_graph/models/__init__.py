"""The methods, one file each, behind one interface.

Names load on first use (``__init__.pyi`` lists them), so that settings can be read without loading torch.
"""

from nh2st_graph._errors import earlier_names, late_names

_load, __dir__, __all__ = late_names(__name__, __file__)
__getattr__ = earlier_names(
    __name__, {"FLOORS": "BASELINES", "Floor": "Baseline", "make_floor": "make_baseline"}, otherwise=_load
)

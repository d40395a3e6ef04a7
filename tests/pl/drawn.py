"""What the tests of maps look at."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

#: Of the section that is drawn.
SCALE, DIAMETER, MICRONS_PER_PIXEL = 0.1, 145.0, 0.69


def centres_and_widths(ax: plt.Axes) -> tuple[np.ndarray, np.ndarray]:
    extents = [path.get_extents() for path in ax.collections[0].get_paths()]
    return np.array([[(e.x0 + e.x1) / 2, (e.y0 + e.y1) / 2] for e in extents]), np.array([e.width for e in extents])

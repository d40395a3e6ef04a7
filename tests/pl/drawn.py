"""What the tests of maps look at."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

#: Of the section that is drawn.
SCALE, DIAMETER, MICRONS_PER_PIXEL = 0.1, 145.0, 0.69


def centres_and_widths(ax: plt.Axes) -> tuple[np.ndarray, np.ndarray]:
    circles = ax.collections[0]
    return np.asarray(circles.get_offsets()), np.asarray(circles.get_widths())

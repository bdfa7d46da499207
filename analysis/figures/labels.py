"""Labels at the ends of lines, spread so that none covers another."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from scipy.optimize import isotonic_regression

WRAP = 19  # characters per line
SIZE = 6.5  # points


def wrap(label: str) -> str:
    """The label in lines of at most `WRAP` characters. Words stay whole."""
    return textwrap.fill(label, WRAP, break_long_words=False)


def spread(centres: np.ndarray, heights: np.ndarray, low: float, high: float) -> np.ndarray:
    """Centres moved as little as possible (least squares) so that intervals of the given heights neither overlap nor leave [low, high].

    Centres keep their order. Less the offsets of stacked intervals, centres without overlap do not decrease. So this is an isotonic
    regression. If the intervals do not all fit, they are stacked down from `high`.
    """
    order = np.argsort(centres, kind="stable")
    tall = heights[order]
    offsets = np.concatenate([[0.0], np.cumsum((tall[:-1] + tall[1:]) / 2)])
    stacked = isotonic_regression(centres[order] - offsets).x
    stacked = np.clip(stacked, low + tall[0] / 2, high - tall[-1] / 2 - offsets[-1])
    result = np.empty(len(centres))
    result[order] = stacked + offsets
    return result


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, float]], colours: Mapping[str, str]) -> list[Annotation]:
    """One label per line, right of `axes` and tied to the line's end. ends: label → last point of its line, in data coordinates."""
    return [
        axes.annotate(
            wrap(label), xy=end, xytext=(1.05, axes.transAxes.inverted().transform(axes.transData.transform(end))[1]),
            textcoords="axes fraction", va="center", ha="left", fontsize=SIZE, color=colours[label], linespacing=1.0, annotation_clip=False,
            arrowprops=dict(arrowstyle="-", color=colours[label], linewidth=0.5, alpha=0.6, shrinkA=1, shrinkB=1, relpos=(0, 0.5)),
        )
        for label, end in ends.items()
    ]  # fmt: skip


def spread_labels(figure: Figure, labels: Mapping[Axes, list[Annotation]]) -> None:
    """Move the labels of each axes apart, after the layout has fixed the size of the axes."""
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes, texts in labels.items():
        if texts:
            box = axes.get_window_extent(renderer)
            # The extent of an Annotation includes its tie to the line.
            heights = np.array([Text.get_window_extent(text, renderer).height for text in texts])
            ends = np.array([axes.transData.transform(text.xy)[1] for text in texts])
            for text, centre in zip(texts, spread(ends, heights + 2, box.y0 - 4, box.y1 + 4), strict=True):
                text.set_position((text.get_position()[0], (centre - box.y0) / box.height))

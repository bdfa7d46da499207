"""Notebooks over the reference set, executed by `python -m analysis.notebooks`, and the two functions that show figures in them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ablate.errors import UserError

if TYPE_CHECKING:
    from IPython.display import Image
    from matplotlib.figure import Figure

    from analysis.load.frames import Loaded

DPI, COLOURS = 100, 64  # of the committed figures: they stay readable at a quarter of the size


def show(figure: Figure) -> Image:
    """A figure as a small PNG. Equal figures give equal bytes."""
    # The libraries are imported here, so that the command of this package answers before them.
    from IPython.display import Image
    from PIL import Image as Picture

    from analysis.figures.style import style

    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=DPI)
    small = io.BytesIO()
    Picture.open(buffer).convert("RGB").quantize(COLOURS, dither=Picture.Dither.NONE).save(small, "PNG", optimize=True)
    return Image(small.getvalue())


def paper_figure(name: str, loaded: Loaded, study: str | None = None) -> Image:
    """The figure `name` of `analysis.figures.catalogue.FIGURES`, drawn from `study`, or else from the first of its sources that is loaded.

    Raises:
        UserError: none of its sources is loaded.
    """
    from analysis.figures.catalogue import FIGURES, Source, find_source
    from analysis.figures.draw import frames_of

    entry = FIGURES[name]
    source = Source(study) if study else find_source(entry, loaded.runs)
    if source is None:
        raise UserError(f"{name} needs runs of {' or '.join(source.study for source in entry.sources)}")
    return show(entry.draw(frames_of(loaded, source, entry.reads)).figure)

"""Docstrings are prose with equations in them, not Markdown: this griffe extension keeps every sign as it is written."""

from __future__ import annotations

from typing import Any

import griffe

from analysis.tricks.prose import as_markdown


class Verbatim(griffe.Extension):
    """Escapes the docstrings of everything that is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)

"""The tree of settings, walked."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

from ablate.config import Config


def setting_names(kind: type = Config, prefix: str = "") -> list[str]:
    """Every setting by its dotted name, in the order of the dataclasses."""
    names = []
    for f in fields(kind):
        if isinstance(f.default_factory, type) and is_dataclass(f.default_factory):
            names += setting_names(f.default_factory, f"{prefix}{f.name}.")
        else:
            names.append(prefix + f.name)
    return names

"""Where the presets and the study files lie, and their names. No torch here."""

from __future__ import annotations

from pathlib import Path

from ablate.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
CONF = PACKAGE / "conf"  # the folder of presets that Hydra reads


def sweep_folder() -> Path:
    """The folder of the study files: `sweeps/` of a checkout, or the wheel's. Raises UserError where there is neither."""
    for folder in (PACKAGE / "sweep_files", PACKAGE.parent / "sweeps"):
        if folder.is_dir():
            return folder
    raise UserError("no study files were found beside the package: install it again, or run from a checkout")


def sweep_names() -> list[str]:
    """The names that `sweep=` takes: studies and searches."""
    return sorted(path.stem for path in sweep_folder().glob("*.yaml"))


LAUNCHER = "accelerate"  # its folder in conf/ holds files for `accelerate launch --config_file`, not a group


def groups() -> dict[str, list[str]]:
    """Config group → its options: the folders of conf/, and the studies."""
    folders = [folder for folder in CONF.iterdir() if folder.is_dir() and folder.name != LAUNCHER]
    found = {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}
    return {**found, "sweep": [*sweep_names(), "null"]}

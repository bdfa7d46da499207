"""What the documents say is what the code does."""

import re
from pathlib import Path

from ablate.config import Config
from ablate.settings.__main__ import reference
from ablate.settings.fields import setting_names
from ablate.settings.groups import groups

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_settings_reference_is_the_one_the_command_prints():
    assert (ROOT / "docs" / "reference" / "settings.md").read_text() == reference()


def test_every_setting_named_in_a_document_exists():
    names = {name for name in setting_names(Config)}
    prefixes = {name.split(".")[0] for name in names if "." in name}
    unknown = {}
    for document in DOCUMENTS:
        for name in re.findall(r"(?<![\w./-])([a-z_]+\.[a-z_]+)=", document.read_text()):
            if name.split(".")[0] in prefixes and name not in names:
                unknown[name] = document.name
    assert unknown == {}


def test_every_preset_and_study_named_in_a_command_exists():
    options = groups()
    unknown = set()
    for document in DOCUMENTS:
        for group, value in re.findall(r"(?<![\w.])(ppo|preferences|data|model|sweep)=([a-z_0-9]+)", document.read_text()):
            if value not in options[group]:
                unknown.add(f"{group}={value}")
    assert unknown == set()


def test_the_readmes_tree_names_every_file_of_the_package():
    """Each room has a line; a file that is not in the tree is a file nobody will find."""
    readme = (ROOT / "README.md").read_text()
    packages = [path for folder in ("ablate", "analysis", "hydra_plugins") for path in (ROOT / folder).rglob("*.py")]
    missing = [str(path.relative_to(ROOT)) for path in packages if path.name != "__init__.py" and path.name not in readme]
    assert missing == []

"""What the documents say is what the code does."""

import re
from pathlib import Path

import pytest

from ablate.settings.__main__ import reference
from ablate.settings.fields import setting_names
from ablate.settings.groups import groups

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = ROOT / "docs" / "explanation" / "architecture.md"
RESULTS = [ROOT / "results" / "README.md", ROOT / "results" / "reference" / "README.md"]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")), *RESULTS]
PACKAGES = ("ablate", "analysis", "hydra_plugins")
FOLDERS = (*PACKAGES, "sweeps", "tests", "docs")
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".html", ".css", ".js", ".ipynb"}
FILES = [*ROOT.iterdir(), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
# .ci/run is not here: it may look for data beside the checkout.
SOURCES = [*(path for path in FILES if path.suffix in SUFFIXES), *RESULTS, ROOT / "Makefile"]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_settings_reference_is_the_one_the_command_prints():
    assert (ROOT / "docs" / "reference" / "settings.md").read_text() == reference()


def test_every_setting_named_in_a_document_exists():
    names = set(setting_names())
    prefixes = {setting.split(".")[0] for setting in names if "." in setting}
    unknown = {}
    for document in DOCUMENTS:
        for setting in re.findall(r"(?<![\w./-])([a-z_]+\.[a-z_]+)=", document.read_text()):
            if setting.split(".")[0] in prefixes and setting not in names:
                unknown[setting] = name(document)
    assert unknown == {}


def test_every_preset_and_study_named_in_a_command_exists():
    options = groups()
    unknown = set()
    for document in DOCUMENTS:
        for group, value in re.findall(r"(?<![\w.])(ppo|preferences|data|model|sweep)=([a-z_0-9]+)", document.read_text()):
            if value not in options[group]:
                unknown.add(f"{group}={value}")
    assert unknown == set()


def listed_in_the_tree() -> list[str]:
    """Paths of the indented tree of architecture.md, two spaces per level; a folder ends with a slash."""
    (block,) = re.findall(r"^```\n(.*?)^```", ARCHITECTURE.read_text(), re.DOTALL | re.MULTILINE)
    paths, parents = [], []
    for line in block.splitlines():
        indent, entry = re.match(r"( *)(\S+)", line).groups()
        del parents[len(indent) // 2 :]
        paths.append("".join([*parents, entry]))
        parents.append(entry)
    return paths


def test_the_tree_lists_every_module_by_its_path_and_nothing_else():
    """A package's line stands for its `__init__.py`. A module that is gone, moved or missing fails here."""
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    expected = {f"{name(path.parent)}/" if path.name == "__init__.py" else name(path) for path in modules}
    listed = listed_in_the_tree()
    assert set(listed) == expected
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=name)
def test_every_link_to_a_file_resolves(document):
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    files = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in files if link and not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_path_named_in_a_document_exists(document):
    """Paths between backticks that begin with a folder of the repository; patterns and generated run folders are no paths."""
    paths = re.findall(r"`((?:ablate|analysis|hydra_plugins|sweeps|tests|docs)/[\w./]+)`", document.read_text())
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_document_named_in_a_source_exists():
    """The changelog may keep the names that documents had."""
    missing = {}
    for path in SOURCES:
        if path != ROOT / "CHANGELOG.md":
            named = re.findall(r"(?<![\w/])docs/[\w/]+\.(?:md|png)", path.read_text())
            missing |= {document: name(path) for document in named if not (ROOT / document).exists()}
    assert missing == {}


def test_every_document_is_linked_from_the_index():
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in re.findall(r"\]\(([^)\s]+)\)", index.read_text())}
    assert set((ROOT / "docs").rglob("*.md")) - linked == {index}


# The patterns do not match themselves.
FORBIDDEN = {
    "the address of a package index": r"pypi\.org|download\.pytorch\.org",
    "a numbered pitfall, which no document here explains": r"pitfalls? \d",
    "a folder beside the checkout": r"\.\./shared",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_document_or_source_names(what):
    assert [name(path) for path in SOURCES if re.search(FORBIDDEN[what], path.read_text(), re.IGNORECASE)] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 125

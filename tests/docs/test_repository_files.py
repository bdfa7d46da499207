"""The files that a host of repositories and its tools read say what is here."""

import re
from pathlib import Path

import pytest
import yaml

import ablate

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_the_citation_has_the_version_and_the_licence_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["cff-version"], citation["version"], citation["license"]) == ("1.2.0", ablate.__version__, "MIT")
    assert citation["authors"] and citation["title"] and citation["message"]


def test_the_workflow_does_what_continuous_integration_here_does():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step]
    assert commands == [".ci/run"] and (ROOT / ".ci" / "run").stat().st_mode & 0o100
    assert re.findall(r"^make (\w+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE) == ["lint", "test", "docs"]


def test_hooks_before_a_commit_fetch_nothing():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [each["repo"] for each in repositories] == ["local"]
    assert {hook["language"] for hook in repositories[0]["hooks"]} == {"system"}


@pytest.mark.parametrize("template", [path for path in TEMPLATES if path.name != "config.yml"], ids=lambda path: path.stem)
def test_a_form_for_issues_asks_for_something(template):
    form = yaml.safe_load(template.read_text())
    assert form["name"] and form["description"]
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_the_image_copies_what_the_package_is_made_of_and_nothing_that_is_not_there():
    image = (ROOT / ".ci" / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", image, re.MULTILINE) for name in line.split()]
    assert all((ROOT / name).exists() for name in copied)
    assert {"ablate", "analysis", "hydra_plugins", "sweeps", "pyproject.toml", "constraints.txt"} <= set(copied)
    ignored = (ROOT / ".ci" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == set(copied)


def test_every_document_has_its_place_on_the_website_and_no_other():
    """`!` and `!!` of mkdocs.yml are not read here: it has none."""
    content = yaml.safe_load((ROOT / "mkdocs.yml").read_text())

    def pages(entries) -> list[str]:
        return [page for entry in entries for page in ([entry] if isinstance(entry, str) else nested(next(iter(entry.values()))))]

    def nested(value) -> list[str]:
        return [value] if isinstance(value, str) else pages(value)

    documents = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")} - {"README.md"}
    added = {"index.md", "documents.md", "changelog.md", "contributing.md", "results/index.md", "results/reference.md", "reference/help.md"}
    assert sorted(pages(content["nav"])) == sorted(documents | added)

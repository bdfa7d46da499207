"""The installed package is the checkout: presets and studies are in the wheel, and the command works from any folder."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, built from the checkout and unpacked as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    site = folder / "site"
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    return site


def run(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(site)}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_wheel_holds_every_preset_and_study_and_no_test(installed):
    presets = {path.relative_to(ROOT) for path in (ROOT / "ablate" / "conf").rglob("*.yaml")}
    assert presets and all((installed / path).is_file() for path in presets)
    assert {path.name for path in (installed / "ablate" / "sweep_files").glob("*")} == {path.name for path in (ROOT / "sweeps").glob("*")}
    assert not (installed / "tests").exists()


def test_the_command_composes_a_preset_and_lists_the_studies_from_another_folder(installed, tmp_path):
    where = run(installed, tmp_path, "-c", "import ablate; print(ablate.__file__)")
    assert where.stdout.startswith(str(installed)), where.stderr
    composed = run(installed, tmp_path, "-m", "ablate.run", "ppo=vanilla", "--cfg", "job")
    assert "kl_penalty: false" in composed.stdout, composed.stderr
    listed = run(installed, tmp_path, "-m", "ablate.sweeps")
    assert "policy_constraints" in listed.stdout, listed.stderr
    assert list(tmp_path.iterdir()) == []


def test_constraints_pin_every_dependency_and_tool_of_make_within_its_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    (own,) = (Requirement(text) for text in extras["dev"] if text.startswith(project["name"]))
    texts = [*project["dependencies"], *extras["dev"], *extras["docs"], *(text for extra in own.extras for text in extras[extra])]
    wanted = [requirement for requirement in map(Requirement, texts) if requirement.name != project["name"]]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(pin.name): next(iter(pin.specifier)) for pin in map(Requirement, lines)}
    assert {canonicalize_name(requirement.name) for requirement in wanted} <= pins.keys()
    assert {pin.operator for pin in pins.values()} == {"=="}
    for requirement in wanted:
        assert pins[canonicalize_name(requirement.name)].version in requirement.specifier, requirement

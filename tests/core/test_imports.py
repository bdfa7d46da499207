"""Who may import whom, read from the import statements of every module."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ablate

ROOT = Path(ablate.__file__).parent.parent
PACKAGES = ("ablate", "analysis", "hydra_plugins")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imports_of(module: str) -> set[str]:
    """Modules that an import statement anywhere in the file names; `from package import module` counts as that module."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in inner if name in MODULES} or {node.module}
    return found


IMPORTS = {module: imports_of(module) for module in MODULES}


def reached_from(module: str) -> set[str]:
    """Everything a module imports, directly or through modules of this repository; a package's __init__ included."""
    seen, pending = set(), [module]
    while pending:
        for name in IMPORTS.get(pending.pop(), ()):
            parents = {name.rpartition(".")[0]} - {""}
            for reached in {name, *parents} - seen:
                seen.add(reached)
                pending.append(reached)
    return seen


def own(module: str) -> set[str]:
    return {name for name in IMPORTS[module] if name.partition(".")[0] in PACKAGES}


TRICKS = sorted(module for module in MODULES if module.startswith("ablate.tricks"))


def test_types_import_nothing_of_the_project_and_config_nothing_but_the_standard_library():
    assert own("ablate.ppo.types") == own("ablate.config") == own("ablate.errors") == set()
    assert {name.partition(".")[0] for name in IMPORTS["ablate.config"]} <= sys.stdlib_module_names


@pytest.mark.parametrize("module", TRICKS)
def test_tricks_import_types_and_tricks_only_and_take_no_config(module):
    assert own(module) <= {"ablate.ppo.types", *TRICKS}
    functions = [node for node in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(node, ast.FunctionDef)]
    arguments = {argument.arg for function in functions for argument in function.args.args}
    assert arguments.isdisjoint({"ppo", "config", "bugs", "sampling"})


def test_shaping_is_built_on_types_tricks_and_config():
    assert own("ablate.ppo.shaping") <= {"ablate.ppo.types", "ablate.config", *TRICKS}
    assert set(TRICKS) - {"ablate.tricks", "ablate.ppo.tricks.masked"} <= own("ablate.ppo.shaping")


STORY = ["ablate.ppo.types", "ablate.ppo.tricks.advantage", "ablate.ppo.shaping", "ablate.trainer", "ablate.run"]


def test_types_to_tricks_to_shaping_to_trainer_to_run_is_one_way():
    for position, module in enumerate(STORY):
        assert reached_from(module).isdisjoint(STORY[position + 1 :]), module
    for below in ("ablate.ppo.shaping", "ablate.ppo.types"):
        assert below in reached_from("ablate.trainer")
    assert "ablate.trainer" in reached_from("ablate.run")


@pytest.mark.parametrize("module", [f"ablate.{name}" for name in ("monitor", "evaluate", "store", "rollout", "models", "optimise")])
def test_what_the_trainer_uses_does_not_know_the_trainer_nor_the_pipeline(module):
    reached = reached_from(module)
    assert reached.isdisjoint({"ablate.trainer", "ablate.run"})
    assert not any(name.startswith("ablate.pipeline") for name in reached)


def test_world_and_data_know_neither_the_pipeline_nor_what_is_trained_on_them():
    for module in (m for m in MODULES if m.startswith(("ablate.world", "ablate.data"))):
        allowed = ("ablate.world", "ablate.data", "ablate.config", "ablate.data.chat", "ablate.errors")
        assert all(name.startswith(allowed) for name in own(module)), module
    for module in (m for m in MODULES if m.startswith("ablate.pipeline")):
        assert reached_from(module).isdisjoint({"ablate.trainer", "ablate.run"}), module


ANALYSIS = [module for module in MODULES if module.partition(".")[0] == "analysis"]
WITHOUT_TORCH = ["ablate.config", "ablate.settings.validation", "ablate.runs.store", "ablate.errors", *ANALYSIS]


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_config_store_and_analysis_never_import_torch(module):
    heavy = {name for name in reached_from(module) if name.partition(".")[0] in ("torch", "transformers", "safetensors")}
    assert heavy == set()


def test_reading_a_run_folder_loads_no_torch():
    code = "import sys, ablate.config, ablate.runs.store, ablate.settings.validation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_analysis_imports_only_what_reads_run_folders():
    allowed = {"ablate.runs.store", "ablate.config", "ablate.errors", "ablate.sweeps.table"}
    for module in ANALYSIS:
        assert {name for name in own(module) if name.startswith("ablate")} <= allowed, module


def test_no_module_imports_itself_through_others():
    for module in MODULES:
        assert module not in reached_from(module) or module in PACKAGES or MODULES[module].name == "__init__.py", module

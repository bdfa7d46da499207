"""Who may import whom, read from the import statements of every module."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ablate

ROOT = Path(ablate.__file__).parent.parent
PACKAGES = ("ablate", "analysis", "hydra_plugins")

LEAVES = {"ablate.config", "ablate.errors"}
SYSTEM = LEAVES | {"ablate.system"}
DATA = SYSTEM | {"ablate.world", "ablate.data"}
MODELS = DATA | {"ablate.models"}
PPO = MODELS | {"ablate.ppo"}
RUNS = PPO | {"ablate.settings", "ablate.runs"}
PIPELINE = RUNS | {"ablate.pipeline"}
SESSION = PIPELINE | {"ablate.trainer", "ablate.session"}
SWEEPS = SESSION | {"ablate.sweeps"}
READERS = {"ablate.config", "ablate.errors", "ablate.settings", "ablate.runs", "ablate.sweeps", "ablate.system"}
LOAD = {"analysis.load"} | READERS
ESTIMATE = LOAD | {"analysis.estimate"}
CLAIMS = ESTIMATE | {"analysis.claims"}
FIGURES = CLAIMS | {"analysis.figures"}
REPORT = FIGURES | {"analysis.report"}
# Room → the rooms its modules may import, itself included. A room that is not here may not exist.
ALLOWED = {
    "ablate": set(),
    "ablate.config": set(),
    "ablate.errors": set(),
    "ablate.system": SYSTEM,
    "ablate.world": {"ablate.errors", "ablate.world"},
    "ablate.data": DATA,
    "ablate.models": MODELS,
    "ablate.ppo": PPO,
    "ablate.settings": SYSTEM | {"ablate.settings"},
    "ablate.runs": RUNS,
    "ablate.pipeline": PIPELINE - {"ablate.runs"},
    "ablate.trainer": PIPELINE | {"ablate.trainer"},
    "ablate.session": SESSION,
    "ablate.sweeps": SWEEPS | {"hydra_plugins"},  # submitit's configuration lies in Hydra's namespace
    "ablate.stages": SWEEPS | {"ablate.stages"},
    "ablate.mirror": RUNS | {"ablate.mirror"},
    "ablate.commands": set(),
    "ablate.__main__": SYSTEM | {"ablate", "ablate.commands"},
    "ablate.completion": SYSTEM | {"ablate.commands", "ablate.settings"},
    "ablate.run": SWEEPS | {"ablate.run"},
    "ablate.tune": SWEEPS | {"ablate.tune"},
    "ablate.judge": PIPELINE | {"ablate.judge"},
    "ablate.memory": RUNS | {"ablate.memory"},
    "ablate.export": RUNS | {"ablate.export"},
    "ablate.import_gguf": MODELS | {"ablate.import_gguf"},
    "ablate.gradients": RUNS | {"ablate.export", "ablate.gradients"},
    "hydra_plugins": SWEEPS | {"hydra_plugins"},
    "analysis": set(),
    "analysis.markdown": {"analysis.markdown"},
    "analysis.load": LOAD,
    "analysis.estimate": ESTIMATE,
    "analysis.claims": CLAIMS,
    "analysis.figures": FIGURES,
    "analysis.report": REPORT,
    "analysis.serve": REPORT | {"analysis.serve"},
    "analysis.reference": FIGURES
    | {f"analysis.{room}" for room in ("alarms", "markdown", "notebooks", "reference", "tricks", "world_check")},
    "analysis.notebooks": REPORT | {"analysis.notebooks"},
    "analysis.verdicts": CLAIMS | {"analysis.markdown", "analysis.verdicts"},
    "analysis.alarms": ESTIMATE | {"analysis.alarms", "analysis.markdown"},
    "analysis.audit": FIGURES | {"analysis.audit"},
    "analysis.tricks": CLAIMS | {"analysis.markdown", "analysis.tricks"},
    "analysis.dashboard": ESTIMATE | {"analysis.dashboard"},
    "analysis.wandb_report": REPORT | {"analysis.dashboard", "analysis.wandb_report"},
    "analysis.kl_gradients": FIGURES | {"analysis.kl_gradients"},
    "analysis.world_check": FIGURES | {"ablate.world", "analysis.markdown", "analysis.world_check"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def room(module: str) -> str:
    """The package within `ablate` or `analysis` that a module lies in, or the module itself where it lies in none."""
    first, _, rest = module.partition(".")
    return first if first == "hydra_plugins" or not rest else f"{first}.{rest.partition('.')[0]}"


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


@pytest.mark.parametrize("place", sorted({room(module) for module in MODULES}))
def test_a_room_imports_only_what_its_row_of_the_table_allows(place):
    for module in (module for module in MODULES if room(module) == place):
        assert {room(name) for name in own(module)} <= ALLOWED[place], module


def test_the_table_names_every_room_and_no_other():
    assert ALLOWED.keys() == {room(module) for module in MODULES}


def test_rooms_import_one_another_in_one_direction_only():
    """As the table allows it: no two rooms may both import the other; `hydra_plugins` is Hydra's namespace, shared with submitit's."""
    both = {(one, two) for one in ALLOWED for two in ALLOWED if one < two and two in ALLOWED[one] and one in ALLOWED[two]}
    assert both == {("ablate.sweeps", "hydra_plugins")}
    assert not any(name.startswith("hydra_plugins.ablate") for module in MODULES if room(module) != "hydra_plugins" for name in own(module))


TRICKS = sorted(module for module in MODULES if module.startswith("ablate.ppo.tricks"))


@pytest.mark.parametrize("module", TRICKS)
def test_tricks_import_types_and_tricks_only_and_take_no_config(module):
    assert own(module) <= {"ablate.ppo.types", *TRICKS}
    functions = [node for node in ast.walk(ast.parse(MODULES[module].read_text())) if isinstance(node, ast.FunctionDef)]
    arguments = {argument.arg for function in functions for argument in function.args.args}
    assert arguments.isdisjoint({"ppo", "config", "bugs", "sampling", "settings"})


def test_shaping_is_built_on_types_tricks_and_config():
    assert own("ablate.ppo.shaping") <= {"ablate.ppo.types", "ablate.config", "ablate.ppo.bugs", *TRICKS}
    assert set(TRICKS) - {"ablate.ppo.tricks", "ablate.ppo.tricks.masked"} <= own("ablate.ppo.shaping")


def test_config_imports_nothing_but_the_standard_library():
    assert {name.partition(".")[0] for name in IMPORTS["ablate.config"]} <= sys.stdlib_module_names


ANALYSIS = [module for module in MODULES if module.partition(".")[0] == "analysis"]
SETTINGS = [module for module in MODULES if room(module) == "ablate.settings"]
WITHOUT_TORCH = ["ablate.config", "ablate.errors", "ablate.runs.folder", "ablate.runs.store", *SETTINGS, *ANALYSIS]


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_settings_run_folders_and_analysis_never_import_torch(module):
    heavy = {name for name in reached_from(module) if name.partition(".")[0] in ("torch", "transformers", "safetensors")}
    assert heavy == set()


def test_reading_a_run_folder_loads_no_torch():
    code = "import sys, ablate.config, ablate.runs.store, ablate.settings.validation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_no_module_imports_itself_through_others():
    for module in MODULES:
        assert module not in reached_from(module) or module in PACKAGES or MODULES[module].name == "__init__.py", module

"""The website's hooks for mkdocs: pages from outside docs/, the help of every command, the functions of every room, equations as MathML."""

from __future__ import annotations

import ast
import os
import posixpath
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import ziamath
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ablate", "analysis", "hydra_plugins")
# Page → the file of the repository that it shows, where that is not the file of its name in docs/.
ELSEWHERE = {
    "index.md": "README.md",
    "documents.md": "docs/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "results/index.md": "results/README.md",
    "results/reference.md": "results/reference/README.md",
}
HELP = "reference/help.md"
FONT = Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf"  # equations need one with a table for mathematics
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# What a browser fetches by itself: a script, a style sheet, a picture, a frame, a font.
FETCHED = re.compile(r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=["']?(?:https?:)?//[^\s>"']+"""
                     r"""|<link\b[^>]*\bhref=["']?(?:https?:)?//[^\s>"']+|url\(["']?(?:https?:)?//[^\s)"']+""")  # fmt: skip
LINK = re.compile(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Equations in fences named math; the pages of functions in the navigation."""
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [{"name": "math", "class": "equation", "format": equation}]
    assert config.nav is not None
    entries = [{room: f"functions/{room}.md"} for room in rooms()]
    functions = [{package: [entry for entry in entries if next(iter(entry)).partition(".")[0] == package]} for package in PACKAGES]
    config.nav = [{"Functions": functions} if entry == {"Functions": []} else entry for entry in config.nav]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/ or nowhere."""
    for page, source in ELSEWHERE.items():
        if (inside := files.get_file_from_path(source.removeprefix("docs/"))) and source.startswith("docs/"):
            files.remove(inside)
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, HELP, content=help_page()))
    files.append(File.generated(config, f"theme/{FONT.name}", abs_src_path=str(FONT)))
    for room, modules in rooms().items():
        content = "\n\n".join([f"# {room}", *(f"::: {module}" for module in modules)])
        files.append(File.generated(config, f"functions/{room}.md", content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links those of the site, and lists within lists as deep as Python-Markdown wants them, outside of fences."""
    place = page.file.src_uri
    source = ELSEWHERE.get(place, f"docs/{place}")
    parts, fences = FENCE.split(markdown), FENCE.findall(markdown)
    parts = [LINK.sub(lambda found: relinked(found, place, source), re.sub(r"^  - ", "    - ", part, flags=re.MULTILINE)) for part in parts]
    return "".join(part + fence for part, fence in zip(parts, [*fences, ""], strict=True))


def relinked(found: re.Match[str], place: str, source: str) -> str:
    """A link of a file of the repository, as its page on the site has it. One to a module leads to its functions."""
    target, anchor = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1])), found[2] or ""
    pages = {path: page for page, path in ELSEWHERE.items()}
    if target in pages:
        to = pages[target]
    elif target.endswith(".py"):
        module = module_of(target)
        to, anchor = f"functions/{room_of(module)}.md", f"#{module}"
    else:
        to = target.removeprefix("docs/")
    return f"]({posixpath.relpath(to, posixpath.dirname(place) or '.')}{anchor})"


def module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def room_of(module: str) -> str:
    """The page of a module: its package's first two names, `ablate` for what lies in it directly."""
    first, _, rest = module.partition(".")
    return (
        ".".join([first, rest.partition(".")[0]]) if (ROOT / first / rest.partition(".")[0] / "__init__.py").is_file() and rest else first
    )


def rooms() -> dict[str, list[str]]:
    """Page of functions → its modules, of those that have a function or class to show; packages first."""
    found = defaultdict(list)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            if any(isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) for node in tree.body):
                module = module_of(path.relative_to(ROOT).as_posix())
                found[room_of(module)].append(module)
    return dict(sorted(found.items()))


def help_page() -> str:
    """What every command prints for --help. Raises PluginError where one prints none."""
    from ablate.commands import commands

    parts = ["# Help of every command\n\nWhat `--help` prints. `ablate NAME` and `python -m MODULE` are the same."]
    environment = {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    for name, command in commands().items():
        asked = [sys.executable, "-m", command.module, "--help"]
        done = subprocess.run(asked, capture_output=True, text=True, env=environment, cwd=ROOT)
        if done.returncode or not done.stdout:
            raise PluginError(f"python -m {command.module} --help has failed: {done.stderr}")
        parts.append(f"## {name}\n\n`python -m {command.module}`\n\n```text\n{done.stdout.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def on_post_build(*, config: MkDocsConfig) -> None:
    """Raises PluginError where a page or a style sheet would fetch something from a network."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix in (".html", ".css") and (found := FETCHED.search(path.read_text(encoding="utf-8"))):
            raise PluginError(f"{path.relative_to(config.site_dir)} fetches something: {found[0]}")


def equation(source: str, language: str, css_class: str, options: dict, md: object, **more: object) -> str:
    """A fence of LaTeX as MathML, which browsers draw by themselves."""
    return f'<div class="{css_class}">{convert(source, display="block")}</div>'

"""The code that a run was made with: versions of packages, and the commit."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("ppo-ablation", "torch", "transformers", "accelerate", "hydra-core", "numpy")


def versions() -> dict[str, str]:
    """Python's version and those of PACKAGES, as summary.json holds them."""
    return {"python": platform.python_version()} | {package: installed_version(package) for package in PACKAGES}


def installed_version(package: str) -> str:
    """The version of an installed package, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def git_commit() -> str | None:
    """The commit of the checkout this package runs from; null for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or None

"""Write one HTML page per study.

    python -m analysis.report results/reference/leave_one_out --open
    python -m analysis.report results/policy_constraints --watch

The page loads nothing from a network.
"""

from __future__ import annotations

import argparse
import sys
import time
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

from ablate.errors import UserError
from ablate.system.commands import show_cause
from analysis.load.packed import begin_reading, resolve


def build(root: Path, out: Path, *, base: str | None, reload_seconds: int = 0) -> str:
    """Read the study, write its page to `out`, and return one line with the number of runs, the size and the time taken.

    Raises UserError as `analysis.report.render.render` does.
    """
    from analysis.report.render import render
    from analysis.report.watch import write_page

    started = time.monotonic()
    text, runs = render(root, base=base, reload_seconds=reload_seconds)
    write_page(out, text)
    return f"{out}: {runs} runs, {len(text.encode()) / 1e6:.1f} MB, {time.monotonic() - started:.1f} s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, and with --watch write it again whenever runs change. If there is nothing to show, say why and return 1."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("study", type=Path, help="a study's folder, results/STUDY, or one of a packed set, results/reference/STUDY")
    parser.add_argument("--out", type=Path, help="the page (default: report.html in the study's folder, STUDY.html here if that is packed)")
    parser.add_argument("--base", help="arm that the others are compared with (default: the most central one)")
    parser.add_argument("--watch", action="store_true", help="write it again whenever runs go on, until Ctrl-C; the open page follows")
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    options = parser.parse_args(arguments)
    out = options.out or (options.study / "report.html" if resolve(options.study) == options.study else Path(f"{options.study.name}.html"))

    def rebuild(reload_seconds: int = 0) -> None:
        print(build(options.study, out, base=options.base, reload_seconds=reload_seconds), flush=True)

    try:
        begin_reading([options.study])
        # Imported here, because pandas and scipy take seconds that neither --help nor a folder that is not there should wait for.
        from analysis.report.watch import SECONDS, marks

        known = marks(resolve(options.study)) if options.watch else {}
        rebuild(2 * SECONDS if options.watch else 0)
        if options.open:
            webbrowser.open(out.resolve().as_uri())
        if options.watch:
            follow(resolve(options.study), rebuild, known)
    except (UserError, OSError) as error:
        show_cause(error)
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def follow(study: Path, rebuild: Callable[..., None], known: dict[str, str]) -> None:
    """Rebuild the page whenever runs change, until Ctrl-C. Then write it a last time, without its reloading."""
    from analysis.report.watch import SECONDS, watch

    print("watching; Ctrl-C ends it", flush=True)
    try:
        watch(study, lambda: rebuild(2 * SECONDS), known)
    except KeyboardInterrupt:
        print("\none last page, which does not reload itself", flush=True)
        rebuild()


if __name__ == "__main__":
    sys.exit(main())

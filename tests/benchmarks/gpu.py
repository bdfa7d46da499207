"""Checks and times everything on one GPU: build, tests marked `gpu`, floors by phase and the race against TRL, then a short table.

    python tests/benchmarks/gpu.py --trl-python .venv-bench/bin/python
    python tests/benchmarks/gpu.py --no-tests --shapes "GPT-2 small" --pairs 2

Shapes are GPT-2-small's and Qwen2.5-0.5B's trunks on the world's vocabulary with random weights, so that answers are long:
512 responses of at most 128 tokens, bf16 autocast on both sides unless --precision says otherwise. The share of the peak is the
update's floor over its time, where the floor is at the rate of this GPU's own matrix product. `--device cpu --small` runs the same
script on a CPU in minutes, to see that it works.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = [HERE.parent / "gpu", HERE.parent / "models" / "test_offload.py"]  # all that are marked `gpu`; others need more packages
SHAPES = {"GPT-2 small": (12, 768, 3072), "Qwen 0.5 B": (24, 896, 4864)}
SMALL = {"2 × 64": (2, 64, 128)}


def command(script: str, *arguments: str) -> str:
    """Standard output of a script of this folder, shown while it runs."""
    print(f"\n{script} {' '.join(arguments)}", flush=True)
    lines = []
    with subprocess.Popen([sys.executable, HERE / script, *arguments], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        sys.exit(f"error: {script} failed")
    return "".join(lines)


def row(name: str, shape: tuple[int, int, int], options: argparse.Namespace) -> str:
    """A line of the table: responses a second over TRL's, and the shares of the peak by phase."""
    layers, width, mlp = map(str, shape)
    size = ["--layers", layers, "--width", width, "--mlp", mlp, "--stage-steps", "0", "--device", options.device]
    size += ["--precision", options.precision]
    size += ["--batch", "64" if options.small else "512", "--minibatch", "32" if options.small else "64"]
    size += ["--max-new-tokens", "16" if options.small else "128", "--updates", str(options.updates), "--cache", options.cache]
    floors = command("floors.py", *size, "--skip", "1")
    race = command("bench.py", *size, "--pairs", str(options.pairs), "--skip", "1", "--trl-python", options.trl_python)
    phases = {cells[1].strip(): cells for cells in (line.split("|") for line in floors.splitlines()) if len(cells) == 8}
    shares = [f"{100 / float(phases[phase][5]):.0f} %" for phase in ("sampling", "measuring", "updating")]
    return f"| {name} | {re.search(r'ratio of responses/s ([^;]+)', race)[1]} | {' | '.join(shares)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny model and few, short responses")
    parser.add_argument("--no-tests", action="store_true", help="leave the tests out")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--updates", type=int, default=2, help="measured updates a run")
    parser.add_argument("--cache", default=str(HERE.parent.parent / "results" / ".bench"))
    parser.add_argument("--trl-python", default=str(HERE.parent.parent / ".venv-bench" / "bin" / "python"))
    options = parser.parse_args()
    if options.device == "cuda" and not options.no_tests:
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", *TESTS], check=True)
    shapes = SMALL if options.small else {name: SHAPES[name] for name in options.shapes}
    rows = [row(name, shape, options) for name, shape in shapes.items()]
    print("\n| shape | responses/s over TRL 1.12 | peak share: sampling | measuring | updating |\n|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()

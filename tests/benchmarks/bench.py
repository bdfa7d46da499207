"""Seconds an update: this core against TRL 1.12's PPOTrainer, or against its own earlier commit, on the same work.

    python tests/benchmarks/bench.py                                   5 interleaved pairs against TRL
    python tests/benchmarks/bench.py --layers 4 --width 128            another model size
    python tests/benchmarks/bench.py --against-commit HEAD~1           this working tree against a commit

TRL lives in an environment of its own, named by --trl-python:

    make bench-env                                                     or by hand:
    python3 -m venv .venv-bench
    .venv-bench/bin/pip install --constraint constraints.txt torch transformers trl==1.12.0

Both sides train on the same SFT, reward-model and critic weights and the same prompts, in turn, each run a process of its
own with one thread: 128 responses an update, minibatch 32, one epoch, at most 48 new tokens, temperature 1, learning rate 0.
The first updates are skipped. A pair is one run of this core and then one of the other; its ratio is that of responses/s over
the measured updates. The ratio by CPU time is given beside it: on a machine shared with others it is the steadier one.
What TRL is given is told in side_trl.py, what this core is given in side_ablate.py.
A commit to compare with must have the functions that side_ablate.py imports.

Before any time is believed, both sides must give the same log-probs, scores and values on a few prompts after their training,
which shows that they trained the same weights and that a learning rate of 0 left them alone. Mean length and mean score of
the sampled responses are printed for both; they differ by sampling noise alone.

This driver imports neither torch nor ablate: the peak memory of a child can never be less than its parent's was.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from checkout import ROOT, checkout_of

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-3  # of summed log-probs, scores and values, all in float32; two orders of summation


def child(python: str, script: str, *arguments: str, code: Path | None = None) -> str:
    """Standard output of a script of this folder, run with one thread. `code` is the folder that holds the `ablate` to import.

    Other folders of PYTHONPATH come after it, since packages may lie there.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if code is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(code), os.environ.get("PYTHONPATH"))))
    done = subprocess.run([python, str(HERE / script), *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{done.stderr[-4000:]}\nerror: {script} {' '.join(arguments)} failed under {python}")
    return done.stdout


def measure(side: tuple[str, str, Path | None], work: Path) -> dict:
    """One run of one side: its JSON line."""
    python, script, code = side
    arguments = ["run", str(work)] if script == "side_ablate.py" else [str(work)]
    result = json.loads(child(python, script, *arguments, code=code).splitlines()[-1])
    if code is not None and Path(result["code"]).parent != code:
        sys.exit(f"error: {python} imported ablate from {result['code']}, not from {code}")
    return result


def prepare(options: argparse.Namespace, work: Path) -> None:
    """Build the stages once (cached in --cache) and write the work file."""
    settings = {
        "cache": options.cache, "layers": options.layers, "width": options.width, "batch": options.batch, "minibatch": options.minibatch,
        "max-new-tokens": options.max_new_tokens, "updates": options.updates, "skip": options.skip, "seed": 0,
        "mlp": options.mlp, "stage-steps": options.stage_steps, "device": options.device, "precision": options.precision,
    }  # fmt: skip
    flags = [text for name, value in settings.items() if value is not None for text in (f"--{name}", str(value))]
    child(sys.executable, "side_ablate.py", "prepare", str(work), *flags, code=ROOT)


def same_weights(ours: dict, other: dict) -> None:
    """Exit unless both runs end with the same log-probs, scores and values on the prompts of the check."""
    for name in ours["check"]:
        gap = max(abs(a - b) for a, b in zip(ours["check"][name], other["check"][name], strict=True))
        if gap > TOLERANCE:
            sys.exit(f"error: the two sides differ by {gap:.3g} in {name}: they did not train the same weights")


def rate(run: dict, clock: str) -> float:
    """Responses a second over the measured updates, by wall or CPU time."""
    return run["batch"] / mean(run[clock])


def spread(values: list[float], digits: int) -> str:
    """Median (least–greatest)."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def ratios(pairs: list[tuple[dict, dict]], clock: str) -> list[float]:
    return [rate(ours, clock) / rate(other, clock) for ours, other in pairs]


def table(pairs: list[tuple[dict, dict]], names: tuple[str, str], title: str) -> str:
    """The result: a line a side with median (least–greatest) over runs, then the ratio of the pairs."""
    head = ("", "responses/s", "CPU s/update", "tokens", "score", "peak MB")
    lines = [head]
    for side, name in enumerate(names):
        runs = [pair[side] for pair in pairs]
        lines.append((
            name, spread([rate(run, "wall") for run in runs], 0), spread([mean(run["cpu"]) for run in runs], 3),
            f"{mean(run['tokens'] for run in runs):.2f}", f"{mean(run['score'] for run in runs):+.2f}",
            f"{max(run['memory_mb'] for run in runs):.0f}",
        ))  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    wall, cpu = (spread(ratios(pairs, clock), 2) for clock in ("wall", "cpu"))
    return "\n".join([title, *rows, f"ratio of responses/s {wall}; by CPU time {cpu}"])


def compare(options: argparse.Namespace, other: tuple[str, str, Path | None], names: tuple[str, str]) -> None:
    """Run the pairs, a line each, and print the table."""
    ours = (sys.executable, "side_ablate.py", ROOT)
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder) / "work.json"
        if options.work is None:
            prepare(options, work)
        pairs = []
        for number in range(1, options.pairs + 1):
            pairs.append((measure(ours, work), measure(other, work)))
            same_weights(*pairs[-1])
            a, b = (rate(run, "wall") for run in pairs[-1])
            print(f"pair {number}: {names[0]} {a:.0f}/s, {names[1]} {b:.0f}/s, ratio {a / b:.2f}", flush=True)
        known = json.loads(work.read_text())
    title = (
        f"{known['layers']} layers × {known['width']}, {known['batch']} responses an update of ≤ {known['max_new_tokens']} tokens, "
        f"minibatch {known['minibatch']}, {known['device']}, {known['precision']}, {options.pairs} pairs of {known['updates']} updates; "
        "median (least–greatest)"
    )
    print(table(pairs, names, title))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--updates", type=int, default=20, help="measured updates a run")
    parser.add_argument("--skip", type=int, default=3, help="updates before the measured ones")
    parser.add_argument("--batch", type=int, default=128, help="responses an update; fewer make a large model's benchmark bearable")
    parser.add_argument("--minibatch", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--device", default="cpu", help="cpu, with one thread, or cuda")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="of both sides")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=64, help="hidden size; 4 heads, or one for every 64 beyond 256")
    parser.add_argument("--mlp", type=int, help="width of the MLP; twice the hidden size if not given")
    parser.add_argument(
        "--stage-steps", type=int, help="steps of pretraining, SFT and reward model, on few pairs; the defaults if not given"
    )
    parser.add_argument("--cache", default=str(ROOT / "results" / ".bench"), help="where the stages are kept")
    parser.add_argument("--work", type=Path, help="what an earlier `side_ablate.py prepare` wrote; the sizes are then its own")
    parser.add_argument("--trl-python", default=str(ROOT / ".venv-bench" / "bin" / "python"))
    parser.add_argument("--against-commit", metavar="REV", help="compare with this commit instead of TRL")
    return parser.parse_args()


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a checkout is removed on this way out too
    if options.against_commit:
        with checkout_of(options.against_commit) as place:
            compare(options, (sys.executable, "side_ablate.py", place), ("this tree", options.against_commit))
    elif not Path(options.trl_python).exists():
        sys.exit(f"error: {options.trl_python} does not exist: make TRL's environment (see --help) or set --trl-python")
    else:
        compare(options, (options.trl_python, "side_trl.py", None), ("this core", "TRL 1.12"))


if __name__ == "__main__":
    main()

"""Draw what `python -m ablate.gradients … --to FILE` has measured: how far each KL estimator turns the gradient, by the distance from SFT.

python -m analysis.kl_gradients results/kl_gradient/gradients.csv
python -m analysis.kl_gradients results/kl_gradient/gradients.csv --figure kl_gradients.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ablate.errors import UserError
from ablate.system.commands import command_errors

COLUMNS = {"run", "update", "kl", "target", "estimator", "measure", "value", "low", "high"}
TARGETS = {"states": "∇KL at the sampled states", "response": "∇KL of the whole response"}
MEASURES = {"cosine": "cosine of the angle", "along": "share along the exact gradient"}
LABELS = {
    "loss_k1": "k1 in the loss", "loss_k2": "k2 in the loss", "loss_k3": "k3 in the loss", "reward_k1": "k1 in the reward",
    "reward_k2": "k2 in the reward", "reward_k3": "k3 in the reward", "reward_full": "full KL in the reward",
}  # fmt: skip
CLIPPED = (-0.5, 2.5)  # the second row's range: k2 in the reward goes far beyond it


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. A UserError is one sentence on stderr and exit status 1."""
    options = parser().parse_args(arguments)
    with command_errors():
        if not options.table.is_file():
            raise UserError(f"{options.table} does not exist: make it by python -m ablate.gradients RUN … --to {options.table}")
        draw(options.table, options.figure)
        print(f"wrote {options.figure}")


def draw(table: Path, figure: Path) -> None:
    """Write the figure: a row per measure, a column per exact gradient, a line per estimator. Raises UserError."""
    import pandas as pd

    from analysis.figures.style import DASHES, PALETTE, WIDTH, add_caption, style

    frame = pd.read_csv(table)
    if not set(frame.columns) >= COLUMNS:
        raise UserError(f"{table} lacks {', '.join(sorted(COLUMNS - set(frame.columns)))}: make it by python -m ablate.gradients")
    from matplotlib.figure import Figure

    with style():
        picture = Figure(figsize=(WIDTH, 4.6), layout="constrained")
        grid = picture.subplots(len(MEASURES), len(TARGETS), sharex=True, sharey="row")
        for row, (measure, label) in zip(grid, MEASURES.items(), strict=True):
            for axes, (target, title) in zip(row, TARGETS.items(), strict=True):
                for place, (estimator, name) in enumerate(LABELS.items()):
                    part = frame[(frame["target"] == target) & (frame["estimator"] == estimator) & (frame["measure"] == measure)]
                    part = part.dropna(subset="value").sort_values("kl")
                    if measure == "cosine" and estimator == "loss_k1":  # of a gradient of 0 there is no angle
                        part = part.iloc[:0]
                    colour, dash = PALETTE[place % len(PALETTE)], DASHES[0 if estimator.startswith("loss") else 1]
                    axes.plot(part["kl"], part["value"], color=colour, linestyle=dash, marker="o", markersize=3, label=name)
                    axes.vlines(part["kl"], part["low"], part["high"], color=colour, linewidth=0.8)
                axes.axhline(1, color="0.8", linewidth=0.6, zorder=0)
                axes.axhline(0, color="0.8", linewidth=0.6, zorder=0)
                axes.set_xscale("log")
                axes.set_ylim(*((-0.4, 1.1) if measure == "cosine" else CLIPPED))
                if measure == "cosine":
                    axes.set_title(title)
                else:
                    axes.set_xlabel("KL to SFT, nats per response")
            row[0].set_ylabel(label)
        picture.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
        runs = frame["run"].nunique()
        add_caption(picture, (
            f"The gradient of each estimator of the KL to SFT, beside the exact one, over {runs} run{'s' if runs > 1 else ''} "
            "at growing distances from SFT. Above: the cosine of the angle between the two; below: how much of the exact gradient an "
            "estimator has along it, where 1 is unbiased. k1 in the loss has a gradient of 0 and so no angle; k2 in the reward leaves the "
            "picture. Lines: 95 % intervals over batches of fresh responses."
        ))  # fmt: skip
        picture.savefig(figure, dpi=160)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m analysis.kl_gradients", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("table", type=Path, help="the CSV file that python -m ablate.gradients has written")
    result.add_argument("--figure", type=Path, default=Path("kl_gradients.png"), help="the picture to write (default: %(default)s)")
    return result


if __name__ == "__main__":
    main()

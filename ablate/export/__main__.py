"""Write a run's policy, reward model or critic as an ordinary Hugging Face folder with a model card.

  python -m ablate.export results/STUDY/ARM/seed=0 --to FOLDER                       the policy of the newest checkpoint
  python -m ablate.export results/STUDY/ARM/seed=0 --to FOLDER --checkpoint 40       the policy after update 40
  python -m ablate.export results/STUDY/ARM/seed=0 --to FOLDER --what reward_model   the reward model that it was trained on

The folder holds safetensors, the tokenizer with its chat template, the generation config (of a policy) and README.md, the model card. It
loads with from_pretrained of transformers, without this package. An unfinished run can be exported too; its card says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ablate.export.card import WHAT
from ablate.export.origin import find_origin
from ablate.system.commands import announce, command_errors


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. A UserError is one sentence on stderr and exit status 1."""
    options = parser().parse_args(arguments)
    with command_errors():
        find_origin(options.run, options.to, options.what, options.checkpoint)
        announce(f"exporting the {options.what} of {options.run} to {options.to}")
        # Imported here, because torch and transformers take seconds that neither --help nor a refusal should wait for.
        from ablate.export.folder import export

        print(f"wrote {export(options.run, options.to, options.what, options.checkpoint)}")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m ablate.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("run", type=Path, help="a run folder, results/<study>/<arm>/seed=<n>")
    result.add_argument("--to", type=Path, required=True, help="the folder to write; it must be new or empty")
    result.add_argument("--what", choices=sorted(WHAT), default="policy", help="which model (default: %(default)s)")
    result.add_argument("--checkpoint", type=int, metavar="N", help="the update of the checkpoint (default: the newest)")
    return result


if __name__ == "__main__":
    main()

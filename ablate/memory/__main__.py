"""Estimate the memory that a run will need from its settings and a model's config.json; no weights are loaded.

python -m ablate.memory model=path model.path=FOLDER data=hh_rlhf data.path=FILE ppo.batch_size=64
python -m ablate.memory --parameters 7e9 model.lora_rank=16 precision=bf16     # the public shape nearest in size
python -m ablate.memory --table                                                # all public shapes, 0.1 B to 70 B parameters
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ablate.config import Config
from ablate.runs.compose import composed, composing
from ablate.settings.overrides import check_overrides, quoted
from ablate.settings.validation import validate
from ablate.system.commands import announce, command_errors


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. A UserError is one sentence on stderr and exit status 1."""
    options = parser().parse_intermixed_args(arguments)
    with command_errors():
        config = settings(options.overrides)
        announce(f"estimating the memory of {config.model.path or 'the model'} from its configuration")
        # Imported here, because torch takes seconds that neither --help nor a refused setting should wait for.
        from ablate.memory.estimate import run_of
        from ablate.memory.report import report, table_of_shapes
        from ablate.memory.shapes import model_shapes

        run = run_of(config, *model_shapes(config, options.parameters))
        print(table_of_shapes(run) if options.table else report(run))


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m ablate.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("overrides", nargs="*", metavar="setting=value", help="settings, as python -m ablate.run takes them")
    result.add_argument(
        "--parameters", type=float, metavar="N", help="take the public shape nearest to N parameters (7e9) in place of a model's config"
    )
    result.add_argument("--table", action="store_true", help="show the peaks of all public shapes, 0.1 B to 70 B parameters")
    return result


def settings(overrides: Sequence[str]) -> Config:
    """The config that these overrides make. Raises UserError."""
    arguments = [quoted(override) for override in overrides]
    check_overrides(arguments)
    with composing():
        config = composed(arguments)
    validate(config)
    return config


if __name__ == "__main__":
    main()

"""Make an ordinary Hugging Face folder of a GGUF file: weights as float32 safetensors, tokenizer, chat template.

  python -m ablate.import_gguf MODEL.gguf --to FOLDER                       then model=path model.path=FOLDER in a run
  python -m ablate.import_gguf MODEL.gguf --to results/models/OWNER/NAME    then also model.path=OWNER/NAME

It needs the extra `gguf`, and memory and space for 4 bytes per weight. A file that cannot be taken over whole and right is refused.
`python -m ablate.import_gguf.smollm2` fetches such a file of a small chat model first.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from math import prod
from pathlib import Path

from ablate.import_gguf.checks import check_file, check_target, require_gguf
from ablate.system.commands import announce, command_errors


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. A UserError is one sentence on stderr and exit status 1."""
    options = parser().parse_args(arguments)
    with command_errors():
        convert(options.file, options.to)
        print(f"wrote {options.to}")
        print(f"next: python -m ablate.run model=path model.path={shlex.quote(str(options.to))} data=hh_rlhf data.path=FILE")


def convert(file: Path, to: Path) -> None:
    """Check the file, say what follows, and write the folder. Raises UserError."""
    require_gguf()
    check_target(to)
    header = check_file(file)
    weights = sum(prod(tensor.shape) for tensor in header.tensors.values())
    announce(f"importing {file}, {weights / 1e6:.0f} M weights, to {to}")
    # Imported here, because torch and transformers take seconds that neither --help nor a refusal should wait for.
    from ablate.import_gguf.folder import import_gguf

    for sentence in import_gguf(file, to):
        announce(sentence)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m ablate.import_gguf", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("file", type=Path, metavar="FILE.gguf", help="the model, with its tokenizer, in one file")
    result.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="the folder to write; it must be new or empty")
    return result


if __name__ == "__main__":
    main()

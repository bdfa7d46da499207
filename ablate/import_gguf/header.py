"""The header of a GGUF file, read within bounds: metadata and the table of tensors, no weights. No torch here.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Numbers are little-endian. A header is

    "GGUF", version u32, tensors u64, entries u64; per entry: key, type u32, value; per tensor: name, dimensions u32, each u64, type u32,
    offset u64

and a string is its length, u64, and UTF-8. The weights begin at the next multiple of the alignment.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ablate.system.reading import plain_file

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # the first counted in 32 bits
FIXED = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}  # type → its form
STRING, ARRAY = 8, 9
MOST_BYTES = 1 << 28  # of a header; the largest vocabularies take tens of MB
MOST_ENTRIES = 1 << 16  # of metadata, and tensors
MOST_ELEMENTS = 1 << 22  # of an array; the largest list of merges has a quarter
MOST_DIMENSIONS = 4
ALIGNMENT = 32  # where the metadata names none


class Tensor(NamedTuple):
    """Where a tensor lies, and how it is stored."""

    shape: tuple[int, ...]  # the fastest dimension first, as the file has it
    kind: int  # a type of ggml: 0 float32, 1 float16, 2 Q4_0, …
    offset: int  # bytes from the beginning of the weights


@dataclass(frozen=True)
class Header:
    """What a GGUF file says before its weights."""

    metadata: dict[str, int | float | bool | str]  # of an array its number of elements
    tensors: dict[str, Tensor]
    weights: int  # bytes before the first weight


def read_header(path: Path) -> Header:
    """The header of a GGUF file. Raises FileNotFoundError, and ValueError with a short reason for what is none."""
    with plain_file(path) as file:
        return header_from(file)


def header_from(file: BinaryIO) -> Header:
    """The header at the beginning of a file. Raises ValueError."""
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    version = number(file, "<I")
    if version not in VERSIONS:
        raise ValueError(f"version {version}, and versions {' and '.join(map(str, VERSIONS))} are read")
    tensors, entries = number(file, "<Q"), number(file, "<Q")
    if max(tensors, entries) > MOST_ENTRIES:
        raise ValueError("more entries than a model has")
    metadata = {}
    for _ in range(entries):
        key = text(file)
        metadata[key] = value(file, number(file, "<I"))
    table = {}
    for _ in range(tensors):
        name, dimensions = text(file), number(file, "<I")
        if dimensions > MOST_DIMENSIONS:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        shape = tuple(number(file, "<Q") for _ in range(dimensions))
        table[name] = Tensor(shape, number(file, "<I"), number(file, "<Q"))
    if len(metadata) < entries or len(table) < tensors:
        raise ValueError("one name twice")
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= MOST_BYTES:
        raise ValueError("an alignment that is none")
    return Header(metadata, table, -(-file.tell() // alignment) * alignment)


def taken(file: BinaryIO, count: int) -> bytes:
    """The next bytes. Raises ValueError where the file ends, or its header is too long."""
    if file.tell() + count > MOST_BYTES:
        raise ValueError(f"a header of more than {MOST_BYTES >> 20} MiB")
    found = file.read(count)
    if len(found) < count:
        raise ValueError("it ends within its header")
    return found


def number(file: BinaryIO, form: str) -> int:
    return struct.unpack(form, taken(file, struct.calcsize(form)))[0]


def text(file: BinaryIO) -> str:
    try:
        return taken(file, number(file, "<Q")).decode()
    except UnicodeDecodeError as error:
        raise ValueError("a text that is not UTF-8") from error


def value(file: BinaryIO, kind: int) -> int | float | bool | str:
    """A value of metadata; of an array its number of elements, after it has been walked through. Raises ValueError."""
    if kind in FIXED:
        return number(file, FIXED[kind])
    if kind == STRING:
        return text(file)
    if kind != ARRAY:
        raise ValueError(f"a value of type {kind}")
    kind, count = number(file, "<I"), number(file, "<Q")
    if count > MOST_ELEMENTS:
        raise ValueError(f"an array of {count} elements")
    if kind in FIXED:
        taken(file, count * struct.calcsize(FIXED[kind]))
    elif kind == STRING:
        for _ in range(count):
            taken(file, number(file, "<Q"))
    else:
        raise ValueError(f"an array of type {kind}")
    return count

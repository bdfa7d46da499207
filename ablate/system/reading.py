"""Files that anyone may have changed, read with bounds on kind, size and depth. No torch here.

Every reader raises FileNotFoundError where there is no file, and ValueError with a short reason for one that it does not take. The
caller knows what the file is for, and makes the sentence with the remedy.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, BinaryIO, Literal, Union, get_args, get_origin

import yaml

from ablate.system.jsonl import decoded

MOST_BYTES = 1 << 26  # of a file of JSON or YAML; a run writes kilobytes
MOST_ROW_BYTES = 1 << 31  # of a file of rows
DEEPEST = 64  # levels of lists and mappings
MOST_NODES = 500_000  # of a YAML file, each alias counted as what it stands for
LARGEST = 1 << 63  # an integer that others than Python can hold
LONGEST_INTEGER = 40  # characters


def plain_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a plain file of at most `most` bytes. Nothing else is opened, since a pipe would block and a device may act.

    Raises FileNotFoundError, and ValueError.
    """
    with plain_file(path, most) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1)  # to ask for `most` bytes would make room for as many
        if len(data) > size:  # it grows
            data += file.read(most - size)
    if len(data) > most:
        raise ValueError(f"larger than {most >> 20} MiB")
    return data


@contextmanager
def plain_file(path: Path, most: int | None = None) -> Iterator[BinaryIO]:
    """A plain file of at most `most` bytes, open for reading in the block; with null of any size.

    Raises FileNotFoundError, and ValueError with the reason for whatever else the system refuses, also within the block.
    """
    try:
        check_plain(os.stat(path))
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            check_plain(os.fstat(descriptor), most)
            yield file
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args) from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(error.strerror) from error


def check_plain(state: os.stat_result, most: int | None = None) -> None:
    """Raises ValueError for what is no plain file, and for one of more than `most` bytes."""
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("no plain file")
    if most is not None and state.st_size > most:
        raise ValueError(f"larger than {most >> 20} MiB")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises FileNotFoundError, and ValueError."""
    try:
        value = decoded(plain_bytes(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError("not JSON") from error
    if not isinstance(value, dict):
        raise ValueError("not an object")
    check_values(value)
    return value


def check_values(value: object) -> None:
    """Raises ValueError for nesting deeper than `DEEPEST`, and for an integer that 64 bits do not hold."""
    layer = [value]
    for _ in range(DEEPEST):
        following: list[object] = []
        for entry in layer:
            if isinstance(entry, dict):
                following += entry.values()
            elif isinstance(entry, list):
                following += entry
            elif isinstance(entry, int) and not -LARGEST <= entry < LARGEST:
                raise ValueError("an integer too large")
        layer = following
        if not layer:
            return
    raise ValueError("nested too deeply")


def read_yaml(path: Path) -> Any:
    """The value in a YAML file. Raises FileNotFoundError, and ValueError."""
    return parse_yaml(plain_bytes(path).decode())


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, without tags beyond those of YAML itself. Raises ValueError.

    Aliases that stand for more than `MOST_NODES` values, or for themselves, are refused before anything is built from them.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        reader = loader(text)
        try:
            node = reader.get_single_node()
            if node is None:
                return None
            check_nodes(node)
            return reader.construct_document(node)
        finally:
            reader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from error
    except (AttributeError, IndexError, KeyError, TypeError, RecursionError) as error:  # PyYAML's, for `!!bool x` and the like
        raise ValueError("not readable as YAML") from error


def check_nodes(node: yaml.Node) -> None:
    """Raises ValueError for nodes nested deeper than `DEEPEST`, for more than `MOST_NODES` of them, and for an endless integer."""
    layer, count = [node], 0
    for _ in range(DEEPEST):
        following: list[yaml.Node] = []
        for entry in layer:
            if isinstance(entry, yaml.ScalarNode):
                if entry.tag.endswith(":int") and len(entry.value) > LONGEST_INTEGER:
                    raise ValueError("an integer too large")
            elif isinstance(entry, yaml.MappingNode):
                following += [part for pair in entry.value for part in pair]
            else:
                following += entry.value
            if count + len(following) > MOST_NODES:
                raise ValueError("more values than a file of settings holds")
        layer, count = following, count + len(following)
        if not layer:
            return
    raise ValueError("nested too deeply")


def fits(value: object, kind: Any) -> bool:
    """Whether a value of JSON or YAML is of a type as annotations write it. A whole number is a number, if a float can
    hold it; true and false are neither.

    >>> fits(1, float), fits(10**400, float), fits(True, int), fits({"a": None}, dict[str, float | None]), fits([1], list[str])
    (True, False, False, True, False)
    """
    return _test_of(kind)(value)


@cache
def _test_of(kind: Any) -> Callable[[object], bool]:
    """`fits` for one type. Taking an annotation apart costs more than the test, and a run folder has hundreds of values of a few types."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value: True
    if origin in (UnionType, Union):
        first, *others = (_test_of(part) for part in parts)
        rest = _test_of(Union[parts[1:]]) if len(others) > 1 else others[0]
        return lambda value: first(value) or rest(value)
    if origin is Literal:
        return lambda value: isinstance(value, str) and value in parts
    if origin is dict:
        of_entry = _test_of(parts[1])
        return lambda value: isinstance(value, dict) and set(map(type, value)) <= {str} and all(map(of_entry, value.values()))
    if origin in (list, tuple):
        of_entry = _test_of(parts[0])
        return lambda value: isinstance(value, list) and all(map(of_entry, value))
    if kind in (None, NoneType):
        return lambda value: value is None
    if kind is float:
        return _is_number
    if kind is bool:
        return lambda value: isinstance(value, bool)
    return lambda value: isinstance(value, kind) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max)

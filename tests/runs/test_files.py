"""Files and folders are written completely or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ablate.pipeline.preferences import read
from ablate.system.files import atomic_file, atomic_folder, partial_path, write_atomically


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_is_replaced_at_the_end_of_the_block_and_not_before(tmp_path):
    write_atomically(tmp_path / "page", "old")
    with atomic_file(tmp_path / "page") as partial:
        partial.write_text("new")
        assert (tmp_path / "page").read_text() == "old"
    assert content(tmp_path) == {"page": "new"}


def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path):
    write_atomically(tmp_path / "page", "old")
    with pytest.raises(OSError, match=r"^full$"), atomic_file(tmp_path / "page") as partial:
        partial.write_text("ne")
        raise OSError("full")
    assert content(tmp_path) == {"page": "old"}


def test_a_folder_appears_whole_over_what_a_killed_process_left(tmp_path):
    place = tmp_path / "deep" / "folder"
    partial_path(place).mkdir(parents=True)
    (partial_path(place) / "half").write_text("left")
    with atomic_folder(place) as partial:
        (partial / "inner").mkdir()
        (partial / "inner" / "file").write_text("whole")
        assert not place.exists()
    assert content(tmp_path) == {"deep/folder/inner/file": "whole"}


def test_an_existing_folder_is_replaced_only_where_that_is_asked_for(tmp_path):
    place = tmp_path / "folder"
    for number in range(2):
        with atomic_folder(place, replace=True) as partial:
            (partial / str(number)).touch()
    assert content(tmp_path) == {"folder/1": ""}
    with pytest.raises(OSError), atomic_folder(place) as partial:
        (partial / "2").touch()
    assert content(tmp_path) == {"folder/1": ""}


def test_a_folder_whose_writing_fails_is_not_there(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "folder") as partial:
        (partial / "half").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_line_separator_within_an_answer_does_not_cut_its_row(tmp_path):
    row = {"prompt": "Which?", "chosen": {"response": "one\u2028two\x85three"}, "rejected": {"response": "none"}}
    write_atomically(tmp_path / "train.jsonl", json.dumps(row, ensure_ascii=False) + "\n\n")
    assert read(tmp_path / "train.jsonl") == [row]

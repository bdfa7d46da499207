"""A file that was torn at any byte still gives its whole rows."""

from __future__ import annotations

import json

from ablate.runs.folder import read_rows
from ablate.sweeps.summary import last_samples

ROWS = [
    {"update": 0, "prompt": prompt, "response": response, "gold": 1.5, "proxy": 0.5}
    for prompt, response in (("面包 怎么 做 ?", "好 的"), ("猫", "ä"))
]
TEXT = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
FIRST = TEXT.index(b"\n") + 1


def test_the_whole_rows_are_read_wherever_the_file_ends_within_a_character_too(tmp_path):
    path = tmp_path / "samples.jsonl"
    for size in range(len(TEXT) + 1):
        path.write_bytes(TEXT[:size])
        whole = ROWS[: (size >= FIRST) + (size == len(TEXT))]
        assert read_rows(path) == whole
        assert last_samples(tmp_path) == {row["prompt"]: row for row in whole}

"""Packed sets: what comes out is what went in, to the digits promised; and the committed one keeps its promises."""

import io
import json
import re
import shutil
import subprocess
import tarfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulate import Arm, write_study

from ablate.errors import UserError
from analysis.estimate.outcomes import outcomes
from analysis.load import packed as packed_module
from analysis.load.frames import load, load_reward_models, load_rows
from analysis.load.packed import REFERENCE, SUMS, archive_of, are_packed, is_set, sums, unpack
from analysis.reference.__main__ import main
from analysis.reference.packing import CLOCK, METRIC_DIGITS, finished_runs, json_lines, pack, packed_files, thinned
from analysis.reference.packing import write_study as write_packed
from analysis.reference.readme import command

EVERY_RUN = ["vanilla/seed=0", "vanilla/seed=1", "kl/seed=0", "kl/seed=1"]
ARMS = {"vanilla": Arm(collapse_probability=1.0), "kl": Arm({"ppo.kl_penalty": True})}


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two studies of four whole run folders; the second's vanilla runs are those of the first, made at another pace."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "results"
    for name in ("one", "two"):
        study = write_study(root, ARMS, 2, np.random.default_rng(3), study=name)
        for folder in study.glob("*/*"):
            rows = [{"update": u, "prompt": p, "proxy": u + p / 3, "gold": -0.1 * p} for u in range(0, 81, 5) for p in range(2)]
            (folder / "scores.jsonl").write_text(jsonl(rows))
            texts = [{**row, "prompt": str(row["prompt"]), "response": "see /etc/hosts/ for ½"} for row in rows]
            (folder / "samples.jsonl").write_text(jsonl(texts))
            spelled = [{"update": u, "prompt": "p", "tokens": ["/etc/hosts/", "½"], "kl": [0.5, None]} for u in range(0, 81, 5)]
            (folder / "tokens.jsonl").write_text(jsonl(spelled))
            (folder / "run.log").write_text("/home/someone/secret")
            (folder / "checkpoints" / "80").mkdir(parents=True)
            (folder / "reward_model").mkdir()
            (folder / "reward_model" / "training.jsonl").write_text(jsonl([{"step": 1, "loss": 0.123456789}]))
            (folder / "reward_model" / "pairs.csv").write_text("score_difference,gold_difference\n1.23456789,0.5\n")
            pace = 1 / 3 if name == "one" else 2 / 3
            metrics = [{**json.loads(line), "time/update_s": pace} for line in (folder / "metrics.jsonl").read_text().splitlines()]
            (folder / "metrics.jsonl").write_text(jsonl(metrics))
    return root


@pytest.fixture
def packed(results, tmp_path):
    assert pack([results / "one", results / "two"], tmp_path / "packed") == []
    return tmp_path / "packed"


def test_a_packed_set_loads_like_the_runs_themselves(results, packed):
    before, after = load(results), load(packed)
    assert list(after.runs["run"]) == list(before.runs["run"]) and after.left_out.empty
    told = [outcomes(loaded.runs, loaded.curves) for loaded in (before, after)]
    for name in ("status", "event", "time", "collapsed", "stable_updates"):
        assert told[0][name].equals(told[1][name])
    names = [name for name in before.curves.select_dtypes("number") if not name.startswith(CLOCK)]
    np.testing.assert_allclose(after.curves[names], before.curves[names], rtol=0.5 * 10 ** (1 - METRIC_DIGITS), atol=0)
    assert not after.curves[names].equals(before.curves[names])  # it was rounded
    settings = [name for name in before.runs.columns if name != "folder"]
    pd.testing.assert_frame_equal(after.runs[settings], before.runs[settings])


def test_what_is_unpacked_by_command_is_what_load_reads(packed, tmp_path, capsys):
    assert main(["unpack", str(packed), "--to", str(tmp_path / "here")]) == 0
    unpacked, direct = load(tmp_path / "here"), load(packed)
    pd.testing.assert_frame_equal(unpacked.curves, direct.curves)
    assert main(["unpack", str(packed), "--to", str(tmp_path / "here")]) == 1
    assert "exists" in capsys.readouterr().err


def test_answers_token_by_token_are_packed_at_both_ends_and_at_the_collapse(packed):
    runs = load(packed / "one").runs
    tokens = load_rows(runs, "tokens")
    for run, collapse in runs.set_index("run")["collapse_update"].items():
        assert set(tokens.loc[tokens["run"] == run, "update"]) == {0, 80} | ({int(collapse)} if collapse == collapse else set())
    assert tokens["tokens"].tolist() == [["/etc/hosts/", "½"]] * len(tokens) and tokens["kl"].tolist() == [[0.5, None]] * len(tokens)


def test_a_study_of_a_packed_set_is_named_like_a_folder(packed):
    assert set(load(packed / "two").runs["run"]) == {f"two/{run}" for run in EVERY_RUN}
    with pytest.raises(UserError, match="three is not a folder"):
        load(packed / "three")


def test_a_set_is_unpacked_once_and_only_the_studies_that_are_asked_for(packed, tmp_path):
    (folder,) = {path.split("/one/")[0] for path in load(packed / "one").runs["folder"]}
    assert [path.name for path in Path(folder).iterdir() if not path.name.startswith(".")] == ["one"]
    marker = tmp_path / folder / "one" / "kept"
    marker.touch()
    load(packed)
    assert marker.exists() and {path.name for path in Path(folder).iterdir() if not path.name.startswith(".")} == {"one", "two"}
    assert [path.name for path in Path(folder).parent.iterdir()] == [Path(folder).name]


def test_a_study_is_added_replaced_and_removed_without_a_touch_to_the_others(results, tmp_path, capsys):
    out = tmp_path / "packed"
    assert main(["pack", str(results / "one"), "--out", str(out)]) == 0
    first = archive_of(out, "one").read_bytes()
    assert main(["pack", str(results / "two"), "--out", str(out)]) == 0
    assert list(sums(out)) == ["one", "two"] and archive_of(out, "one").read_bytes() == first
    assert capsys.readouterr().out.splitlines()[-1] == f"{out}: 8 runs of one, two"
    shutil.rmtree(results / "two" / "kl")
    assert main(["pack", str(results / "two"), "--out", str(out)]) == 0
    assert len(load(out).runs) == 6 and archive_of(out, "one").read_bytes() == first
    assert main(["remove", "two", "--out", str(out)]) == 0
    assert list(sums(out)) == ["one"] and {path.name for path in out.iterdir()} == {"one.tar.xz", SUMS, "README.md"}
    assert main(["remove", "three", "--out", str(out)]) == 1
    assert "has no study three: there are one" in capsys.readouterr().err


def test_checksums_are_those_that_sha256sum_reads(packed):
    lines = (packed / SUMS).read_text().splitlines()
    assert lines == [f"{sha256(archive_of(packed, study).read_bytes()).hexdigest()}  {study}.tar.xz" for study in ("one", "two")]
    archive_of(packed, "two").unlink()
    with pytest.raises(UserError, match=r"two\.tar\.xz is missing"):
        load(packed)


@pytest.mark.parametrize("line", ["", "abc  ../one.tar.xz", "abc one.tar.xz", "abc  one", "\N{GREEK SMALL LETTER ALPHA}  one.tar.xz"])
def test_a_line_that_is_no_checksum_is_refused(packed, line):
    (packed / SUMS).write_text(f"{line}\n")
    with pytest.raises(UserError, match="is damaged"):
        load(packed)


def test_equal_runs_give_equal_bytes(results, packed, tmp_path):
    for path in results.rglob("*.jsonl"):
        path.touch()
    pack([results / "two", results / "one"], tmp_path / "again")
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == {p.name: p.read_bytes() for p in packed.iterdir()}


def test_rows_are_those_of_one_evaluation_in_fifty_updates_of_both_ends_and_of_the_collapse(results, packed):
    scores = load_rows(load(packed).runs, "scores")
    full = {0, 50, 80}
    for run, collapse in load(results).runs.set_index("run")["collapse_update"].items():
        part = scores[scores["run"] == run]
        assert set(part["update"]) == full | ({int(collapse)} if not np.isnan(collapse) else set())
        assert len(part) == 2 * part["update"].nunique()
    assert set(scores["proxy"]) <= {float(f"{value:.4g}") for u in range(0, 81, 5) for value in (u, u + 1 / 3)}


def test_the_rules_of_thinning_and_rounding_by_hand():
    rows = [{"update": update} for update in (0, 5, 10, 15, 20, 25) for _ in range(2)]
    assert [row["update"] for row in thinned(rows, 20, 12)] == [0, 0, 15, 15, 20, 20, 25, 25]
    assert [row["update"] for row in thinned(rows, 20, None)] == [0, 0, 20, 20, 25, 25] and thinned([], None, 12) == []
    assert [row["update"] for row in thinned([{"update": update} for update in range(0, 100, 7)], None, 50)] == [0, 56, 98]
    line = json_lines([{"a": 123456.789, "eval/a": 123456.789, "n": 123456, "time/update_s": 0.012345, "t": "é", "x": None}], 4)
    assert line == '{"a": 123500.0, "eval/a": 123460.0, "n": 123456, "time/update_s": 0.012, "t": "é", "x": null}\n'


def test_shared_files_are_stored_once_and_owned_by_each_run(results, tmp_path):
    source, packed = results / "one", tmp_path / "packed"
    shutil.copytree(source / "vanilla" / "seed=1", source / "vanilla" / "seed=2")
    metrics = source / "vanilla" / "seed=2" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"time/update_s": 0.3', '"time/update_s": 0.6'))  # another pace, the same run
    contents = {name: content for run in finished_runs([source])[0] for name, content in packed_files(run)}
    packed.mkdir()
    write_packed(packed, "one", contents)
    with tarfile.open(archive_of(packed, "one")) as archive:
        links = {member.name: member.linkname for member in archive.getmembers() if member.islnk()}
        names = archive.getnames()
    assert sum(name.endswith("pairs.csv") and name not in links for name in names) == 1
    assert links["one/vanilla/seed=2/metrics.jsonl"] == "one/vanilla/seed=1/metrics.jsonl"
    unpack(packed, tmp_path / "here")
    first, second = (tmp_path / "here" / "one" / "vanilla" / f"seed={seed}" for seed in (1, 2))
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    (second / "metrics.jsonl").write_text("changed")
    assert "changed" not in (first / "metrics.jsonl").read_text()


def test_reward_models_travel_whole(packed):
    training, pairs = load_reward_models(load(packed).runs)
    assert len(training) == len(pairs) == 8
    assert set(training["loss"]) == {0.123456789} and set(pairs["score_difference"]) == {1.23456789}


def test_a_run_is_of_a_packed_set_where_its_folder_lies_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = ["ppo-ablation-packed/1f/s/a/seed=0", "ppo-ablation-packed-too/1f/s/a/seed=0", "results/s/a/seed=0"]
    assert are_packed([str(tmp_path / folder) for folder in folders]) == [True, False, False]


def test_no_log_and_no_path_of_this_machine_is_packed(results, tmp_path):
    config = results / "one" / "kl" / "seed=0" / "config.yaml"
    config.write_text(config.read_text() + "results: /home/someone/results\ncache: /home/someone/cache\n")
    pack([results / "one"], tmp_path / "packed")
    with tarfile.open(archive_of(tmp_path / "packed", "one")) as archive:
        contents = {name: archive.extractfile(name).read() for name in archive.getnames()}
    assert not any("log" in name or "checkpoints" in name for name in contents)
    assert not any(b"/home" in content for content in contents.values())
    config.write_text(config.read_text() + "sft:\n  path: /home/someone/sft\n")
    with pytest.raises(UserError, match="/home/someone/sft"):
        pack([results / "one"], tmp_path / "refused")


def test_runs_that_have_not_ended_are_left_out_by_name(results, tmp_path, capsys):
    (results / "one" / "kl" / "seed=1" / "summary.json").unlink()
    assert main(["pack", str(results / "one"), "--out", str(tmp_path / "packed")]) == 0
    assert "left out: one/kl/seed=1: running" in capsys.readouterr().out
    assert len(load(tmp_path / "packed").runs) == 3
    readme = (tmp_path / "packed" / "README.md").read_text()
    assert "3 real runs" in readme and "Not in the set, as they did not end or were not made: one/kl/seed=1." in readme
    assert str(tmp_path) not in readme
    shutil.rmtree(results / "one" / "kl")
    shutil.rmtree(results / "one" / "vanilla")
    assert main(["pack", str(results / "one"), "--out", str(tmp_path / "nothing")]) == 1
    assert "no finished run" in capsys.readouterr().err


def test_the_readme_says_what_is_in_the_set_and_how_it_was_made(results, tmp_path):
    summary = results / "two" / "kl" / "seed=0" / "summary.json"
    record = {"code": "0123456789ab", "packages": {}, "processor": "a processor", "threads": 2}
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "numerics": record, "wall_seconds": 3600.0}))
    assert main(["pack", str(results / "one"), str(results / "two"), "--out", str(tmp_path / "packed")]) == 0
    readme = (tmp_path / "packed" / "README.md").read_text()
    assert "| one | 2 | 4 | 2 seeds, one reward model | 80 | 2 | too few to decide | kl, vanilla |" in readme
    assert "python -m ablate.run -m sweep=two 'seed=range(2)'\n" in readme and "make reference" not in readme
    assert re.search(r"\| two \| 0\.0 \| 0123456789ab and not recorded \| abc \| a processor and not recorded \|", readme)
    assert "| 2 and not recorded | 1.1 h | not recorded |" in readme  # one run of an hour, three of a minute
    assert "- two: ppo-ablation 0.1.0." in readme


def test_the_readme_marks_a_study_of_one_seed_and_names_the_target_that_makes_one_over_reward_models(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    alone = write_study(tmp_path / "results", ARMS, 1, np.random.default_rng(0), study="alone")
    over = write_study(tmp_path / "results", ARMS, 1, np.random.default_rng(0), reward_models=3, study="over")
    draws = write_study(tmp_path / "results", ARMS, 1, np.random.default_rng(0), reward_models=3, study="policy_constraints")
    assert main(["pack", str(alone), str(over), str(draws), "--out", str(tmp_path / "packed")]) == 0
    readme = (tmp_path / "packed" / "README.md").read_text()
    assert "| alone | 2 | 2 | 1 seed, one reward model | 80 | 1 | layout only, one seed | kl, vanilla |" in readme
    assert "| over | 2 | 6 | 3 reward models, one seed each | 80 | 3 | too few to decide | kl, vanilla |" in readme
    assert "python -m ablate.run -m sweep=over 'seed=range(3)' 'pipeline_seed=${seed}'\n" in readme  # which make does not give
    made = "python -m ablate.run -m sweep=policy_constraints 'seed=range(3)'"
    assert re.search(rf"^{re.escape(made)} +# = make reference STUDY=policy_constraints SEEDS=3$", readme, re.MULTILINE)


def test_make_makes_a_study_by_the_command_of_the_readme_and_packs_it():
    made = ["make", "-n", "--no-print-directory", "-o", ".venv/installed", "reference", "STUDY=kl_frontier"]
    lines = subprocess.run(made, cwd=REFERENCE.parents[1], capture_output=True, text=True, check=True).stdout.splitlines()
    runs = pd.DataFrame({"seed": range(8), "pipeline_seed": range(8)})
    assert lines[-2] == f".venv/bin/{command('kl_frontier', runs)} tracker=none"
    assert lines[-1] == ".venv/bin/python -m analysis.reference pack results/kl_frontier"
    unnamed = subprocess.run(["make", *made[2:-1]], cwd=REFERENCE.parents[1], capture_output=True, text=True)
    assert unnamed.returncode != 0 and unnamed.stdout == "name the study: make reference STUDY=policy_constraints\n"


def test_a_damaged_archive_is_refused(packed):
    data = bytearray(archive_of(packed, "two").read_bytes())
    data[len(data) // 2] ^= 1
    archive_of(packed, "two").write_bytes(data)
    assert len(load(packed / "one").runs) == 4
    with pytest.raises(UserError, match="damaged"):
        load(packed)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, link, size
    return found


HOSTILE = {
    "upwards": [member("../outside", size=1)],
    "upwards from within": [member("one/../../outside", size=1)],
    "absolute": [member("/tmp/outside-of-the-set", size=1)],
    "symbolic link": [member("one/link", tarfile.SYMTYPE, "/tmp"), member("one/link/outside", size=1)],
    "chain of links": [member(f"one/{n}", tarfile.SYMTYPE, f"{n + 1}/" + "a" * 200) for n in range(30)],
    "hard link with an absolute name": [member("one/link", tarfile.LNKTYPE, "/etc/hostname")],
    "hard link upwards": [member("one/link", tarfile.LNKTYPE, "../../outside")],
    "hard link to what comes later": [member("one/link", tarfile.LNKTYPE, "one/file"), member("one/file", size=1)],
    "device": [member("one/null", tarfile.CHRTYPE)],
    "pipe": [member("one/pipe", tarfile.FIFOTYPE)],
    "one name twice": [member("one/file", size=1), member("one/file", size=1)],
    "of another study": [member("two/file", size=1)],
    "a file in place of the study": [member("one", size=1)],
    "a name of a thousand characters": [member("one/" + "a/" * 600 + "b", size=1)],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_an_archive_holds_plain_files_below_its_folder_or_nothing_is_written(case, tmp_path):
    packed, to = tmp_path / "packed", tmp_path / "to" / "here"
    packed.mkdir()
    with tarfile.open(archive_of(packed, "one"), "w:xz") as archive:
        archive.addfile(member("one/good", size=1), io.BytesIO(b"x"))
        for info in HOSTILE[case]:
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    (packed / SUMS).write_text(f"{sha256(archive_of(packed, 'one').read_bytes()).hexdigest()}  one.tar.xz\n")
    with pytest.raises(UserError, match="is unsafe and was not unpacked"):
        unpack(packed, to)
    assert not to.exists() and not list(tmp_path.rglob("outside")) and not Path("/tmp/outside-of-the-set").exists()


def test_an_archive_of_too_many_bytes_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(packed_module, "MOST_BYTES", 5)
    packed, to = tmp_path / "packed", tmp_path / "to"
    packed.mkdir()
    with tarfile.open(archive_of(packed, "one"), "w:xz") as archive:
        for number in range(2):
            archive.addfile(member(f"one/{number}", size=3), io.BytesIO(b"xyz"))
    (packed / SUMS).write_text(f"{sha256(archive_of(packed, 'one').read_bytes()).hexdigest()}  one.tar.xz\n")
    with pytest.raises(UserError, match="it holds more than"):
        unpack(packed, to)
    assert not to.exists()


needs_reference = pytest.mark.skipif(not is_set(REFERENCE), reason="results/reference is not in this checkout")


@needs_reference
def test_the_committed_set_is_whole_small_and_agrees_with_its_summaries():
    loaded = load(REFERENCE)
    assert sum(path.stat().st_size for path in REFERENCE.iterdir()) < 30e3 * len(loaded.runs)  # 15 MB for 500 runs
    assert loaded.left_out.empty and set(loaded.runs["status"]) <= {"completed", "diverged"}
    seeds = loaded.runs.groupby(["study", "arm"])["seed"].nunique()
    assert (seeds == seeds.groupby("study").transform("max")).all()  # no arm lacks a seed
    readme = (REFERENCE / "README.md").read_text()
    for study, fewest in seeds.groupby("study").min().items():
        words = "layout only, one seed" if fewest == 1 else "evidence" if fewest >= 5 else "too few to decide"
        assert re.search(rf"^\| {study} \|.*\| {words} \|", readme, re.MULTILINE), study
    told = outcomes(loaded.runs, loaded.curves)
    assert (told["collapsed"] == loaded.runs["collapsed"].astype(float)).all()
    assert f"{len(loaded.runs)} real runs" in (REFERENCE / "README.md").read_text()


def test_a_figure_of_an_unknown_kind_is_refused_in_a_sentence(results, tmp_path, capsys):
    assert main(["figure", str(results), "--out", str(tmp_path / "opening.doc")]) == 1
    assert capsys.readouterr().err.startswith("error: --out ") and not (tmp_path / "opening.doc").exists()

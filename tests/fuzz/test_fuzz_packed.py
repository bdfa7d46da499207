"""Packed sets damaged at random: a folder of runs, or one sentence; nothing outside of the folder that was named, and no other end."""

from __future__ import annotations

import hashlib
import io
import lzma
import random
import signal
import tarfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from ablate.errors import UserError
from analysis.load.packed import SUMS, archive_of, resolve, unpack

FEW, MANY = 250, 5000
NAMES = (
    "s/a/seed=0/config.yaml", "s/a/seed=0/metrics.jsonl", "s/a/seed=0", "s/a", "s", "../out/x", "/out/x", "s/../../out/x", ".", "..", "",
    "s//a", "s/./a", "a\\..\\b", "x" * 300, "s/" * 200 + "x", "ü/研究", "s/a\n", "s/\udcff", "link/x", "link", "CON", " ",
)  # fmt: skip
KINDS = (tarfile.REGTYPE, tarfile.REGTYPE, tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE,
         tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, b"9")  # fmt: skip


@contextmanager
def within(seconds: float):
    """Raises TimeoutError in the block after so many seconds."""

    def ring(number, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def an_archive(rng: random.Random, out: Path) -> bytes:
    """A tar of a few members, plain ones or any other, whose names and links may lead out."""
    buffer = io.BytesIO()
    form = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    targets = (*NAMES, str(out), str(out / "sentinel"), "../" * 12 + str(out)[1:])
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for _ in range(rng.choice((1, 2, 3, 6))):
            honest = rng.random() < 0.6
            member = tarfile.TarInfo(f"s/a/seed={rng.randrange(3)}/config.yaml" if honest else rng.choice(targets))
            member.type = tarfile.REGTYPE if honest else rng.choice(KINDS)
            member.linkname = rng.choice(targets) if member.type in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            member.mode, content = rng.choice((0o644, 0o4777, 0)), b"seed: 0\n" * rng.randrange(5)
            member.size = len(content) if member.isreg() else 0
            if form == tarfile.PAX_FORMAT and rng.random() < 0.2:
                member.pax_headers = rng.choice(({"path": "../out/y"}, {"size": "99999999"}, {"mtime": "nan"}, {"linkpath": str(out)}))
            try:
                archive.addfile(member, io.BytesIO(content))
            except (ValueError, UnicodeError):  # a name that this format does not hold
                continue
    return buffer.getvalue()


def damaged(data: bytes, rng: random.Random) -> bytes:
    at, end = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
    return rng.choice(
        (
            data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
            data[:at],
            data[:at] + data[end:],
            data[:end] + data[at:],
            b"",
            data + data,
        )
    )


def attack(trials: int, folder: Path) -> Counter:
    rng, ends = random.Random(5), Counter()
    out = folder / "out"
    out.mkdir()
    (out / "sentinel").write_text("whole")
    (out / "sentinel").chmod(0o600)
    packed = folder / "packed"
    packed.mkdir()
    for trial in range(trials):
        tar = an_archive(rng, out)
        tar = damaged(tar, rng) if rng.random() < 0.4 else tar
        data = lzma.compress(tar, preset=0)
        data = damaged(data, rng) if rng.random() < 0.15 else data
        archive_of(packed, "s").write_bytes(data)
        sums = f"{hashlib.sha256(data).hexdigest()}  s.tar.xz\n".encode()
        (packed / SUMS).write_bytes(damaged(sums, rng) if rng.random() < 0.05 else sums)
        to = folder / "to" / str(trial)
        try:
            with within(10):
                if trial % 2:
                    to.mkdir(parents=True)
                    unpack(packed, to)
                else:
                    to = resolve(packed)
            ends["unpacked"] += 1
        except UserError as error:
            assert "\n" not in str(error) and str(error).isprintable(), str(error)
            ends["refused"] += 1
            continue
        for path in to.rglob("*"):
            assert not path.is_symlink() and (path.is_dir() or path.is_file()) and path.stat().st_nlink >= 1
            assert path.is_dir() or path.stat().st_nlink == 1
    assert sorted(path.name for path in folder.iterdir()) == sorted({"out", "packed", "to", "cache"} & {p.name for p in folder.iterdir()})
    assert [path.name for path in out.iterdir()] == ["sentinel"]
    assert (out / "sentinel").read_text() == "whole" and (out / "sentinel").stat().st_mode & 0o777 == 0o600
    print(f"archives tried: {trials:,} ({dict(ends)})")
    return ends


@pytest.mark.parametrize("trials", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_a_damaged_set_is_unpacked_or_refused_and_nothing_else_is_touched(trials, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ends = attack(trials, tmp_path)
    assert sum(ends.values()) == trials and min(ends["unpacked"], ends["refused"]) > trials // 20

"""What processes tell each other, with three of them and no models."""

from __future__ import annotations

import traceback
from itertools import chain
from pathlib import Path

import pytest
import torch
from several import together_do

from ablate.errors import Diverged, UserError
from ablate.ppo.rollout import gather_rollout
from ablate.ppo.types import Rollout
from ablate.runs.store import ReadOnlyRunStore, RunStore
from ablate.system import distributed

COUNT, PROMPT, PAD = 7, 2, 9


def whole_rollout() -> Rollout:
    """Seven responses of one to seven tokens: the last process has the longest."""
    lengths = torch.arange(1, COUNT + 1)
    mask = torch.arange(COUNT) < lengths[:, None]
    tokens = torch.where(mask, torch.arange(COUNT * COUNT).view(COUNT, COUNT) + 10, PAD)
    numbers = torch.where(mask, tokens / 7, 0.0)
    return Rollout(
        tokens=torch.cat([torch.full((COUNT, PROMPT), 3), tokens], 1), attention=torch.cat([torch.ones(COUNT, PROMPT).bool(), mask], 1),
        mask=mask, ended=lengths % 2 == 0, logprobs=numbers, ref_logprobs=numbers + mask, kl=numbers * 2, entropy=numbers * 3,
        values=numbers * 4, last_value=lengths / 3, score=lengths / 9, prompt_nll=lengths * 0.5,
    )  # fmt: skip


def own_rows_come_together_as_the_whole_rollout(rank: int) -> None:
    rollout = whole_rollout()
    own = torch.arange(COUNT)[distributed.rank_slice(COUNT)]
    assert len(own) == [2, 2, 3][rank]
    gathered = gather_rollout(rollout.rows(own), PAD)
    for name, expected in vars(rollout).items():
        found = getattr(gathered, name)
        assert found is None if expected is None else torch.equal(found, expected), name


def shares_of_sorted_rows_are_nearly_equal_and_complete(rank: int) -> None:
    lengths = torch.tensor([9, 9, 8, 7, 5, 5, 2])
    shares = distributed.all_gather_object(distributed.strided_rank_shard(lengths).tolist())
    assert sorted(chain.from_iterable(shares), reverse=True) == lengths.tolist()
    assert [sum(share) for share in shares] == [18, 14, 13]


def gradients_are_summed_whatever_the_bucket_holds(rank: int) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in [(3,), (2, 2), (1,), ()]]
    for size in (1, 4, 100):
        distributed.BUCKET = size
        for factor, parameter in enumerate(parameters[:3], 1):
            parameter.grad = torch.full(parameter.shape, factor * 10.0**rank)
        distributed.sum_gradients(parameters)
        for factor, parameter in enumerate(parameters[:3], 1):
            assert torch.equal(parameter.grad, torch.full(parameter.shape, factor * 111.0))
        assert parameters[3].grad is None


def terms_are_summed_but_for_the_largest(rank: int) -> None:
    assert distributed.sum_terms({"a": float(rank), "b": float(-rank)}, largest=["b"]) == {"a": 3.0, "b": 0.0}


def an_error_of_one_is_raised_in_all(rank: int) -> None:
    for kind in (UserError, Diverged):
        with pytest.raises(kind, match="of process 1"), distributed.raise_on_all_ranks():
            if rank == 1:
                raise kind("of process 1")
    with pytest.raises(UserError, match="of the main"):
        distributed.from_main(lambda: refuse("of the main"))
    assert distributed.from_main(lambda: rank) == 0
    assert distributed.any_process(rank == 2) and not distributed.any_process(False)


def refuse(reason: str) -> None:
    raise UserError(reason)


def do_all(rank: int, log: Path) -> None:
    """Every claim in turn; what went wrong is in the log."""
    try:
        for claim in CLAIMS:
            claim(rank)
    except BaseException:
        log.with_suffix(f".{rank}").write_text(traceback.format_exc())
        raise


CLAIMS = [
    own_rows_come_together_as_the_whole_rollout,
    shares_of_sorted_rows_are_nearly_equal_and_complete,
    gradients_are_summed_whatever_the_bucket_holds,
    terms_are_summed_but_for_the_largest,
    an_error_of_one_is_raised_in_all,
]


@pytest.mark.slow
def test_three_processes_share_rows_gradients_terms_and_errors(tmp_path):
    log = tmp_path / "log"
    assert together_do(do_all, 3, log) == [0, 0, 0], "\n".join(path.read_text() for path in tmp_path.glob("log.*"))


def test_one_process_is_told_nothing_and_keeps_its_tensors():
    rollout, rows = whole_rollout(), torch.arange(5)
    assert distributed.world_size() == 1 and distributed.is_main() and not torch.distributed.is_initialized()
    assert gather_rollout(rollout, PAD) is rollout
    assert distributed.rank_slice(5) == slice(0, 5)
    assert torch.equal(distributed.strided_rank_shard(rows), rows)
    assert distributed.from_main(lambda: rows) is rows


def test_a_process_that_does_not_write_has_an_answer_to_everything_the_run_asks_of_its_folder():
    asked_of_the_main_alone = {"checkpoints", "close"}
    assert {name for name in vars(RunStore) if name[0] != "_"} - asked_of_the_main_alone <= vars(ReadOnlyRunStore).keys()

import pytest
import torch

from gleanseg.engine.terms import combine, gather
from gleanseg.types import Mean, Memo, Pooled


def mean(total: float, count: float) -> Mean:
    return Mean(torch.tensor(total, requires_grad=True), torch.tensor(count))


def test_one_rank_divides_once_and_weighs() -> None:
    loss, values = combine({"a": mean(6.0, 3.0).scaled(0.5), "b": mean(0.0, 0.0)}, world=1, all_reduce=lambda t: t)
    assert loss.item() == 1.0
    assert {k: float(v) for k, v in values.items()} == {"a": 2.0, "b": 0.0}


def test_unequal_counts_over_ranks_give_the_true_mean() -> None:
    # 3.0 over 6 pairs here and 0.2 over 1 there: 3.2 / 7, not the mean of means 0.35.
    other = torch.tensor([0.2, 1.0])
    local = mean(3.0, 6.0)
    loss, values = combine({"a": local}, world=2, all_reduce=lambda t: t + other)
    assert float(values["a"]) == pytest.approx(3.2 / 7)
    loss.backward()
    # DDP halves this rank's gradient: d(global mean)/d(local total) = 1 / 7.
    assert float(local.total.grad) / 2 == pytest.approx(1 / 7)


def test_pooled_takes_the_global_value_and_the_local_gradient() -> None:
    sums = torch.tensor([2.0, 8.0], requires_grad=True)
    other = torch.tensor([1.0, 2.0])
    term = Pooled(sums, lambda s: 1 - 2 * s[0] / s[1])
    loss, values = combine({"d": term}, world=2, all_reduce=lambda t: t + other)
    assert float(values["d"]) == pytest.approx(1 - 2 * 3 / 10)
    loss.backward()
    assert (sums.grad / 2).tolist() == pytest.approx([-2 / 10, 2 * 3 / 100])


def test_memos_of_all_ranks_lie_one_below_the_other() -> None:
    mine = Memo(torch.tensor([[1.0, 2.0]]))
    other = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]])  # what rank 0 adds
    found = gather({"m": mine, "a": mean(1.0, 1.0)}, rank=1, world=2, all_reduce=lambda t: t + other)
    assert {name: rows.tolist() for name, rows in found.items()} == {"m": [[3.0, 4.0], [1.0, 2.0]]}
    assert gather({"m": mine}, rank=0, world=1, all_reduce=lambda t: 0 * t)["m"] is mine.rows
    loss, values = combine({"m": mine, "a": mean(1.0, 1.0)}, world=1, all_reduce=lambda t: t)
    assert (loss.item(), list(values)) == (1.0, ["a"])

import pytest
import torch

from gleanseg.engine.terms import combine
from gleanseg.types import Mean, Pooled


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

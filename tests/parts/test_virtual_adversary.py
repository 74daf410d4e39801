import pytest
import torch
from torch import Tensor

from gleanseg.parts.virtual_adversary import worst_perturbation
from gleanseg.types import Mean

KEY = torch.tensor([3, 4])
X = torch.rand(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
W = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(1))


def moved(changed: Tensor) -> Mean:
    """The squared change of each row's projection on W: W is the direction that moves it most."""
    apart = ((changed - X) * W).sum((1, 2, 3, 4)).square()
    return Mean(apart.sum(), torch.tensor(float(len(X))))


def test_one_step_finds_the_direction_that_moves_most() -> None:
    d = worst_perturbation(moved, X, KEY, xi=0.1, epsilon=0.5)
    unit = W / W.square().mean().sqrt()
    for row in d[:, 0]:
        sign = torch.sign((row * W).sum())
        torch.testing.assert_close(row, 0.5 * sign * unit)


def test_its_size_is_a_root_mean_square_even_where_gradients_are_tiny() -> None:
    tiny = worst_perturbation(lambda x: Mean(1e-30 * moved(x).total, moved(x).count), X, KEY, xi=0.1, epsilon=0.01)
    assert tiny.square().mean((1, 2, 3, 4)).sqrt().tolist() == pytest.approx([0.01, 0.01], rel=1e-5)


def test_rows_start_from_their_own_keys_and_need_no_gradient_outside() -> None:
    def one(changed: Tensor) -> Mean:
        return Mean((changed.sin() * changed).sum(), torch.tensor(1.0))

    with torch.no_grad():
        both = worst_perturbation(one, X, KEY, xi=0.5, epsilon=1.0)
        alone = worst_perturbation(one, X[1:], KEY[1:], xi=0.5, epsilon=1.0)
    torch.testing.assert_close(both[1:], alone)
    assert not both.requires_grad
    start = worst_perturbation(one, X, KEY, xi=0.5, epsilon=1.0, iterations=0)
    assert start.square().mean((1, 2, 3, 4)).sqrt().tolist() == pytest.approx([1.0, 1.0], rel=1e-5)

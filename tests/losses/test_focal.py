import math

import pytest
import torch

from gleanseg.losses.bce import partial_bce
from gleanseg.losses.focal import partial_focal

KNOWN, VALID = torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1, 1, 2, dtype=torch.bool)


def test_values_by_hand() -> None:
    z = torch.full((1, 1, 1, 1, 2), math.log(3))  # p = 3/4
    y = torch.tensor([1, 0]).reshape(1, 1, 1, 1, 2)  # p_t = 3/4, 1/4
    right, wrong = (1 / 4) ** 2 * math.log(4 / 3), (3 / 4) ** 2 * math.log(4)
    assert partial_focal(z, y, KNOWN, VALID).total.item() == pytest.approx((right + wrong) / 2)
    balanced = partial_focal(z, y, KNOWN, VALID, alpha=0.2)
    assert balanced.total.item() == pytest.approx((0.2 * right + 0.8 * wrong) / 2)
    assert balanced.count.item() == 1


def test_without_focus_it_is_cross_entropy() -> None:
    z, y = torch.randn(2, 3, 4, 4, 4), torch.rand(2, 3, 4, 4, 4) < 0.3
    known, valid = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 4, 4, 4, dtype=torch.bool)
    torch.testing.assert_close(
        partial_focal(z, y, known, valid, gamma=0.0).total, partial_bce(z, y, known, valid).total
    )

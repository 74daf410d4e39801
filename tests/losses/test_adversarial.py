import math

import pytest
import torch

from gleanseg.losses.adversarial import deceive, tell_apart

KNOWN = torch.tensor([[True, False], [False, False]])


def test_who_cannot_tell_pays_one_bit() -> None:
    term = tell_apart(torch.zeros(2, 2), KNOWN)
    assert term.count.item() == 4
    assert (term.total / term.count).item() == pytest.approx(math.log(2))


def test_telling_apart_is_learning_what_is_known() -> None:
    right = torch.where(KNOWN, 9.0, -9.0)
    assert tell_apart(right, KNOWN).total.item() < 1e-3
    assert tell_apart(-right, KNOWN).total.item() == pytest.approx(36, abs=1e-2)


def test_unknown_pairs_are_to_look_annotated() -> None:
    scores = torch.tensor([[5.0, 0.0], [math.log(3), -100.0]], requires_grad=True)
    term = deceive(scores, ~KNOWN)
    assert term.count.item() == 3
    assert term.total.item() == pytest.approx(math.log(2) + math.log(4 / 3) + 100)
    term.total.backward()
    assert scores.grad is not None
    assert scores.grad[0, 0] == 0
    assert scores.grad[~KNOWN].max() < 0, "descent raises their scores"
    assert deceive(scores, torch.zeros_like(KNOWN)).total.item() == 0

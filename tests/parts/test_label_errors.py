"""Confident learning by hand, for one ROI."""

import torch
from torch import Tensor

from gleanseg.parts.label_errors import label_errors

DRAWN = torch.tensor([True, True, True, False, False, False, False])
P = torch.tensor([0.9, 0.8, 0.2, 0.1, 0.1, 0.1, 0.7])


def wrong(drawn: Tensor, p: Tensor, valid: Tensor | None = None) -> list[bool]:
    rows = (t.reshape(1, 1, 1, 1, -1) for t in (drawn, p))
    valid = torch.ones_like(drawn) if valid is None else valid
    found: list[bool] = label_errors(*rows, valid.reshape(1, 1, 1, -1)).flatten().tolist()
    return found


def test_voxels_that_look_like_the_other_class_are_wrong() -> None:
    # Drawn voxels have 0.633 on average, the others 0.75 of the other class: 0.2 and 0.7 are confidently the other.
    assert wrong(DRAWN, P) == [False, False, True, False, False, False, True]


def test_the_share_holds_for_voxels_that_are_confidently_of_neither() -> None:
    # Of 6 drawn voxels 2 are confidently drawn (0.583 on average) and 1 is confidently not; that is a third of all 6.
    drawn = torch.tensor([True] * 6 + [False] * 2)
    p = torch.tensor([0.95, 0.95, 0.5, 0.5, 0.5, 0.1, 0.1, 0.2])
    found = wrong(drawn, p)
    assert found[5], "the least probable one"
    assert sum(found[:6]) == 2
    assert not any(found[6:])


def test_right_and_hopeless_masks_have_no_error() -> None:
    assert not any(wrong(DRAWN, DRAWN.float()))
    assert not any(wrong(torch.zeros_like(DRAWN), P))
    assert not any(wrong(torch.ones_like(DRAWN), P))


def test_padding_neither_is_judged_nor_judges() -> None:
    valid = torch.ones(9, dtype=torch.bool)
    valid[[0, 4]] = False
    drawn, p = (torch.zeros(9, dtype=t.dtype).masked_scatter(valid, t) for t in (DRAWN, P))
    drawn[0], p[4] = True, 1.0  # both would be wrong
    found = torch.tensor(wrong(drawn, p, valid))
    assert found[valid].tolist() == wrong(DRAWN, P)
    assert not found[~valid].any()


def test_pairs_are_judged_apart() -> None:
    drawn = torch.stack([DRAWN, ~DRAWN]).reshape(1, 2, 1, 1, -1)
    found = label_errors(drawn, torch.stack([P, 1 - P]).reshape(1, 2, 1, 1, -1), torch.ones(1, 1, 1, 7) > 0)
    assert torch.equal(found[:, 0], found[:, 1])
    assert found[0, 0].flatten().tolist() == wrong(DRAWN, P)

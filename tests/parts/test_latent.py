"""Routing and sharpening by their definitions."""

import pytest
import torch

from gleanseg.parts.latent import correctness, pair_weights, route, sharpened


def test_thresholds_are_strict() -> None:
    scores = torch.tensor([[0.8, 0.80001, 0.1, 0.09999, 0.5, 0.95]])
    known = torch.tensor([[False, False, False, False, False, True]])
    routes = route(scores, known, 0.8, 0.1)
    assert routes.positive.tolist() == [[False, True, False, False, False, False]]
    assert routes.negative.tolist() == [[False, False, False, True, False, False]]
    assert routes.ambiguous.tolist() == [[True, False, True, False, True, False]]


def test_routes_are_a_partition_of_the_unknown_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, known = torch.rand(50, 11, generator=generator), torch.rand(50, 11, generator=generator) < 0.3
    routes = route(scores, known, 0.7, 0.2)
    assert torch.equal(sum(mask.int() for mask in routes), (~known).int())
    assert torch.equal(routes.latent, routes.positive | routes.negative)


def test_each_roi_may_have_its_own_thresholds() -> None:
    scores = torch.full((1, 2), 0.6)
    routes = route(scores, torch.zeros(1, 2, dtype=torch.bool), torch.tensor([0.5, 0.9]), torch.tensor([0.1, 0.7]))
    assert routes.positive.tolist() == [[True, False]]
    assert routes.negative.tolist() == [[False, True]]


def test_sharpening_is_the_power_form() -> None:
    q = torch.tensor([0.45, 0.55, 0.5, 0.2], dtype=torch.float64)
    powers = q**10 / (q**10 + (1 - q) ** 10)
    torch.testing.assert_close(sharpened(q.logit(), 0.1), powers)
    assert sharpened(torch.tensor(0.45).logit(), 0.1).item() == pytest.approx(0.118, abs=1e-3)
    assert sharpened(torch.tensor(0.55).logit(), 0.1).item() == pytest.approx(0.881, abs=1e-3)
    assert torch.isfinite(sharpened(torch.tensor([-1e4, 1e4]), 0.1)).all()


def test_the_mean_does_not_depend_on_how_many_rois_there_are() -> None:
    loss = torch.tensor([[1.0, 3.0, 0.0], [5.0, 0.0, 0.0]])
    chosen = torch.tensor([[True, True, False], [True, False, False]])
    expected = {"sample": (2 + 5) / 2, "sum": (4 + 5) / 2, "pair": 9 / 3}
    for reduction, value in expected.items():
        weight, count = pair_weights(chosen, reduction)  # type: ignore[arg-type]
        assert (loss * weight).sum() / count.sum() == pytest.approx(value)
    twice, count = pair_weights(torch.cat([chosen, chosen], 1), "sample")
    assert (torch.cat([loss, loss], 1) * twice).sum() / count.sum() == pytest.approx(expected["sample"])


def test_a_case_with_nothing_chosen_does_not_count() -> None:
    weight, count = pair_weights(torch.tensor([[False, False], [True, True]]), "sample")
    assert weight.tolist() == [[0.0, 0.0], [0.5, 0.5]]
    assert count.sum().item() == 1


def test_decisions_are_compared_with_what_was_hidden() -> None:
    routes = route(torch.tensor([[0.9, 0.9, 0.05, 0.05]]), torch.zeros(1, 4, dtype=torch.bool), 0.8, 0.1)
    present = torch.tensor([[True, False, False, True]])
    found = correctness(routes, present, torch.tensor([[True, True, True, False]]))
    assert (found["right_positive"].total.item(), found["right_positive"].count.item()) == (1, 2)
    assert (found["right_negative"].total.item(), found["right_negative"].count.item()) == (1, 1)

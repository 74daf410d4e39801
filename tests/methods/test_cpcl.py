"""What cyclic prototype consistency promises beyond the contracts."""

import pytest
import torch
from torch.nn import functional

from gleanseg.methods.cpcl import CPCL
from gleanseg.types import Batch, Monitor
from support.batches import make_batch
from support.steps import LATE, made, mean, moved_by


def with_another_teacher(**options: object) -> CPCL:
    method = made(CPCL, **options)
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        method.teacher.head.classifier.bias.zero_()  # type: ignore[operator, union-attr]
    return method


def whole(batch: Batch) -> Batch:
    """Labelled rows know everything, and every voxel is valid."""
    known = torch.zeros_like(batch.known)
    known[: batch.num_labelled] = True
    return batch._replace(known=known, valid=torch.ones_like(batch.valid))


def test_the_cycle_of_one_pair_is_the_formula() -> None:
    batch = whole(make_batch(rows=2, num_labelled=1))
    method = with_another_teacher(level="bottleneck")
    x, size = batch.x, batch.x["weak"].shape[2:]
    f_l = method.student.encode(x["strong"])[-1][0]
    z_l, y = method.student(x["strong"])[0], batch.y()[0]
    f_u, z_u = (t[1] for t in (method.teacher.eval().encode(x["weak"])[-1], method.teacher(x["weak"])))

    def centre(f: torch.Tensor, mask: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        w = functional.adaptive_avg_pool3d((mask * p)[None], f.shape[1:])[0]
        return (f * w).sum((1, 2, 3)) / w.sum()

    def predicted(f: torch.Tensor, inside: torch.Tensor, outside: torch.Tensor) -> torch.Tensor:
        cosines = [functional.cosine_similarity(f, c[:, None, None, None], dim=0) for c in (outside, inside)]
        large = functional.interpolate(20 * torch.stack(cosines)[None], size=size, mode="trilinear")
        return functional.softmax(large, dim=1)[0, 1]

    there, back = [], []
    for r in range(3):
        p_l, p_u, drawn = z_l[r].sigmoid(), z_u[r].sigmoid(), (z_u[r] > 0).float()
        of_l = centre(f_l, y[r], p_l), centre(f_l, 1 - y[r], 1 - p_l)
        of_u = centre(f_u, drawn, p_u), centre(f_u, 1 - drawn, 1 - p_u)
        there.append((predicted(f_u, *of_l) - p_u).square().mean())
        back.append(functional.binary_cross_entropy(predicted(f_l, *of_u), y[r]))
    terms = method(batch, LATE)
    assert mean(terms["there"]) == pytest.approx(float(torch.stack(there).mean().detach()), rel=1e-3)
    assert mean(terms["back"]) == pytest.approx(float(torch.stack(back).mean().detach()), rel=1e-3)
    assert (terms["there"].weight, terms["back"].weight) == pytest.approx((0.1, 1.0))  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["there", "back"])
@pytest.mark.parametrize("level", ["decoder", "bottleneck"])
def test_both_ways_train_the_student_through_its_labelled_features(name: str, level: str) -> None:
    batch = whole(make_batch())
    x = batch.x["strong"].requires_grad_()
    method = with_another_teacher(level=level)
    moved = moved_by(method, batch, name)
    assert moved
    assert all(parameter.startswith("student.") for parameter in moved)
    assert x.grad is not None
    assert (x.grad.flatten(1).abs().amax(1) > 0).tolist() == [True, True, False, False]


def test_only_what_a_row_does_not_know_and_its_partner_does_takes_part() -> None:
    # Labelled rows know ROIs (0, 1) and (1, 2); each teaches the other one ROI and its unlabelled row two.
    terms = with_another_teacher()(make_batch(), LATE)
    assert terms["there"].count == terms["back"].count == 2 + 4  # type: ignore[union-attr]
    alone = with_another_teacher()(make_batch(rows=3, num_labelled=1), LATE)
    assert alone["there"].count == 4, "both unlabelled rows take the one labelled row"  # type: ignore[union-attr]


def test_as_released_the_cycle_is_watched_and_logits_agree() -> None:
    batch, method = make_batch(), with_another_teacher(released=True, noise=0.0)
    terms = method(batch, LATE)
    assert isinstance(terms["there"], Monitor)
    assert isinstance(terms["back"], Monitor)
    z, z_T = method.student(batch.x["strong"]), method.teacher.eval()(batch.x["weak"])
    expected = (z - z_T).square()[:, :, 2:].mean().item()  # two planes are invalid
    assert mean(terms["stable"]) == pytest.approx(expected, rel=1e-4)
    assert terms["stable"].weight == pytest.approx(0.1 / 4)  # type: ignore[union-attr]

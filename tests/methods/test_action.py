"""What ACTION++ promises beyond the contracts."""

import pytest
import torch
from torch.nn import functional

from gleanseg.errors import UserError
from gleanseg.methods.action import Action
from gleanseg.parts.anatomy import of_classes
from gleanseg.types import Memo, Progress, Term
from support.batches import NUM_ROIS, make_batch, small_blueprint

LATE = Progress(20, 20)


def made(**options: object) -> Action:
    torch.manual_seed(0)
    return Action(small_blueprint(), Action.Config(**options)).train()  # type: ignore[arg-type]


def sees(method: Action, bias: float) -> Action:
    """A teacher that gives every voxel the same logit."""
    with torch.no_grad():
        method.teacher.head.classifier.weight.zero_()  # type: ignore[operator, union-attr]
        method.teacher.head.classifier.bias.fill_(bias)  # type: ignore[operator, union-attr]
    return method


def mean(term: Term) -> float:
    return float(term.total.detach() / term.count)  # type: ignore[union-attr]


def test_classes_are_the_rois_and_what_lies_in_none() -> None:
    p = torch.tensor([0.25, 0.75]).reshape(1, 2, 1)
    assert of_classes(p).flatten().tolist() == [0.25, 0.75, 0.25]


def test_pseudo_labels_of_a_sure_teacher_are_learnt_and_of_an_unsure_one_not() -> None:
    batch = make_batch(known=False)
    unsure = sees(made(), 1.0)(batch, LATE)["pseudo"]
    assert (unsure.total, unsure.count) == (0, 0)  # type: ignore[union-attr]
    method = sees(made(), 5.0)
    batch = batch._replace(num_labelled=4)  # one row would be pasted onto another: all voxels of a class
    z = method.student(batch.x["strong"])
    expected = functional.softplus(-z)[:, :, 2:].mean().item()  # everything is there; two planes are invalid
    assert mean(method(batch, LATE)["pseudo"]) == pytest.approx(expected, rel=1e-4)


def test_the_share_of_sure_voxels_weighs_a_row() -> None:
    batch, method = make_batch(known=False)._replace(num_labelled=4), made(sure=0.9)
    z_T = method.teacher.eval()(batch.x["weak"])
    with torch.no_grad():
        method.teacher.head.classifier.bias.add_(2.0 - z_T.median())  # type: ignore[operator, union-attr]
    p = method.teacher(batch.x["weak"]).sigmoid()
    rho = (torch.maximum(p, 1 - p) >= 0.9)[:, :, 2:].float().mean((2, 3, 4))
    assert ((rho > 0) & (rho < 1)).any()
    z = method.student(batch.x["strong"])
    loss = functional.binary_cross_entropy_with_logits(z, (p > 0.5).float(), reduction="none")[:, :, 2:].mean((2, 3, 4))
    expected = ((rho * loss).sum() / (rho > 0).sum()).item()
    assert mean(method(batch, LATE)["pseudo"]) == pytest.approx(expected, rel=1e-4)


def test_the_queue_takes_the_teachers_features_of_known_voxels() -> None:
    method = made(queries=8, queue=64, width=16)
    memo = method(make_batch(), LATE)["queue"]
    assert isinstance(memo, Memo)
    assert memo.rows.shape == (8, NUM_ROIS + 1, 16)
    there = memo.rows.any(2)
    assert there[:, :NUM_ROIS].any(0).all()
    assert not there[:, NUM_ROIS].any(), "what lies in none is known where all ROIs are"
    method.remember({"queue": memo.rows})
    anatomy = method.anatomy
    assert torch.equal(anatomy.queue.any(2).sum(1), there.sum(0))
    lengths = anatomy.centroids.norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    again = method(make_batch(known=True), LATE)["queue"]
    assert isinstance(again, Memo)
    assert again.rows.any(2).all(0)[NUM_ROIS]


def test_centroids_follow_with_momentum() -> None:
    anatomy = made(width=4, queue=16).anatomy
    anatomy.centroids.copy_(torch.eye(4))
    rows = torch.zeros(1, 4, 4)
    rows[0, 0] = torch.tensor([0.0, 3.0, 0.0, 0.0])
    anatomy.remember(rows)
    moved = functional.normalize(torch.tensor([0.9, 0.1, 0.0, 0.0]), dim=0)
    torch.testing.assert_close(anatomy.centroids, torch.cat([moved[None], torch.eye(4)[1:]]))


def test_contrast_trains_the_student_and_moves_no_teacher() -> None:
    method = made()
    terms = method(make_batch(), LATE)
    (terms["regional"].total + terms["anatomical"].total).backward()  # type: ignore[union-attr]
    assert all(
        p.grad is None for module in (method.teacher, method.anatomy.project_teacher) for p in module.parameters()
    )
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in method.student.encoder.parameters())  # type: ignore[operator, union-attr]
    before = method.anatomy.project_teacher[0].weight.clone()  # type: ignore[operator]
    with torch.no_grad():
        method.anatomy.project[0].weight += 1.0  # type: ignore[operator]
    method.after_step(Progress(1, 20))  # in the second step the average takes half
    torch.testing.assert_close(method.anatomy.project_teacher[0].weight, before + 0.5)  # type: ignore[operator]


def test_the_temperature_rises_and_falls() -> None:
    # One wave: the first and the last step are at the high one, the middle at the low one.
    at = [mean(made(waves=1.0)(make_batch(), Progress(step, 20))["regional"]) for step in (0, 10, 20)]
    assert at[0] == pytest.approx(at[2])
    assert abs(at[1] - at[0]) > 0.1


def test_features_need_room_for_all_classes() -> None:
    with pytest.raises(UserError, match="no room for 4 classes"):
        made(width=3)

"""What ACTION++ promises beyond the contracts."""

import math

import pytest
import torch
from torch.nn import functional

from gleanseg.errors import UserError
from gleanseg.methods.action import Action
from gleanseg.parts.anatomy import of_classes
from gleanseg.types import Memo, Progress
from support.batches import NUM_ROIS, make_batch
from support.steps import LATE, made, mean, moved_by, sees_alike


def sees(method: Action, bias: float) -> Action:
    """A teacher that gives every voxel the same logit."""
    sees_alike(method.teacher, bias)
    return method


def test_classes_are_the_rois_and_what_lies_in_none() -> None:
    p = torch.tensor([0.25, 0.75]).reshape(1, 2, 1)
    assert of_classes(p).flatten().tolist() == [0.25, 0.75, 0.25]


def test_pseudo_labels_of_a_sure_teacher_are_learnt_and_of_an_unsure_one_not() -> None:
    batch = make_batch(known=False)
    unsure = sees(made(Action), 1.0)(batch, LATE)["pseudo"]
    assert (unsure.total, unsure.count) == (0, 0)  # type: ignore[union-attr]
    method = sees(made(Action), 5.0)
    batch = batch._replace(num_labelled=4)  # one row would be pasted onto another: all voxels of a class
    z = method.student(batch.x["strong"])
    expected = functional.softplus(-z)[:, :, 2:].mean().item()  # everything is there; two planes are invalid
    assert mean(method(batch, LATE)["pseudo"]) == pytest.approx(expected, rel=1e-4)


def test_the_share_of_sure_voxels_weighs_a_row() -> None:
    batch, method = make_batch(known=False)._replace(num_labelled=4), made(Action, sure=0.9)
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
    method = made(Action, queries=8, queue=64, width=16)
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
    anatomy = made(Action, width=4, queue=16).anatomy
    anatomy.centroids.copy_(torch.eye(4))
    rows = torch.zeros(1, 4, 4)
    rows[0, 0] = torch.tensor([0.0, 3.0, 0.0, 0.0])
    anatomy.remember(rows)
    moved = functional.normalize(torch.tensor([0.9, 0.1, 0.0, 0.0]), dim=0)
    torch.testing.assert_close(anatomy.centroids, torch.cat([moved[None], torch.eye(4)[1:]]))


def test_contrast_trains_the_student_and_moves_no_teacher() -> None:
    method = made(Action)
    moved = moved_by(method, make_batch(), "regional", "anatomical")
    assert any(name.startswith("student.encoder.") for name in moved)
    assert all(name.startswith(("student.", "anatomy.project.")) for name in moved)
    before = method.anatomy.project_teacher[0].weight.clone()  # type: ignore[operator]
    with torch.no_grad():
        method.anatomy.project[0].weight += 1.0  # type: ignore[operator]
    method.after_step(Progress(1, 20))  # in the second step the average takes half
    torch.testing.assert_close(method.anatomy.project_teacher[0].weight, before + 0.5)  # type: ignore[operator]


def test_mean_features_and_negatives_are_of_likely_members() -> None:
    # Class 0: an eastern voxel, which asks, and a northern one, which is unlikely; class 1: west, and unlikely east.
    f = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]]])
    member = torch.tensor([[[True, True, False, False], [False, False, True, True]]])
    likely = torch.tensor([[[True, False, False, False], [False, False, True, False]]])
    asking = likely & torch.tensor([True, False])[:, None]
    term = made(Action).anatomy.regional(f, member, likely, asking, torch.tensor([3]), 8, 8, temperature=0.5)
    assert mean(term) == pytest.approx(math.log(1 + math.exp(-2 / 0.5)), rel=1e-5)
    assert term.count == 1
    both = member.clone()
    both[0, 0, 2] = True  # a member of both classes is a negative of neither
    assert made(Action).anatomy.regional(f, both, likely, asking, torch.tensor([3]), 8, 8, temperature=0.5).count == 0


def test_the_temperature_rises_and_falls() -> None:
    # One wave: the first and the last step are at the high one, the middle at the low one.
    at = [mean(made(Action, waves=1.0)(make_batch(), Progress(step, 20))["regional"]) for step in (0, 10, 20)]
    assert at[0] == pytest.approx(at[2])
    assert abs(at[1] - at[0]) > 0.1


def test_features_need_room_for_all_classes() -> None:
    with pytest.raises(UserError, match="no room for 4 classes"):
        made(Action, width=3)

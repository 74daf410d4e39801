"""What bidirectional copy-paste promises beyond the contracts."""

import pytest
import torch
from torch.nn import functional

from gleanseg.engine.state import adopt, pack
from gleanseg.engine.terms import combine
from gleanseg.errors import UserError
from gleanseg.methods.bcp import BCP
from gleanseg.parts.mixing import draw_copy_paste
from gleanseg.types import Batch, Progress
from support.batches import make_batch, small_blueprint

LATE = Progress(20, 20)


def made(*, seed: int = 0, **options: object) -> BCP:
    """With a teacher away from the student that draws half of the voxels, about."""
    torch.manual_seed(seed)
    method = BCP(small_blueprint(), BCP.Config(**options)).train()
    with torch.no_grad():
        method.teacher.head.classifier.weight.mul_(-2)  # type: ignore[union-attr, operator]
        method.teacher.head.classifier.bias.zero_()  # type: ignore[union-attr, operator]
    return method


def values(method: BCP, batch: Batch) -> dict[str, float]:
    _, found = combine(method(batch, LATE), world=1, all_reduce=lambda t: t)
    return {name: float(value) for name, value in found.items()}


def test_regions_learn_from_their_sources() -> None:
    method, batch = made(scattered=("liver", "liver_tumor", "spleen")), make_batch()
    mix, x = draw_copy_paste(batch, 2 / 3), batch.x["strong"]
    z = method.student(mix.paste(x)).detach()
    with torch.no_grad():
        pseudo = (method.teacher.eval()(x) > 0).float()
    losses: dict[str, list[float]] = {"ce": [], "pseudo_ce": [], "pseudo_dice": []}
    for row in range(4):
        for source, region in ((row, ~mix.inside_ZYX), (int(mix.partner_B[row]), mix.inside_ZYX)):
            voxels = region & batch.valid[source]
            for roi in range(3):
                known = bool(batch.known[source, roi])
                target = (batch.y() if known else pseudo)[source, roi][voxels]
                ce = functional.binary_cross_entropy_with_logits(z[row, roi][voxels], target)
                losses["ce" if known else "pseudo_ce"].append(float(ce))
                if not known:
                    p = z[row, roi][voxels].sigmoid()
                    dice = 1 - (2 * (p * target).sum() + 1e-5) / (p.sum() + target.sum() + 1e-5)
                    losses["pseudo_dice"].append(float(dice))
    assert len(losses["ce"]) == 8  # four known pairs, each seen outside of one box and inside of another
    found = values(method, batch)
    for name, each in losses.items():
        assert found[name] == pytest.approx(sum(each) / len(each), rel=1e-5), name


def test_alpha_weighs_pseudo_labels() -> None:
    terms = made(alpha=0.25)(make_batch(), LATE)
    assert {name: term.weight for name, term in terms.items()} == {  # type: ignore[union-attr]
        "dice": 1.0,
        "ce": 1.0,
        "pseudo_dice": 0.25,
        "pseudo_ce": 0.25,
    }


def test_pseudo_labels_are_the_largest_component_but_of_scattered_rois() -> None:
    method, batch = made(scattered=("spleen",)), make_batch(known=False)
    drawn = torch.full((4, 3, 16, 16, 16), -1.0)
    drawn[:, :, 4:7, 4:7, 4:7] = 1.0
    drawn[:, :, 10, 10, 10] = 1.0
    drawn[:, :, :2] = 1.0  # outside the image
    method.teacher.score = lambda features, rois: drawn[:, rois]  # type: ignore[method-assign, assignment]
    found = method._pseudo((), batch, torch.arange(3)).sum((2, 3, 4))
    assert found.tolist() == [[27, 27, 28]] * 4


def test_pretraining_mixes_labelled_rows_alone() -> None:
    method, batch = made(pretraining=True), make_batch()
    found = values(method, batch)
    assert {name: term.weight for name, term in method(batch, LATE).items()} == {"dice": 0.5, "ce": 0.5}  # type: ignore[union-attr]
    x = batch.x["strong"].clone()
    x[2:] = 7.0
    assert values(method, batch._replace(x={"strong": x})) == found
    x[0] = 7.0
    assert values(method, batch._replace(x={"strong": x})) != found


def test_the_second_stage_starts_with_both_networks() -> None:
    first, second = made(pretraining=True), made(seed=1)
    assert not torch.equal(first.teacher.head.classifier.weight, first.student.head.classifier.weight)  # type: ignore[union-attr]
    first.after_step(LATE)
    tensors, _ = pack(first, {})
    assert adopt(second, tensors) == sorted(second.state_dict())
    for name, value in first.student.state_dict().items():
        assert torch.equal(second.teacher.state_dict()[name], value)
        assert torch.equal(second.student.state_dict()[name], value)


def test_an_unknown_roi_is_refused() -> None:
    with pytest.raises(UserError, match="scattered: 'splen' is not one of the run's ROIs"):
        made(scattered=("splen",))


def test_a_single_labelled_row_cannot_be_mixed() -> None:
    with pytest.raises(UserError, match=r"expected two or more in a micro-batch of a rank, found 1; raise sampling"):
        made(pretraining=True)(make_batch(num_labelled=1), LATE)

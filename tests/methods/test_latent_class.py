"""What the paper's partition promises, term by term."""

import pytest
import torch

from gleanseg.config import Named
from gleanseg.engine.terms import combine
from gleanseg.errors import UserError
from gleanseg.methods import build_method
from gleanseg.methods.latent_class import LatentClass
from gleanseg.types import Batch, Progress
from support.batches import make_batch, small_blueprint

LATE = Progress(19, 20)


def made(**options: object) -> LatentClass:
    torch.manual_seed(0)
    method = LatentClass(small_blueprint(), LatentClass.Config(**options))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return method


def values(method: LatentClass, batch: Batch) -> dict[str, float]:
    _, found = combine(method(batch, LATE), world=1, all_reduce=lambda t: t)
    return {name: float(value) for name, value in found.items()}


def test_known_rois_get_no_teacher_loss() -> None:
    found = values(made(), make_batch(known=True))
    assert found["latent"] == found["ambiguous"] == 0
    assert found["ce"] > 0


@pytest.mark.parametrize("buffers", ["copy", "own"])
def test_whose_batch_statistics_the_teacher_has(buffers: str) -> None:
    method = made(buffers=buffers)
    for network in (method.student, method.teacher):
        network.add_module("counted", torch.nn.BatchNorm3d(1))
    method.train()
    values(method, make_batch())
    for network, value in ((method.student, 1.0), (method.teacher, 2.0)):
        network.get_buffer("counted.running_mean").fill_(value)
    method.after_step(LATE)
    assert method.teacher.training == (buffers == "own")
    assert float(method.teacher.get_buffer("counted.running_mean")) == (1.0 if buffers == "copy" else 2.0)


def test_unlabelled_rows_get_no_supervision() -> None:
    found = values(made(), make_batch(known=False))
    assert found["dice"] == found["ce"] == 0
    assert found["latent"] > 0
    assert found["ambiguous"] > 0


def test_each_route_feeds_its_own_term() -> None:
    batch = make_batch(known=True)
    for roi, term in ((0, "latent"), (1, "ambiguous"), (2, "latent")):  # the stand-in: present, undecided, absent
        known = torch.ones_like(batch.known)
        known[:, roi] = False
        found = values(made(), batch._replace(known=known))
        other = "ambiguous" if term == "latent" else "latent"
        assert found[term] > 0
        assert found[other] == 0


def test_the_ambiguous_term_is_the_distance_of_probabilities() -> None:
    method, batch = made(), make_batch(known=True)
    known = torch.ones_like(batch.known)
    known[:, 1] = False
    batch = batch._replace(known=known, valid=torch.ones_like(batch.valid))
    z, z_T = method.student(batch.x["strong"]), method.teacher.eval()(batch.x["weak"])
    expected = (z.sigmoid() - z_T.sigmoid()).square()[:, 1].mean().item()
    assert values(method, batch)["ambiguous"] == pytest.approx(expected, rel=1e-4)


def test_negative_latent_classes_learn_zeros_when_asked() -> None:
    batch = make_batch(known=True)
    known = torch.ones_like(batch.known)
    known[:, 2] = False
    batch = batch._replace(known=known, valid=torch.ones_like(batch.valid))
    method = made(negative_target="zeros")
    z = method.student(batch.x["strong"])[:, 2]
    expected = torch.nn.functional.softplus(z).mean().item()
    assert values(method, batch)["latent"] == pytest.approx(expected, rel=1e-4)


def test_without_the_ramp_the_terms_weigh_fully_from_the_start() -> None:
    start = Progress(0, 20)
    assert made(ramp=0.0)(make_batch(), start)["latent"].weight == pytest.approx(1)  # type: ignore[union-attr]
    assert made(ramp=0.3)(make_batch(), start)["latent"].weight < 0.01  # type: ignore[union-attr]


@pytest.mark.parametrize(("horizon", "moved"), [(1.0, 0.05), (0.1, 0.5), (0.0, 1.0)])
def test_the_horizon_caps_what_the_teacher_remembers(horizon: float, moved: float) -> None:
    method = made(horizon=horizon)
    weight, student = next(method.teacher.parameters()), next(method.student.parameters())
    before = weight.clone()
    method.after_step(Progress(19, 20))  # of 20 steps: 1 / (1 - alpha) is at most 20, 2 and 1
    assert not torch.equal(before, student)
    torch.testing.assert_close(weight, before + moved * (student - before))


def test_the_routing_is_watched_and_compared_with_what_is_hidden() -> None:
    method, batch = made(), make_batch(known=False)
    terms = method(batch, LATE)
    shares = [float(terms[f"routed_{name}"].total) for name in ("positive", "negative", "ambiguous")]  # type: ignore[union-attr]
    assert shares == [4, 4, 4]
    truth = torch.tensor([True, True, True]).expand(4, 3)
    found = method.diagnose(truth, torch.ones_like(truth))
    assert (found["right_positive"].total, found["right_negative"].total) == (4, 0)


def test_thresholds_must_not_cross() -> None:
    with pytest.raises(UserError, match=r"phi_low \(0\.9\) must not exceed phi_high \(0\.8\)"):
        build_method(Named(name="latent_class", phi_low=0.9), small_blueprint())  # type: ignore[call-arg]


def test_thresholds_of_single_rois_must_name_rois_of_the_run() -> None:
    with pytest.raises(UserError, match="'heart' is not one of the run's ROIs"):
        build_method(Named(name="latent_class", phi_high_of={"heart": 0.9}), small_blueprint())  # type: ignore[call-arg]

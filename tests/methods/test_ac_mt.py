"""The ambiguity-consensus mean teacher: what is ambiguous, and that only this is asked to agree."""

import pytest
import torch

from gleanseg.config import Named
from gleanseg.errors import UserError
from gleanseg.losses.entropy import bits
from gleanseg.methods import build_method
from gleanseg.methods.ac_mt import ACMT
from gleanseg.parts.class_prototypes import prototype_labels
from gleanseg.parts.label_errors import label_errors
from gleanseg.types import Progress
from support.batches import make_batch, small_blueprint
from support.steps import LATE, made, mean, sees_alike, values

EARLY = Progress(0, 10**6)


def with_another_teacher(**options: object) -> ACMT:
    """Student and teacher that differ, without noise, and draw more than the prior, so that masks have voxels."""
    method = made(ACMT, noise=0.0, **options)
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        for network in (method.student, method.teacher):
            network.head.classifier.bias.fill_(-0.5)  # type: ignore[union-attr, operator]
    return method


def expected(method: ACMT, ambiguous: torch.Tensor) -> float:
    """The mean squared distance over ambiguous voxels of unknown pairs."""
    batch = make_batch()
    p, q = (network(batch.x["strong"]).sigmoid() for network in (method.student, method.teacher))
    counted = ambiguous & ~batch.known[:, :, None, None, None] & batch.valid[:, None]
    assert 0 < counted.sum() < counted.numel() / 2
    return float((p - q).detach().square()[counted].mean())


def test_entropy_is_that_of_the_student() -> None:
    method, batch = with_another_teacher(), make_batch()
    p = method.student(batch.x["strong"]).sigmoid()
    assert values(method, batch)["consistency"] == pytest.approx(expected(method, bits(p) >= 0.95), rel=1e-4)


def test_label_errors_are_the_students_by_the_teachers_judgement() -> None:
    method, batch = with_another_teacher(ambiguity="label-error"), make_batch()
    z, q = (network(batch.x["strong"]) for network in (method.student, method.teacher))
    wrong = label_errors(z > 0, q.sigmoid(), batch.valid)
    assert values(method, batch)["consistency"] == pytest.approx(expected(method, wrong), rel=1e-4)


def test_prototypes_are_the_teachers_at_half_resolution() -> None:
    method, batch = with_another_teacher(ambiguity="prototype", passes=2), make_batch()
    z, q = (network(batch.x["strong"]) for network in (method.student, method.teacher))
    half = method.teacher.decode(method.teacher.encode(batch.x["strong"]))[-2]
    everywhere = torch.ones_like(q, dtype=torch.bool)  # no drop-out: no pass differs from another
    drawn = prototype_labels(half, q.sigmoid(), everywhere, batch.valid)
    assert half.shape[2:] == (8, 8, 8)
    assert values(method, batch)["consistency"] == pytest.approx(expected(method, drawn != (z > 0)), rel=1e-4)


@pytest.mark.parametrize(
    ("bias", "rise", "progress", "share"),
    [
        (1.0, 0.2, EARLY, 1.0),  # 0.84 bits of doubt reach 0.7513, where the limit starts,
        (1.0, 0.2, LATE, 0.0),  # and not 0.95, where it ends,
        (1.0, -0.15, LATE, 1.0),  # unless it falls
        (3.0, -0.15, LATE, 0.0),  # 0.28 bits
        (0.0, 0.25, LATE, 1.0),  # one bit reaches any limit
    ],
)
@pytest.mark.parametrize("ambiguity", ["entropy", "uncertainty"])
def test_the_limit_of_doubt_moves(ambiguity: str, bias: float, rise: float, progress: Progress, share: float) -> None:
    method, batch = made(ACMT, ambiguity=ambiguity, rise=rise, passes=2), make_batch(known=False)
    sees_alike(method.student, bias)
    terms = method(batch, progress)
    assert mean(terms["ambiguous"]) == share
    assert float(terms["consistency"].count) == float(terms["ambiguous"].total)  # type: ignore[union-attr, arg-type]


def test_a_limit_that_no_entropy_reaches_is_refused() -> None:
    with pytest.raises(UserError, match=r"limit \+ rise \(1\.1\) must not exceed 1"):
        build_method(Named(name="ac_mt", limit=0.9), small_blueprint())  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("ambiguity", "of_student", "of_teacher"),
    [("entropy", 1, 1), ("uncertainty", 4, 1), ("label-error", 1, 2), ("prototype", 1, 4)],
)
def test_every_way_takes_its_passes(ambiguity: str, of_student: int, of_teacher: int) -> None:
    method, batch = with_another_teacher(ambiguity=ambiguity, passes=3), make_batch()
    seen: list[str] = []
    for name in ("student", "teacher"):
        network = method.get_submodule(name)
        encode = network.encode
        network.encode = lambda x, name=name, encode=encode: (seen.append(name), encode(x))[1]  # type: ignore[assignment]
    share = mean(method(batch, LATE)["ambiguous"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mean(method(batch, LATE)["ambiguous"]) == pytest.approx(share, abs=0.01)
    seen = seen[: len(seen) // 2]
    assert (seen.count("student"), seen.count("teacher")) == (of_student, of_teacher)
    assert method.student.training
    assert 0 < share < 0.5

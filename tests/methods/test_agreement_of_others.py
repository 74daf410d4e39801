"""What entropy minimisation, cross pseudo supervision, UA-MT and CCT promise beyond the contracts."""

import pytest
import torch

from gleanseg.engine.terms import combine
from gleanseg.losses.bce import partial_bce
from gleanseg.losses.entropy import entropy
from gleanseg.methods.cct import CCT
from gleanseg.methods.cps import CPS
from gleanseg.methods.entropy_minimization import EntropyMinimization
from gleanseg.methods.uamt import UAMT
from gleanseg.parts.method import Method
from gleanseg.types import Batch, Progress, Term
from support.batches import make_batch, small_blueprint

LATE = Progress(20, 20)


def made(cls: type[Method], **options: object) -> Method:
    torch.manual_seed(0)
    return cls(small_blueprint(), cls.Config(**options)).train()


def values(method: Method, batch: Batch, progress: Progress = LATE) -> dict[str, float]:
    _, found = combine(method(batch, progress), world=1, all_reduce=lambda t: t)
    return {name: float(value) for name, value in found.items()}


def mean(term: Term) -> float:
    return float(term.total.detach() / term.count)  # type: ignore[union-attr]


@pytest.mark.parametrize("cls", [EntropyMinimization, CPS])
def test_known_rois_take_part_only_where_asked(cls: type[Method]) -> None:
    name = "entropy" if cls is EntropyMinimization else "cross_a"
    assert values(made(cls), make_batch(known=True))[name] == 0
    assert values(made(cls, everywhere=True), make_batch(known=True))[name] > 0


def test_the_entropy_is_that_of_unknown_pairs() -> None:
    method, batch = made(EntropyMinimization, lam=1.0), make_batch()
    z = method.net(batch.x["strong"])  # type: ignore[operator]
    assert values(method, batch)["entropy"] == pytest.approx(mean(entropy(z, ~batch.known, batch.valid)), rel=1e-5)


def test_each_network_learns_what_the_other_would_draw() -> None:
    method, batch = made(CPS, lam=1.0), make_batch()
    a, b = (net(batch.x["strong"]) for net in (method.a, method.b))  # type: ignore[operator]
    assert not torch.equal(a, b), "they begin differently"
    found = values(method, batch)
    assert found["cross_a"] == pytest.approx(mean(partial_bce(a, b > 0, ~batch.known, batch.valid)), rel=1e-5)
    assert found["cross_b"] == pytest.approx(mean(partial_bce(b, a > 0, ~batch.known, batch.valid)), rel=1e-5)


def test_cross_labels_teach_one_way() -> None:
    method, batch = made(CPS), make_batch(known=False)
    terms = method(batch, LATE)
    loss, _ = combine({"cross_a": terms["cross_a"]}, world=1, all_reduce=lambda t: t)
    loss.backward()
    assert all(p.grad is None for p in method.b.parameters())  # type: ignore[union-attr]
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in method.a.parameters())  # type: ignore[union-attr]


def doubtful(method: Method, bias: float) -> UAMT:
    """A teacher that gives every voxel the same logit."""
    assert isinstance(method, UAMT)
    with torch.no_grad():
        classifier = method.teacher.head.classifier  # type: ignore[union-attr]
        classifier.weight.zero_()
        classifier.bias.fill_(bias)
    return method


@pytest.mark.parametrize(
    ("bias", "progress", "share"),
    [
        (3.0, Progress(0, 20), 1.0),  # 0.28 bits of doubt
        (1.0, Progress(0, 20), 0.0),  # 0.84 bits: above 0.7517 at the start
        (1.0, Progress(20, 20), 1.0),  # and below 1 at the end
        (0.0, Progress(20, 20), 0.0),  # one bit is never below the limit
    ],
)
def test_the_limit_of_doubt_rises(bias: float, progress: Progress, share: float) -> None:
    method = doubtful(made(UAMT), bias)
    terms = method(make_batch(known=False), progress)
    assert mean(terms["sure"]) == share
    assert float(terms["consistency"].count) == float(terms["sure"].total)  # type: ignore[union-attr, arg-type]


def test_the_teacher_is_asked_as_often_as_said() -> None:
    method = made(UAMT, passes=3)
    assert isinstance(method, UAMT)
    seen: list[torch.Tensor] = []
    features = method.teacher.features
    method.teacher.features = lambda x: (seen.append(x), features(x))[1]  # type: ignore[method-assign]
    batch = make_batch()
    method(batch, LATE)
    assert len(seen) == 4
    assert len({float(x.sum()) for x in seen}) == 4, "each pass has its own noise"
    assert all((x - batch.x["strong"]).abs().max() <= 0.2 + 1e-6 for x in seen)


def test_perturbed_decoders_imitate_the_main_one_and_not_it_them() -> None:
    method, batch = made(CCT), make_batch(known=False)
    terms = method(batch, LATE)
    agree = {name: term for name, term in terms.items() if name.startswith("agree")}
    assert sorted(agree) == ["agree_drop", "agree_dropout", "agree_noise"]
    loss, _ = combine(agree, world=1, all_reduce=lambda t: t)
    loss.backward()
    assert isinstance(method, CCT)
    assert all(p.grad is None or not p.grad.any() for p in method.net.decoder.parameters())  # type: ignore[operator, union-attr]
    for decoder in method.decoders:
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in decoder.parameters())


def test_decoders_are_taught_and_followed_where_asked() -> None:
    few, all_of_them = values(made(CCT), make_batch()), values(made(CCT, teach_all=True, both_ways=True), make_batch())
    assert {"dice_noise", "ce_drop", "follow_dropout"} <= set(all_of_them) - set(few)
    assert all_of_them["follow_noise"] == pytest.approx(all_of_them["agree_noise"])


def test_without_perturbation_only_the_decoders_differ() -> None:
    method, batch = made(CCT, noise=0.0, dropout=0.0, drop=(2.0, 2.0)), make_batch(known=False)
    assert isinstance(method, CCT)
    for decoder in method.decoders:
        decoder.load_state_dict(method.net.decoder.state_dict())  # type: ignore[operator, union-attr]
    found = values(method, batch)
    assert max(found[f"agree_{kind}"] for kind in ("noise", "dropout", "drop")) < 1e-10

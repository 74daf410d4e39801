"""What entropy minimisation, cross pseudo supervision, UA-MT and CCT promise beyond the contracts."""

import pytest
import torch

from gleanseg.losses.bce import partial_bce
from gleanseg.losses.dice import pooled_dice
from gleanseg.losses.entropy import entropy
from gleanseg.methods.cct import CCT
from gleanseg.methods.cpcl import CPCL
from gleanseg.methods.cps import CPS
from gleanseg.methods.entropy_minimization import EntropyMinimization
from gleanseg.methods.uamt import UAMT
from gleanseg.parts.method import Method
from gleanseg.types import Progress
from support.batches import make_batch
from support.steps import LATE, made, mean, moved_by, sees_alike, values


@pytest.mark.parametrize(("cls", "name", "usual"), [(EntropyMinimization, "entropy", False), (CPS, "cross_a", True)])
def test_known_rois_take_part_only_where_asked(cls: type[Method], name: str, usual: bool) -> None:
    found = {choice: values(made(cls, everywhere=choice), make_batch(known=True))[name] for choice in (False, True)}
    assert found[True] > found[False] == 0
    assert values(made(cls), make_batch(known=True))[name] == found[usual]


@pytest.mark.parametrize(
    ("cls", "options", "weight"),
    [
        (EntropyMinimization, {}, 1 / 2),
        (CPS, {}, 1 / 2),
        (CCT, {}, 1 / 2),
        (CCT, {"teach_all": True}, 1 / 8),  # one eighth of the sum over four decoders
    ],
)
def test_supervision_is_half_of_dice_and_cross_entropy(
    cls: type[Method], options: dict[str, bool], weight: float
) -> None:
    terms = made(cls, **options)(make_batch(), LATE)
    found = {name: term.weight for name, term in terms.items() if name.startswith(("dice", "ce"))}
    assert set(found.values()) == {weight}
    assert len(found) == {EntropyMinimization: 2, CPS: 4, CCT: 8 if options else 2}[cls]


def test_the_entropy_is_that_of_unknown_pairs() -> None:
    method, batch = made(EntropyMinimization, lam=1.0), make_batch()
    z = method.net(batch.x["strong"])  # type: ignore[operator]
    assert values(method, batch)["entropy"] == pytest.approx(mean(entropy(z, ~batch.known, batch.valid)), rel=1e-5)


def test_each_network_learns_what_the_other_would_draw() -> None:
    method, batch = made(CPS, lam=1.0, everywhere=False), make_batch()
    a, b = (net(batch.x["strong"]) for net in (method.a, method.b))  # type: ignore[operator]
    assert not torch.equal(a, b), "they begin differently"
    found = values(method, batch)
    assert found["cross_a"] == pytest.approx(mean(partial_bce(a, b > 0, ~batch.known, batch.valid)), rel=1e-5)
    assert found["cross_b"] == pytest.approx(mean(partial_bce(b, a > 0, ~batch.known, batch.valid)), rel=1e-5)


def test_cross_labels_teach_one_way() -> None:
    moved = moved_by(made(CPS), make_batch(known=False), "cross_a")
    assert moved
    assert all(name.startswith("a.") for name in moved)


@pytest.mark.parametrize("cls", [UAMT, CPCL])
def test_supervision_is_half_of_squared_dice_and_of_cross_entropy(cls: type[Method]) -> None:
    method, batch = made(cls), make_batch()
    seen = method.student(batch.x["strong"]), batch.y(), batch.known, batch.valid  # type: ignore[operator]
    terms, found = method(batch, LATE), values(method, batch)
    dice = pooled_dice(*seen, squared=True)
    assert found["dice"] == pytest.approx(float(dice.value(dice.sums).detach()), rel=1e-5)
    assert found["ce"] == pytest.approx(mean(partial_bce(*seen)), rel=1e-5)
    assert terms["dice"].weight == terms["ce"].weight == 0.5  # type: ignore[union-attr]


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
    method = made(UAMT)
    sees_alike(method.teacher, bias)
    terms = method(make_batch(known=False), progress)
    assert mean(terms["sure"]) == share
    assert float(terms["consistency"].count) == float(terms["sure"].total)  # type: ignore[union-attr, arg-type]


def test_the_teacher_is_asked_as_often_as_said() -> None:
    method = made(UAMT, passes=3)
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
    agree = [name for name in method(batch, LATE) if name.startswith("agree")]
    assert sorted(agree) == ["agree_drop", "agree_dropout", "agree_noise"]
    moved = moved_by(method, batch, *agree)
    assert not any(name.startswith("net.decoder.") for name in moved)
    for i in range(len(method.decoders)):
        assert any(name.startswith(f"decoders.{i}.") for name in moved)


def test_decoders_are_taught_and_followed_where_asked() -> None:
    few, all_of_them = values(made(CCT), make_batch()), values(made(CCT, teach_all=True, both_ways=True), make_batch())
    assert {"dice_noise", "ce_drop", "follow_dropout"} <= set(all_of_them) - set(few)
    assert all_of_them["follow_noise"] == pytest.approx(all_of_them["agree_noise"])


def test_without_perturbation_only_the_decoders_differ() -> None:
    method, batch = made(CCT, noise=0.0, dropout=0.0, drop=(2.0, 2.0)), make_batch(known=False)
    for decoder in method.decoders:
        decoder.load_state_dict(method.net.decoder.state_dict())  # type: ignore[operator, union-attr]
    found = values(method, batch)
    assert max(found[f"agree_{kind}"] for kind in ("noise", "dropout", "drop")) < 1e-10

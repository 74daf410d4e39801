"""What the first stage of ACTION++ promises beyond the contracts."""

import os
import signal
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from gleanseg.config import Recipe
from gleanseg.engine.fit import fit
from gleanseg.engine.signals import Interrupted
from gleanseg.engine.state import adopt, pack
from gleanseg.methods.action import Action
from gleanseg.methods.action_pretraining import ActionPretraining
from gleanseg.run.checkpoint import load
from gleanseg.run.log import Step
from gleanseg.types import Memo, Progress
from support.batches import make_batch
from support.data import prepared
from support.runs import assert_same_weights
from support.steps import LATE, made, mean, moved_by, values

MIDDLE = Progress(10, 20)
STAGES = """
[[stage]]
name = "pretraining"
steps = 2
method = {name = "action_pretraining", bank = 4, width = 8, windows = [2, 2, 2]}
[[stage]]
name = "self-training"
steps = 1
method = {name = "action", queue = 64, width = 8}
optimizer = {name = "sgd", lr = 1e-12}
"""


def relation(feature_D: torch.Tensor, rows_ND: torch.Tensor, tau: float) -> torch.Tensor:
    """Logarithms of what a feature resembles."""
    return (functional.cosine_similarity(feature_D[None], rows_ND) / tau).log_softmax(0)


def divergence(teacher: torch.Tensor, student: torch.Tensor) -> float:
    return float((teacher.exp() * (teacher - student)).sum())


@pytest.mark.parametrize(
    ("progress", "tau", "tau_T"), [(MIDDLE, 0.1, 0.6), (Progress(5, 20), 0.55, 0.8), (LATE, 1.0, 1.0)]
)
def test_latent_relations_at_temperatures_that_fall_and_rise(progress: Progress, tau: float, tau_T: float) -> None:
    method, batch = made(ActionPretraining, bank=5, width=6), make_batch()
    found = mean(method(batch, progress)["latent"])
    expected = []
    with torch.no_grad():
        student = method.student.decode(method.student.encode(batch.x["strong"]))[0].mean((2, 3, 4))
        teacher = method.teacher.decode(method.teacher.encode(batch.x["weak"]))[0].mean((2, 3, 4))
        for q, k in zip(student, teacher, strict=True):
            q, k = method.latent.predict(method.latent.project(q)), method.latent.project_teacher(k)
            (bank,) = method.latent.bank
            expected.append(divergence(relation(k, bank, tau_T), relation(q, bank, tau)))
    assert found == pytest.approx(sum(expected) / 4, rel=1e-4)


def test_output_relations_are_those_of_windows_at_their_places() -> None:
    method, batch = made(ActionPretraining, bank=5, windows=(3, 2, 1), cells=2, channels=3), make_batch()
    assert method.output.bank.shape == (6, 5, 24)
    found = mean(method(batch, MIDDLE)["output"])
    expected = []
    with torch.no_grad():
        # Cells along x, y, z: 4, 3 and 2.
        z, z_T = (
            functional.adaptive_avg_pool3d(network(batch.x[view]), (2, 3, 4)).movedim(1, -1)
            for network, view in ((method.student, "strong"), (method.teacher, "weak"))
        )
        q, k = method.output.predict(method.output.project(z)), method.output.project_teacher(z_T)
        for case in range(4):
            for place, (y, x) in enumerate((y, x) for y in range(2) for x in range(3)):
                (mine, theirs) = (f[case, :, y : y + 2, x : x + 2].movedim(-1, 0).flatten() for f in (q, k))
                rows = method.output.bank[place]
                expected.append(divergence(relation(theirs, rows, 0.6), relation(mine, rows, 0.1)))
    assert found == pytest.approx(sum(expected) / 24, rel=1e-4)


def test_weights_and_the_phase_of_the_latent_map_alone() -> None:
    terms = made(ActionPretraining, k1=0.25, k2=0.75)(make_batch(), LATE)
    weights = {name: term.weight for name, term in terms.items() if not isinstance(term, Memo)}  # type: ignore[union-attr]
    assert weights == {"dice": 0.5, "ce": 0.5, "latent": 0.25, "output": 0.75}
    method = made(ActionPretraining, latent_alone=True)
    terms = method(make_batch(), LATE)
    assert set(terms) == {"latent", "latent_bank"}
    moved = moved_by(method, make_batch(), "latent")
    assert not any(name.startswith(("student.head", "output.")) for name in moved)
    method.remember({"latent_bank": terms["latent_bank"].rows})  # type: ignore[union-attr]


def test_it_learns_where_nothing_is_known() -> None:
    method, batch = made(ActionPretraining), make_batch(known=False)
    found = values(method, batch, MIDDLE)
    assert found["dice"] == found["ce"] == 0
    assert found["latent"] > 0
    assert found["output"] > 0
    for name in ("latent", "output"):
        moved = moved_by(method, batch, name)
        assert any(p.startswith("student.encoder.") for p in moved), name
        assert {f"{name}.project.0.weight", f"{name}.predict.1.weight"} <= moved
        assert all(p.startswith(("student.", f"{name}.project.", f"{name}.predict.")) for p in moved), name
    assert any(p.startswith("student.head") for p in moved_by(method, batch, "output"))


def test_steps_without_labels_bring_relations_together() -> None:
    method, batch = made(ActionPretraining), make_batch(known=False)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
    seen = []
    for _ in range(12):
        terms = method(batch, MIDDLE)
        loss = sum(terms[name].total / terms[name].count for name in ("latent", "output"))  # type: ignore[union-attr]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
        seen.append(float(loss.detach()))  # type: ignore[union-attr]
    assert seen[-1] < 0.8 * seen[0]


def test_banks_take_the_teachers_features_and_are_kept() -> None:
    method = made(ActionPretraining, bank=6, width=8, windows=(2, 2, 2))
    before = {name: value.clone() for name, value in method.state_dict().items() if name.endswith("bank")}
    assert set(before) == {"latent.bank", "output.bank"}
    terms = method(make_batch(), LATE)
    method.remember({name: term.rows for name, term in terms.items() if isinstance(term, Memo)})
    for name, old in before.items():
        new = method.state_dict()[name]
        assert torch.equal(new[:, 4:], old[:, :2]), "the oldest two stay"
        assert {tuple(row) for row in new[0, :4].tolist()} == {
            tuple(row)
            for row in terms[name.replace(".", "_")].rows[:, 0].tolist()  # type: ignore[union-attr]
        }


def test_teacher_and_heads_follow() -> None:
    method = made(ActionPretraining, alpha=0.75)
    moved = [method.student.head.classifier.weight, method.latent.project[0].weight, method.output.project[1].weight]  # type: ignore[union-attr, list-item]
    with torch.no_grad():
        for weight in moved:
            weight += 1.0
    before = [weight.clone() for weight in moved]
    method.after_step(Progress(0, 20))
    theirs = [
        method.teacher.head.classifier.weight,  # type: ignore[union-attr]
        method.latent.project_teacher[0].weight,
        method.output.project_teacher[1].weight,
    ]
    for own, their in zip(before, theirs, strict=True):
        torch.testing.assert_close(their, own - 0.75)


def test_the_second_stage_starts_with_both_networks() -> None:
    first, second = made(ActionPretraining), made(Action)
    tensors, _ = pack(first, {})
    copied = adopt(second, tensors)
    assert copied == sorted(n for n in second.state_dict() if n.startswith(("student.", "teacher.")))


class Stop:
    """Ends the run after a step, as a cluster would."""

    def __init__(self, at: int) -> None:
        self.at = at

    def note(self, text: str) -> None: ...

    def step(self, step: Step, *, stage: str, total: int, rate: float) -> None:
        if step.step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)

    def validated(self, step: int, result: object) -> None: ...


def test_two_stages_run_and_resume(tmp_path: Path) -> None:
    prepared(tmp_path, method="action", steps=1, more=STAGES)
    recipe = Recipe.load(tmp_path / "recipe.toml", overrides=["sampling.batch=4", "train.validate_every=0"])
    whole = fit(recipe, out=tmp_path / "whole")
    (first,), (last,) = whole.checkpoints("pretraining"), whole.checkpoints("self-training")
    before, after = load(first)[0], load(last)[0]
    assert before["method.latent.bank"].shape == (1, 4, 8)
    assert before["method.output.bank"].shape == (8, 4, 2 * 4**3)
    students = [name for name in before if name.startswith("method.student.")]
    assert students
    for name in students:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)
    with pytest.raises(Interrupted):
        fit(recipe, out=tmp_path / "cut", listener=Stop(at=1))
    assert_same_weights(fit(recipe, out=tmp_path / "cut", resume=True), whole)

import torch

from gleanseg.parts.relations import Relations

ALL = torch.ones(2, 1, dtype=torch.bool)


def made(**sizes: int) -> Relations:
    torch.manual_seed(0)
    return Relations(3, 4, 2, **({"rows": 3} | sizes))


def test_the_bank_begins_with_directions() -> None:
    bank = made(places=5, per_place=8).bank
    assert bank.shape == (5, 3, 16)
    torch.testing.assert_close(bank.norm(dim=2), torch.ones(5, 3))
    assert "bank" in made().state_dict()


def test_features_go_into_the_bank_whoever_offers_them() -> None:
    first, second = made(), made()
    oldest = first.bank[0, 0].clone()
    teacher = torch.tensor([[[0.0, 2.0]], [[3.0, 4.0]]])
    _, rows = first.distil(teacher, teacher, ALL, tau=1.0, teacher_tau=1.0)
    torch.testing.assert_close(rows[:, 0], torch.tensor([[0.0, 1.0], [0.6, 0.8]]))
    first.remember(rows)
    second.remember(rows.flip(0))
    torch.testing.assert_close(first.bank[0], torch.stack([*rows[:, 0], oldest]))
    assert torch.equal(first.bank, second.bank)


def test_what_is_not_counted_stays_out_of_the_bank() -> None:
    relations = made(places=2)
    before, teacher = relations.bank.clone(), torch.rand(1, 2, 2)
    _, rows = relations.distil(teacher, teacher, torch.tensor([[True, False]]), tau=1.0, teacher_tau=1.0)
    relations.remember(rows)
    assert torch.equal(relations.bank[1], before[1])
    torch.testing.assert_close(relations.bank[0, 0], teacher[0, 0] / teacher[0, 0].norm())
    assert torch.equal(relations.bank[0, 1:], before[0, :2])


def test_the_teachers_head_starts_as_the_students_and_takes_no_gradient() -> None:
    relations, inputs = made(), torch.rand(2, 1, 3)
    assert torch.equal(relations.project(inputs), relations.of_teacher(inputs))
    assert not relations.of_teacher(inputs).requires_grad
    assert relations.of_student(inputs).requires_grad

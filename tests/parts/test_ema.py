import pytest
import torch
from torch import nn

from gleanseg.parts.ema import capped_alpha, ema_copy, ema_update, warm_alpha


def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 3, 3), nn.BatchNorm3d(3), nn.Conv3d(3, 2, 1))


def moved(module: nn.Module) -> nn.Module:
    """The same module after a pass and a step."""
    module.train()(torch.randn(2, 1, 4, 4, 4))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
    return module


def test_copy_is_equal_apart_and_without_gradient() -> None:
    net = student().eval()
    teacher = ema_copy(net)
    assert not teacher.training
    assert all(not p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), net.parameters(), strict=True))
    assert not {p.data_ptr() for p in teacher.parameters()} & {p.data_ptr() for p in net.parameters()}


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
def test_update_is_the_convex_combination(alpha: float) -> None:
    net = student()
    teacher = ema_copy(net)
    before = [p.clone() for p in teacher.parameters()]
    ema_update(teacher, moved(net), alpha)
    for old, mean, new in zip(before, teacher.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(mean.data, alpha * old + (1 - alpha) * new.data)
        if alpha in (0.0, 1.0):
            assert torch.equal(mean.data, old if alpha else new.data)


def test_buffers_are_copied_or_left() -> None:
    net = student()
    own, copied = ema_copy(net), ema_copy(net)
    moved(net)
    ema_update(own, net, 0.9, buffers="own")
    ema_update(copied, net, 0.9, buffers="copy")
    assert int(own.get_buffer("1.num_batches_tracked")) == 0
    assert torch.equal(own.get_buffer("1.running_mean"), torch.zeros(3))
    assert int(copied.get_buffer("1.num_batches_tracked")) == 1
    assert torch.equal(copied.get_buffer("1.running_mean"), net.get_buffer("1.running_mean"))
    assert net.get_buffer("1.running_mean").ne(0).all()


def test_module_without_buffers() -> None:
    net = nn.Linear(2, 2)
    teacher = ema_copy(net)
    ema_update(teacher, moved_linear(net), 0.5)
    torch.testing.assert_close(teacher.bias.data, net.bias.data - 0.5)


def moved_linear(net: nn.Linear) -> nn.Linear:
    net.bias.data += 1
    return net


def test_another_layout_is_refused() -> None:
    with pytest.raises(AssertionError, match="copy of its student"):
        ema_update(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), 0.5)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.0),
        (1, 0.5),
        (2, 0.6666666666666667),
        (9, 0.9),
        (98, 0.98989898989899),
        (99, 0.99),
        (100, 0.99),
        (1000, 0.99),
    ],
)
def test_published_warm_alpha(step: int, expected: float) -> None:
    assert warm_alpha(step, 0.99) == pytest.approx(expected, abs=1e-14)


def test_warm_alpha_is_a_plain_mean_at_first() -> None:
    weights = [torch.tensor([float(v)]) for v in (4, 7, 1, 10)]
    net = nn.Linear(1, 1, bias=False)
    teacher = ema_copy(net)
    for step, weight in enumerate(weights):
        net.weight.data = weight[None]
        ema_update(teacher, net, warm_alpha(step, 0.99))
    assert teacher.weight.item() == pytest.approx(5.5)


def test_capped_alpha() -> None:
    assert capped_alpha(0.999, 500) == pytest.approx(1 - 1 / 50)
    assert capped_alpha(0.99, 100_000) == 0.99
    assert capped_alpha(0.99, 5) == 0.0
    assert capped_alpha(0.999, 1000, share=0.5) == pytest.approx(0.998)

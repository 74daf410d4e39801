"""The dynamic head against its definition, the papers' parameter counts, and what may be asked of it."""

import math

import pytest
import torch
from torch.nn import functional

from gleanseg import networks
from gleanseg.errors import UserError
from gleanseg.networks.attach import attach_head, code_groups, head_config
from gleanseg.networks.head import PRIOR
from gleanseg.networks.heads.dynamic import Codes, DynamicHead
from gleanseg.networks.heads.fixed import FixedHead
from gleanseg.networks.network import Network

ROIS = ("liver", "liver_tumor", "spleen", "pancreas", "aorta")


def codes(num: int = 5, dim: int = 7) -> torch.Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(1))


def dynamic(groups: tuple[tuple[str, ...], ...] = (), **options: object) -> Network:
    torch.manual_seed(0)
    net = networks.build("unet3d", {"width": 4, "levels": 3, "dropout": 0.0}, in_channels=1, num_rois=len(ROIS))
    config = head_config("dynamic", {"projection": 8, "groups": groups, **options})
    assert isinstance(config, DynamicHead.Config)
    return attach_head(net, config, rois=ROIS, table_Kd=codes(len(code_groups(config, ROIS)))).eval()


def image() -> torch.Tensor:
    return torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(2))


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_equals_convolutions_made_by_hand() -> None:
    net = dynamic()
    head = net.head
    assert isinstance(head, DynamicHead)
    maps = net.encode(image())
    last = net.decode(maps)[-1]
    shared = head.pre(last)
    pooled = functional.relu(head.pool[0](maps[-1])).mean((2, 3, 4))
    for b in range(2):
        for k in range(5):
            code = functional.relu(head.code_projection[0](head.table[k]))
            theta = head.controller(torch.cat([head.image_projection(pooled[b]), code]))
            w1, w2, w3 = theta[:64].reshape(8, 8), theta[64:128].reshape(8, 8), theta[128:136].reshape(1, 8)
            b1, b2, b3 = theta[136:144], theta[144:152], theta[152:]
            x = shared[b : b + 1]
            for weight, bias in ((w1, b1), (w2, b2)):
                x = functional.conv3d(x, weight[:, :, None, None, None], bias).relu()
            expected = functional.conv3d(x, w3[:, :, None, None, None], b3)[0, 0]
            torch.testing.assert_close(net(image())[b, k], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rois", [slice(1, 3), torch.tensor([4, 0]), torch.tensor([2])])
def test_some_rois_are_a_part_of_the_whole(rois: slice | torch.Tensor) -> None:
    for net in (dynamic(), dynamic((("liver", "liver_tumor"), ("aorta", "spleen")))):
        features = net.features(image())
        torch.testing.assert_close(net.score(features, rois), net.score(features)[:, rois], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rois", [slice(1, 3), torch.tensor([4, 0]), torch.tensor([2])])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last_3d])
def test_a_fixed_head_predicts_some_rois_as_it_learns_them(
    rois: slice | torch.Tensor, order: torch.memory_format
) -> None:
    head, maps = FixedHead(channels=8, num_rois=5), torch.randn(2, 8, 3, 4, 5).contiguous(memory_format=order)
    learning = head.score((maps,), rois)
    with torch.no_grad():
        torch.testing.assert_close(head.score((maps,), rois), learning.detach())
        torch.testing.assert_close(head.score((maps,))[:, rois], learning.detach())


def test_counts_of_the_text_driven_model() -> None:
    config = DynamicHead.Config()
    head = DynamicHead(config, Codes.of_groups(codes(32, 512), [[r] for r in range(32)]), last_channels=48,
                       bottleneck_channels=768)  # fmt: skip
    assert count(head.pre) == 488
    assert count(head.pool) + count(head.image_projection) == 198_400
    assert count(head.code_projection) == 131_328
    assert count(head.controller) == 78_489


def test_counts_of_dodnet() -> None:
    config = DynamicHead.Config(codes="one_hot", projection=0)
    groups = [[2 * k, 2 * k + 1] for k in range(7)]
    head = DynamicHead(config, Codes.of_groups(torch.eye(7), groups), last_channels=32, bottleneck_channels=256)
    assert count(head.controller) == 42_768
    assert count(head.pool) == 512
    assert head.controller.out_features == 162


def test_projected_codes_are_stretched_to_unit_variance() -> None:
    table = torch.cat([functional.normalize(codes(2, 384)), torch.zeros(1, 384)])
    for projection, squares in ((8, [1.0, 1.0, 0.0]), (0, [1 / 384, 1 / 384, 0.0])):
        config, known = DynamicHead.Config(projection=projection), Codes(table, (0, 1, 2), (0, 0, 0))
        head = DynamicHead(config, known, last_channels=8, bottleneck_channels=16)
        torch.testing.assert_close(head.table.square().mean(1), torch.tensor(squares))


def test_starts_near_the_prior() -> None:
    head = dynamic().head
    assert isinstance(head, DynamicHead)
    assert head.controller.bias[-1].item() == pytest.approx(math.log(PRIOR / (1 - PRIOR)))
    assert dynamic()(image()).sigmoid().mean().item() < 0.2
    head.start_at(0.0)
    assert head.controller.bias[-1].item() == 0


def test_rois_of_a_group_share_a_code() -> None:
    net = dynamic((("liver", "liver_tumor"),))
    head = net.head
    assert isinstance(head, DynamicHead)
    assert head.code_of == (0, 0, 1, 2, 3)
    assert head.output_of == (0, 1, 0, 0, 0)
    assert net(image()).shape == (2, 5, 16, 16, 16)


def test_a_code_that_is_not_asked_for_gets_no_gradient() -> None:
    net = dynamic()
    head = net.head
    assert isinstance(head, DynamicHead)
    table = head.table.clone().requires_grad_()
    head.table = table
    net.score(net.features(image()), torch.tensor([1, 3])).sum().backward()
    assert table.grad is not None
    assert table.grad.abs().sum(1).gt(0).tolist() == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("groups", "message"),
    [((("heart",),), "'heart' is not one of the run's ROIs"), ((("liver",), ("liver",)), "stands in two groups")],
)
def test_bad_groups(groups: tuple[tuple[str, ...], ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dynamic(groups)


def test_a_fixed_head_has_nothing_to_choose() -> None:
    with pytest.raises(UserError, match="unknown key 'codes'"):
        head_config("fixed", {"codes": "one_hot"})

"""Text at the bottleneck, attached from outside."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from gleanseg.errors import UserError
from gleanseg.networks import build
from gleanseg.networks.fusion import FusionConfig, TextFusion
from gleanseg.networks.network import Network

SIDE = 32
CONVOLUTIONAL = ("vnet", "unet3d", "plain_unet", "resenc_unet")


def network(name: str = "unet3d") -> Network:
    torch.manual_seed(0)
    options = {} if name == "swin_unetr" else {"width": 16}
    return build(name, options, in_channels=1, num_rois=2, patch_ZYX=(SIDE,) * 3, spacing_ZYX_mm=(1.0, 1.0, 1.0)).eval()


def texts(num: int = 1, responses: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(responses, 8, generator=generator) for _ in range(num)]


def with_text(net: Network, *, num: int = 1, **options: object) -> Network:
    config = FusionConfig(**{"beta": 0.5, **options})  # type: ignore[arg-type]
    net.add_text(TextFusion(config, texts(num), channels=net.channels[-1]))
    return net.eval()


def image(longer: int = 1) -> Tensor:
    return torch.randn(1, 1, SIDE, SIDE, longer * SIDE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, "dodnet_unet", "swin_unetr"])
def test_adds_a_constant_to_the_bottleneck(name: str) -> None:
    net = network(name)
    x = image(longer=2 if name == "swin_unetr" else 1)
    maps = net.encode(x)
    plain = net(x)
    with_text(net)
    assert net.text is not None
    z = net.text.latent(1)[:, :, None, None, None]
    expected = net.logits(maps, net.decode([*maps[:-1], maps[-1] + 0.5 * z])[-1])
    found = net(x)
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, plain)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_before_the_activation(name: str) -> None:
    net = network(name)
    seen: list[Tensor] = []
    activation = net.last_activation
    assert activation is not None
    handle = activation.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    net.encode(image())
    handle.remove()
    with_text(net, at="pre-activation")
    assert net.text is not None
    z = net.text.latent(1)[:, :, None, None, None]
    torch.testing.assert_close(net.encode(image())[-1], activation.forward(seen[0] + 0.5 * z))


def test_networks_without_a_last_activation_say_so() -> None:
    with pytest.raises(UserError, match="use 'latent'"):
        with_text(network("dodnet_unet"), at="pre-activation")


def test_a_copy_listens_to_its_own_text() -> None:
    """As a teacher that is copied from a student."""
    net = with_text(network(), at="pre-activation")
    copy = deepcopy(net)
    with torch.no_grad():
        for parameter in net.text.parameters():  # type: ignore[union-attr]
            parameter.add_(1.0)
    assert not torch.allclose(net(image()), copy(image()))


def test_film_scales_and_shifts() -> None:
    text = TextFusion(FusionConfig(beta=2.0, kind="film"), texts(), channels=4).eval()
    scale, shift = text.latent(1)[0].chunk(2)
    found = text(torch.ones(1, 4, 2, 2, 2))
    torch.testing.assert_close(found[0, :, 0, 0, 0], 1 + 2 * scale + 2 * shift)


def test_beta_zero_leaves_the_image_alone() -> None:
    plain = network()(image())
    assert torch.equal(with_text(network(), beta=0.0)(image()), plain)


def test_training_draws_one_response_per_patch_and_prediction_takes_the_mean() -> None:
    text = TextFusion(FusionConfig(beta=1.0), texts(), channels=4)
    every = text.mlp(text.vectors)
    torch.manual_seed(0)
    drawn = text.train().latent(50)
    picked = {int((every - row).abs().sum(1).argmin()) for row in drawn}
    assert picked == {0, 1, 2}
    assert all((every - row).abs().sum(1).min() < 1e-6 for row in drawn)
    torch.testing.assert_close(text.eval().latent(2), every.mean(0).expand(2, -1))
    mean = TextFusion(FusionConfig(beta=1.0, draw="mean"), texts(), channels=4).train()
    assert torch.equal(mean.latent(2)[0], mean.latent(2)[1])


def test_several_texts_are_averaged() -> None:
    text = TextFusion(FusionConfig(beta=1.0), texts(2), channels=4).eval()
    torch.testing.assert_close(text.latent(1)[0], text.mlp(text.vectors).mean(0))  # three responses each


def test_state_holds_what_is_learnt_and_no_vectors() -> None:
    net = with_text(network())
    added = {name for name in net.state_dict() if name.startswith("text.")}
    assert added == {"text.mlp.0.weight", "text.mlp.0.bias", "text.mlp.2.weight", "text.mlp.2.bias"}
    loss = net(image()).square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.text.parameters())  # type: ignore[union-attr]
    assert isinstance(net.text, nn.Module)

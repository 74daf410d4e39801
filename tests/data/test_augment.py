import numpy as np
import pytest
import torch
from scipy import ndimage

from gleanseg.config import AugmentConfig
from gleanseg.data.augment import Draw, blur, draw, move, strong, weak

SIZE = (8, 10, 12)
ISOTROPIC = (1.0, 1.0, 1.0)
MIRROR = (True, True, True)


def volume(*shape: int) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))


def test_the_same_generator_draws_the_same_and_advances_the_same() -> None:
    everything = AugmentConfig(rotation_probability=1, zoom_probability=1)
    nothing = AugmentConfig(rotation_probability=0, zoom_probability=0, intensity=False, strong=False, mirror=())
    a, b = np.random.default_rng(3), np.random.default_rng(3)
    first = draw(a, everything, mirror_ZYX=MIRROR)
    assert draw(b, nothing, mirror_ZYX=(False, False, False)) == Draw(invert=first.invert)
    assert a.random() == b.random()
    assert draw(np.random.default_rng(3), everything, mirror_ZYX=MIRROR) == first


def test_draws_stay_within_the_recipe() -> None:
    config = AugmentConfig(rotation_degrees=10, rotation_probability=1, zoom=(0.7, 1.4), zoom_probability=0.5)
    rng = np.random.default_rng(0)
    draws = [draw(rng, config, mirror_ZYX=(True, False, True)) for _ in range(400)]
    assert max(abs(a) for d in draws for a in d.angles) <= np.deg2rad(10)
    assert 0.7 <= min(d.zoom for d in draws) < 0.75
    assert 1.35 < max(d.zoom for d in draws) <= 1.4
    assert 0.4 < np.mean([d.zoom != 1 for d in draws]) < 0.6
    assert 0.4 < np.mean([d.flips[0] for d in draws]) < 0.6
    assert not any(d.flips[1] for d in draws)


def test_without_change_a_patch_is_a_plain_crop() -> None:
    source = volume(20, 20, 20)
    center = np.array([3.5 + 4, 4.5 + 2, 5.5 + 6])
    patch = move(source, center, SIZE, Draw(), ISOTROPIC, nearest=False)
    assert torch.equal(patch, source[:, 4:12, 2:12, 6:18])


def test_flips_mirror_the_crop() -> None:
    source = volume(20, 20, 20)
    center = np.array([7.5, 6.5, 11.5])
    plain = move(source, center, SIZE, Draw(), ISOTROPIC, nearest=False)
    flipped = move(source, center, SIZE, Draw(flips=(True, False, True)), ISOTROPIC, nearest=False)
    assert torch.equal(flipped, plain.flip(1, 3))


def test_a_right_angle_about_z_is_rot90() -> None:
    source = volume(5, 9, 9)
    drawn = Draw(angles=(np.pi / 2, 0.0, 0.0))
    patch = move(source, np.array([2.0, 4.0, 4.0]), (5, 9, 9), drawn, ISOTROPIC, nearest=False)
    turned = torch.rot90(source, 1, (2, 3))
    back = torch.rot90(source, -1, (2, 3))
    assert min((patch - turned).abs().max(), (patch - back).abs().max()) < 1e-4


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_quarter_turns_cut_a_turned_source_and_keep_the_patch_size(quarters: int) -> None:
    source, drawn = volume(8, 30, 30), Draw(quarters=quarters, flips=(False, True, False))
    center = np.array([3.5, 14.5, 14.5])
    patch = move(source, center, SIZE, drawn, ISOTROPIC, nearest=False)
    assert patch.shape[1:] == SIZE
    cut = source[:, :, 10:20, 9:21] if quarters % 2 == 0 else source[:, :, 9:21, 10:20]
    assert torch.equal(patch, cut.rot90(quarters, (2, 3)).flip(2))


def test_quarter_turns_are_drawn_evenly_and_leave_other_draws_alone() -> None:
    plain, turning = AugmentConfig(), AugmentConfig(rotate90=True)
    draws = [draw(np.random.default_rng(i), turning, mirror_ZYX=MIRROR) for i in range(200)]
    assert all(30 < sum(d.quarters == q for d in draws) < 70 for q in range(4))
    without = [draw(np.random.default_rng(i), plain, mirror_ZYX=MIRROR) for i in range(200)]
    assert [d._replace(quarters=0) for d in draws] == without


def test_rotation_is_rigid_in_millimetres() -> None:
    matrix = Draw(angles=(0.3, -0.2, 0.1)).matrix((3.0, 1.0, 0.5))
    in_mm = np.diag([3.0, 1.0, 0.5]) @ matrix @ np.diag([1 / 3.0, 1.0, 2.0])
    assert in_mm @ in_mm.T == pytest.approx(np.eye(3), abs=1e-12)


def test_zoom_shows_the_anatomy_larger() -> None:
    grid = torch.stack(torch.meshgrid(*[torch.arange(33.0)] * 3, indexing="ij"))
    ball = ((grid - 16).square().sum(0) < 36).float()[None]
    middle = np.array([16.0, 16.0, 16.0])
    larger = move(ball, middle, (33, 33, 33), Draw(zoom=1.5), ISOTROPIC, nearest=True)
    assert float(larger.sum() / ball.sum()) == pytest.approx(1.5**3, rel=0.08)


def test_the_source_box_is_large_enough_for_every_turn() -> None:
    rng = np.random.default_rng(0)
    config = AugmentConfig(
        rotation_degrees=40, rotation_probability=1, zoom_probability=1, zoom=(0.6, 1.4), rotate90=True
    )
    patch = np.array([16, 12, 20])
    for _ in range(50):
        drawn = draw(rng, config, mirror_ZYX=MIRROR)
        spacing = (2.0, 1.0, 0.7)
        half = np.ceil(drawn.reach(patch, spacing)).astype(int)
        source = torch.ones(1, *(2 * half + 1))
        moved = move(source, half.astype(float), (16, 12, 20), drawn, spacing, nearest=False)
        assert moved.min() > 0.999  # no voxel came from outside


def test_blur_is_scipys_gaussian() -> None:
    x = volume(12, 13, 14)
    expected = ndimage.gaussian_filter(x[0].numpy(), 0.9, mode="nearest", truncate=3.0)
    assert blur(x, 0.9)[0].numpy() == pytest.approx(expected, abs=1e-5)


def test_strong_changes_intensity_and_never_moves_voxels() -> None:
    x = torch.zeros(1, 9, 9, 9)
    x[0, 4, 3, 5], x[0, 1, 1, 1] = 5.0, 2.0
    for drawn in (
        Draw(noise=0.1),
        Draw(blur=0.8),
        Draw(brightness=1.2),
        Draw(contrast=0.8),
        Draw(gamma=1.4),
        Draw(gamma=0.7, invert=True),
    ):
        changed = strong(x, drawn, key=1)
        assert not torch.equal(changed, x), drawn
        assert changed.argmax() == x.argmax(), drawn
    assert strong(x, Draw(), key=1) is x
    coarse = strong(volume(16, 16, 16), Draw(low_resolution=0.5), key=1)
    assert coarse.shape == (1, 16, 16, 16)
    assert coarse.std() < 1.0


def test_noise_is_keyed() -> None:
    x = volume(6, 6, 6)
    assert torch.equal(strong(x, Draw(noise=0.2), key=5), strong(x, Draw(noise=0.2), key=5))
    assert not torch.equal(strong(x, Draw(noise=0.2), key=5), strong(x, Draw(noise=0.2), key=6))


def test_gamma_keeps_mean_and_deviation_of_each_channel() -> None:
    x = torch.cat([volume(8, 8, 8), 100 + 7 * volume(8, 8, 8).flip(1)])
    for drawn in (Draw(gamma=1.5), Draw(gamma=0.7, invert=True)):
        changed = strong(x, drawn, key=0)
        assert changed.mean((1, 2, 3)).tolist() == pytest.approx(x.mean((1, 2, 3)).tolist(), abs=1e-3)
        assert changed.std((1, 2, 3)).tolist() == pytest.approx(x.std((1, 2, 3)).tolist(), rel=1e-4)


def test_weak_scales_and_shifts() -> None:
    x = volume(4, 4, 4)
    assert torch.allclose(weak(x, Draw(scale=1.1, shift=-0.1)), 1.1 * x - 0.1)
    assert weak(x, Draw()) is x

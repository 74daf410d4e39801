"""Axes: C image channels, R ROIs, Z Y X voxels."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from gleanseg.predict.blend import Average
from gleanseg.predict.sliding import Size, Slider, Sliding, importance_map, step_of, window_starts

CPU = torch.device("cpu")
REFERENCE_STARTS = [
    # size, patch, step -> number of windows of published protocols
    ((190, 112, 18), 6),
    ((142, 112, 18), 3),
    ((88, 80, 4), 3),
    ((168, 96, 16), 6),
    ((146, 96, 16), 5),
    ((310, 96, 16), 15),
    ((137, 96, 64), 2),
    ((171, 96, 64), 3),
    ((140, 96, 64), 2),
]


class Toy(nn.Module):
    """A network whose logits depend on the place within the window, so that blending shows."""

    def __init__(self, num_rois: int, *, linear: bool, in_channels: int = 1, width: int = 5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(num_rois)
        self.linear_head = linear
        self.mix = nn.Parameter(torch.randn(width, in_channels + 3, generator=generator))
        self.weight = nn.Parameter(torch.randn(num_rois, width, generator=generator))
        self.bias = nn.Parameter(torch.randn(num_rois, generator=generator) / 4)
        self.calls = 0

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        self.calls += len(x)
        grid = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in x.shape[2:]), indexing="ij")
        stacked = torch.cat([x, torch.stack(grid)[None].expand(len(x), -1, -1, -1, -1)], dim=1)
        maps = torch.einsum("wc,bczyx->bwzyx", self.mix, stacked).tanh()
        return (maps,) if self.linear_head else (maps, maps.mean((2, 3, 4)))

    def score(self, features: tuple[Tensor, ...], rois: slice | None = None) -> Tensor:
        weight, bias = self.weight[rois or slice(None)], self.bias[rois or slice(None)]
        logits = torch.einsum("rw,bwzyx->brzyx", weight, features[0]) + bias[:, None, None, None]
        if self.linear_head:
            return logits
        return logits + 3 * (features[1] @ weight.T)[:, :, None, None, None] ** 2  # what the window as a whole says


def brute_force(nets: list[Toy], image: np.ndarray, sliding: Sliding, num_rois: int) -> np.ndarray:
    """All scores in one array, double precision, straight from the definition."""
    patch = sliding.patch_ZYX
    missing = [max(0, p - n) for p, n in zip(patch, image.shape[1:], strict=True)]
    before = [m // 2 for m in missing]
    padded = np.pad(image, [(0, 0), *((m // 2, m - m // 2) for m in missing)])
    weight = importance_map(patch, sliding.blend).double()
    probabilities = []
    for net in nets:
        total = torch.zeros(num_rois, *padded.shape[1:], dtype=torch.float64)
        norm = torch.zeros(padded.shape[1:], dtype=torch.float64)
        starts = [window_starts(*a) for a in zip(padded.shape[1:], patch, sliding.step_ZYX, strict=True)]
        for z, y, x in product(*starts):
            at = (slice(None), slice(z, z + patch[0]), slice(y, y + patch[1]), slice(x, x + patch[2]))
            for flip in sliding.flips:
                window = torch.from_numpy(padded[at].copy())[None].flip(flip)
                logits = net.score(net.features(window))[0].flip(flip).detach().double()
                if -1 in flip and sliding.swap is not None:
                    logits = logits[list(sliding.swap)]
                total[at] += weight * (logits.sigmoid() if sliding.average == "probabilities" else logits)
                norm[at[1:]] += weight
        probabilities.append(total / norm)
    if sliding.average == "logits" and len(nets) == 1:
        result = probabilities[0]
    else:
        to_p = [p.sigmoid() if sliding.average == "logits" else p for p in probabilities]
        result = torch.stack(to_p).mean(0) - 0.5
    inner = tuple(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True))
    return result[(slice(None), *inner)].numpy()


def collect(slider: Slider, num_rois: int, shape: tuple[int, ...]) -> np.ndarray:
    """Join slabs, checking that rows come in order and that halo rows repeat what was said of them."""
    whole = np.full((num_rois, *shape), np.nan, dtype=np.float32)
    done = 0
    for slab in slider.slabs():
        assert max(0, done - slider.halo) == slab.start
        for rois, scores in slab.scores():
            old = whole[rois, slab.start : done]
            np.testing.assert_array_equal(scores[:, : done - slab.start].numpy(), old)
            whole[rois, slab.start : slab.stop] = scores.numpy()
        done = slab.stop
    assert done == shape[0]
    return whole


@pytest.mark.parametrize(("axis", "count"), REFERENCE_STARTS)
def test_published_protocols_have_the_published_number_of_windows(axis: Size, count: int) -> None:
    starts = window_starts(*axis)
    size, patch, step = axis
    assert len(starts) == count
    assert starts[-1] == size - patch
    assert all(0 < b - a <= step for a, b in pairwise(starts))


def test_window_starts_of_a_volume_as_large_as_the_patch() -> None:
    assert window_starts(8, 8, 4) == (0,)
    assert window_starts(10, 8, 3) == (0, 2)
    assert window_starts(20, 8, 4) == (0, 4, 8, 12)


def test_step_of_overlap() -> None:
    assert step_of((80, 96, 7), overlap=0.5) == (40, 48, 4)
    assert step_of((4, 4, 1), overlap=0.9) == (1, 1, 1)


# Reference values of the published Gaussian importance map: patch -> {voxel: weight}, sum.
@pytest.mark.parametrize(
    ("patch", "values", "total"),
    [
        (
            (64, 192, 192),
            {
                (0, 0, 0): 3.775134371775124e-11,
                (32, 96, 96): 1.0,
                (63, 191, 191): 8.603944640084293e-11,
                (16, 48, 48): 0.0024787522852420807,
            },
            72560.2891152447,
        ),
        ((16, 24, 24), {(0, 0, 0): 3.775134371775124e-11, (4, 6, 6): 0.0024787522852420807}, 283.4276262547884),
    ],
)
def test_importance_map_equals_the_published_one(patch: Size, values: dict[Size, float], total: float) -> None:
    weight = importance_map(patch, "gaussian")
    for voxel, value in values.items():
        assert float(weight[voxel]) == pytest.approx(value, rel=1e-6)
    assert float(weight.double().sum()) == pytest.approx(total, rel=1e-6)
    assert float(weight.min()) == pytest.approx(3.775134371775124e-11, rel=1e-6)


class PlaceNet(nn.Module):
    """The network of the golden file: logit 2x + 0.15 i - 0.1 j + 0.2 k - 0.3 at place (i, j, k) of the window."""

    linear_head = True

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        i, j, k = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in x.shape[2:]), indexing="ij")
        return (2 * x + 0.15 * i - 0.1 * j + 0.2 * k - 0.3,)

    def score(self, features: tuple[Tensor, ...], rois: slice | None = None) -> Tensor:
        return features[0].expand(-1, 20, -1, -1, -1)[:, rois or slice(None)]


@pytest.mark.parametrize("num_rois", [1, 20])  # scores are held, windows are kept
@pytest.mark.parametrize(
    ("patch", "step", "count", "total", "voxels"),
    [
        ((8, 8, 4), (3, 3, 2), 239, 239.0662841796875, (0.4255574643611908, 0.2202453911304474, 0.27527931332588196)),
        ((12, 8, 8), (3, 3, 2), 288, 282.05267333984375, None),  # zero-padded
    ],
)
def test_reference_protocol(
    golden_image: np.ndarray,
    num_rois: int,
    patch: Size,
    step: Size,
    count: int,
    total: float,
    voxels: tuple[float, ...] | None,
) -> None:
    sliding = Sliding(patch_ZYX=patch, step_ZYX=step, blend="constant", average="probabilities", roi_chunk=3)
    slider = Slider([PlaceNet()], golden_image[None], num_rois=num_rois, sliding=sliding, device=CPU)
    scores = collect(slider, num_rois, golden_image.shape)
    for p in scores + 0.5:
        assert np.count_nonzero(p > 0.5) == count
        assert p.astype(np.float64).sum() == pytest.approx(total, rel=1e-5)
        if voxels is not None:
            np.testing.assert_allclose([p[0, 0, 0], p[5, 4, 2], p[9, 8, 4]], voxels, atol=2e-4)


@pytest.fixture
def golden_image() -> np.ndarray:
    i, j, k = np.indices((10, 9, 5))
    return np.round(np.sin(0.7 * i + 0.4 * j**2 + 0.9 * k), 4).astype(np.float32)


def random_image(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


def settings(**changes: object) -> Sliding:
    return Sliding(**{"patch_ZYX": (8, 6, 10), "step_ZYX": (4, 3, 5), "roi_chunk": 4, **changes})


@pytest.mark.parametrize("halo", [0, 3])
@pytest.mark.parametrize("blend", ["gaussian", "constant"])
@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("num_rois", [2, 21])
def test_slabs_equal_brute_force(num_rois: int, linear: bool, average: Average, blend: str, halo: int) -> None:
    image, net = random_image(1, 21, 13, 12), Toy(num_rois, linear=linear)
    sliding = settings(average=average, blend=blend, window_batch=3)
    expected = brute_force([net], image, sliding, num_rois)
    slider = Slider([net], image, num_rois=num_rois, sliding=sliding, device=CPU, halo=halo)
    found = collect(slider, num_rois, image.shape[1:])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert np.ptp(expected) > 0.5


@pytest.mark.parametrize("num_rois", [2, 21])
@pytest.mark.parametrize("shape", [(5, 13, 12), (21, 4, 9), (3, 3, 3)])
def test_volumes_smaller_than_the_patch_are_padded(shape: Size, num_rois: int) -> None:
    image, net = random_image(1, *shape), Toy(num_rois, linear=True)
    expected = brute_force([net], image, settings(), num_rois)
    slider = Slider([net], image, num_rois=num_rois, sliding=settings(), device=CPU, halo=2)
    np.testing.assert_allclose(collect(slider, num_rois, shape), expected, atol=2e-5)


@pytest.mark.parametrize("num_rois", [2, 22])
@pytest.mark.parametrize("linear", [True, False])
def test_networks_are_averaged_as_probabilities(linear: bool, num_rois: int) -> None:
    nets = [Toy(num_rois, linear=linear), Toy(num_rois, linear=True)]
    with torch.no_grad():
        nets[1].weight.neg_()
    image = random_image(1, 13, 8, 11)
    expected = brute_force(nets, image, settings(), num_rois)
    slider = Slider(nets, image, num_rois=num_rois, sliding=settings(), device=CPU, halo=1)
    np.testing.assert_allclose(collect(slider, num_rois, image.shape[1:]), expected, atol=2e-5)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("num_rois", [4, 20])
def test_flipped_passes_swap_sides(linear: bool, num_rois: int) -> None:
    swap = tuple(r + 1 if r % 2 == 0 else r - 1 for r in range(num_rois))
    sliding = settings(flips=((), (-3,), (-1,), (-3, -1)), swap=swap)
    net, image = Toy(num_rois, linear=linear), random_image(1, 13, 8, 11)
    expected = brute_force([net], image, sliding, num_rois)
    slider = Slider([net], image, num_rois=num_rois, sliding=sliding, device=CPU, halo=1)
    np.testing.assert_allclose(collect(slider, num_rois, image.shape[1:]), expected, atol=2e-5)
    without = brute_force([net], image, settings(flips=sliding.flips), num_rois)
    assert np.abs(expected - without).max() > 0.1


@pytest.mark.parametrize("num_rois", [2, 21])
@pytest.mark.parametrize("linear", [True, False])
def test_air_windows_are_skipped_and_background(linear: bool, num_rois: int) -> None:
    image = np.zeros((1, 40, 6, 10), dtype=np.float32)
    image[:, 24:] = random_image(1, 16, 6, 10)
    net = Toy(num_rois, linear=linear)
    sliding = settings(is_air=lambda window: bool((window == 0).all()))
    polled: list[tuple[int, int]] = []
    slider = Slider(
        [net], image, num_rois=num_rois, sliding=sliding, device=CPU, halo=1, poll=lambda *p: polled.append(p)
    )
    found = {slab.start: [s.clone() for _, s in slab.scores()] for slab in slider.slabs()}
    assert slider.num_windows == 9
    assert net.calls == 4  # first rows 20, 24, 28, 32: the others see zeros only
    assert polled[-1] == (9, 9)
    expected = brute_force([net], image[:, 20:], settings(), num_rois)
    below = [s for start, scores in found.items() if start + 4 < 20 for s in scores]
    assert all((s < 0).all() for s in below)
    top = torch.cat(found[max(found)])
    np.testing.assert_allclose(top.numpy(), expected[:, -top.shape[1] :], atol=2e-5)


def test_all_air_gives_no_scores() -> None:
    net = Toy(2, linear=True)
    sliding = settings(is_air=lambda window: True)
    slider = Slider([net], random_image(1, 12, 12, 12), num_rois=2, sliding=sliding, device=CPU)
    slabs = [(slab.start, slab.stop, list(slab.scores())) for slab in slider.slabs()]
    assert slabs == [(0, 4, []), (4, 12, [])]
    assert net.calls == 0


def test_poll_may_end_the_walk() -> None:
    class StopError(Exception):
        pass

    def poll(done: int, total: int) -> None:
        assert total == 27
        if done >= 4:
            raise StopError

    net = Toy(2, linear=True)
    image = random_image(1, 16, 12, 20)
    slider = Slider([net], image, num_rois=2, sliding=settings(window_batch=2), device=CPU, poll=poll)
    with pytest.raises(StopError):
        list(slider.slabs())
    assert net.calls == 4


def test_bf16_scores_are_close_to_fp32() -> None:
    net, image = Toy(20, linear=True), random_image(1, 16, 12, 20)
    fp32, bf16 = (
        collect(Slider([net], image, num_rois=20, sliding=settings(bf16=bf16), device=CPU, halo=1), 20, image.shape[1:])
        for bf16 in (False, True)
    )
    assert 0 < np.abs(fp32 - bf16).max() < 0.1


class LargestTensor(TorchDispatchMode):
    """Counts the elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for item in tree_iter(result):
            if isinstance(item, Tensor):
                self.largest = max(self.largest, item.untyped_storage().nbytes())
        return result


def largest_storage(num_rois: int, *, linear: bool, height: int) -> int:
    net, image = Toy(num_rois, linear=linear, width=16), random_image(1, height, 16, 24)
    sliding = settings(patch_ZYX=(16, 16, 16), step_ZYX=(8, 8, 8), roi_chunk=3)
    with LargestTensor() as watch:
        for slab in Slider([net], image, num_rois=num_rois, sliding=sliding, device=CPU, halo=1).slabs():
            for _ in slab.scores():
                pass
    return watch.largest


@pytest.mark.parametrize("linear", [True, False])
def test_memory_grows_neither_with_rois_nor_with_height(linear: bool) -> None:
    few = largest_storage(18, linear=linear, height=32)
    many = largest_storage(60, linear=linear, height=32)
    tall = largest_storage(18, linear=linear, height=72)
    assert many == few
    assert tall == few
    assert few < 18 * 32 * 16 * 24 * 4  # one float32 volume per ROI

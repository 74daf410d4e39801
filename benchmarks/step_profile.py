"""Where a training step's time goes, and how near its convolutions alone come to the processor's matrix rate.

    python benchmarks/step_profile.py

For each network: an engine step under PyTorch's profiler, its operators in groups; and every convolution of the network
by itself, forward and backward, in the engine's precision and layout, against the rate of large matrix products. What
convolutions alone reach is what no fusion around them can pass. The rate of memory is that of maps multiplied in place,
so many that no cache holds them, as norms and activations do it.
"""

import shlex
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from end_to_end import write
from step_time import engine_step, limit, made_up_data, network_flops, network_of
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from gleanseg.config import Recipe
from gleanseg.engine.precision import choose
from gleanseg.predict.hardware import keep_freed_memory

NETWORKS = {"vnet": (112, 112, 80), "unet3d": (96, 96, 96), "swin_unetr": (96, 96, 96)}
"""Patches x y z, as step_time.py has them."""
GROUPS = {
    "convolutions": ("conv",),
    "normalization": ("batch_norm", "group_norm", "layer_norm", "instance_norm", "batch_norm_backward"),
    "activations": ("relu", "threshold", "gelu", "clamp_min"),
    "matrix products": ("addmm", "bmm", "aten::mm", "mkldnn_linear", "softmax"),
    "copies and casts": ("copy_", "clone", "cat", "fill_", "zero_"),
    "optimizer": ("_fused", "foreach", "adam", "sgd", "norm"),
}
"""Parts of operators' names; the first group that fits takes it."""
REPEATS = 4
SHOWN = 8


def main() -> None:
    keep_freed_memory()  # as ``fit`` does
    rate = max(limit()["tflops"] for _ in range(3))
    found = {name: of_network(name, patch, rate) for name, patch in NETWORKS.items()}
    write(
        "step_profile",
        {
            "command": shlex.join(["python", "benchmarks/step_profile.py", *sys.argv[1:]]),
            "precision": choose("auto", torch.device("cpu")),
            "limit_tflops": round(rate, 3),
            "memory_gb_s": round(memory_rate(), 1),
            "batch": 2,
            "networks": found,
        },
    )


def memory_rate(*, maps: int = 32, megabytes: int = 64) -> float:
    """Bytes read and written a second, in 10^9; the median over maps that were last touched long ago."""
    many, rates = [torch.ones(megabytes * 2**19, dtype=torch.bfloat16) for _ in range(maps)], []
    for one in many:
        start = time.perf_counter()
        one.mul_(2)
        rates.append(2 * one.nbytes / (time.perf_counter() - start) / 1e9)
    return statistics.median(rates)


def of_network(name: str, patch: tuple[int, int, int], rate: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        recipe = made_up_data(Path(folder), network=name, patch=patch, batch=2)
        step_s, shares = groups(recipe, Path(folder) / "run")
        layers = convolutions(recipe)
        flops = network_flops(recipe)
    convolutions_s = sum(layer["seconds"] * layer["times"] for layer in layers)
    flops_of_them = sum(layer["gflop"] * layer["times"] for layer in layers) / 1e3
    return {
        "patch_xyz": patch,
        "step_s": round(step_s, 3),
        "shares": shares,
        "network_tflop": round(flops / 1e12, 3),
        "convolutions_alone_s": round(convolutions_s, 3),
        "convolutions_alone_share_of_limit": round(flops_of_them / convolutions_s / rate, 3),
        "slowest_convolutions": sorted(layers, key=lambda layer: -layer["seconds"] * layer["times"])[:SHOWN],
    }


def groups(recipe: Recipe, out: Path) -> tuple[float, dict[str, float]]:
    """Seconds of a step without the profiler, and the groups' shares of the operators' own time with it."""
    steps, times = engine_step(recipe, read=False, out=out), []
    for _ in range(REPEATS):
        start = time.perf_counter()
        next(steps)
        times.append(time.perf_counter() - start)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        next(steps)
    taken: Counter[str] = Counter()
    for row in found.key_averages():
        taken[group_of(row.key)] += row.self_cpu_time_total
    total = sum(taken.values())
    return min(times), {name: round(us / total, 3) for name, us in taken.most_common()}


def group_of(operator: str) -> str:
    """The group's name, ``other`` where none fits."""
    fits = (name for name, parts in GROUPS.items() if any(part in operator.lower() for part in parts))
    return next(fits, "other")


def convolutions(recipe: Recipe) -> list[dict[str, Any]]:
    """Every kind of convolution of a network: how often it occurs, and what one takes by itself."""
    net, x = network_of(recipe)
    kinds: Counter[tuple[Any, ...]] = Counter()
    modules: dict[tuple[Any, ...], nn.Module] = {}

    def seen(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        key = (type(module).__name__, module.in_channels, module.out_channels, module.kernel_size, module.stride,
               tuple(inputs[0].shape))  # fmt: skip
        kinds[key] += 1
        modules[key] = module

    hooks = [m.register_forward_pre_hook(seen) for m in net.modules() if isinstance(m, nn.Conv3d | nn.ConvTranspose3d)]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return [
        {
            "kind": kind_of(key),
            "times": kinds[key],
        }
        | alone(module, key[5])
        for key, module in modules.items()
    ]


def kind_of(key: tuple[Any, ...]) -> str:
    name, inputs, outputs, kernel, stride, shape = key
    size = "x".join(map(str, shape[:1:-1]))
    transposed = ", transposed" if "Transpose" in name else ""
    return f"{inputs} to {outputs} channels, kernel {kernel[0]}, stride {stride[0]}, {size}{transposed}"


def alone(module: nn.Module, shape: tuple[int, ...]) -> dict[str, float]:
    """Seconds forward and backward, and operations."""
    dtype = torch.bfloat16 if choose("auto", torch.device("cpu")) == "bf16-mixed" else torch.float32
    layer = module.to(dtype=dtype, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    x = torch.randn(shape, dtype=dtype).to(memory_format=torch.channels_last_3d).requires_grad_()
    times, counter = [], FlopCounterMode(display=False)
    with counter:
        y = layer(x)
        y.backward(torch.ones_like(y))
    slope = torch.randn(y.shape, dtype=dtype).to(memory_format=torch.channels_last_3d)
    for _ in range(REPEATS):
        start = time.perf_counter()
        layer(x).backward(slope)
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    flops = counter.get_total_flops()
    return {"seconds": round(seconds, 4), "gflop": round(flops / 1e9, 2), "tflops": round(flops / seconds / 1e12, 3)}


if __name__ == "__main__":
    main()

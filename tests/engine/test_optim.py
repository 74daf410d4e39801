import pytest

from gleanseg.config import OptimizerConfig
from gleanseg.engine.optim import lr_at


@pytest.mark.parametrize(
    ("schedule", "step", "total", "expected"),
    [
        ("constant", 999, 1000, 0.01),
        ("poly", 0, 30000, 0.01),
        ("poly", 15000, 30000, 0.005358867312681466),
        ("poly", 29999, 30000, 9.345248855829638e-07),
        ("step", 2499, 6000, 0.01),
        ("step", 2500, 6000, 0.001),
        ("step", 5999, 6000, 0.0001),
        ("cosine", 0, 100, 0.01),
        ("cosine", 50, 100, 0.005),
    ],
)
def test_published_schedules(schedule: str, step: int, total: int, expected: float) -> None:
    config = OptimizerConfig.model_validate({"lr": 0.01, "schedule": schedule})
    assert lr_at(step, total, config) == pytest.approx(expected)


def test_warmup_rises_to_the_rate() -> None:
    config = OptimizerConfig(lr=1.0, warmup=4, schedule="constant")
    assert [lr_at(step, 10, config) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]

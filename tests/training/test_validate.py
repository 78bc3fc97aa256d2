"""A batch that can't be shared out: what is named instead would do."""

import re
from dataclasses import replace

import pytest

from fastdcgan.config import DataConfig, ExecutionConfig, RecipeConfig, TrainConfig
from fastdcgan.training.validate import check_batch_divides, check_penalty


def asked(batch: int, parts: int = 1, shares: int | None = None) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(batch_size=batch),
        recipe=RecipeConfig(accumulate=parts),
        execution=ExecutionConfig(exact_ranks=shares),
    )


@pytest.mark.parametrize(
    ("config", "processes", "nearest"),
    [
        (asked(100), 8, ["96", "104"]),
        (asked(100, parts=3), 8, ["96", "120"]),
        (asked(16, parts=5), 2, ["10", "20"]),
        (asked(3), 8, ["8"]),
        (asked(100, shares=8), 4, ["96", "104"]),
        (asked(98, shares=8), 2, ["96", "104"]),
        (asked(98, parts=3, shares=8), 2, ["96", "120"]),
    ],
)
def test_the_nearest_batches_that_divide_are_named(config: TrainConfig, processes: int, nearest: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^--batch-size \d+ .*: \d+( or \d+)?$") as error:
        check_batch_divides(config, processes)
    assert re.findall(r"\d+", str(error.value).rpartition(":")[2]) == nearest
    first, last = int(nearest[0]), int(nearest[-1])
    refused = []
    for batch in range(min(first, config.data.batch_size or 0), last + 1):
        try:
            check_batch_divides(replace(config, data=replace(config.data, batch_size=batch)), processes)
        except ValueError:
            refused.append(batch)
    assert not {first, last} & set(refused), "what is named is refused too"
    assert refused == [n for n in range(min(first, config.data.batch_size or 0), last) if n != first], "nearer ones do"


def test_a_gradient_penalty_through_batchnorm_over_processes_is_refused_with_what_would_do() -> None:
    def asked(**recipe: object) -> TrainConfig:
        return TrainConfig(recipe=RecipeConfig(r1=1.0, **recipe))  # type: ignore[arg-type]

    with pytest.raises(ValueError, match=r"--r1 1.0 .* over 2 processes: add --spectral-norm, or --batch-norm local$"):
        check_penalty(asked(), 2)
    check_penalty(asked(), 1)
    check_penalty(asked(spectral_norm=True), 2)
    check_penalty(asked(batch_norm="local"), 2)
    check_penalty(TrainConfig(), 2)

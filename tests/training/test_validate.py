"""A batch that can't be shared out: what is named instead would do."""

import re
from dataclasses import replace

import pytest

from fastdcgan.config import DataConfig, ExecutionConfig, RecipeConfig, TrainConfig
from fastdcgan.training.validate import check_batch_divides


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

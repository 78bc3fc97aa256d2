"""Predictions of scaling: limiting cases, and by hand."""

import pytest
from torch.nn.modules.batchnorm import _BatchNorm

from fastdcgan.gan import models
from fastdcgan.gan.architecture import architecture
from fastdcgan.limits.allreduce import Fabric, Link, gpu_fabrics
from fastdcgan.limits.gpu_prediction import predict, predict_compute
from fastdcgan.limits.roofline import KNOWN_GPUS
from fastdcgan.limits.scaling import (
    BUCKET_BYTES,
    FIRST_BUCKET_BYTES,
    Communication,
    Compute,
    Gradient,
    batch_norm_messages,
    ddp_buckets,
    gradient_numbers,
    images_needed,
    measured_compute,
    parse_gpu_counts,
    predict_iteration,
    strong_scaling,
    weak_scaling,
)

DCGAN64 = architecture("dcgan64")
H100 = KNOWN_GPUS["H100"]
LINK = Link(latency=1.0, bytes_per_sec=4.0)
PAPER = (Fabric(intra_node=LINK, inter_node=LINK, ranks_per_node=8),)
"""Between two ranks an all-reduce of n numbers takes 2 + n seconds."""


def on_h100(batch: int) -> Compute:
    return predict_compute(DCGAN64, batch, H100, "bf16", captured=False)


def two_networks(*ready: float, end: float = 10.0, numbers: int = 3) -> Compute:
    gradients = tuple(Gradient(numbers=numbers, seconds=seconds) for seconds in ready)
    alone = (Gradient(numbers=1, seconds=end),)
    return Compute(seconds=end, discriminator=gradients, generator=alone, bound_by="memory")


@pytest.mark.parametrize("name", ["dcgan28", "dcgan32", "dcgan64", "dcgan128", "dcgan192x96"])
def test_gradients_are_the_networks_parameters(name: str) -> None:
    arch = architecture(name)
    for network, numbers in zip(models.build(arch, 0), gradient_numbers(arch), strict=True):
        assert sum(numbers) == models.parameter_count(network)


def test_batch_norm_sends_two_sums_a_channel_each_way() -> None:
    arch = architecture("dcgan28")
    G, D = models.build(arch, 0)
    channels = sum(
        passes * layer.num_features
        for network, passes in ((G, 1), (D, 3))
        for layer in network.modules()
        if isinstance(layer, _BatchNorm)
    )
    messages = batch_norm_messages(arch)
    forward = len(messages) // 2
    assert sum(messages) == 4 * channels + forward  # each forward message has a count too
    assert len(batch_norm_messages(DCGAN64)) == 2 * (4 + 3 * 3)


def test_one_rank_does_not_communicate() -> None:
    sharing = Communication(fabrics=PAPER, batch_norm=(3, 3))
    alone = predict_iteration(two_networks(9, 10), 8, 1, sharing)
    assert (alone.seconds, alone.communication, alone.images_per_sec) == (10, 0, 0.8)


def test_early_all_reduces_are_hidden() -> None:
    """D's bucket closes at 10 with the last gradient: 2 + 6 seconds after it. G's: 2 + 1."""
    scaled = predict_iteration(two_networks(1, 10), 8, 2, Communication(fabrics=PAPER))
    assert scaled.exposed_seconds == pytest.approx(8 + 3)


def test_large_buckets_go_as_soon_as_they_are_full() -> None:
    """The first bucket leaves at 1 and arrives long before the second is full, so only the second's is seen."""
    fast = Link(
        latency=0.0, bytes_per_sec=4.0 * FIRST_BUCKET_BYTES
    )  # two ranks share a bucket in numbers / FIRST_BUCKET
    sharing = Communication(fabrics=(Fabric(intra_node=fast, inter_node=fast, ranks_per_node=8),))
    compute = two_networks(1, 10, numbers=FIRST_BUCKET_BYTES // 4)
    overlapped = predict_iteration(compute, 8, 2, sharing)
    in_turn = predict_iteration(compute, 8, 2, Communication(fabrics=sharing.fabrics, overlapped=False))
    assert overlapped.exposed_seconds == pytest.approx(0.25, rel=1e-3)
    assert in_turn.exposed_seconds == pytest.approx(0.5, rel=1e-3)
    assert overlapped.gradient_seconds == in_turn.gradient_seconds


def test_buckets_close_once_they_are_large_enough() -> None:
    """DDP's rule, on dcgan64's D: its first bucket ends with the layer of 256 to 512 channels."""
    gradients = measured_compute(DCGAN64, 1.0).discriminator
    last, before = 512 * 16, 256 * 512 * 16 + 2 * 512
    rest = 128 * 256 * 16 + 2 * 256 + 64 * 128 * 16 + 2 * 128 + 3 * 64 * 16
    assert [numbers for numbers, _ in ddp_buckets(gradients)] == [last + before, rest]
    large = [Gradient(numbers=BUCKET_BYTES // 8, seconds=float(second)) for second in range(4)]
    assert ddp_buckets(large) == [(BUCKET_BYTES // 8, 0.0), (BUCKET_BYTES // 4, 2.0), (BUCKET_BYTES // 8, 3.0)]


def test_compressed_gradients_take_half_the_bytes() -> None:
    whole, halved = (
        predict_iteration(two_networks(10), 8, 2, Communication(fabrics=PAPER, bytes_per_number=number)).exposed_seconds
        for number in (4, 2)
    )
    assert whole - halved == pytest.approx((3 + 1) / 2)


def test_synchronised_batch_norm_costs_a_message_each() -> None:
    local, synchronised = (
        predict_iteration(two_networks(10), 8, 2, Communication(fabrics=PAPER, batch_norm=messages))
        for messages in ((), (5, 7))
    )
    assert synchronised.seconds - local.seconds == pytest.approx(2 + 5 + 2 + 7)


def test_slowdown_applies_to_compute_alone() -> None:
    free, crowded = (
        predict_iteration(two_networks(10), 8, 2, Communication(fabrics=PAPER), slowdown=slow) for slow in (1.0, 2.0)
    )
    assert crowded.seconds - free.seconds == 10
    assert crowded.exposed_seconds == free.exposed_seconds


def test_bound_by_names_what_takes_most_of_the_time() -> None:
    assert predict_iteration(two_networks(10), 8, 2, Communication(fabrics=PAPER)).bound_by == "memory"
    assert predict_iteration(two_networks(10, numbers=100), 8, 2, Communication(fabrics=PAPER)).bound_by == "all-reduce"


def test_weak_scaling_keeps_each_rank_busy_and_loses_the_messages() -> None:
    counts = parse_gpu_counts("1..512")
    rows = weak_scaling(128, counts, on_h100, Communication(fabrics=gpu_fabrics("nvlink+infiniband", "H100")))
    assert [row.ranks for row in rows] == list(counts)
    assert {row.batch for row in rows} == {128}
    assert rows[0].efficiency == 1
    efficiencies = [row.efficiency for row in rows]
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert all(row.seconds == pytest.approx(rows[0].seconds / row.efficiency) for row in rows)


def test_strong_scaling_divides_the_batch() -> None:
    sharing = Communication(fabrics=gpu_fabrics("nvlink+infiniband", "H100"))
    rows = strong_scaling(128, parse_gpu_counts("1..512"), on_h100, sharing)
    assert [(row.ranks, row.batch) for row in rows] == [(2**k, 128 // 2**k) for k in range(8)]
    efficiencies = [row.efficiency for row in rows]
    assert efficiencies == sorted(efficiencies, reverse=True) and efficiencies[-1] < 0.05
    assert [row.ranks for row in strong_scaling(6, (1, 2, 3, 4), on_h100, sharing)] == [1, 2, 3]


def test_where_launches_bind_a_smaller_share_takes_as_long() -> None:
    assert on_h100(128).bound_by == "launches"
    assert on_h100(1).seconds == on_h100(128).seconds
    whole, half = (predict_compute(DCGAN64, batch, H100, "bf16", captured=True).seconds for batch in (128, 64))
    assert 0.5 < half / whole < 0.7


@pytest.mark.parametrize("captured", [False, True])
def test_gradients_are_ready_within_the_step(captured: bool) -> None:
    step = predict_compute(DCGAN64, 128, H100, "bf16", captured=captured)
    D, G = ([gradient.seconds for gradient in each] for each in (step.discriminator, step.generator))
    assert D[0] > 0 and sorted(D) == D and D[-1] < G[0] and sorted(G) == G and G[-1] < step.seconds
    prediction = predict(DCGAN64, 128, H100, "bf16")
    assert step.seconds == (prediction.captured if captured else prediction.eager)
    assert sum(gradient.numbers for gradient in step.generator) == sum(gradient_numbers(DCGAN64)[0])


@pytest.mark.parametrize(
    ("text", "counts"), [("8", (8,)), ("1,2,4", (1, 2, 4)), ("1..8", (1, 2, 4, 8)), ("3..20", (4, 8, 16))]
)
def test_counts_are_parsed(text: str, counts: tuple[int, ...]) -> None:
    assert parse_gpu_counts(text) == counts


@pytest.mark.parametrize("text", ["", "0", "-1", "a", "1..", "8..1", "5..7", "1,,2", "1.5", "1..1000000000"])
def test_invalid_counts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"--gpus {text}"):
        parse_gpu_counts(text)


def test_larger_batches_pay_up_to_the_critical_one() -> None:
    """Without communication. Far below it N ranks are N times as soon; at it doubling pays less; far above, nothing."""
    instant = Link(latency=0.0, bytes_per_sec=float("inf"))
    nothing = Communication(fabrics=(Fabric(intra_node=instant, inter_node=instant, ranks_per_node=8),))
    rows = weak_scaling(16, (1, 2, 1024), lambda batch: measured_compute(DCGAN64, 1.0), nothing)
    assert rows[0].sooner(16, 20.0) == pytest.approx(1)
    assert rows[1].sooner(16, 1e9) == pytest.approx(2)
    assert rows[1].sooner(16, 16.0) == pytest.approx(2 * 2 / 3)
    assert rows[2].sooner(16, 16.0) == pytest.approx(2, rel=0.01), "two times as soon is the most there is"
    assert images_needed(64, 64.0) == 2

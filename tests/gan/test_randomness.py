import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from fastdcgan.gan.randomness import Stream, latents, normal_table, rng

STREAMS = st.sampled_from(Stream)


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1), STREAMS, st.integers(0, 10**7), st.integers(0, 40), st.integers(0, 40))
def test_the_first_rows_do_not_depend_on_the_count(
    seed: int, stream: Stream, position: int, few: int, more: int
) -> None:
    short, long = latents(seed, stream, position, few, 5), latents(seed, stream, position, few + more, 5)
    assert torch.equal(short, long[:few])


def test_noise_is_a_function_of_seed_stream_and_position() -> None:
    torch.manual_seed(1)
    first = latents(3, Stream.NOISE, 7, 4, 6)
    torch.manual_seed(2)
    latents(3, Stream.NOISE, 8, 4, 6)  # whatever was drawn in between
    assert torch.equal(latents(3, Stream.NOISE, 7, 4, 6), first)


@pytest.mark.parametrize("base", [0, 2**32, 2**62], ids=["small", "2**32", "2**62"])
def test_other_seeds_streams_and_positions_draw_other_numbers(base: int) -> None:
    """Also for seeds that don't fit into 32 bits, of which the command line takes all below 2**63."""
    seeds = [*range(4), *(range(base, base + 4) if base else ())]
    places = [(seed, stream, position) for seed in seeds for stream in Stream for position in range(8)]
    assert len({rng(*place).random() for place in places}) == len(places)


def test_no_global_state_is_read_or_changed() -> None:
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    latents(0, Stream.SAMPLES, 0, 3, 3)
    rng(0, Stream.ORDER).permutation(10)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)


@pytest.mark.parametrize("stream", [Stream.NOISE, Stream.NOISE_BY_TABLE])
def test_noise_is_standard_normal_in_fp32_on_the_cpu(stream: Stream) -> None:
    z_BL = latents(0, stream, 0, 1000, 100)
    assert (z_BL.shape, z_BL.dtype, z_BL.device.type) == ((1000, 100), torch.float32, "cpu")
    assert abs(z_BL.mean().item()) < 5 / 1e5**0.5
    assert abs(z_BL.std().item() - 1) < 5 / 2e5**0.5
    assert abs(np.corrcoef(z_BL[:, 0], latents(0, stream, 1, 1000, 100)[:, 0])[0, 1]) < 5 / 1000**0.5
    neighbours = np.corrcoef(z_BL[:, :5].T) - np.eye(5)
    assert np.abs(neighbours).max() < 5 / 1000**0.5, "numbers that come from the same 64 bits"
    assert kstest(z_BL.flatten().numpy(), "norm").pvalue > 1e-4


def test_the_table_is_the_normal_distribution_in_equally_likely_parts() -> None:
    table = normal_table()
    parts = (torch.arange(65_536, dtype=torch.float64) + 0.5) / 65_536
    assert torch.allclose(torch.from_numpy(table).double(), torch.special.ndtri(parts), rtol=1e-6, atol=0)
    drawn = latents(0, Stream.NOISE_BY_TABLE, 0, 1000, 100).numpy()
    assert np.isin(drawn, table).all() and len(np.unique(drawn)) > 65_536 * 0.75, "of all of it"


def test_streams_keep_their_numbers() -> None:
    """Another number for a stream would change what a seed means, and what a run goes on with when resumed."""
    assert {stream.name: stream.value for stream in Stream} == {
        "WEIGHTS": 0,
        "NOISE": 1,
        "ORDER": 2,
        "FLIP": 3,
        "SAMPLES": 4,
        "GENERATE": 5,
        "EVALUATE": 6,
        "EVALUATE_REAL": 7,
        "AUGMENT": 8,
        "NOISE_BY_TABLE": 9,
    }

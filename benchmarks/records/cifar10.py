"""What the tracks on CIFAR-10 share: all 50,000 training pictures, FID on 50,000 pictures, a GPU."""

from benchmarks.records.track import Record, Track


def cifar10(fid: float, reference: Record, width: int = 64) -> Track:
    """The track to an FID, for networks of a width."""
    return Track(
        name=f"CIFAR-10 to FID {fid:g}",
        data="cifar10",
        count=50_000,
        arch="dcgan32",
        width=width,
        extractor="inception",
        metric="frechet",
        judged=50_000,
        reference=reference,
        threshold=fid,
        on_gpu=True,
    )

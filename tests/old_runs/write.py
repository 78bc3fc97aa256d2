"""Write a small run as a commit writes it: python tests/old_runs/write.py COMMIT [VERSION]

Makes COMMIT.tar.gz, or VERSION.tar.gz, beside this file: pictures, the run that was trained on them and evaluated,
pictures drawn from it, and the cache folder with the pack and a measured plan. Committed once for each version that is
released, and for each change of what is written between them: test_old_runs.py opens them all.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
TRAIN = (
    *("train", "--data", "pictures", "--out", "run", "--arch", "dcgan16", "--width", "4", "--latent-dim", "6"),
    *("--batch-size", "4", "--checkpoint-every", "30", "--log-every", "20", "--sample-every", "30", "--device", "cpu"),
    *("--precision", "fp32", "--compile", "off", "--data-cache", "on", "--decoder", "pillow", "--seed", "5"),
    *("--lr", "0.01"),  # so that sixty steps are seen
)
"""The run, less its length; from the folder that the archive is opened in."""

TUNE = (
    *("tune", "--arch", "dcgan16", "--width", "4", "--batch-size", "4", "--device", "cpu"),
    *("--precision", "fp32", "--compile", "off", "--seconds", "1"),
)

SHORT, LONG = ("--images", "240"), ("--images", "480")


def draw_pictures(folder: Path) -> None:
    """50 PNGs, the fewest that are evaluated, of 20 x 24 pixels: smooth colours, which differ between pictures."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:20, 0:24] / 24
    for number in range(50):
        a, b, c = rng.uniform(0, 255, (3, 3))
        picture_HWC = (a * x[..., None] + b * y[..., None] + c * (1 - x[..., None])).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture_HWC).save(file := folder / f"{number:02}.png")
        os.utime(file, (1_700_000_000, 1_700_000_000))  # part of the pack's identity; tar keeps whole seconds exactly


def main(commit: str, version: str | None = None) -> None:
    """Check the commit out beside this checkout, and run it."""
    name = version or subprocess.check_output(["git", "rev-parse", "--short", commit], text=True, cwd=HERE).strip()
    with tempfile.TemporaryDirectory() as temporary:
        code, made = Path(temporary, "code"), Path(temporary, "made")
        made.mkdir()
        subprocess.check_call(["git", "worktree", "add", "--quiet", "--detach", code, commit], cwd=HERE)
        try:
            draw_pictures(made / "pictures")
            environment = os.environ | {
                "PYTHONPATH": str(code),
                "FASTDCGAN_CACHE": str(made / "cache"),
                "OMP_NUM_THREADS": "1",
            }

            def run(*arguments: str) -> None:
                subprocess.check_call([sys.executable, "-m", "fastdcgan", *arguments], cwd=made, env=environment)

            run(*TRAIN, *SHORT)
            run("evaluate", "run", "--checkpoint", "all")
            run(*TUNE)
            run("generate", "run", "--count", "4", "--seed", "1", "--out", "drawn")
        finally:
            subprocess.check_call(["git", "worktree", "remove", "--force", code], cwd=HERE)
        for left_out in ("run/report.html", "run/losses.png"):  # large, and written anew by whoever reads the run
            (made / left_out).unlink(missing_ok=True)
        # For the processor of this machine; large.
        for folder in ("native", "features"):
            shutil.rmtree(made / "cache" / folder, ignore_errors=True)
        with tarfile.open(HERE / f"{name}.tar.gz", "w:gz") as archive:
            for part in sorted(made.iterdir()):
                archive.add(part, part.name)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The Dockerfiles' install steps, without an engine: copied and run in a folder and a virtual environment of their own.

What would take minutes is left out: packages are resolved as `pip install` would, not downloaded. The base image,
apt-get and users are the engine's, and are not tested.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

from fastdcgan.kernels.native.build import compiler, is_supported_machine

pytestmark = [
    pytest.mark.slow(40),
    pytest.mark.skipif(sys.platform != "linux", reason="the images are Linux's"),
]

CAN_BUILD = is_supported_machine() and compiler() is not None

DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))

RESOLVED: set[tuple[str, ...]] = set()
"""Options of pip and the list that went with them."""


class Image:
    """What a Dockerfile makes, as far as that can be done in a folder."""

    def __init__(self, dockerfile: Path, root: Path, **arguments: str) -> None:
        self.root, self.folder = root, root
        self.program: list[str] = []
        self.installed: list[str] = []
        self.venv = root / "venv"
        subprocess.run([sys.executable, "-m", "venv", self.venv], check=True)
        (root / "tmp").mkdir()
        inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        path = {"PATH": f"{self.venv / 'bin'}:{os.environ['PATH']}", "VIRTUAL_ENV": str(self.venv)}
        self.environment = {**inherited, **path, **arguments}
        for instruction, rest in instructions(dockerfile):
            getattr(self, instruction.lower(), lambda rest: None)(rest)

    def workdir(self, rest: str) -> None:
        self.folder = self.root / rest.strip("/")
        self.folder.mkdir(parents=True, exist_ok=True)

    def copy(self, rest: str) -> None:
        *sources, target = shlex.split(rest)
        if sources[0].startswith("--from="):
            return  # the stages share a folder
        for source in sources:
            to = self.folder / target / Path(source).name if target == "./" else self.folder / target
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, to)

    def run(self, rest: str) -> None:
        if "pip " not in rest:
            return
        self.installed += re.findall(r"pip install [^&;]*", rest)
        later = self.root / "tmp" / "resolve.txt"
        script = rest.replace("/tmp/", f"{self.root}/tmp/").replace("/wheels", f"{self.root}/wheels")
        script = re.sub(r"pip install ([^&;]*-r [^&; ]+)", rf'echo "\1" >> {later}', script)
        self.checked("sh", "-ec", script)
        for line in later.read_text().splitlines() if later.exists() else ():
            self.resolve(shlex.split(line))
        later.unlink(missing_ok=True)

    def resolve(self, options: list[str]) -> None:
        """All that pip does to install from a list, but for the downloads. What was done for one image is not again."""
        file = Path(options[-1])
        step = (*options[:-1], file.read_text())
        if step not in RESOLVED:
            # Of another index only what is asked of it: with all that those need this would take as long again.
            only = ["--no-deps"] if "--index-url" in options else []
            self.checked("pip", "install", "--quiet", "--dry-run", *only, *options)
            RESOLVED.add(step)

    def entrypoint(self, rest: str) -> None:
        self.program = json.loads(rest)

    def cmd(self, rest: str) -> None:
        self.program = [*self.program, *json.loads(rest)]

    def checked(self, *command: str) -> str:
        """What a command says that must succeed there."""
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Each with what follows it, on one line."""
    lines = [line for line in dockerfile.read_text().splitlines() if line.strip() and not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", "")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in whole.splitlines())]


def package_index() -> str:
    """Where pip looks here, asked of another process: before Python 3.12 importing pip keeps setuptools from loading
    in the same one, and with it inductor."""
    default = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    asked, unset = (
        subprocess.run([sys.executable, *command], capture_output=True, text=True).stdout.strip()
        for command in (["-m", "pip", "config", "get", "global.index-url"], ["-c", default])
    )
    return os.environ.get("PIP_INDEX_URL") or asked or unset


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.suffix[1:])
def test_the_install_steps_work(dockerfile: Path, tmp_path: Path) -> None:
    image = Image(dockerfile, tmp_path, TORCH_INDEX=package_index())  # in place of PyTorch's own, which may be far

    assert image.installed[-1].startswith("pip install --no-deps ")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dependencies = [*project["dependencies"], *project["optional-dependencies"]["dali"]]
    assert ("-r", "\n".join(dependencies) + "\n") in RESOLVED

    # What was resolved is what these tests run with; the package itself must come from the image.
    packages_here = Path(sysconfig.get_path("purelib", vars={"base": str(image.venv), "platbase": str(image.venv)}))
    (packages_here / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert "--data" in image.checked(*image.program, "--help")
    found = image.checked("python", "-c", "import fastdcgan; print(fastdcgan.__path__[0])").strip()
    assert Path(found) == packages_here / "fastdcgan"
    of_source = {path.relative_to(ROOT / "fastdcgan") for path in (ROOT / "fastdcgan").rglob("*.*pp")}
    assert of_source <= {path.relative_to(found) for path in Path(found).rglob("*.*pp")}, "kernels' sources"
    if CAN_BUILD:
        assert list(Path(found).rglob("kernels_avx2.so"))
    assert (tmp_path / "app" / "launch" / "gpu_8.yaml").exists() and (tmp_path / "app" / "train.py").exists()

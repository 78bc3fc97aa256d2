"""Builds the C++ kernels into the package, a library for each instruction set, where there is a compiler."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# Without the package itself, which imports PyTorch.
spec = spec_from_file_location("build_kernels", Path(__file__).parent / "fastdcgan/kernels/native/build.py")
assert spec is not None
assert spec.loader is not None
kernels = module_from_spec(spec)
spec.loader.exec_module(kernels)


class BuildKernels(build_ext):
    """Compiles all libraries at once. One that can't be compiled is left out: PyTorch's kernels take its place."""

    def build_extensions(self) -> None:
        """In threads: each waits for a compiler."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.build_extension, self.extensions))

    def build_extension(self, extension: Extension) -> None:
        """As `extension.name` says: the package and the library's name, which ends with its instruction set."""
        library = Path(self.get_ext_fullpath(extension.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        instruction_set = library.stem.removeprefix("kernels_")
        built = kernels.library_path(instruction_set)
        if kernels.is_current(built):  # by an installation of this checkout
            if built.resolve() != library.resolve():
                shutil.copy(built, library)
            return
        try:
            kernels.build(kernels.compiler(), instruction_set, library)
        except (OSError, subprocess.SubprocessError) as error:
            self.warn(f"{library.name} is left out: {error}\n{getattr(error, 'stderr', '') or ''}")

    def get_ext_filename(self, fullname: str) -> str:
        """Without Python's version in the name: the libraries know nothing of Python."""
        return f"{fullname.replace('.', '/')}.so"


class Wheel(bdist_wheel):
    """For any Python, on this system."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI and platform."""
        return ("py3", "none", super().get_tag()[2])


can_build = kernels.is_supported_machine() and kernels.compiler() is not None
names = [kernels.library_path(target).stem for target in kernels.TARGETS] if can_build else []
setup(
    ext_modules=[Extension(f"fastdcgan.kernels.native.{name}", sources=[], optional=True) for name in names],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
)

"""The package's layers: who may import whom. Read from the source, with the imports inside functions."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fastdcgan

ROOT = Path(fastdcgan.__file__).parent

# From the ground up; imports point down. Entries with a dot at the end are folders, within which anything goes.
LAYERS = (
    "architecture",
    "allreduce",
    "scaling",
    "randomness",
    "paired",
    "strict_json",
    "printable",
    "files",
    "sealed",
    "background",
    "cache",
    "private",
    "memory",
    "allocator",
    "ranges",
    "native.",
    "winograd",
    "thin",
    "ends",
    "sync_norm",
    "fused_norm",
    "hardware",
    "config",
    "models",
    "reference",
    "objectives",
    "step",
    "accumulate",
    "exact",
    "stacked",
    "plan",
    "finite",
    "capture",
    "roofline",
    "gpu_prediction",
    "contender",
    "parity",
    "tune",
    "choice",
    "data.",
    "distributed",
    "agreement",
    "checkpoint",
    "run_folder",
    "stopping",
    "telemetry.",
    "sampling",
    "run_lock",
    "run",
    "recorder",
    "rank_log",
    "generate",
    "interpolate",
    "trainer",
    "profile",
    "cli",
    "__main__",
)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """Full names of all that a file imports: `from a import b` may mean module a or module a.b, so both."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                assert node.level == 0, f"{path.name}: imports are written in full"
                assert node.module is not None
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                names.add(name)
    return names


def own(name: str) -> set[str]:
    """Modules of this package that a module imports, without the package's name."""
    below = {found.removeprefix("fastdcgan.") for found in imported(MODULES[name]) if found.startswith("fastdcgan.")}
    modules = below & MODULES.keys()
    # `from fastdcgan.data.order import x` and `from fastdcgan.data import y` are not the same dependency.
    return {m for m in modules if not any(o != m and o.startswith(f"{m}.") for o in modules)} - {name}


def top(name: str) -> set[str]:
    """Packages that a module imports."""
    return {found.split(".")[0] for found in imported(MODULES[name])}


def layer(name: str) -> int:
    in_folder = name.split(".")[0] + "."
    return LAYERS.index(in_folder if in_folder in LAYERS else name)


def test_every_module_has_a_layer() -> None:
    assert "trainer" in MODULES
    assert "data.order" in MODULES
    known = {entry.rstrip(".") for entry in LAYERS} | {"__init__"}
    assert {name.split(".")[0] for name in MODULES} <= known


@pytest.mark.parametrize("name", [name for name in MODULES if name != "__init__"])
def test_imports_point_down(name: str) -> None:
    here = layer(name)
    in_folder = LAYERS[here].endswith(".")
    upwards = {other for other in own(name) if layer(other) > here or (layer(other) == here and not in_folder)}
    assert not upwards, f"{name} imports {', '.join(sorted(upwards))} from above it"


def test_no_imports_in_a_circle() -> None:
    graph = {name: own(name) for name in MODULES}
    assert graph["trainer"] >= {"capture", "plan", "checkpoint"}, "found nothing where there is something"
    TopologicalSorter(graph).prepare()


def test_the_package_itself_imports_none_of_its_modules() -> None:
    assert own("__init__") == set()


def test_the_reference_needs_torch_alone_and_is_needed_only_to_be_compared_with() -> None:
    assert top("reference") == {"torch"}
    assert [name for name in MODULES if "reference" in own(name)] == ["contender"]
    assert {name for name in MODULES if "contender" in own(name)} == {"parity", "tune"}


def test_the_ground_is_plain_python() -> None:
    for name in ("architecture", "allreduce", "scaling", "strict_json", "sealed", "background", "config"):
        assert top(name) <= sys.stdlib_module_names | {"fastdcgan"}


def test_accelerate_is_known_in_two_files() -> None:
    assert {name for name in MODULES if "accelerate" in top(name)} == {"distributed", "trainer"}


def test_dali_is_known_in_one_file() -> None:
    assert {name for name in MODULES if "nvidia" in top(name)} == {"data.dali"}


def test_the_command_line_answers_without_torch() -> None:
    heavy = ("torch", "torchvision", "accelerate", "nvidia.dali", "matplotlib", "numpy")
    code = f"import sys, fastdcgan.cli; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert done.stdout.strip() == "[]"

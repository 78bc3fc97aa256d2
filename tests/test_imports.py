"""The packages: who may import whom. Read from the source, with the imports inside functions."""

import ast
import re
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fastdcgan

ROOT = Path(fastdcgan.__file__).parent

# Who may import whom: a package, and those below it that it knows. `config` stands beside `gan`. Imports within a
# package are its own affair, as long as they don't go in a circle.
PACKAGES: dict[str, set[str]] = {
    "storage": set(),
    "private_torch": set(),
    "device": set(),
    "gan": {"config", "private_torch"},
    "config": {"gan"},
    "kernels": {"storage", "gan", "private_torch"},
    "execution": {"storage", "gan", "config", "kernels", "private_torch"},
    "limits": {"gan", "private_torch"},
    "tuning": {"storage", "device", "gan", "config", "kernels", "execution", "limits", "private_torch"},
    "data": {"storage", "device", "gan", "config", "limits"},
    "distributed": {"storage", "config", "execution", "limits", "data"},
    "runs": {"storage", "device", "gan", "config"},
    "evaluation": {"storage", "gan", "config", "limits", "data", "runs"},
    "telemetry": {"storage", "gan", "config", "limits", "tuning", "data", "distributed", "runs", "evaluation"},
    "training": {
        *("storage", "device", "gan", "config", "kernels", "execution", "limits", "tuning", "data"),
        *("distributed", "runs", "evaluation", "telemetry"),
    },
    "api": {"storage", "gan", "config", "limits", "data", "distributed", "runs", "telemetry", "training"},
    "export": {"storage", "gan", "config", "runs", "evaluation", "telemetry", "api"},
    "doctor": {"storage", "gan", "config", "kernels", "execution", "limits", "tuning", "data", "distributed"},
}
TOP = {"__init__", "__main__", "cli"}
"""What a user calls: it may import all of them."""

MOST_MODULES = 12
"""In one folder: more are not seen at a glance."""


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


def package(name: str) -> str:
    return name.split(".")[0]


def test_every_module_is_in_a_package() -> None:
    assert {package(name) for name in MODULES} == PACKAGES.keys() | TOP
    assert "data.order" in MODULES and "training.trainer" in MODULES, "found nothing where there is something"


@pytest.mark.parametrize("name", [name for name in MODULES if package(name) not in TOP])
def test_imports_go_one_way(name: str) -> None:
    here = package(name)
    others = {other for other in own(name) if package(other) not in {here, *PACKAGES[here]}}
    assert not others, f"{name} imports {', '.join(sorted(others))}, which {here} doesn't know"


def test_packages_form_no_circle() -> None:
    graph = {name: known - {"config" if name == "gan" else ""} for name, known in PACKAGES.items()}
    TopologicalSorter(graph).prepare()


def test_a_folder_is_seen_at_a_glance() -> None:
    folders = Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    assert {str(folder): count for folder, count in folders.items() if count > MOST_MODULES} == {}


def test_no_imports_in_a_circle() -> None:
    graph = {name: own(name) for name in MODULES}
    assert graph["training.setup"] >= {"execution.plan", "tuning.choice", "runs.checkpoints.checkpoint"}, (
        "found nothing where there is something"
    )
    TopologicalSorter(graph).prepare()


def test_the_package_itself_offers_what_is_in_api_and_imports_nothing_yet() -> None:
    assert {package(name) for name in own("__init__")} == {"api", "config"}
    code = "import sys, fastdcgan; print([name for name in sys.modules if name.startswith(('fastdcgan.', 'torch'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert done.stdout.strip() == "[]"


def test_the_reference_needs_torch_alone_and_is_needed_only_to_be_compared_with() -> None:
    assert top("gan.reference") == {"torch"}
    assert [name for name in MODULES if "gan.reference" in own(name)] == ["tuning.implementations"]
    assert {name for name in MODULES if "tuning.implementations" in own(name)} == {"tuning.parity", "tuning.tune"}


def test_the_ground_is_plain_python() -> None:
    plain = ("gan.architecture", "config", "limits.allreduce", "limits.scaling")
    for name in (*plain, "storage.strict_json", "storage.checksummed", "storage.background"):
        assert top(name) <= sys.stdlib_module_names | {"fastdcgan"}


def test_accelerate_is_known_in_one_package() -> None:
    assert {package(name) for name in MODULES if "accelerate" in top(name)} == {"distributed"}


def test_dali_is_known_in_one_file() -> None:
    assert {name for name in MODULES if "nvidia" in top(name)} == {"data.decoding.dali"}


def test_torch_fidelity_is_known_in_one_package() -> None:
    assert {name for name in MODULES if "torch_fidelity" in top(name)} == {
        "evaluation.distances",
        "evaluation.extractors",
    }


def test_private_names_of_torch_are_known_in_one_module() -> None:
    assert {name for name, path in MODULES.items() if private_names(path)} == {"private_torch"}
    found = private_names(MODULES["private_torch"])
    assert "torch._C" in found and "torch.utils._pytree.tree_leaves" in found, "found nothing where there is something"


def private_names(path: Path) -> set[str]:
    """All that a file says of torch's underscore names: imported, as an attribute or in a string."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # What the names in this file stand for: `import a.b as c`, `from a import b`.
    known: dict[str, str] = {}
    said: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                known |= {
                    each.asname or each.name.split(".")[0]: (each.asname and each.name) or each.name.split(".")[0]
                    for each in node.names
                }
                said |= {each.name for each in node.names}
            case ast.ImportFrom(module=str(module)):
                known |= {each.asname or each.name: f"{module}.{each.name}" for each in node.names}
                said |= {f"{module}.{each.name}" for each in node.names}
            case ast.Constant(value=str(text)) if re.fullmatch(r"torch(\.\w+)+", text):
                said.add(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (parts := re.fullmatch(r"(\w+)((\.\w+)+)", ast.unparse(node))):
            said.add(known.get(parts[1], "") + parts[2])
    of_torch = {name for name in said if name.startswith(("torch.", "torchvision."))}
    return {name for name in of_torch if re.search(r"\._(?!_)", name)}


def test_the_command_line_answers_without_torch() -> None:
    heavy = ("torch", "torchvision", "accelerate", "nvidia.dali", "matplotlib", "numpy")
    code = f"import sys, fastdcgan.cli; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert done.stdout.strip() == "[]"

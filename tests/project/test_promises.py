"""What SECURITY.md and docs/ say holds a promise is there: a test of that name, a file, a folder."""

import re
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PAGES = ("SECURITY.md", "docs/checkpoints.md", "docs/upgrading.md")


@pytest.mark.parametrize("page", PAGES)
def test_tests_that_are_named_are_there(page: str) -> None:
    sources = list((ROOT / "tests").rglob("*.py"))
    defined = "\n".join(chain.from_iterable(re.findall(r"def (test_\w+)", file.read_text()) for file in sources))
    named = re.findall(r"`(tests?[_/][\w./]+)(?:\[[^`]*)?`", (ROOT / page).read_text())
    assert named
    for name in named:
        if name.startswith("tests/"):
            assert (ROOT / name).exists(), name
        elif name.endswith(".py"):
            assert any(file.name == name for file in sources), name
        else:
            beginning, shortened, _ = name.partition("...")
            assert re.search(rf"^{beginning}{'' if shortened else '$'}", defined, re.MULTILINE), name

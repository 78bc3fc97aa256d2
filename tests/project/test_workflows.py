"""The workflows: what the linter says, and what they run that nobody would miss until it is needed."""

import re
import tomllib
from typing import Any

import yaml
from conftest import ROOT
from linters import checked, tool
from packaging.version import Version

WORKFLOWS = ROOT / ".github" / "workflows"

OTHERS = ("dali", "wandb", "trackio", "test", "test-without-dali", "dev")
"""Extras that the tests with the oldest versions do without, or that are no users'."""


def jobs() -> dict[str, Any]:
    """Of the tests, by name."""
    return yaml.safe_load((WORKFLOWS / "tests.yml").read_text())["jobs"]


def commands(job: dict[str, Any]) -> list[str]:
    """One a step."""
    return [step["run"] for step in job["steps"] if "run" in step]


def test_the_linter_finds_nothing() -> None:
    checked(tool("actionlint"), "-shellcheck", tool("shellcheck"), *WORKFLOWS.iterdir())


def test_the_quick_tests_run_on_every_system_with_the_oldest_and_the_newest_versions() -> None:
    quick = jobs()["quick"]
    matrix = quick["strategy"]["matrix"]
    assert commands(quick)[-1] == "pytest"
    assert {system.partition("-")[0] for system in matrix["os"]} == {"ubuntu", "windows", "macos"}

    oldest, newest = sorted(matrix["python"], key=Version)
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert required == f">={oldest}"
    versions = {each["python"]: each["versions"] for each in matrix["include"]}
    assert versions == {oldest: "lowest-direct", newest: "highest"}


def test_the_oldest_versions_are_the_lower_bounds_and_are_tested_without_dali() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [
        dependency
        for name, each in project["optional-dependencies"].items()
        if name not in OTHERS
        for dependency in each
    ]
    asked_for = [dependency for dependency in project["dependencies"] + extras if ">=" in dependency]
    bounds = dict.fromkeys(re.sub(r"^([\w-]+)>=([\d.]+).*", r"\1==\2", dependency) for dependency in asked_for)
    pins = [line for line in (ROOT / "tests" / "oldest.txt").read_text().splitlines() if not line.startswith("#")]
    assert pins == list(bounds)

    install = 'pip install --constraint tests/oldest.txt --editable ".[test-without-dali]"'
    assert commands(jobs()["oldest"]) == [install, "pytest"]


def test_all_checks_are_run() -> None:
    assert any(".ci/run" in commands(job) for job in jobs().values())


def test_both_packages_are_installed() -> None:
    assert jobs()["package"]["strategy"]["matrix"]["archive"] == ["*.whl", "*.tar.gz"]

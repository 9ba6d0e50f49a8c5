"""
What users install: the versions that pyproject.toml admits, and the package as it is built.

Each environment is made once, as ``.venv-NAME`` in the repository, from a registry; torch is as pinned.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.version import Version

from tests.commands import ROOT

Happened = Callable[[object], None]
pytestmark = pytest.mark.long

CORE = ("monai", "nibabel", "numpy", "pytorch-ignite")
CONSTRAINTS = ROOT / "constraints.txt"


def environment(name: str, *requirements: object, torch: bool = True) -> Path:
    """The interpreter of ``.venv-NAME``, with torch as pinned and what is asked for."""
    folder = ROOT / f".venv-{name}"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    if torch:  # alone, first, and by pip, whose settings say which build of it is taken
        pinned = [line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch==")]
        run(python, "-m", "pip", "install", "--quiet", *pinned)
    if requirements:
        install(python, *requirements)
    return python


def install(python: Path, *requirements: object) -> None:
    """By uv where it is at hand, which is faster, else by pip."""
    by_uv = (shutil.which("uv"), "pip", "install", "--python", python)
    run(*(by_uv if by_uv[0] else (python, "-m", "pip", "install")), "--quiet", *requirements)


def run(*words: object, cwd: Path = ROOT, check: bool = True) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=environ, capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def bounds() -> dict[str, str]:
    """The lowest version that pyproject.toml admits, by package."""
    return dict(re.findall(r'^  "([\w-]+)>=([\w.]+)",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))


def versions(python: Path) -> dict[str, str]:
    listed = json.loads(run(python, "-m", "pip", "list", "--format", "json").stdout)
    return {one["name"].lower(): one["version"] for one in listed}


def suite_passes(python: Path) -> str:
    """Run the default suite there as ``make test`` does; how many tests passed, or were skipped."""
    parallel = ("-n", "auto", "--maxprocesses", "4", "--dist", "loadfile")
    quiet = ("-q", "--disable-warnings", "-p", "no:cacheprovider")
    done = run(python, "-m", "pytest", "-m", "not long", *quiet, *parallel, check=False)
    last = (done.stdout.strip().splitlines() or [""])[-1]
    assert done.returncode == 0, f"{done.stdout[-5000:]}\n{done.stderr[-2000:]}"
    return ", ".join(re.findall(r"\d+ (?:passed|skipped)", last))


WORKS = "They install beside the pinned torch, and the whole suite passes."


@pytest.mark.timeout(4 * 3600)
@pytest.mark.reliability(
    "Supply chain", "The lowest monai, nibabel, ignite and numpy that pyproject.toml admits", WORKS
)
def test_lowest_versions(happened: Happened) -> None:
    lowest = bounds()
    python = environment("lowest", *(f"{name}=={lowest[name]}" for name in CORE), f"{ROOT}[dev]")
    found = versions(python)
    assert all(Version(found[name]) == Version(lowest[name]) for name in CORE)
    happened(f"{', '.join(f'{name} {found[name]}' for name in CORE)}: {suite_passes(python)}.")


@pytest.mark.timeout(4 * 3600)
@pytest.mark.reliability("Supply chain", "The newest versions of all dependencies", WORKS)
def test_newest_versions(happened: Happened) -> None:
    python = environment("newest", f"{ROOT}[dev]")
    assert run(python, "-m", "pip", "check").returncode == 0
    found = versions(python)
    happened(f"{', '.join(f'{name} {found[name]}' for name in CORE)}: {suite_passes(python)}.")


@pytest.mark.timeout(3600)
@pytest.mark.reliability(
    "Supply chain",
    "The wheel, and the source archive, in an environment with nothing else",
    "They build, install, hold the same files, and segment the demo's scan.",
)
@pytest.mark.parametrize("ending", ["whl", "tar.gz"])
def test_wheel_and_source_archive(tmp_path: Path, ending: str, happened: Happened) -> None:
    run(sys.executable, "-m", "build", "--outdir", tmp_path, ROOT)
    (built,) = tmp_path.glob(f"*.{ending}")
    if ending == "whl":
        names = set(zipfile.ZipFile(built).namelist())
    else:
        with tarfile.open(built) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "shared_nets").rglob("*.py")}
    assert package | {"shared_nets/inference/report.html.j2"} <= names
    python = environment("empty")
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "shared_nets")
    install(python, "--constraint", CONSTRAINTS, built)
    done = run(
        python.parent / "strokeseg", "predict", ROOT / "demo" / "chronic", "--model", "xnet",
        "--bundle", ROOT / "xnet_bundle", "--output", tmp_path / "out", cwd=tmp_path,
    )  # fmt: skip
    assert (tmp_path / "out" / "sub-M2299_label-lesion_mask.nii.gz").is_file()
    where = run(python, "-c", "import shared_nets; print(shared_nets.__file__)", cwd=tmp_path).stdout
    assert ".venv-empty" in where
    happened(done.stdout.splitlines()[0])


@pytest.mark.timeout(3600)
@pytest.mark.reliability(
    "Supply chain", "pip-audit over the pinned versions", "No known vulnerability, or one that is explained."
)
def test_no_known_vulnerabilities(tmp_path: Path, happened: Happened) -> None:
    pins = [line for line in CONSTRAINTS.read_text().splitlines() if line and not line.startswith("#")]
    (tmp_path / "pins.txt").write_text("\n".join(pins))
    python = environment("tools", "pip-audit", torch=False)
    done = run(
        python, "-m", "pip_audit", "--no-deps", "--disable-pip", "--requirement", tmp_path / "pins.txt",
        "--progress-spinner", "off", check=False,
    )  # fmt: skip
    told = done.stdout + done.stderr
    if told.count("could not be audited") >= len(pins) or "ConnectionError" in told or "ServiceError" in told:
        pytest.skip("the service of known vulnerabilities cannot be reached from here")
    happened((done.stdout or done.stderr).strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout

"""The wheel and the source archive: what is in them, and a user's first commands with the wheel alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"src", "examples", "README.md", "LICENSE", "pyproject.toml", ".gitignore", "PKG-INFO"}
SUFFIXES = {
    ".py", ".typed", ".yaml", ".tsv", ".txt", ".jsonl", ".ipynb", ".md", ".c", ".h", ".html", ".css", ".js", ".svg",
    ".j2",
}  # fmt: skip
"""Of files that belong into the package; a new one is added here with intent."""

BOUND = 1_500_000
"""Bytes of the wheel beside its modules: text of others, weights and runs would be larger."""

TEXT = {"texts.txt", "60.txt", "109.txt", "1833.txt"}
"""The examples' lines, and the lists of languages."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive, and the wheel built from nothing but that."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder)], ROOT)
    archive = next(folder.glob("*.tar.gz"))
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    run([sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(archive)], folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as opened:
        yield opened


def run(command: Sequence[str | Path], folder: Path) -> str:
    """Run a command without the paths of this process, and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ended = subprocess.run(
        [str(word) for word in command], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


def test_the_source_archive_holds_what_the_wheel_is_built_of(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = [PurePosixPath(name) for name in archive.getnames()]
    assert {name.parts[1] for name in names} == OURS
    assert not any("test" in part for name in names for part in name.parts)


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = [PurePosixPath(name) for name in wheel.namelist()]
    assert {name.parts[0] for name in names if not name.parts[0].endswith(".dist-info")} == {"mmbert"}
    assert not any("test" in part or part.startswith(".") for name in names for part in name.parts)
    inside = [name for name in names if name.parts[0] == "mmbert"]
    assert {name.suffix for name in inside} <= SUFFIXES
    assert {name.name for name in inside if name.suffix == ".txt"} == TEXT
    # Lines of JSON are the examples', whose sentences are generated from a few patterns.
    assert all(name.parts[1] == "examples" for name in inside if name.suffix == ".jsonl")
    assert sum(info.file_size for info in wheel.infolist() if not info.filename.endswith(".py")) < BOUND


def test_the_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    package = ROOT / "src" / "mmbert"
    files = {path.relative_to(package.parent).as_posix() for path in package.rglob("*") if path.suffix in SUFFIXES}
    files |= {
        f"mmbert/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "examples").rglob("*")
        if path.suffix in SUFFIXES
    }
    assert files == {name for name in wheel.namelist() if name.startswith("mmbert/")}
    assert {"mmbert/py.typed", "mmbert/recipes/nano.yaml", "mmbert/recipes/finetune/ner.yaml"} <= files


def test_licence_and_metadata(wheel: zipfile.ZipFile) -> None:
    said = {PurePosixPath(name).name: wheel.read(name).decode() for name in wheel.namelist() if ".dist-info/" in name}
    assert said["LICENSE"] == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "License-Expression: Apache-2.0\n" in said["METADATA"]
    assert "mmbert = mmbert.cli.main:main" in said["entry_points.txt"]
    # The counts of languages are those of the published run: their source and licence stand beside them.
    assert "MIT licence" in wheel.read("mmbert/recipes/languages/README.md").decode()


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment with the wheel, and the dependencies of this one behind it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder), "platbase": str(folder)}))
    # A path in a .pth file is searched, but the .pth files in it are not read: an editable mmbert there stays hidden.
    here = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in here), encoding="utf-8")
    wheel = next(built.glob("*.whl"))
    programs = folder / "bin"
    options = ["--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", "--quiet"]
    run([sys.executable, "-m", "pip", "--python", programs / "python", "install", *options, "--force-reinstall", wheel],
        folder)  # fmt: skip
    return programs


@pytest.mark.slow
def test_first_commands_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """The first steps of the demo, and an evaluation of what they trained."""
    python, mmbert = installed / "python", installed / "mmbert"
    where = run([python, "-c", "import mmbert, importlib.metadata as m; print(mmbert.__file__, m.version('mmbert'))"],
                tmp_path)  # fmt: skip
    assert where.startswith(str(installed.parent))
    assert run([mmbert, "--version"], tmp_path) == f"mmbert {where.split()[-1]}\n"

    (tmp_path / "nano.yaml").write_text(run([mmbert, "recipes", "nano"], tmp_path), encoding="utf-8")
    assert (tmp_path / "nano.yaml").read_text() == (ROOT / "src/mmbert/recipes/nano.yaml").read_text()
    files = sum(path.suffix in SUFFIXES for path in (ROOT / "examples").rglob("*"))
    assert run([mmbert, "examples"], tmp_path) == f"examples: {files} files, {files} of them new\n"
    assert run([mmbert, "examples"], tmp_path) == f"examples: {files} files, 0 of them new\n"
    assert run([mmbert, "finetune", "classify", "data.train.path=examples/data/topics-train.jsonl", "--dry-run",
                "data.dev.path=examples/data/topics-dev.jsonl"], tmp_path)  # fmt: skip

    # The recipe as it is, but a small vocabulary and few tokens.
    changes = ["tokenizer.vocab_size=600", "tokenizer.sample_characters=100k", "runtime.threads=1"]
    changes += [f"phases.pretrain.{change}" for change in ("tokens=16k", "warmup=4k", "data.max_epochs=null")]
    run([mmbert, "data", "prepare", "nano", *changes], tmp_path)
    model = run([mmbert, "pretrain", "nano", "--phase", "pretrain", *changes], tmp_path).split("\t")[1].strip()
    assert len((tmp_path / "runs/nano/pretrain/metrics.jsonl").read_text().splitlines()) > 0

    (tmp_path / "evaldata/heldout_text").mkdir(parents=True)
    for code in ("swh_Latn", "hin_Deva"):
        source = tmp_path / f"runs/nano/data/heldout/catalogs/{code}.jsonl.zst"
        source.rename(tmp_path / "evaldata/heldout_text" / source.name)
    shown = run([mmbert, "evaluate", model, "local", "data=evaldata", "tasks={loss: {}}"], tmp_path)
    assert re.search(r"Held-out loss \| bits per byte \| 2 \| \d", shown)
    assert {path.name for path in tmp_path.iterdir()} == {"nano.yaml", "examples", "runs", "evaldata", "results"}

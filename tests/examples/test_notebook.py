"""The notebook for Colab: its cells run in order, on the CPU with a little model, and it is saved without outputs."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = json.loads((EXAMPLES / "colab.ipynb").read_text(encoding="utf-8"))


def code() -> dict[str, str]:
    """Return the source of the cells of code, by id, in order."""
    return {cell["id"]: "".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"}


def test_the_form_is_that_of_a_notebook_without_outputs() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in NOTEBOOK["cells"]:
        kept = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            kept |= {"outputs", "execution_count"}
        assert set(cell) == kept


def test_the_first_cell_installs_and_alone_needs_a_notebook() -> None:
    sources = code()
    assert next(iter(sources)) == "install"
    assert sources.pop("install").splitlines() == [
        '!pip install -q "$(ls mmbert-*.whl)[finetune,search]"',
        "!mmbert examples",
    ]
    for source in sources.values():
        ast.parse(source)


def test_the_parameters_name_a_released_model() -> None:
    values: dict[str, Any] = {}
    exec(code()["parameters"], values)
    assert values["MODEL"] in ("jhu-clsp/mmBERT-small", "jhu-clsp/mmBERT-base")
    assert values["DATA"] == "examples/data"  # where `mmbert examples` writes them
    assert [cell["id"] for cell in NOTEBOOK["cells"] if "parameters" in cell["metadata"].get("tags", [])] == [
        "parameters"
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_all_cells_run(
    heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    values: dict[str, Any] = {"__name__": "__main__"}
    for name, source in code().items():
        if name == "install":
            continue
        exec(compile(source, f"colab.ipynb:{name}", "exec"), values)
        if name == "parameters":
            values |= {
                "MODEL": str(heads / "masks"),
                "DATA": str(EXAMPLES / "data"),
                "EPOCHS": 4,
                "LEARNING_RATE": 3e-3,
            }
    assert (tmp_path / "tuned" / "final" / "modules.json").is_file()
    assert len(values["index"]) == len(values["pairs"]) == 30
    assert values["after"] > values["before"]  # 120 pairs of a few patterns: even the little model learns them
    assert f"{values['before']:.0%} before, {values['after']:.0%} after" in capsys.readouterr().out

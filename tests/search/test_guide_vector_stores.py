"""What docs/guides/vector-stores.md shows for a disk runs, on random weights."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from mmbert.cli.main import main

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "vector-stores.md"


def test_commands_and_python(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs" / "nano").mkdir(parents=True)
    (tmp_path / "runs" / "nano" / "final").symlink_to(folder)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    page = re.sub(r"<!-- not run: .*? -->\n```bash\n.*?```", "", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    outputs = []
    for line in "".join(blocks).strip().splitlines():
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as caught:
            main()
        said = capfd.readouterr()
        assert not caught.value.code, said.err
        outputs.append(said)
    assert "45 vectors stored: 45 rows in passages" in outputs[1].err
    hits = json.loads(outputs[2].out)["hits"]
    assert len(hits) == 3
    assert all(hit["text"] and hit["metadata"]["label"] for hit in hits)
    assert "45 records added" in outputs[3].err
    assert len(json.loads(outputs[4].out)["hits"]) == 3
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, {})
    assert len(capfd.readouterr().out.splitlines()) == 2

"""docs/cli.md's examples, run again: every fenced block that begins with ``$`` gets what its commands print today."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from sklearn.datasets import load_iris

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        _iris(Path(folder) / "iris.csv")
        text = re.sub(r"```\n(\$ .*?)```", lambda m: f"```\n{_run(m[1], folder)}\n```", PAGE.read_text(), flags=re.DOTALL)
    PAGE.write_text(text)


def _run(block: str, folder: str) -> str:
    """The block's commands, each with its output and, where it is not 0, its exit code."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    told = []
    for command in re.findall(r"^\$ (.*)$", block, flags=re.MULTILINE):
        done = subprocess.run(
            command, shell=True, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        code = f"\n[exit {done.returncode}]" if done.returncode else ""
        told.append(f"$ {command}\n{done.stdout.rstrip().replace(f'{folder}/', '')}{code}")
    return "\n\n".join(told)


def _iris(path: Path) -> None:
    found = load_iris()
    rows = ["id,sl,sw,pl,pw,y"]
    for i, (x, y) in enumerate(zip(found.data, found.target, strict=True)):
        rows.append(",".join([f"i{i:03d}", *(f"{v:g}" for v in x), str(found.target_names[y])]))
    path.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()

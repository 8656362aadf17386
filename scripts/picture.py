"""The README's pictures, terminal block and the sample report, from one run of `datumwise audit` in an empty folder."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "docs" / "sample"
WIDTH, HEIGHT = 1240, 1520  # of the README's picture: verdict, proof, and the map with its list


def main() -> None:
    SAMPLE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            [str(Path(sys.executable).parent / "datumwise"), "audit", "--seed", "0"],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
        shutil.copy(Path(folder) / "digits-demo.html", SAMPLE / "digits-demo.html")
    (SAMPLE / "audit.txt").write_text(run.stdout)
    into_readme(run.stdout)
    for scheme in ("light", "dark"):
        photograph(SAMPLE / "digits-demo.html", scheme, SAMPLE / f"report-{scheme}.png")


def into_readme(output: str) -> None:
    """Put the run between the README's markers."""
    readme = ROOT / "README.md"
    block = f"<!-- run -->\n```\n$ datumwise audit\n{output.rstrip()}\n```\n<!-- /run -->"
    text = re.sub(r"<!-- run -->.*?<!-- /run -->", lambda _: block, readme.read_text(), flags=re.DOTALL)
    readme.write_text(text)


def photograph(page: Path, scheme: str, picture: Path) -> None:
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
        tab.goto(page.as_uri())
        tab.wait_for_timeout(1500)  # the map is drawn after the first paint
        tab.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main()

"""What everybody pays for: the import is light, and the public names are where the documents say."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "sklearn", "pandas", "lance", "duckdb", "numpy", "pyarrow", "ray", "transformers")


def test_importing_the_package_loads_no_heavy_library():
    code = f"import datumwise, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


def test_public_names_resolve_to_what_they_say():
    import datumwise as dw

    assert set(dw.__all__) <= set(dir(dw))
    assert all(getattr(dw, name) for name in dw.__all__)
    assert dw.audit.__module__ == "datumwise.report.run"
    assert dw.ingest.__module__.startswith("datumwise.readers")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        dw.nothing  # noqa: B018


def test_the_readme_shows_the_committed_run():
    readme, run = (ROOT / "README.md").read_text(), (ROOT / "docs" / "sample" / "audit.txt").read_text()
    assert run.strip() in readme
    page = (ROOT / "docs" / "sample" / "digits-demo.html").read_text()
    verdict = next(line.strip() for line in run.splitlines() if "deserve a look" in line)
    assert verdict.split(". ")[0] in page


def test_links_in_the_documents_lead_somewhere():
    import re

    for page in [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)|srcset=\"([^\"]+)\"|src=\"([^\"]+)\"", page.read_text()):
            link = next(part for part in target if part)
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_page_of_methods_is_that_of_the_declarations():
    import importlib.util

    spec = importlib.util.spec_from_file_location("methods_page", ROOT / "scripts" / "methods.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert (ROOT / "docs" / "methods.md").read_text() == page.page()

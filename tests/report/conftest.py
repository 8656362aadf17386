"""One audit of the shipped set serves every test that only looks at it."""

import pytest

from datumwise.report import audit


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    return audit(out=tmp_path_factory.mktemp("demo") / "digits-demo", seed=0)

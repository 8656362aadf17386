"""Which datapoints to keep under a budget: selectors that rank, deduplication, and pipelines on a ledger."""

from datumwise.select.selector import Selector, catalogue, find

__all__ = ["Selector", "catalogue", "find"]

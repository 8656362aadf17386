"""How does each training datapoint bear on each query? One method, one file; `datumwise.probe.attribute` is the door."""

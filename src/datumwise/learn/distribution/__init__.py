"""Parts of the distribution transformer: network, heads, training, calibration, influence."""

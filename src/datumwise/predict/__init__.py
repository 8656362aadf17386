"""Promises about new datapoints: batch predictive inference, conformal sets, selection with few false claims."""

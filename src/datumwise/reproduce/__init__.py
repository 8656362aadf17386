"""The headline experiment of each published system, small on this machine or at the paper's scale."""

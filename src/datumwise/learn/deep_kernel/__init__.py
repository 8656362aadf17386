"""Parts of deep kernel machines: kernels of Gram matrices, layers, objectives, training."""

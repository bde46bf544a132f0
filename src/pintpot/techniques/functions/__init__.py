"""By which arithmetic softmax, activations and norms are computed."""

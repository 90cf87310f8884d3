"""The network, its noise, losses and training, and the model file."""

"""The training loop of every method: views of a batch, forward passes, checkpoints, random numbers."""

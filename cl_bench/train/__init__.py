"""The one training loop: views of a batch, forward passes, checkpoints, random numbers."""

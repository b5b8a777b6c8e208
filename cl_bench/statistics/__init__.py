"""Rank correlation on a grid of knobs: tau, its tests and intervals, controls, power."""

"""Evaluations of a frozen or fine-tuned encoder: alignment and uniformity, probes, linear evaluation, detection."""

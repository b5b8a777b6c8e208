"""Verdicts computed from records: claims, comparisons, the league of predictors, baselines, the paper's own numbers."""

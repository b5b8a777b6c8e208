"""From records to verdicts: judging, comparisons, the league of predictors, baselines, the paper's own numbers."""

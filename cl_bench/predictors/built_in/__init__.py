"""The predictors that come with cl-bench: a file each, found as any plugin is."""

"""Who computes the records that are missing."""

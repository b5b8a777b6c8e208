"""Computation of records, memoised in a store, by workers on this machine or on a Ray cluster."""

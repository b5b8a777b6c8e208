"""The functions for a notebook: compute records, load those of a store, judge a claim, load an encoder. No pytest.

All four are exported by ``cl_bench`` itself. ``run`` computes through the engine that ``pytest suites/`` uses, and into
the same store: what one has computed the other finds there.
"""

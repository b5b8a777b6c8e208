"""Methods: their base class, the search for plugins, and the contract that every method must satisfy."""

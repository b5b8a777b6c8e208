"""Instance-level contrast (SimCLR, Chen et al., ICML 2020; Wang & Isola, ICML 2020)."""

from cl_bench import DenseViews, Match, matching


@matching("instance", level="instance")
def instance(views: DenseViews) -> Match:
    """One pooled vector an image; its positive is the same image's other view."""
    return Match.identity(views)

"""Methods, predictors and profiles that need not be named by a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_bench.spec import PredictorSpec
from cl_bench.spec.profile import Profile
from cl_bench.spec.profile_files import PROFILES, load_profile

if TYPE_CHECKING:
    from cl_bench.methods.registry import Registry


def every_method() -> Registry:
    """Return every method there is: built in, and of installed packages."""
    from cl_bench.methods.registry import Registry

    return Registry()


def built_in_predictors() -> list[PredictorSpec]:
    """Return the predictors that are measured of every encoder."""
    from cl_bench.predictors.registry import Predictors

    known = Predictors()
    return [known.spec_of(predictor) for predictor in known.built_in]


def built_in_profiles() -> list[Profile]:
    """Return the profiles that come with cl-bench."""
    predictors = built_in_predictors()
    return [load_profile(file.stem).with_predictors(predictors) for file in sorted(PROFILES.glob("*.toml"))]

"""Profiles: everything a table needs, in one validated YAML file. Only
`evaluation.tasks` and the switches `bos` have an implicit default.

`load_profile("smollm2")` reads the file of that name beside this one; the path of any other YAML file works as well.
"""

from rankadaptor.profiles.profile import (
    Adapters,
    Budget,
    Evaluation,
    Profile,
    SearchBudget,
    SearchMethod,
    SearchSpace,
    TrainingBudget,
)
from rankadaptor.profiles.reading import FOLDER, load_profile, names

__all__ = ["FOLDER", "Adapters", "Budget", "Evaluation", "Profile", "SearchBudget", "SearchMethod", "SearchSpace",
           "TrainingBudget", "load_profile", "names"]

"""Functions for the YAML files in this folder: rows of a task, and HellaSwag's query as the real task forms it."""

from typing import Any

import datasets

from rankadaptor.testbed.tasks import task_rows
from rankadaptor.testbed.world import SEED, SPLITS


def load(miniature: str, **_: Any) -> datasets.DatasetDict:
    """All splits of a miniature task of the shipped world.

    Args:
        miniature: Name of the benchmark; lm-eval passes on `dataset_kwargs` and `metadata` of the YAML file.
    """
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_list(list(task_rows(miniature, split, SEED))) for split in SPLITS}
    )


def with_query(dataset: datasets.Dataset) -> datasets.Dataset:
    """HellaSwag's activity and context as one text, its endings as choices."""
    return dataset.map(lambda doc: {"query": f"{doc['activity_label']}: {doc['ctx']}", "choices": doc["endings"]})

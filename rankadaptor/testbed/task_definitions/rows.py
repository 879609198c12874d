"""What the YAML files beside this one read: every split of a task, and HellaSwag's query as the real task forms it."""

from functools import partial
from typing import Any

import datasets

from rankadaptor.testbed.tasks import task_rows
from rankadaptor.testbed.world import SEED, SPLITS


def _load(task: str, **_: Any) -> datasets.DatasetDict:
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_list(list(task_rows(task, split, SEED))) for split in SPLITS}
    )


boolq = partial(_load, "boolq")
piqa = partial(_load, "piqa")
hellaswag = partial(_load, "hellaswag")
winogrande = partial(_load, "winogrande")
arc_easy = partial(_load, "arc_easy")
arc_challenge = partial(_load, "arc_challenge")
openbookqa = partial(_load, "openbookqa")


def with_query(dataset: datasets.Dataset) -> datasets.Dataset:
    """HellaSwag's activity and context as one text, its endings as choices."""
    return dataset.map(lambda doc: {"query": f"{doc['activity_label']}: {doc['ctx']}", "choices": doc["endings"]})

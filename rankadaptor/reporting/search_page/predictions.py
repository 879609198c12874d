"""What predictors learn from measured allocations: from one training seed, from few recoveries, from other blocks."""

import dataclasses
from collections.abc import Mapping, Sequence

import pandas as pd
from scipy.stats import kendalltau

from rankadaptor.ranktable.cross_validation import Variant, rank_statistics
from rankadaptor.ranktable.replay import Replay
from rankadaptor.ranktable.replay_cache import ReplayCache
from rankadaptor.reporting.search_page.jobs import PageSettings
from rankadaptor.reporting.search_page.tables import by_block
from rankadaptor.search.rounds import mean_score


def seed_transfer(replays: Mapping[str, Replay], cache: ReplayCache, settings: PageSettings) -> pd.DataFrame:
    """Kendall's tau of a regression that learned one training seed's scores on the search split, with both seeds'.

    Returns:
        One row per block and training seed: block, learned from, and tau with the same scores, with the same training's
        report split, with the other training's report split.
    """
    lines = []
    for name, replay in replays.items():
        regression: dict[str, Variant] = {"ridge": (dataclasses.replace(settings.ours, predictor="ridge"), ())}
        predictions = cache.predictions(name, regression, [len(replay.pool.allocations)])
        for seed in replay.seeds:
            rows, reported = predictions[predictions["seed"] == seed], replay.scores[seed, "report", "gold_probability"]
            same_training = [mean_score(reported[replay.pool.allocations[number]]) for number in rows["allocation"]]
            taus = [kendalltau(rows["predicted"], scores).statistic
                    for scores in (rows["same"], same_training, rows["other"])]
            lines.append({"block": name, "learned from": f"training seed {seed}, search split",
                          "tau, the same scores": taus[0], "tau, same training, report split": taus[1],
                          "tau, other training, report split": taus[2]})
    return pd.DataFrame(lines)


def predictor_variants(settings: PageSettings, other_blocks: Sequence[str]) -> dict[str, Variant]:
    """The predictors that are compared: label -> settings, and the blocks that it is meta-learned on."""
    ours, paper = settings.ours, settings.paper
    variants: dict[str, Variant] = {
        "paper": (paper, ()), "paper, meta-learned": (paper, other_blocks),
        ours.predictor: (ours, ()), f"{ours.predictor}, meta-learned": (ours, other_blocks),
    }
    for name in ("ridge", "gaussian process", "forest", "constant"):
        variants[name] = (dataclasses.replace(ours, predictor=name), ())
    return variants


def records_transfer(replays: Mapping[str, Replay], cache: ReplayCache, settings: PageSettings) -> pd.DataFrame:
    """What records of other blocks are worth, by which of them were used: another rate, another pruner, all.

    Returns:
        As `ranktable.cross_validation.rank_statistics`, with a column block in front, and `meta-learned on` in place of
        predictor.
    """
    tables = {}
    for name, replay in replays.items():
        records: dict[str, tuple[str, ...]] = {"nothing": (), **{block: (block,) for block in replay.other_blocks}}
        if len(replay.other_blocks) > 1:
            records["all of these"] = tuple(replay.other_blocks)
        variants: dict[str, Variant] = {label: (settings.ours, blocks) for label, blocks in records.items()}
        tables[name] = rank_statistics(cache.predictions(name, variants, (8, 32)))
    return by_block(tables).rename(columns={"predictor": "meta-learned on"})

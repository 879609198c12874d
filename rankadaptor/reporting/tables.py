"""Tables 2 and 6 beside the published ones. No byte of a table depends on machine, versions or times."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rankadaptor.data.tasks import BENCHMARKS, TASKS
from rankadaptor.data.text import perplexity_label
from rankadaptor.experiments.methods import (
    ADALORA,
    BEST_SEED,
    DENSE,
    EVA,
    LORA,
    NO_RECOVERY,
    RANKADAPTOR,
    RANKADAPTOR_PER_TASK,
)
from rankadaptor.experiments.results import Row, TableResult
from rankadaptor.keys import canonical_json
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.profiles import Profile
from rankadaptor.pruning.spec import PRUNERS, Block
from rankadaptor.reporting.paper import published_rows
from rankadaptor.statistics import (
    Interval,
    bootstrap_draws,
    bootstrap_macro_mean,
    holm,
    macro_interval,
    two_sided_p,
    verdict_of_claim,
    wilson_interval,
)

TASK_NAMES = {task: BENCHMARKS[task].label for task in TASKS}
MEAN, MEAN_OF_SIX = "mean", "mean without BoolQ"
_SIX = [task for task in TASKS if task != "boolq"]
_METRICS = ("acc for BoolQ, PIQA, WinoGrande, ARC-e; acc_norm for HellaSwag, ARC-c, OBQA; percent with 95 % intervals.")
# What a reader must know of some methods.
_NOTES = {
    ADALORA: "AdaLoRA starts from rank {adapters.adalora_init_rank}, so that its scaling is "
             "{adapters.alpha}/{adapters.adalora_init_rank}.",
    EVA: "EVA keeps the scaling {adapters.alpha}/{adapters.lora_rank} whatever rank it gives.",
    BEST_SEED: "LoRA's best seed is one training, chosen on the search split: its interval holds no seed noise of its"
               " own.",
}
_PUBLISHED = "Published numbers are the paper's, on"


@lru_cache(maxsize=64)
def cells(result: TableResult) -> pd.DataFrame:
    """Every number of the table, one a line, as proportions. Computed once a result: copy it to change it.

    Returns:
        Columns block, method, column (a task, `mean` or `mean without BoolQ`), value, low, high (95 %),
        gold_probability.
    """
    lines = []
    for row in result.rows():
        groups = {task: [task] for task in TASKS} | {MEAN: list(TASKS), MEAN_OF_SIX: _SIX}
        for name, tasks in groups.items():
            interval = accuracy_interval(row, tasks)
            probability = float(np.mean([row.gold_probability[task].mean() for task in tasks]))
            lines.append((row.block, row.method, name, *interval, probability))
    return pd.DataFrame(lines, columns=["block", "method", "column", "value", "low", "high", "gold_probability"])


def accuracy_interval(row: Row, tasks: list[str]) -> Interval:
    """Wilson for one task of independent items and one seed; otherwise the bootstrap over seeds and subjects."""
    outcomes = {task: row.outcomes[task] for task in tasks}
    first = outcomes[tasks[0]]
    if len(tasks) == 1 and first.shape[0] == 1 and not row.subjects:
        return wilson_interval(int(first.sum()), first.size)
    return bootstrapped(outcomes, row)


@lru_cache(maxsize=64)
def differences_to_lora(result: TableResult) -> pd.DataFrame:
    """Paired differences of every recovered row to LoRA of the same block, in points, with the claim's verdict.
    Computed once a result: copy it to change it.

    Returns:
        Columns block, method, difference, low, high (accuracy, mean over seven tasks), gold_probability (its
        difference), published (the paper's difference), p_holm (two-sided, adjusted for the number of rows that have a
        verdict), verdict (rows that something is claimed of; else empty).
    """
    paper = published_rows(result.contents.published).set_index(["block", "method"])["average"]
    lines = []
    for name, block in result.blocks.items():
        rows = {row.method: row for row in block.rows}
        if LORA not in rows:
            continue
        lora = rows[LORA]
        for row in block.rows:
            if row.method == LORA:
                continue
            pairs = {task: row.outcomes[task] - lora.outcomes[task] for task in TASKS}
            draws = bootstrap_draws(pairs, subjects=row.subjects)
            interval = macro_interval(pairs, draws)
            probability = float(
                np.mean([(row.gold_probability[task] - lora.gold_probability[task]).mean() for task in TASKS])
            )
            key = (name, paper_method(row.method))
            published = paper[key] - paper[name, LORA] if key in paper.index else np.nan
            claim = result.contents.claims.get(row.method)
            says = verdict_of_claim(interval, claim, result.decided) if claim else ""
            p = two_sided_p(draws) if claim else np.nan
            lines.append((name, row.method, *(100 * np.array(interval)), 100 * probability, published, p, says))
    columns = ["block", "method", "difference", "low", "high", "gold_probability", "published", "p_holm", "verdict"]
    frame = pd.DataFrame(lines, columns=columns)
    tested = frame["p_holm"].notna()
    frame.loc[tested, "p_holm"] = holm(frame.loc[tested, "p_holm"].tolist())
    return frame


def bootstrapped(outcomes: Mapping[str, np.ndarray], row: Row) -> Interval:
    """Plain mean over tasks of outcomes, or of differences, of a row's items.  # task -> (seeds, items)"""
    return bootstrap_macro_mean(outcomes, subjects=row.subjects)


@lru_cache(maxsize=64)
def task_differences(result: TableResult) -> pd.DataFrame:
    """Paired differences of every recovered row to LoRA of the same block by task, in points.

    Returns:
        Columns block, method, column (a task or `mean`), value, low, high (95 %).
    """
    lines = []
    for name, block in result.blocks.items():
        lora = next((row for row in block.rows if row.method == LORA), None)
        for row in block.rows if lora else ():
            assert lora is not None
            pairs = {task: row.outcomes[task] - lora.outcomes[task] for task in TASKS}
            for column, tasks in ({task: [task] for task in TASKS} | {MEAN: list(TASKS)}).items():
                interval = bootstrapped({task: pairs[task] for task in tasks}, row)
                lines.append((name, row.method, column, *(100 * np.array(interval))))
    return pd.DataFrame(lines, columns=["block", "method", "column", "value", "low", "high"])


def task_table(result: TableResult) -> pd.DataFrame:
    """`task_differences` as people read them: a line a method, points with 95 % intervals."""
    frame = task_differences(result)
    frame = frame[~frame["method"].isin([LORA, NO_RECOVERY])]
    shown = frame.assign(cell=[f"{v:+.1f} [{low:+.1f}, {high:+.1f}]" for v, low, high in
                               zip(frame["value"], frame["low"], frame["high"], strict=True)])
    wide = shown.pivot(index=["block", "method"], columns="column", values="cell")[[*TASKS, MEAN]]
    order = list(dict.fromkeys(zip(frame["block"], frame["method"], strict=True)))
    return wide.loc[order].rename(columns=TASK_NAMES).reset_index()


def paper_method(method: str) -> str:
    """The paper's name of a method of ours."""
    return "RankAdaptor" if method in (RANKADAPTOR, RANKADAPTOR_PER_TASK) else method


def measured_table(result: TableResult) -> pd.DataFrame:
    """The table as people read it: percent with 95 % intervals, parameters, and the published mean beside ours."""
    long = cells(result)
    paper = published_rows(result.contents.published).set_index(["block", "method"])["average"]
    lines = []
    for row in result.rows():
        mine = long[(long["block"] == row.block) & (long["method"] == row.method)].set_index("column")
        shown = {TASK_NAMES.get(str(name), str(name)): _percent(cell) for name, cell in mine.iterrows()}
        key = (row.block, paper_method(row.method))
        lines.append({
            "block": "" if row.method == DENSE else row.block,
            "method": row.method,
            "parameters": f"{row.parameters / 1e6:,.1f} M",
            "trained": f"{row.trainable_parameters:,}" if row.trainable_parameters else "",
            **shown,
            "perplexity": "" if row.perplexity is None else f"{row.perplexity:,.2f}",
            "training loss": "" if row.training_loss is None else f"{row.training_loss:.3f}",
            "gold probability": f"{100 * float(mine['gold_probability'][MEAN]):.1f}",
            "published mean": f"{paper[key]:.2f}" if key in paper.index else "",
        })
    for name, block in result.blocks.items():
        lines += [{"block": name, "method": method, MEAN: why.split(":")[0]} for method, why in block.failed.items()]
    lines += [{"block": name, "method": "all", MEAN: why.split(":")[0]} for name, why in result.unfinished.items()]
    frame = pd.DataFrame(lines).fillna("")
    unused = [name for name in ("trained", "perplexity", "training loss") if not frame[name].any()]
    return frame.drop(columns=unused)


def difference_table(result: TableResult) -> pd.DataFrame:
    """`differences_to_lora` as people read it."""
    frame = differences_to_lora(result)
    return pd.DataFrame({
        "block": frame["block"],
        "method": frame["method"],
        "accuracy - LoRA (points)": [f"{d:+.1f} [{low:+.1f}, {high:+.1f}]" for d, low, high in
                                     zip(frame["difference"], frame["low"], frame["high"], strict=True)],
        "gold probability - LoRA": [f"{g:+.2f}" for g in frame["gold_probability"]],
        "published": ["" if np.isnan(p) else f"{p:+.2f}" for p in frame["published"]],
        "p (Holm)": ["" if np.isnan(p) else f"{p:.2f}" for p in frame["p_holm"]],
        "verdict": frame["verdict"],
    })


def published_table(result: TableResult) -> pd.DataFrame:
    """The paper's rows of the same blocks, as printed."""
    rows = published_rows(result.contents.published)
    methods = {paper_method(row.method) for row in result.rows()}
    chosen = rows[rows["block"].isin(result.blocks) & rows["method"].isin(methods)]
    chosen = chosen.rename(columns=TASK_NAMES | {"average": "mean"})
    return chosen.sort_values("block", key=lambda c: c.map(list(result.blocks).index), kind="stable")


def caption(result: TableResult) -> str:
    """What a reader must know before believing a number."""
    profile, budget = result.profile, result.budget
    items = f"at most {budget.report_items} items a task" if budget.report_items else "all items"
    training = budget.training
    if not result.recovered:
        text = profile.evaluation.perplexity
        return (
            f"Base model: {profile.base_model.label}. No recovery. Zero-shot on the report split, {items}; {_METRICS} "
            f"Perplexity of {perplexity_label(profile.benchmarks)} in windows of {text.window_tokens} tokens"
            f"{f', the first {text.max_windows}' if text.max_windows else ''}, BOS: {text.bos}. {_PUBLISHED} "
            f"{result.contents.published}: another model, another scale."
        )
    rows = [row for row in result.rows() if row.learning_rate]
    scope = ("no verdict is drawn from one training seed or a small search" if not result.decided
             else "verdicts by the rule in rankadaptor/statistics.py")
    noise = ("One training seed: intervals hold item noise only." if len(result.seeds) == 1
             else f"{len(result.seeds)} training seeds: intervals hold item and seed noise.")
    notes = [_NOTES[row.method].format(adapters=profile.adapters) for row in rows if row.method in _NOTES]
    return (
        f"Base model: {profile.base_model.label}. Zero-shot on the report split, {items}; {_METRICS} "
        f"Recovered on {profile.recovery_data.label}: {training.steps} steps of {training.batch_rows} rows, scaling "
        f"{profile.adapters.scaling}, {_rates(rows)}; training loss is the mean of the last quarter of steps. "
        f"{''.join(f'{note} ' for note in dict.fromkeys(notes))}{noise} Budget {result.budget_name}: {scope}. "
        f"{''.join(f'No result of {one}. ' for one in result.failures())}"
        f"A verdict here is about this base model at this scale, not about the paper's. BoolQ can move with a model's "
        f"bias towards one label more than with what it knows; the mean of the other six stands beside the mean of "
        f"seven. {_PUBLISHED} {result.contents.published}: another model, another recovery set, another scale."
    )


def _rates(rows: Sequence[Row]) -> str:
    """The learning rate of most, and the methods that have another, such as `learning rate 0.004; AdaLoRA 0.03`."""
    rates = {f"{row.block} {row.method}": row.learning_rate for row in rows}
    if not rates:
        return "no recovery has a result"
    common = max(set(rates.values()), key=list(rates.values()).count)
    others = sorted({f"{row.method} {row.learning_rate:g}" for row in rows if row.learning_rate != common})
    return "; ".join([f"learning rate {common:g}", *others])


def block_table(result: TableResult) -> pd.DataFrame:
    """What each block lost: the target rate, the pruner's own number, and the shares of parameters that really went."""
    lines = []
    for name, block in result.blocks.items():
        spec = result.profile.prune_spec(Block.parse(name))
        before, after = result.base, block.architecture
        middle = {shape for i, shape in zip(after.original_layers, after.layers, strict=True)
                  if spec.first_layer <= i < spec.end_layer}
        shape = middle.pop() if middle else None  # local ranking: all pruned layers are alike
        mlp_only = PRUNERS[spec.method].kind == "width" and shape and shape.kv_heads == before.layers[0].kv_heads
        lines.append({
            "block": name,
            "target rate (%)": spec.rate_percent,
            "pruner's number": f"ratio {spec.ratio:g}" if spec.ratio else f"{spec.blocks_removed} blocks",
            "decoder parameters gone (%)": 100 * (1 - after.decoder_parameters() / before.decoder_parameters()),
            "all parameters gone (%)": 100 * (1 - after.parameters() / before.parameters()),
            "layers": f"{len(after.layers)} of {len(before.layers)}",
            "heads / KV heads / MLP width of layers "
            f"{spec.first_layer + 1}-{spec.end_layer}": (
                f"{shape.heads} / {shape.kv_heads} / {shape.mlp_width}" if shape else "none left"),
            "note": "; ".join(filter(None, [
                "MLP-only: no KV head goes at this ratio" if mlp_only else "",
                "the ratio sets the heads, the MLP width is solved for the rate" if spec.decoder_share else "",
            ])),
        })
    return pd.DataFrame(lines)


def allocations(result: TableResult) -> dict[str, tuple[float, ...]]:
    """Realised ranks by layer, means over projections, of every recovered row of one allocation, by block and method.
    """
    return {
        f"{name} {row.method}": tuple(np.mean(list(row.realised_ranks.values()), axis=0).tolist())
        for name, block in result.blocks.items()
        for row in block.rows
        if len(row.allocations) == 1
    }


def rank_spread_table(result: TableResult, method: str) -> pd.DataFrame:
    """What one method's realised ranks differ by: projections, layers, or whether pruning touched the layer.

    Returns:
        One row a block: mean rank of layers in the pruner's range and outside it; shares of the variance of all ranks
        that lies between projections and between layers (in percent; the rest is of single matrices).
    """
    lines = []
    for name, block in result.blocks.items():
        spec = result.profile.prune_spec(Block.parse(name))
        for row in block.rows:
            if row.method != method:
                continue
            present = list(block.architecture.original_layers)
            ranks = np.array(list(row.realised_ranks.values()), dtype=float)[:, present]  # (projections, layers)
            inside = np.array([spec.first_layer <= layer < spec.end_layer for layer in present])
            variance = ranks.var() or np.nan
            lines.append({
                "block": name,
                "mean rank": ranks.mean(),
                "layers in the pruner's range": ranks[:, inside].mean(),
                "other layers": ranks[:, ~inside].mean(),
                "variance between projections (%)": 100 * ranks.mean(axis=1).var() / variance,
                "variance between layers (%)": 100 * ranks.mean(axis=0).var() / variance,
            })
    return pd.DataFrame(lines)


def provenance(result: TableResult, ledger: Ledger) -> dict[str, Any]:
    """Profile, seeds, keys, data revisions, machines and versions behind a table."""
    keys = {f"{row.block} {row.method}": list(row.keys) for row in result.rows()}
    return {
        "profile": result.profile.name,
        "budget": result.budget_name,
        "training_seeds": list(result.seeds),
        "search_seed": result.profile.search.training_seed,
        "search_keys": {name: block.search_key for name, block in result.blocks.items()},
        "recoveries_of_rivals": {name: {rival: spent for rival, (spent, _) in block.rivals.items()}
                                 for name, block in result.blocks.items() if block.rivals},
        "seconds": seconds_by_stage(result.stages, ledger),
        **entries_provenance(result.profile, keys, ledger),
    }


def seconds_by_stage(keys: Iterable[str], ledger: Ledger) -> dict[str, dict[str, float]]:
    """Where the time went: stage -> how many, and their seconds together, each as long as it took when it was run."""
    taken: dict[str, list[float]] = {}
    for key in keys:
        if (entry := ledger.find(key)) is not None:
            result = entry.result
            taken.setdefault(result["stage"], []).append(result["provenance"]["seconds"])
    return {stage: {"stages": len(seconds), "seconds": round(sum(seconds), 1)} for stage, seconds in taken.items()}


def entries_provenance(profile: Profile, keys: Mapping[str, Sequence[str]], ledger: Ledger) -> dict[str, Any]:
    """What stands behind results of a ledger: keys by label, base model, data revisions, machines with versions."""
    found = [entry for several in keys.values() for key in several if (entry := ledger.find(key)) is not None]
    machines = {canonical_json(entry.result["provenance"]["machine"]) for entry in found}
    return {
        "ledger_keys": {label: list(several) for label, several in keys.items()},
        "base_model": profile.base_model.label,
        "revisions": dict(sorted(item for entry in found for item in entry.spec["revisions"].items())),
        "machines": [json.loads(machine) for machine in sorted(machines)],
    }


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown: text stays as it is, numbers get two places, counts none."""
    shown = table.map(lambda value: f"{value:.2f}" if isinstance(value, float) else value)
    return shown.to_markdown(index=False, disable_numparse=True)


def write_provenance(result: TableResult, ledger: Ledger, folder: Path | str) -> dict[str, Any]:
    """Write NAME-provenance.json, NAME the result's, and return its content."""
    content = provenance(result, ledger)
    write_json(content, Path(folder) / f"{result.contents.name}-provenance.json")
    return content


def write_json(content: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def write_table(result: TableResult, folder: Path | str) -> list[Path]:
    """Write NAME.md, NAME.csv (long, proportions), NAME.tex (booktabs); NAME-differences.csv where LoRA is a row."""
    folder, name = Path(folder), result.contents.name
    folder.mkdir(parents=True, exist_ok=True)
    measured = measured_table(result)
    parts = [f"# {result.contents.title}, measured here", caption(result), markdown(measured), "## Blocks",
             markdown(block_table(result))]
    if result.recovered:
        parts += ["## Difference to LoRA r=8 (paired by item and seed)", markdown(difference_table(result))]
    parts += [f"## Published ({result.contents.published})", markdown(published_table(result))]
    paths = [folder / f"{name}{suffix}" for suffix in (".md", ".csv", ".tex")]
    paths[0].write_text("\n\n".join(parts) + "\n")
    cells(result).to_csv(paths[1], index=False, float_format="%.6f")
    paths[2].write_text(_latex(measured, caption(result), name))
    if result.recovered:
        paths.append(folder / f"{name}-differences.csv")
        differences_to_lora(result).to_csv(paths[3], index=False, float_format="%.4f")
    return paths


def _percent(cell: pd.Series) -> str:
    return f"{100 * cell['value']:.1f} [{100 * cell['low']:.0f}, {100 * cell['high']:.0f}]"


def _latex(table: pd.DataFrame, text: str, name: str) -> str:
    """A booktabs table. Needs \\usepackage{booktabs}."""
    special = str.maketrans({character: f"\\{character}" for character in "_&#%$"})
    escaped = table.map(lambda value: str(value).translate(special))
    escaped.columns = pd.Index([str(name).translate(special) for name in table.columns])
    return escaped.style.hide(axis="index").to_latex(hrules=True, caption=text.translate(special), label=f"tab:{name}")

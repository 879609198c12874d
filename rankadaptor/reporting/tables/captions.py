"""The text under a table: what a reader must know before believing a number."""

from collections.abc import Sequence

from rankadaptor.data.text import perplexity_label
from rankadaptor.escaping import markdown_text
from rankadaptor.experiments.methods import ADALORA, BEST_SEED, EVA
from rankadaptor.experiments.results import Row, TableResult
from rankadaptor.reporting.labels import count_word, metrics_label, result_tasks

_QUESTIONS = {"report": "the report split", "search": "the search split", "tuning": "the tuning split",
              "unseen": "questions of the search split that chose nothing"}
# What a reader must know of some methods.
_NOTES = {
    ADALORA: "AdaLoRA starts from rank {adapters.adalora_init_rank}, so that its scaling is "
             "{adapters.alpha}/{adapters.adalora_init_rank}.",
    EVA: "EVA keeps the scaling {adapters.alpha}/{adapters.lora_rank} whatever rank it gives.",
    BEST_SEED: "LoRA's best seed is one training, chosen on the search split: its interval holds no seed noise of its"
               " own.",
}


def caption(result: TableResult) -> str:
    """Base model, items, metrics, recovery, noise and scope of a table, as Markdown."""
    return markdown_text(caption_text(result))


def caption_text(result: TableResult) -> str:
    """The caption as plain text, with the labels and failures as they are: escape it for the form that shows it."""
    budget = result.budget
    items = f"at most {budget.report_items} items a task" if budget.report_items else "all items"
    metrics = f"{metrics_label(result_tasks(result))}; percent with 95 % intervals."
    return _recovered(result, items, metrics) if result.recovered else _unrecovered(result, items, metrics)


def _unrecovered(result: TableResult, items: str, metrics: str) -> str:
    profile, text = result.profile, result.profile.evaluation.perplexity
    return (
        f"Base model: {profile.base_model.label}. No recovery. Zero-shot on {_QUESTIONS[result.split]}, {items};"
        f" {metrics} "
        f"Perplexity of {perplexity_label(profile.benchmarks)} in windows of {text.window_tokens} tokens"
        f"{f', the first {text.max_windows}' if text.max_windows else ''}, BOS: {text.bos}. Published numbers are the"
        f" paper's, on {result.contents.published}: another model, another scale."
    )


def _recovered(result: TableResult, items: str, metrics: str) -> str:
    profile, training = result.profile, result.budget.training
    rows = [row for row in result.rows() if row.learning_rate]
    scope = ("no verdict is drawn from one training seed or a small search" if not result.decided
             else "verdicts by the rules in rankadaptor/verdicts.py")
    noise = ("One training seed: intervals hold item noise only." if len(result.seeds) == 1
             else f"{len(result.seeds)} training seeds: intervals hold item and seed noise.")
    notes = [_NOTES[row.method].format(adapters=profile.adapters) for row in rows if row.method in _NOTES]
    return (
        f"Base model: {profile.base_model.label}. Zero-shot on {_QUESTIONS[result.split]}, {items}; {metrics} "
        f"Recovered on {profile.recovery_data.label}: {training.steps} steps of {training.batch_rows} rows, scaling "
        f"{profile.adapters.scaling}, {_rates(rows)}; training loss is the mean of the last quarter of steps. "
        f"{''.join(f'{note} ' for note in dict.fromkeys(notes))}{noise} Budget {result.budget_name}: {scope}. "
        f"{''.join(f'No result of {failure}. ' for failure in result.failures())}"
        f"A verdict here is about this base model at this scale, not about the paper's. {_boolq(result)}"
        f"Published numbers are the paper's, on {result.contents.published}: another model, another recovery set,"
        " another scale."
    )


def _boolq(result: TableResult) -> str:
    """Why there is a second mean, where there is one."""
    tasks = result_tasks(result)
    if "boolq" not in tasks or len(tasks) == 1:
        return ""
    return ("BoolQ can move with a model's bias towards one label more than with what it knows; the mean of the other"
            f" {count_word(len(tasks) - 1)} stands beside the mean of {count_word(len(tasks))}. ")


def _rates(rows: Sequence[Row]) -> str:
    """The learning rate of most, and the methods that have another, such as `learning rate 0.004; AdaLoRA 0.03`."""
    rates = {f"{row.block} {row.method}": row.learning_rate for row in rows}
    if not rates:
        return "no recovery has a result"
    common = max(set(rates.values()), key=list(rates.values()).count)
    exceptions = sorted({f"{row.method} {row.learning_rate:g}" for row in rows if row.learning_rate != common})
    return "; ".join([f"learning rate {common:g}", *exceptions])

"""Adapters get the ranks of their allocation, train as the plain way does, and are loaded as they were saved."""

import copy
import json

import pytest
import torch
from helpers.data import sentence
from helpers.models import tiny_llama
from peft import get_peft_model
from peft.tuners.lora import LoraLayer
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, get_linear_schedule_with_warmup

from rankadaptor.errors import BadInput, RecoveryDiverged
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.pruning import prune
from rankadaptor.pruning.spec import PruneSpec
from rankadaptor.recovery import training
from rankadaptor.recovery.adapters import attach_adapter, load_adapter, save_adapter
from rankadaptor.recovery.merging import merged
from rankadaptor.recovery.methods.eva import initialise_eva
from rankadaptor.recovery.methods.lora import to_lora_config
from rankadaptor.recovery.packing import padded
from rankadaptor.recovery.prompts import IGNORED, Example, alpaca_prompt, batches, collate, micro_batches, tokenise
from rankadaptor.recovery.recipe import Recipe
from rankadaptor.recovery.spec import RecoverySpec, adapter_method
from rankadaptor.recovery.training import train

ROWS = [{"instruction": sentence(i, 5), "input": sentence(i + 100, 3) if i % 2 else "", "output": sentence(i + 200, 4)}
        for i in range(30)]
RECIPE = Recipe(steps=8, batch_rows=4, micro_batch_rows=4, learning_rate=5e-3, warmup_steps=1, max_length_tokens=300,
                lora_dropout=0.0, weight_decay=0.0, clip_norm=1.0)
IDS = torch.tensor([[3, 8, 20, 33, 7]])


def recovery(method="lora", allocation=(4, 2, 6, 12), **changes):
    settings = {"method": method, "allocation": allocation, "scaling": "fixed_alpha", "alpha": 16, "recipe": RECIPE,
                "seed": 0, "adalora_init_rank": 6 if method == "adalora" else None}
    return RecoverySpec(**(settings | changes))


def pruned_llama(method="llm-pruner"):
    width = method == "llm-pruner"
    spec = PruneSpec(method, 50, "element1" if width else "taylor", 1, 3, 0.5 if width else None, None,
                     None if width else 1, 2, 8, 0)
    windows = torch.randint(0, 96, (2, 8), generator=torch.Generator().manual_seed(0))
    return prune(tiny_llama(), spec, windows).model


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("method", ["llm-pruner", "shortened"])
def test_realised_ranks_equal_requested_ranks(method):
    model = pruned_llama(method)
    present = architecture_of(model).original_layers
    allocation = tuple(rank if i in present else 0 for i, rank in enumerate((4, 2, 6, 12)))
    adapted = attach_adapter(model, recovery(allocation=allocation))
    ranks = adapter_method("lora").realised_ranks(adapted)
    assert len(ranks) == 7 * len(present)
    for name, rank in ranks.items():
        assert rank == allocation[present[int(name.split(".")[2])]]
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    costs = architecture_of(model).rank_costs()
    assert trainable == sum(rank * cost for rank, cost in zip(allocation, costs, strict=True))


def test_adapters_of_one_seed_differ_by_their_ranks_alone():
    model = pruned_llama("shortened")  # of layers 0..3, one of the middle is gone
    present = architecture_of(model).original_layers

    def factors(ranks, seed=0):
        allocation = tuple(rank if i in present else 0 for i, rank in enumerate(ranks))
        base = attach_adapter(copy.deepcopy(model), recovery(allocation=allocation, seed=seed)).get_base_model()
        return {name: module.lora_A["default"].weight.detach() for name, module in base.named_modules()
                if isinstance(module, LoraLayer)}

    low, high, other = factors((4, 2, 2, 12)), factors((4, 6, 6, 12)), factors((4, 2, 2, 12), seed=1)
    for name, rows in low.items():
        assert torch.equal(rows, high[name][: len(rows)])
        assert not torch.equal(rows, other[name])
    assert len({rows[0, 0].item() for rows in low.values()}) == len(low)
    drawn = torch.cat([rows.flatten() * rows.shape[1] ** 0.5 for rows in high.values()])
    assert drawn.abs().max() <= 1  # PEFT's default: Kaiming-uniform with a = sqrt(5)
    assert drawn.std() == pytest.approx(3**-0.5, rel=0.02)


def test_more_than_ten_layers_do_not_confuse_the_pattern():
    """PEFT takes the first key that matches: the key of layer 1 must not match layer 11."""
    model = tiny_llama(layers=13)
    allocation = tuple(2 + i for i in range(13))
    ranks = adapter_method("lora").realised_ranks(attach_adapter(model, recovery(allocation=allocation)))
    assert all(rank == allocation[int(name.split(".")[2])] for name, rank in ranks.items())


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [("fixed_alpha", lambda r: 16 / r), ("constant", lambda r: 2), ("rslora", lambda r: 16 / r**0.5)],
)
def test_scaling_by_layer(scaling, expected):
    model = tiny_llama()
    allocation = (4, 2, 6, 12)
    adapted = get_peft_model(model, to_lora_config(allocation, architecture_of(model), scaling, 16))
    for name, module in adapted.get_base_model().named_modules():
        if isinstance(module, LoraLayer):
            assert module.scaling["default"] == pytest.approx(expected(allocation[int(name.split(".")[2])]))


@pytest.mark.parametrize(
    ("allocation", "message"),
    [((8, 8, 8), "rank allocation has 3 entries, the model has 4 layers"), ((8, 0, 8, 8), "rank of layer 1 is 0")],
)
def test_bad_allocations_are_refused(allocation, message):
    with pytest.raises(BadInput, match=message):
        attach_adapter(tiny_llama(), recovery(allocation=allocation))


@pytest.mark.parametrize("method", ["lora", "adalora", "eva"])
def test_trained_merged_and_reloaded_agree(method, tokenizer, tmp_path):
    model = pruned_llama()
    before = logits(model)
    frozen = copy.deepcopy(model.state_dict())
    spec = recovery(method, allocation=(4, 2, 6, 12) if method == "lora" else (4, 4, 4, 4))
    adapted = attach_adapter(model, spec)
    train(adapted, tokenizer, ROWS, spec)
    trained = logits(adapted)
    assert (trained - before).abs().max() > 1e-3
    adapted.get_base_model().config._name_or_path = "/somebody/s/folder"  # as of a model that was loaded from there
    adapted.get_base_model().name_or_path = "/somebody/s/folder"
    save_adapter(adapted, tmp_path)
    again = load_adapter(pruned_llama(), tmp_path)
    torch.testing.assert_close(logits(again), trained, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(merged(again)), trained, atol=1e-4, rtol=1e-4)
    base = {n.replace(".base_layer", ""): w for n, w in adapted.get_base_model().state_dict().items()}
    assert all(torch.equal(base[name], weight) for name, weight in frozen.items())
    text = (tmp_path / "adapter_config.json").read_text()
    config = json.loads(text)
    assert config["base_model_name_or_path"] is None
    assert config["target_modules"] == sorted(config["target_modules"])  # as every process writes it
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_eva_redistributes_ranks_and_starts_at_the_base_model(tokenizer):
    """As many ranks in sum, at most twice the mean; B is 0; scaling is LoRA's whatever the rank; the seed decides."""
    spec = recovery("eva", allocation=(4, 4, 4, 4))
    down_projections = []
    for _ in range(2):
        model = tiny_llama()
        before = logits(model)
        adapted = attach_adapter(model, spec)
        planned = batches(ROWS, tokenizer, RECIPE, spec.seed)
        initialise_eva(adapted, planned, 4, tokenizer.pad_token_id, spec.seed)
        torch.testing.assert_close(logits(adapted), before)
        state = adapted.state_dict()
        down_projections.append({name: tensor.clone() for name, tensor in state.items() if "lora_A" in name})
    first, second = down_projections
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    ranks = adapter_method("eva").realised_ranks(adapted)
    assert len(set(ranks.values())) > 1
    assert sum(ranks.values()) == 4 * 7 * 4
    assert max(ranks.values()) <= 8
    modules = dict(adapted.get_base_model().named_modules())
    assert {modules[name].scaling["default"] for name in ranks} == {4.0}  # 16 / 4
    for name, rank in ranks.items():
        rows = modules[name].lora_A["default"].weight  # (rank, in)
        torch.testing.assert_close(rows @ rows.T, torch.eye(rank), atol=1e-3, rtol=0)


def test_eva_on_projections_too_narrow_for_it_is_refused():
    with pytest.raises(BadInput, match="EVA from rank 20 may give a projection rank 40, but the narrowest reads 32"):
        attach_adapter(tiny_llama(), recovery("eva", (20, 20, 20, 20)))


def test_adalora_really_reallocates(tokenizer):
    spec = recovery("adalora", allocation=(4, 4, 4, 4))
    adapted = attach_adapter(tiny_llama(), spec)
    result = train(adapted, tokenizer, ROWS, spec)
    ranks = list(result.ranks.values())
    assert len(set(ranks)) > 1
    assert max(ranks) <= 6
    assert sum(ranks) / len(ranks) == pytest.approx(4, abs=0.2)


def test_adalora_that_stays_at_its_initial_ranks_is_an_error(tokenizer, monkeypatch):
    from peft.tuners.adalora import AdaLoraModel

    monkeypatch.setattr(AdaLoraModel, "update_and_allocate", lambda self, step: None)
    spec = recovery("adalora", allocation=(4, 4, 4, 4))
    adapted = attach_adapter(tiny_llama(), spec)
    with pytest.raises(RuntimeError, match="AdaLoRA did not reallocate"):
        train(adapted, tokenizer, ROWS, spec)


def test_adalora_needs_steps_and_one_rank():
    with pytest.raises(BadInput, match="AdaLoRA needs more than 2 optimizer steps"):
        attach_adapter(tiny_llama(), recovery("adalora", (4,) * 4, recipe=Recipe(**(vars(RECIPE) | {"steps": 2}))))
    with pytest.raises(BadInput, match=r"AdaLoRA starts from a uniform allocation, got ranks \[2, 4\]"):
        attach_adapter(tiny_llama(), recovery("adalora", (4, 2, 4, 4)))


def test_orthogonality_penalty_is_pefts(tokenizer):
    """The loop adds AdaLoRA's penalty itself; PEFT's own forward must give the same loss and gradients."""
    spec = recovery("adalora", allocation=(4, 4, 4, 4))
    batch = batches(ROWS, tokenizer, RECIPE, 0)[0]
    ours, theirs = (attach_adapter(tiny_llama(), spec) for _ in range(2))
    training._accumulate(ours, [padded(batch, 0)], adapter_method("adalora").penalty)
    ids, mask, labels = collate(batch, 0)
    theirs(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("micro", [1, 3])
def test_micro_batches_do_not_change_the_result(micro, tokenizer):
    results = []
    for rows in (4, micro):
        spec = recovery(recipe=Recipe(**(vars(RECIPE) | {"micro_batch_rows": rows})))
        adapted = attach_adapter(tiny_llama(), spec)
        results.append((train(adapted, tokenizer, ROWS, spec).losses, logits(adapted)))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-4)
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-3, rtol=1e-3)


def test_loss_is_the_mean_over_answer_tokens(tokenizer):
    spec = recovery()
    adapted = attach_adapter(tiny_llama(), spec)
    ids, mask, labels = collate(batches(ROWS, tokenizer, RECIPE, spec.seed)[0], tokenizer.pad_token_id)
    with torch.no_grad():
        full = adapted(input_ids=ids, attention_mask=mask).logits
    expected = functional.cross_entropy(full[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
    assert train(adapted, tokenizer, ROWS, spec).losses[0] == pytest.approx(expected.item(), abs=1e-5)


def test_steps_are_those_of_an_optimizer_of_single_parameters(tokenizer):
    """The plain way, on the same batches: PEFT's pass, transformers' loss, a step and a clipping a parameter."""
    recipe = Recipe(**(vars(RECIPE) | {"weight_decay": 0.1, "clip_norm": 0.05}))
    spec = recovery(recipe=recipe)
    plain, ours = (attach_adapter(tiny_llama(), spec) for _ in range(2))
    parameters = [parameter for parameter in plain.train().parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = get_linear_schedule_with_warmup(optimizer, recipe.warmup_steps, recipe.steps)
    losses = []
    for batch in batches(ROWS, tokenizer, recipe, spec.seed):
        ids, mask, labels = collate(batch, tokenizer.pad_token_id)
        losses.append(plain(input_ids=ids, attention_mask=mask, labels=labels).loss)
        losses[-1].backward()
        assert torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm) > recipe.clip_norm
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    assert train(ours, tokenizer, ROWS, spec).losses == pytest.approx([loss.item() for loss in losses], abs=1e-4)
    torch.testing.assert_close(logits(ours), logits(plain.eval()), atol=1e-3, rtol=1e-3)


def test_parameters_are_their_own_again_after_a_recovery(tokenizer):
    adapted = attach_adapter(tiny_llama(), recovery())
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    train(adapted, tokenizer, ROWS, recovery())
    assert [parameter for parameter in adapted.parameters() if parameter.requires_grad] == trained
    assert len({parameter.untyped_storage().data_ptr() for parameter in trained}) == len(trained)
    assert all(parameter.grad is None for parameter in trained)
    assert all(parameter.untyped_storage().nbytes() == parameter.nbytes for parameter in trained)


@pytest.mark.parametrize("grouping", ["batches", "micro_batches"])
@pytest.mark.parametrize("micro", [4, 3])
def test_tokens_and_positions_are_counted_as_planned(micro, grouping, tokenizer, monkeypatch):
    """A guard against computing more than is needed: of rows of one length padding to the longest one of a micro-batch,
    of random ones none; and no logits but those of answers."""
    spec = recovery(recipe=Recipe(**(vars(RECIPE) | {"micro_batch_rows": micro, "length_grouping": grouping})))
    adapted = attach_adapter(tiny_llama(), spec)
    model = adapted.get_base_model()
    read, predicted = [], []
    model.model.embed_tokens.register_forward_hook(lambda module, inputs, output: read.append(inputs[0].numel()))
    scored = training.summed_cross_entropy
    monkeypatch.setattr(training, "summed_cross_entropy", lambda head, states, targets: (
        predicted.append(len(states)), scored(head, states, targets))[1])
    result = train(adapted, tokenizer, ROWS, spec)
    planned = batches(ROWS, tokenizer, spec.recipe, spec.seed)
    lengths = [[len(example.input_ids) for example in batch] for batch in planned]
    answers = [[sum(label != IGNORED for label in example.labels[1:]) for example in batch] for batch in planned]
    assert result.tokens == sum(map(sum, lengths))
    if grouping == "batches":
        firsts = range(0, RECIPE.batch_rows, micro)
        pieces = [batch[first : first + micro] for batch in lengths for first in firsts]
        assert read == [max(piece) * len(piece) for piece in pieces]
        assert predicted == [sum(batch[first : first + micro]) for batch in answers for first in firsts]
    else:
        assert len(read) == len(planned) * -(-RECIPE.batch_rows // micro)
        assert sum(read) == result.tokens
        assert sum(predicted) == sum(map(sum, answers))


def test_rows_are_tokenised_once_for_all_recoveries(tokenizer):
    texts = []

    class Counting:
        eos_token_id = tokenizer.eos_token_id

        def __call__(self, text, **options):
            texts.append(text)
            return tokenizer(text, **options)

    counting = Counting()
    first = batches(ROWS, counting, RECIPE, 0)
    assert texts
    count = len(texts)
    assert batches(ROWS, counting, RECIPE, 0) == first
    assert len(texts) == count
    batches(ROWS, counting, Recipe(**(vars(RECIPE) | {"max_length_tokens": RECIPE.max_length_tokens - 1})), 0)
    assert len(texts) > count  # of another length, they are other examples


def with_special(tokenizer, **special):
    """A copy of a tokenizer of 96 tokens with one more."""
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", unk_token="<unk>", **special)


@pytest.mark.parametrize("most", [300, 40])
def test_a_row_begins_with_one_bos_where_it_is_wanted(tokenizer, most):
    """LLM-Pruner's rows: BOS is a token of the prompt, and counts towards the maximum length."""
    grown = with_special(tokenizer, bos_token="<s>")
    for row in (ROWS[0], ROWS[1], {"instruction": "", "input": "", "output": sentence(1, 50)}):
        plain, loud = tokenise(row, grown, most), tokenise(row, grown, most, True)
        assert loud.input_ids == [96, *plain.input_ids][:most]
        assert loud.labels == [IGNORED, *plain.labels][:most]
    assert tokenise(row | {"output": "<s>" + row["output"]}, grown, most, True) == loud
    loud = batches(ROWS, grown, Recipe(**(vars(RECIPE) | {"bos": True})), 0)
    assert {(row.input_ids[0], row.input_ids.count(96)) for batch in loud for row in batch} == {(96, 1)}
    assert all(96 not in example.input_ids for batch in batches(ROWS, grown, RECIPE, 0) for example in batch)


def test_padding_without_an_embedding_changes_nothing(tokenizer):
    """As of a tokenizer that was given [PAD] and a model that was not resized."""
    grown = with_special(tokenizer, pad_token="[PAD]")
    assert grown.pad_token_id == 96
    spec = recovery(recipe=Recipe(**(vars(RECIPE) | {"steps": 2})))
    assert train(attach_adapter(tiny_llama(), spec), grown, ROWS, spec) == train(
        attach_adapter(tiny_llama(), spec), tokenizer, ROWS, spec)


def test_adapters_of_a_bfloat16_model_are_trained_in_float32(tokenizer):
    """As on GPUs: the frozen weights in half the memory, what is trained and its optimizer state in full."""
    spec = recovery(recipe=Recipe(**(vars(RECIPE) | {"steps": 12, "lora_dropout": 0.05})))
    plain = train(attach_adapter(tiny_llama(), spec), tokenizer, ROWS, spec).losses
    adapted = attach_adapter(tiny_llama().bfloat16(), spec)
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert {p.dtype for name, p in adapted.named_parameters() if name not in trained} == {torch.bfloat16}
    losses = train(adapted, tokenizer, ROWS, spec).losses
    assert losses == pytest.approx(plain, abs=0.1)
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])


@pytest.mark.slow
def test_training_lowers_the_loss_and_is_a_function_of_its_seed(tokenizer):
    def losses(seed):
        spec = recovery(seed=seed, recipe=Recipe(**(vars(RECIPE) | {"steps": 20, "lora_dropout": 0.1})))
        return train(attach_adapter(tiny_llama(), spec), tokenizer, ROWS, spec).losses

    first = losses(0)
    torch.rand(3)  # the global generator's state is no input
    assert losses(0) == first
    assert losses(1) != first
    assert sum(first[-5:]) < 0.9 * sum(first[:5])


def test_a_diverging_recovery_stops_with_a_classed_error(tokenizer):
    model = tiny_llama()
    model.model.embed_tokens.weight.data[5:9] = float("nan")
    spec = recovery()
    with pytest.raises(RecoveryDiverged, match="step 1 of 8: lower the learning rate"):
        train(attach_adapter(model, spec), tokenizer, ROWS, spec)


def test_prompt_tokens_are_masked_and_answers_end(tokenizer):
    for row in ROWS[:4]:
        example = tokenise(row, tokenizer, 300)
        answer = [label for label in example.labels if label != IGNORED]
        assert answer[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(answer[:-1]) == row["output"]
        assert len(example.labels) == len(example.input_ids)
        assert ("### Input:" in alpaca_prompt(row)) == bool(row["input"])


def test_random_batches_are_cut_into_pieces_of_about_one_length(tokenizer):
    """Batches hold the rows of the plain recipe, unsorted; only their pieces are sorted by length."""
    recipe = Recipe(**(vars(RECIPE) | {"batch_rows": 15, "steps": 4, "micro_batch_rows": 6,
                                       "length_grouping": "micro_batches"}))
    planned = batches(ROWS, tokenizer, recipe, 3)
    assert planned == batches(ROWS, tokenizer, recipe, 3) != batches(ROWS, tokenizer, recipe, 4)
    ordered = sorted(len(example.input_ids) for batch in planned for example in batch)
    assert [sorted(len(example.input_ids) for example in batch) for batch in planned] != [
        ordered[i : i + 15] for i in range(0, 60, 15)]
    for batch in planned:
        pieces = micro_batches(batch, recipe)
        assert sorted(map(id, batch)) == sorted(id(example) for piece in pieces for example in piece)
        assert max(map(len, pieces)) <= 6
    lengths = (300, 290, 280, 100, 90, 80, 70, 60)
    batch = [Example([1] * length, [1] * length) for length in lengths[::-1]]
    assert [[len(example.input_ids) for example in piece] for piece in micro_batches(batch, recipe)] == [
        [300, 290, 280], [100, 90, 80, 70, 60]]


@pytest.mark.parametrize("grouping", ["batches", "micro_batches"])
def test_the_loss_of_a_step_is_that_of_its_whole_batch(grouping, tokenizer):
    change = {"batch_rows": 12, "steps": 3, "micro_batch_rows": 5, "length_grouping": grouping}
    spec = recovery(recipe=Recipe(**(vars(RECIPE) | change)))
    adapted = attach_adapter(tiny_llama(), spec)
    batch = batches(ROWS, tokenizer, spec.recipe, spec.seed)[0]
    ids, mask, labels = collate(batch, tokenizer.pad_token_id)
    with torch.no_grad():
        whole = adapted(input_ids=ids, attention_mask=mask, labels=labels).loss.item()
    assert len(micro_batches(batch, spec.recipe)) > 1
    assert train(adapted, tokenizer, ROWS, spec).losses[0] == pytest.approx(whole, abs=1e-5)


def test_batches_are_seeded_whole_and_grouped_by_length(tokenizer):
    recipe = Recipe(**(vars(RECIPE) | {"steps": 6}))
    first, again, other = (batches(ROWS, tokenizer, recipe, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert [len(batch) for batch in first] == [4] * 6

    def padding(cut):
        return sum(max(lengths) * len(lengths) - sum(lengths)
                   for lengths in ([len(e.input_ids) for e in batch] for batch in cut))

    examples = [example for batch in first for example in batch]
    unsorted = [examples[i::6] for i in range(6)]
    assert padding(first) < padding(unsorted)


def test_rows_that_leave_no_room_for_an_answer_are_refused(tokenizer):
    with pytest.raises(BadInput, match="none of 30 recovery rows has an answer within 8 tokens"):
        batches(ROWS, tokenizer, Recipe(**(vars(RECIPE) | {"max_length_tokens": 8})), 0)


def test_adapters_are_never_loaded_from_a_pickle(tmp_path):
    (tmp_path / "adapter_model.bin").write_bytes(b"anything")
    with pytest.raises(BadInput, match=r"no adapter_model\.safetensors"):
        load_adapter(tiny_llama(), tmp_path)


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys")
def test_an_adapter_of_another_model_is_refused(tokenizer, tmp_path):
    save_adapter(attach_adapter(tiny_llama(), recovery()), tmp_path)
    with pytest.raises(BadInput):
        load_adapter(tiny_llama(layers=3), tmp_path)

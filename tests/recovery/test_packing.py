"""Rows one after another: nothing of one row reaches another, and nothing but attention computes padding."""

from dataclasses import replace

import pytest
import torch
from helpers.models import llamas, tiny_llama, with_lora

from rankadaptor.recovery import packing as packing_module
from rankadaptor.recovery import training
from rankadaptor.recovery.packing import packed, packing, padded, pieces
from rankadaptor.recovery.prompts import IGNORED, Example
from rankadaptor.recovery.recipe import Recipe

RECIPE = Recipe(2, 8, 8, 1e-3, 1, 256, 0.0, 0.0, 1.0, "micro_batches")


def examples(*lengths, seed=0):
    draw = torch.Generator().manual_seed(seed)
    drawn = []
    for length in lengths:
        ids = torch.randint(2, 96, (length,), generator=draw).tolist()
        prompt = int(torch.randint(0, length, (), generator=draw))
        drawn.append(Example(ids, [IGNORED] * prompt + ids[prompt:]))
    return drawn


def loss_and_gradients(adapted, cut):
    adapted.zero_grad()
    with training._fast_paths(adapted):
        loss = training._accumulate(adapted, cut)
    return loss, {name: weight.grad.clone() for name, weight in adapted.named_parameters() if weight.requires_grad}


@pytest.fixture(params=["cpu", "cuda"])
def attention_of(request, monkeypatch):
    """The attention of either device, on this one."""
    monkeypatch.setitem(packing_module._ATTENTION, "cpu", packing_module._ATTENTION[request.param])


@pytest.mark.usefixtures("attention_of")
@pytest.mark.parametrize("name", ["grouped", "plain", "width", "depth"])
@pytest.mark.parametrize("lengths", [(2, 9, 90, 64, 65, 17), (70, 70), (1, 5, 3), (12,)])
def test_losses_and_gradients_are_those_of_rows_side_by_side(name, lengths):
    adapted, batch = with_lora(llamas()[name]), examples(*lengths)
    beside = loss_and_gradients(adapted, [padded(batch, 0)])
    with packing(adapted.get_base_model(), RECIPE) as packs:
        assert packs
        after = loss_and_gradients(adapted, [packed(batch)])
    assert after[0] == pytest.approx(beside[0], abs=2e-6)
    for name_of, gradient in after[1].items():
        torch.testing.assert_close(gradient, beside[1][name_of], atol=5e-6, rtol=1e-4)


@pytest.mark.usefixtures("attention_of")
def test_states_of_a_row_do_not_depend_on_its_neighbours():
    model, batch = tiny_llama(), examples(5, 80, 13)
    piece = packed(batch)
    with torch.no_grad(), packing(model, RECIPE):
        together = model.model(input_ids=piece.ids, position_ids=piece.positions, rows=piece.rows,
                               use_cache=False).last_hidden_state[0]
    with torch.no_grad():
        alone = [model.model(input_ids=torch.tensor([example.input_ids]), use_cache=False).last_hidden_state[0]
                 for example in batch]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("attention_of")
def test_bfloat16_is_as_exact_packed_as_side_by_side():
    batch = examples(40, 7, 90)
    exact, _ = loss_and_gradients(with_lora(tiny_llama()), [padded(batch, 0)])
    adapted = with_lora(tiny_llama().bfloat16())
    beside, _ = loss_and_gradients(adapted, [padded(batch, 0)])
    with packing(adapted.get_base_model(), RECIPE):
        after, _ = loss_and_gradients(adapted, [packed(batch)])
    assert abs(after - exact) <= 2 * abs(beside - exact) + 5e-3


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("micro", [1, 3, 8])
@pytest.mark.parametrize("most", [1, 100, 4096])
def test_every_row_is_read_once_in_pieces_that_fit(most, micro, device, monkeypatch):
    monkeypatch.setitem(packing_module._MAX_TOKENS, device, most)
    batch = examples(30, 4, 55, 17, 60, 8, 41, 23)
    recipe = replace(RECIPE, micro_batch_rows=micro, max_length_tokens=60)
    cut = pieces(batch, recipe, True, 0, torch.device(device))
    longest = [max(piece.rows.lengths) for piece in cut]
    tokens = [piece.ids.numel() for piece in cut]
    if device == "cpu":
        assert max(len(piece.rows.lengths) for piece in cut) <= micro
    else:
        allowed = min(most, micro * 60)
        assert all(count <= allowed + length for count, length in zip(tokens, longest, strict=True))
        beside = [length * (len(piece.rows.lengths) - 1) for length, piece in zip(longest, cut, strict=True)]
        assert max(beside) <= 2 * allowed
    assert sorted(length for piece in cut for length in piece.rows.lengths) == [4, 8, 17, 23, 30, 41, 55, 60]
    assert sum(tokens) == sum(len(example.input_ids) for example in batch)
    assert all(piece.targets.tolist() == piece.ids[0, piece.supervised + 1].tolist() for piece in cut)
    assert sum(len(piece.targets) for piece in cut) == sum(
        label != IGNORED for example in batch for label in example.labels[1:])


@pytest.mark.parametrize(("lengths", "count"), [([50] * 8, 1), ([60, *[10] * 15], 1), ([60, *[10] * 16], 2)])
def test_few_long_rows_do_not_take_more_memory_in_attention(lengths, count):
    """8 rows of 60 tokens are a piece on a GPU, and so are 960 places of attention, padding included."""
    recipe = replace(RECIPE, micro_batch_rows=8, max_length_tokens=60)
    assert len(pieces(examples(*lengths), recipe, True, 0, torch.device("cuda"))) == count


def test_padded_indices_are_those_of_rows_side_by_side():
    piece = packed(examples(3, 7, 2))
    beside = torch.zeros(3 * 7, dtype=torch.int64).index_copy(0, piece.rows.padded_indices, piece.ids[0]).view(3, 7)
    assert torch.equal(beside, padded(examples(3, 7, 2), 0).ids)


@pytest.mark.parametrize(("attention", "grouping"), [("eager", "micro_batches"), ("sdpa", "batches")])
def test_rows_stay_side_by_side_where_packing_does_not_pay(attention, grouping):
    model = tiny_llama()
    model.set_attn_implementation(attention)
    with packing(model, replace(RECIPE, length_grouping=grouping)) as packs:
        assert not packs
        assert model.config._attn_implementation == attention


def test_the_models_own_attention_is_back_after_an_error():
    adapted = with_lora(tiny_llama())
    model = adapted.get_base_model()
    with pytest.raises(IndexError), packing(model, RECIPE):
        training._accumulate(adapted, [packed(examples(3, 4)), packed([Example([96, 1], [96, 1])])])  # no such token
    assert model.config._attn_implementation == "sdpa"

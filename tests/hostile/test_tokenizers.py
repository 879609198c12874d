"""Tokenizers as they lie in folders of strangers: one line and status 2, or the right ids; never wrong numbers."""

import json
import re
import shutil

import pytest
from helpers.data import sentence
from helpers.models import tiny_llama
from helpers.tokenizers import with_flat_scores, write_sentencepiece
from tokenizers import Tokenizer

from rankadaptor.__main__ import main
from rankadaptor.errors import BadInput
from rankadaptor.evaluation import Requests
from rankadaptor.evaluation.generation import continuations
from rankadaptor.evaluation.perplexity import text_windows
from rankadaptor.evaluation.scoring import backend_of
from rankadaptor.evaluation.spec import EvaluationSpec, GenerationSpec, PerplexitySpec
from rankadaptor.models.tokenizers import load_tokenizer
from rankadaptor.recovery.prompts import tokenise

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 1842767\n"
BEYOND = "<|im_start|>"


def edit(path, **changes):
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | changes))


def grown(folder, **special):
    """The folder's tokenizer with more tokens than the model has embeddings."""
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens(special or {"additional_special_tokens": [BEYOND]})
    tokenizer.save_pretrained(folder)


def without_end(folder):
    edit(folder / "tokenizer_config.json", eos_token=None, pad_token=None)
    edit(folder / "config.json", eos_token_id=None)


def sentencepiece_only(folder, source=None, content=None):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    if content is None:
        shutil.copyfile(source, folder / "tokenizer.model")
    else:
        (folder / "tokenizer.model").write_text(content)


# -- files that are refused before a model is loaded ------------------------------------------------------------------

DAMAGE = {
    "tokenizer.json is no JSON": (lambda f, s: (f / "tokenizer.json").write_text("{"), "cannot be read"),
    "tokenizer.json is a pointer": (lambda f, s: (f / "tokenizer.json").write_text(LFS), "cannot be read"),
    "tokenizer.json is cut off": (
        lambda f, s: (f / "tokenizer.json").write_text((f / "tokenizer.json").read_text()[:500]), "cannot be read"),
    "tokenizer.json has no model": (lambda f, s: edit(f / "tokenizer.json", model=None), "cannot be read"),
    "tokenizer.json is empty": (lambda f, s: (f / "tokenizer.json").write_text(""), "cannot be read"),
    "tokenizer.json is binary": (lambda f, s: (f / "tokenizer.json").write_bytes(b"\xff\xfe\0"), "cannot be read"),
    "tokenizer_config.json is a list": (
        lambda f, s: (f / "tokenizer_config.json").write_text("[]"), "tokenizer_config.json is not a JSON object"),
    "tokenizer_config.json is cut off": (
        lambda f, s: (f / "tokenizer_config.json").write_text('{"eos'), "tokenizer_config.json is not a JSON object"),
    "special_tokens_map.json is no JSON": (
        lambda f, s: (f / "special_tokens_map.json").write_text(LFS), "special_tokens_map.json is not a JSON object"),
    "added_tokens.json is a list": (
        lambda f, s: (f / "added_tokens.json").write_text('["[PAD]"]'), "cannot be read"),
    "added tokens with a gap": (
        lambda f, s: [edit(f / "added_tokens.json", **{"[PAD]": 105}),
                      edit(f / "tokenizer_config.json", added_tokens_decoder={})],
        "added token '[PAD]' has id 105 in the files of"),
    "added tokens of tokenizer.json with a gap": (
        lambda f, s: [grown(f), (f / "tokenizer.json").write_text(
            (f / "tokenizer.json").read_text().replace('"id": 96', '"id": 98'))],
        "added token '<|im_start|>' has id 98 in the files of"),
    "a tokenizer of its own code": (
        lambda f, s: edit(f / "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Slow", None]}),
        "needs code of its own (auto_map in tokenizer_config.json), which is never run"),
    "its own code, as older files name it": (
        lambda f, s: edit(f / "tokenizer_config.json", auto_map=["code.Slow", "code.Fast"]), "needs code of its own"),
    "a mark of byte order": (
        lambda f, s: (f / "tokenizer_config.json").write_text("{}", "utf-8-sig"),
        "tokenizer_config.json is not a JSON object"),
    "only settings": (lambda f, s: (f / "tokenizer.json").unlink(), "cannot be read"),
    "no tokenizer": (lambda f, s: [path.unlink() for path in f.glob("tokenizer*")], "no tokenizer in"),
    "a link to nothing": (
        lambda f, s: [(f / "tokenizer.json").unlink(), (f / "tokenizer.json").symlink_to(f / "gone")],
        "cannot be read"),
    "tokenizer.model is a pointer": (lambda f, s: sentencepiece_only(f, content=LFS), "is no SentencePiece model"),
    "tokenizer.model is tiktoken's": (
        lambda f, s: sentencepiece_only(f, content="IQ== 0\nIg== 1\nIw== 2\n"), "is no SentencePiece model"),
    "tokenizer.model is empty": (lambda f, s: sentencepiece_only(f, content=""), "is no SentencePiece model"),
    "tokenizer.model is cut off": (
        lambda f, s: [sentencepiece_only(f, s), (f / "tokenizer.model").write_bytes(s.read_bytes()[:3000])],
        "is no SentencePiece model"),
    "tokenizer.model is unigram": (
        lambda f, s: [sentencepiece_only(f, s),
                      write_sentencepiece(f / "tokenizer.model", model_type="unigram", vocab_size=300)],
        "of type 1, LLaMA's are BPE"),
    "tokenizer.model was joined": (
        lambda f, s: [sentencepiece_only(f, s), with_flat_scores(s, f / "tokenizer.model")], "ranks its pieces"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_tokenizers_are_one_line(name, dense, sentencepiece_file, tmp_path, capsys):
    damage, says = DAMAGE[name]
    damage(dense, sentencepiece_file)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(sentence(i, 60) for i in range(9)))
    for command in (["measure", str(dense)],
                    ["prune", str(dense), "--ratio", "0.5", "--layers", "1:3", "--calibration", str(text),
                     "--out", str(tmp_path / "out")]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "text.txt"]


@pytest.mark.parametrize("package", ["sentencepiece", "protobuf"])
def test_a_missing_package_is_one_line(package, dense, sentencepiece_file, monkeypatch, capsys):
    from rankadaptor.models import sentencepiece_model

    def missing(path):
        raise ImportError(f"SentencePieceExtractor requires the {package} library")

    monkeypatch.setattr(sentencepiece_model, "SentencePieceExtractor", missing)
    sentencepiece_only(dense, sentencepiece_file)
    assert main(["measure", str(dense)]) == 2
    error = capsys.readouterr().err
    assert "install sentencepiece and protobuf, or put tokenizer.json beside it" in error
    assert error.count("\n") == 1


# -- ids that no model has --------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, benchmark_folder):
    """Texts, ids, rows and benchmarks that hold the token which is beyond the embeddings, and rows that do not."""
    (tmp_path / "text.txt").write_text("\n\n".join(sentence(i, 60).replace(" ", BEYOND) for i in range(9)))
    (tmp_path / "plain.txt").write_text("\n\n".join(sentence(i, 60) for i in range(9)))
    (tmp_path / "beyond.json").write_text(json.dumps([[5, 6, 96, 7]] * 3))
    (tmp_path / "far.json").write_text(json.dumps([[5, 6, 400, 7]] * 3))
    (tmp_path / "negative.json").write_text(json.dumps([[5, 6, -1, 7]] * 3))
    for name, word in (("rows", BEYOND), ("plain", "the")):
        rows = [{"instruction": sentence(5000 + i, 6), "input": "", "output": f"{sentence(i, 4)} {word}"}
                for i in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(benchmark_folder / "piqa", tmp_path / "benchmarks" / "piqa")
    test = tmp_path / "benchmarks" / "piqa" / "validation.jsonl"
    test.write_text("".join(json.dumps(json.loads(line) | {"goal": f"{BEYOND} {number} {sentence(number, 9)}"}) + "\n"
                            for number, line in enumerate(test.read_text().splitlines())))
    return tmp_path


def recover(files, data, *more):
    return ["recover", str(files / "dense"), "--data", str(files / data), "--benchmarks",
            str(files / "benchmarks"), "--tasks", "piqa", "--allocation", "2 2 2 2", "--steps", "2", "--batch", "2",
            "--max-length", "300", "--out", str(files / "out"), "--ledger", str(files / "ledger"), *more]


def prune(files, calibration):
    return ["prune", str(files / "dense"), "--ratio", "0.5", "--layers", "1:3", "--samples", "3", "--tokens", "40",
            "--calibration", str(files / calibration), "--out", str(files / "out")]


EMBEDDED = "token id 96 ('<|im_start|>') has no embedding in the model, which has 96: leave that token out"
NO_BOS = "BOS is to be put in front, and the tokenizer has none that the model has an embedding of"
COMMANDS = {
    "calibration text": (grown, lambda files: prune(files, "text.txt"), f"calibration text: {EMBEDDED}"),
    "calibration ids": (grown, lambda files: prune(files, "beyond.json"), f"beyond.json: {EMBEDDED}"),
    "ids of another tokenizer": (grown, lambda files: prune(files, "far.json"), "the tokenizer has 97"),
    "negative ids": (grown, lambda files: prune(files, "negative.json"), "token ids from -1 to 7"),
    "perplexity": (grown, lambda files: ["measure", str(files / "dense"), "--text", str(files / "text.txt")],
                   f"perplexity text: {EMBEDDED}"),
    "benchmarks": (grown, lambda files: ["evaluate", str(files / "dense"), "--benchmarks", str(files / "benchmarks")],
                   f"benchmark text: {EMBEDDED}"),
    "recovery rows": (grown, lambda files: recover(files, "rows.jsonl"), f"recovery rows: {EMBEDDED}"),
    "an end of text beyond": (
        lambda folder: [grown(folder, eos_token="<|eot|>"), edit(folder / "config.json", eos_token_id=400)],
        lambda files: recover(files, "plain.jsonl"), "recovery rows: token id 96 ('<|eot|>')"),
    "no end of text": (without_end, lambda files: recover(files, "plain.jsonl"), "the tokenizer has no end of text"),
    "rows with a BOS that there is not": (lambda folder: None, lambda files: recover(files, "plain.jsonl", "--bos"),
                                          NO_BOS),
    "questions with a BOS that there is not": (
        lambda folder: None,
        lambda files: ["evaluate", str(files / "dense"), "--benchmarks", str(files / "benchmarks"), "--bos"],
        NO_BOS),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_ids_without_an_embedding_are_one_line(name, dense, files, capsys):
    spoil, command, says = COMMANDS[name]
    spoil(dense)
    assert main(command(files)) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (files / "out").exists()
    assert not list(files.glob("ledger/*/result.json"))


def test_what_is_never_used_may_lie_beyond(dense, files, capsys):
    """Tokens beyond the embeddings, padding among them, in a tokenizer whose texts have none of them."""
    grown(dense, pad_token="[PAD]", additional_special_tokens=[BEYOND])
    assert load_tokenizer(dense).pad_token_id >= 96
    assert main(prune(files, "plain.txt")) == 0
    assert load_tokenizer(files / "out").pad_token_id == load_tokenizer(dense).pad_token_id
    shutil.rmtree(files / "out")
    assert main(recover(files, "plain.jsonl")) == 0
    assert (files / "out" / "adapter_model.safetensors").is_file()


def test_a_bos_without_an_embedding_is_none(dense, files, capsys):
    """As transformers adds one to vocab.json and merges.txt."""
    grown(dense, bos_token="<s>")
    assert main(["measure", str(dense), "--text", str(files / "plain.txt")]) == 0
    assert "BOS: none" in capsys.readouterr().out


def test_a_tokenizer_without_any_special_token_evaluates(dense, files, benchmark_folder):
    without_end(dense)
    edit(dense / "tokenizer_config.json", unk_token=None)
    assert main(["evaluate", str(dense), "--benchmarks", str(benchmark_folder), "--tasks", "piqa", "--items", "4"]) == 0


# -- what tokenizers add by themselves --------------------------------------------------------------------------------


@pytest.fixture
def eager(dense):
    """A tokenizer that truncates, pads, and adds BOS and the end of text to every text by itself."""
    edit(dense / "config.json", vocab_size=98)
    grown(dense, bos_token="<s>")
    content = json.loads((dense / "tokenizer.json").read_text())
    bos = next(token["id"] for token in content["added_tokens"] if token["content"] == "<s>")
    content["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {"strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                          "pad_type_id": 0, "pad_token": "<end>"}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                   {"SpecialToken": {"id": "<end>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [bos], "tokens": ["<s>"]},
                           "<end>": {"id": "<end>", "ids": [0], "tokens": ["<end>"]}}}
    (dense / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(dense)
    assert tokenizer("the cat").input_ids[0] == bos == 96
    assert tokenizer("the cat").input_ids[-1] == 0
    return tokenizer


@pytest.mark.parametrize("start", ["", "<s>"], ids=["a text", "a text that begins with BOS"])
@pytest.mark.parametrize("bos", [False, True])
def test_eager_tokenizers_add_nothing_that_was_not_wanted(eager, start, bos):
    core = Tokenizer.from_str(eager.backend_tokenizer.to_str())
    core.no_truncation()
    core.no_padding()
    goal, model = start + sentence(3, 40), tiny_llama(vocabulary=98)
    spec = EvaluationSpec(("piqa",), "report", 1, 0, 1, bos=bos)
    rows = {"piqa": [{"goal": goal, "sol1": "the cat", "sol2": "a dog", "label": 0}]}
    _, context, continuation = Requests(spec, rows).tokenised(backend_of(model, eager, spec))[0]
    example = tokenise({"instruction": "", "input": "", "output": goal}, eager, 300, bos)
    window = text_windows(eager, [goal], PerplexitySpec(20, "first" if bos else "none"))[0]
    assert example.input_ids[-1] == 0  # the end of text, once
    for text, ids in ((f"Question: {goal}\nAnswer: the cat", context + continuation), (goal, example.input_ids[:-1]),
                      (goal, window.tolist())):
        plain = core.encode(text, add_special_tokens=False).ids
        assert ids == ([96, *plain] if bos and plain[0] != 96 else plain)[:len(ids)]
        assert len(ids) >= 20
    assert example.labels[0] == (-100 if bos else example.input_ids[0])


def test_a_prompt_beyond_the_embeddings_is_refused(dense):
    grown(dense)
    spec = GenerationSpec((sentence(1), f"the {BEYOND} cat"), 4, 0, 1.0, 50, 0.95, 0)
    with pytest.raises(BadInput, match=f"a prompt: {re.escape(EMBEDDED)}"):
        continuations(tiny_llama(), tiny_llama(), load_tokenizer(dense), spec)


def test_a_prompt_without_tokens_is_refused(dense):
    core = json.loads((dense / "tokenizer.json").read_text())
    core["normalizer"] = {"type": "Strip", "strip_left": True, "strip_right": True}
    (dense / "tokenizer.json").write_text(json.dumps(core))
    spec = GenerationSpec(("  ",), 4, 0, 1.0, 50, 0.95, 0)
    with pytest.raises(BadInput, match="the prompt '  ' has no tokens: give some text"):
        continuations(tiny_llama(), tiny_llama(), load_tokenizer(dense), spec)

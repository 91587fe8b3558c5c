"""A network on ids of a given tokenizer.json: training, graph and server make the same ones, or there is no package."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from everloop.data.features import render
from everloop.errors import PackageError, SpecError, TrainError
from everloop.forms import Special
from everloop.measure import encode, subwords, tokens
from everloop.measure.tensors import Tensors
from everloop.package.build import build, columns_of
from everloop.package.predict import Predictor
from everloop.records import ColumnType, InputColumn, Signature
from everloop.spec.columns import FeatureTree, trace
from everloop.spec.torch import Pretrained, Torch
from everloop.spec.train import Train
from everloop.spec.wholes import forms_of
from everloop.train.fit import fit

SCHEMA: dict[str, ColumnType] = {"body": "text"}
WORDS = ["buy", "cheap", "ÉTÉ", "gas", "meeting", "日本"]


class Net(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(400, 8)
        self.says = torch.nn.Linear(8, outputs)

    def forward(self, body: Any) -> Any:
        return self.says(self.words(body).mean(dim=1))


def saved(folder: Path, kind: str) -> Path:
    if kind == "WordPiece":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
        trainer: Any = trainers.WordPieceTrainer(vocab_size=80, special_tokens=special, show_progress=False)
    else:
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
    made.train_from_iterator([" ".join(WORDS)] * 5, trainer)
    if kind == "WordPiece":
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return folder


def features(row: Any) -> Any:
    return {"body": row.body.tokens(12, tokenizer="weights")}


@pytest.mark.parametrize("kind", ["WordPiece", "BPE"])
def test_the_graph_takes_texts_and_answers_as_the_network(tmp_path: Path, kind: str) -> None:
    saved(tmp_path / "weights", kind)
    random = np.random.default_rng(4)
    target = random.integers(0, 2, 200)
    frame = pl.DataFrame({"body": [" ".join(random.choice(WORDS[3:] if each else WORDS[:3], 6)) for each in target]})
    tree = FeatureTree(columns=trace(features))
    made = columns_of(render(tree, frame, SCHEMA))
    encoding = encode.learn(
        made, tree.types(SCHEMA), native_categories=False, accepts_missing=False, forms=forms_of(tree), network=True,
        folder=tmp_path,
    )  # fmt: skip
    train = Train(Torch(Net, epochs=6, learning_rate=0.05, batch_size=32, precision="32", compile="off"))
    fitted = fit(train, encoding, encode.inputs(encoding, made), target, task="binary", classes=2)
    signature = Signature(
        inputs=(InputColumn(name="body", type="text", index=0),), task="binary", classes=(0, 1), positive=1
    )
    built = build(fitted, encoding, tree, signature, rows=frame, features=lambda raw: render(tree, raw, SCHEMA))
    assert "tokenizers" in built.requirements
    answer = Predictor.of(built.onnx, signature).predict(
        {"body": ["gas meeting 日本 " * 2, "buy cheap ÉTÉ " * 2, "", None]}
    )
    assert answer.decision is not None
    assert answer.decision[:2].tolist() == [1, 0]
    assert answer.prediction[2].tolist() == answer.prediction[3].tolist()


def test_another_library_is_found(tmp_path: Path) -> None:
    content = (saved(tmp_path / "weights", "BPE") / "tokenizer.json").read_text("utf-8")
    note = subwords.note([{"input": "tokens/body", "index": 0, "length": 12, "content": content}])
    (step,) = subwords.steps_of({subwords.NOTE: note})
    assert step.ids(np.array([["gas"]], dtype=object)).shape == (1, 12)
    probe = subwords.probed(content, 12)
    probe[1][0] += 1
    with pytest.raises(PackageError, match="other ids here"):
        subwords.Step(input="tokens/body", index=0, length=12, content=content, probe=probe)


def test_mistakes_are_said(tmp_path: Path) -> None:
    (form,) = forms_of(FeatureTree(columns=trace(features))).values()
    with pytest.raises(TrainError, match=r"there is no tokenizer\.json"):
        tokens.learn(form, ["x"], tmp_path)  # type: ignore[arg-type]
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "tokenizer.json").write_text("{}")
    with pytest.raises(TrainError, match="is no tokenizer"):
        tokens.learn(form, ["x"], tmp_path)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="leave vocabulary, analyzer and lowercase out"):
        trace(lambda row: {"body": row.body.tokens(12, tokenizer="weights", vocabulary=5)})
    with pytest.raises(SpecError, match="as it stands"):
        trace(lambda row: {"body": row.body.str.lower().tokens(12, tokenizer="weights")})


def test_transformers_look_at_no_padding_whatever_its_id_is(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

    from everloop.train.torch_pretrained import load

    roberta = RobertaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=20, pad_token_id=1,
    )  # fmt: skip
    RobertaForSequenceClassification(roberta).save_pretrained(tmp_path / "roberta")
    gpt2 = GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=20)
    GPT2ForSequenceClassification(gpt2).save_pretrained(tmp_path / "gpt2")
    rows = np.array([[0, 5, 6, 2], [7, 8, 9, 2]])
    for name, padding in (("roberta", 1), ("gpt2", 39)):
        padded = np.concatenate([rows, np.full((2, 3), padding)], axis=1)
        inputs = Tensors({"body": padded}, {"body": Special(padding=padding)})
        network = load(Pretrained(name), {}, inputs, 2, folder=tmp_path).eval()
        with torch.no_grad():
            torch.testing.assert_close(network(torch.from_numpy(padded)), network(torch.from_numpy(rows)))
    with pytest.raises(TrainError, match="trained with the padding 1, and the feature's tokens are padded with 0"):
        load(Pretrained("roberta"), {}, Tensors({"body": rows}), 2, folder=tmp_path)


def test_a_tokenizers_own_signs_are_known(tmp_path: Path) -> None:
    saved(tmp_path / "weights", "WordPiece")
    (form,) = forms_of(FeatureTree(columns=trace(features))).values()
    assert tokens.learn(form, ["x"], tmp_path).special == Special(padding=0, unknown=1, marks=(2, 3))  # type: ignore[arg-type]

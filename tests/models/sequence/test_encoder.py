"""Encoders in local folders give item vectors; ONNX files answer as the network does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from propend.errors import MissingExtraError, ModelError
from propend.models.sequence.settings import Settings
from propend.models.sequence.tokens import Vocabulary

torch = pytest.importorskip("torch", reason="sequence models need the extra 'deep'")
pytestmark = pytest.mark.deep


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with made-up weights, as Hugging Face saves one."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'encoders'")
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "shoe", "hat"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    transformers.BertModel(shape).save_pretrained(folder)
    return folder


def test_texts_become_vectors_alone_as_among_many(text_folder: Path) -> None:
    from propend.models.sequence.encoder import encode_texts

    texts = ["red shoe", "blue hat hat hat", "", "red shoe"]
    found = encode_texts(texts, text_folder, batch=2)
    assert found.shape == (4, 16)
    assert np.allclose(np.linalg.norm(found[[0, 1, 3]], axis=1), 1, atol=1e-5)
    assert np.allclose(found[0], found[3], atol=1e-5)
    assert not found[2].any()
    assert np.allclose(encode_texts(texts[1:2], text_folder), found[1:2], atol=1e-5)
    assert not np.allclose(found[0], found[1], atol=1e-2)


def test_pictures_become_vectors(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'encoders'")
    image = pytest.importorskip("PIL.Image", reason="needs the extra 'encoders'")
    from propend.models.sequence.encoder import encode_pictures

    folder = tmp_path / "vit"
    torch.manual_seed(0)
    shape = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
    )
    transformers.ViTModel(shape).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    files: list[Path | None] = [None]
    for name, colour in (("a", (250, 0, 0)), ("b", (0, 0, 250))):
        files.append(tmp_path / f"{name}.png")
        image.new("RGB", (20, 20), colour).save(files[-1])
    found = encode_pictures(files, folder)
    assert found.shape == (3, 16)
    assert not found[0].any()
    assert np.allclose(np.linalg.norm(found[1:], axis=1), 1, atol=1e-5)
    (tmp_path / "c.png").write_text("no picture")
    with pytest.raises(ModelError, match="is no picture"):
        encode_pictures([tmp_path / "c.png"], folder)
    with pytest.raises(ModelError, match="no picture to encode"):
        encode_pictures([None], folder)


def test_a_recommender_takes_the_vectors_of_names(text_folder: Path) -> None:
    from propend.events.timelines import Column
    from propend.recommend.catalog import create
    from propend.recommend.interactions import Interactions

    log = Interactions.from_lists([[i % 4, (i + 1) % 4] for i in range(60)], n_items=5)
    names = ("red shoe", "blue shoe", "red hat", "blue hat", "red")
    items = {"name": Column(np.arange(5, dtype=np.int32), names)}
    shelf = create(
        "gru", size="tiny", epochs=1, tokens=64, encoder=str(text_folder), threads=1
    ).fit(log, items=items)
    assert np.isfinite(shelf.scores([[0]])[0, 4])  # nobody met it, its name is known
    with pytest.raises(ModelError, match="name another one"):
        create("gru", encoder=str(text_folder)).fit(log)


def test_a_folder_without_an_encoder_is_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'encoders'")
    from propend.models.sequence.encoder import encode_texts

    with pytest.raises(ModelError, match=r"config\.json is missing"):
        encode_texts(["a"], tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be read as a text encoder"):
        encode_texts(["a"], tmp_path)


def test_without_transformers_it_says_how_to_install_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from propend.models.sequence.encoder import encode_texts

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"propend\[encoders\]"):
        encode_texts(["a"], tmp_path)


@pytest.mark.parametrize(
    ("trunk", "bias"),
    [
        ("gru", "none"),
        ("lstm", "none"),
        ("cnn", "none"),
        ("transformer", "query"),
        ("hstu", "event"),
    ],
)
def test_onnx_files_answer_as_the_network(trunk: str, bias: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs the extra 'onnx'")
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    from tests.models.sequence.worlds import random_sequences

    from propend.models.sequence.export import INPUTS, export_onnx
    from propend.models.sequence.network import Network

    data = random_sequences(12)
    settings = Settings(trunk=trunk, size="tiny", depth=2, time_bias=bias, temperature=0.1)
    net = Network(
        settings, Vocabulary(items=9, types=3, channels=2, amounts=True, days=True)
    ).eval()
    export_onnx(net, tmp_path / "m.onnx")
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"))
    wanted = {i.name for i in session.get_inputs()}
    from propend.models.sequence.targets import events_of

    moments = np.full(data.users, 10**9)
    with torch.no_grad():
        ours = net.scored(net.last(data, moments)).numpy()
    for user in range(data.users):
        index = np.arange(data.offsets[user], data.offsets[user + 1])
        if len(index):
            events = events_of(data, index, np.full(len(index), user))
            made = {name: getattr(events, name) for name in INPUTS[:-1]}
            made["query"] = np.array([10**9])
            found = session.run(None, {n: made[n] for n in wanted})[0]
            assert np.allclose(found, ours[user], rtol=1e-3, atol=1e-4)


def test_caser_is_not_written_as_onnx(tmp_path: Path) -> None:
    from propend.models.sequence.export import export_onnx
    from propend.models.sequence.network import Network

    net = Network(Settings(trunk="caser", size="tiny"), Vocabulary(items=9))
    with pytest.raises(ModelError, match="choose gru"):
        export_onnx(net, tmp_path / "m.onnx")


def test_half_precision_learns_too() -> None:
    from tests.models.sequence.worlds import cycles

    from propend.models.sequence.training import train

    settings = Settings(
        size="tiny", length=16, dropout=0.0, epochs=4, tokens=256, warmup=5, learning_rate=1e-2
    )
    run = train(
        cycles(150), Vocabulary(items=12, clock=False), replace(settings, precision="bfloat16")
    )
    assert run.curves[-1]["item"] < 1.5
    assert all(t.dtype == torch.float32 for t in run.network.parameters())

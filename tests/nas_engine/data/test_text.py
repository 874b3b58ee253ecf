"""Texts: tokens, vocabulary, streams, and every token judged once."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nas_engine.config import Data
from nas_engine.data import TextSplits, load_data, load_text
from nas_engine.data.load import resolve
from nas_engine.data.text import EOS, IGNORED, UNKNOWN
from nas_engine.train.candidate import shared_data
from search_spaces.errors import ConfigError, DataError


def written(folder: Path, lines: list[str]) -> str:
    (folder / "t.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"text:{folder / 't.txt'}"


@pytest.fixture(scope="module")
def novel(tmp_path_factory: pytest.TempPathFactory) -> TextSplits:
    """Training tokens are numbered by their places modulo 7, so places can be read off."""
    lines = [" ".join("abcdef"[:6]) for _ in range(400)]
    return load_text(written(tmp_path_factory.mktemp("novel"), lines), steps=5)


def test_penn_treebank_has_its_published_numbers(shared_file: Callable[[str], Path]) -> None:
    folder = shared_file("ptb/ptb.train.txt.gz").parent
    data = load_text(f"text:{folder}")
    counts = [len(part.tokens) for part in (data.train, data.validation, data.test)]
    assert counts == [929_589, 73_760, 82_430]
    assert len(data.classes) == 10_000
    assert data.classes[:3] == ("the", UNKNOWN, EOS)
    assert data.input_shape == (35,)


def test_one_file_is_divided_by_its_lines(tmp_path: Path) -> None:
    lines = ["a b b", *["b c"] * 7, "c a b", "b b"]
    data = load_text(written(tmp_path, lines), steps=2)
    words = [[data.classes[i] for i in part.tokens] for part in (data.train, data.validation, data.test)]
    assert words == [["a", "b", "b", EOS, *["b", "c", EOS] * 7], ["c", "a", "b", EOS], ["b", "b", EOS]]
    assert data.classes == ("b", EOS, "c", "a")  # by how often they occur in training: 9, 8, 7, 1


def test_a_folder_has_a_file_for_each_part(tmp_path: Path) -> None:
    for name in ("x.train.txt", "x.valid.txt"):
        (tmp_path / name).write_text("to be or\nnot to be\n" * 4)
    with pytest.raises(DataError, match=r"one file \*test\*\.txt.* but has none"):
        load_text(f"text:{tmp_path}", steps=3)
    with gzip.open(tmp_path / "x.test.txt.gz", "wt") as file:
        file.write("be not\n" * 3)
    data = load_text(f"text:{tmp_path}", steps=3)
    assert [data.classes[i] for i in data.test.tokens] == ["be", "not", EOS] * 3
    (tmp_path / "y.test.txt").write_text("be\n")
    with pytest.raises(DataError, match="several"):
        load_text(f"text:{tmp_path}", steps=3)


def test_characters(tmp_path: Path) -> None:
    data = load_text(written(tmp_path, ["ab a"] * 20), tokens="character", steps=3)
    assert set(data.classes) == {"a", "b", " ", EOS}
    assert len(data.train.tokens) == 16 * 5


def test_what_training_does_not_know_is_unknown(tmp_path: Path) -> None:
    lines = ["often often rare often"] + ["often"] * 17 + ["new often"] * 2
    data = load_text(written(tmp_path, lines), steps=1)
    assert set(data.classes) == {"often", EOS, UNKNOWN}
    assert data.classes[data.train.tokens[2]] == UNKNOWN  # the one that occurred once
    assert data.classes[data.test.tokens[0]] == UNKNOWN
    assert "training tokens are <unk>" in data.description
    with pytest.raises(DataError, match=r"give data\.vocabulary"):
        load_text(written(tmp_path, ["often"] * 18 + ["new often"] * 2), steps=1)


def test_a_limited_vocabulary_keeps_the_most_frequent(tmp_path: Path) -> None:
    lines = ["a a a b b c"] * 20
    data = load_text(written(tmp_path, lines), vocabulary=4, steps=3)
    assert set(data.classes) == {"a", "b", EOS, UNKNOWN}
    assert load_text(written(tmp_path, lines), vocabulary=3, steps=3).classes == (UNKNOWN, "a", EOS)


def test_a_limit_shortens_training_and_keeps_the_vocabulary(tmp_path: Path) -> None:
    source = written(tmp_path, ["a b"] * 10 + ["a b c"] * 10)
    whole, some = load_text(source, steps=2), load_text(source, steps=2, limit=9)
    assert len(some.train.tokens) == 9
    assert some.classes == whole.classes
    assert torch.equal(some.train.tokens, whole.train.tokens[:9])
    assert some.fingerprint != whole.fingerprint


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_a_training_epoch_predicts_every_token_once_in_order(novel: TextSplits, batch: int) -> None:
    walk = novel.epoch(batch, seed=0, epoch=0)
    windows = list(walk)
    assert len(windows) == len(walk)
    inputs, targets = (torch.cat(side, 1) for side in zip(*windows, strict=True))
    assert inputs.dtype == torch.int64
    assert all(x.shape == (batch, 5) for x, _ in windows[:-1])
    assert torch.equal(inputs[:, 1:], targets[:, :-1])  # within a stream, what is predicted is read next
    assert torch.equal(inputs[1:, 0], targets[:-1, -1])  # and one stream begins where the one before ended
    count = len(novel.train) // batch * batch
    assert torch.equal(targets.flatten(), novel.train.tokens[1 : count + 1])


@pytest.mark.parametrize("batch", [1, 2, 3, 64])
def test_judging_predicts_every_token_once(novel: TextSplits, batch: int) -> None:
    windows = list(novel.walk(novel.train, batch))
    inputs, targets = (torch.cat(side, 1) for side in zip(*windows, strict=True))
    assert len(targets) == min(batch, len(novel.train) // 50)
    told = [row[row != IGNORED] for row in targets]
    assert torch.equal(torch.cat(told), novel.train.tokens[1:])
    assert all((row[:5] == IGNORED).all() for row in targets[1:])  # each stream is led in by a window
    follows = targets != IGNORED
    assert torch.equal(
        targets[:, :-1][follows[:, :-1] & follows[:, 1:]], inputs[:, 1:][follows[:, :-1] & follows[:, 1:]]
    )


def test_halves_predict_every_token_once(novel: TextSplits) -> None:
    a, b = novel.validation.halves()
    assert len(a) + len(b) == len(novel.validation)
    assert torch.equal(torch.cat([a.tokens, b.tokens[1:]]), novel.validation.tokens)
    assert sum(map(len, novel.validation.halves(4))) == 4 * 5


def test_samples_and_beginning(novel: TextSplits) -> None:
    assert novel.samples(3).shape == (3, 5)
    assert len(novel.beginning(3, 2).epoch(3, seed=0, epoch=0)) == 2
    assert len(novel.beginning(10_000, 10_000).train) == len(novel.train)


def test_the_demo_needs_no_file() -> None:
    data = shared_data(Data(source="pydoc", vocabulary=500, steps=20), 0)
    assert (len(data.classes), data.input_shape, data.quality.name) == (500, (20,), "perplexity")
    assert len(data.train) > 20_000


def test_a_text_is_not_taken_for_images(tmp_path: Path) -> None:
    assert resolve("text:a b.txt") == ("text", "a b.txt")
    assert resolve("pydoc") == ("pydoc", "")
    with pytest.raises(DataError, match="read it with load_text"):
        load_data("pydoc")
    (tmp_path / "novel.txt").write_text("a")
    with pytest.raises(DataError, match="is a path: write text:"):
        resolve(str(tmp_path / "novel.txt"))


def test_errors_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n" * 40)
    (tmp_path / "broken.txt.gz").write_bytes(b"no gzip")
    for source, message in (
        ("text:", "write text:PATH"),
        (f"text:{tmp_path / 'none.txt'}", "no text at"),
        (f"text:{tmp_path / 'latin.txt'}", "is not UTF-8"),
        (f"text:{tmp_path / 'broken.txt.gz'}", "cannot be read"),
        ("pydoc:x", "write 'pydoc'"),
        (written(tmp_path, ["a"] * 20), "fewer than a window"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            load_text(source)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="at least 10"):
        load_text(written(tmp_path, ["a"] * 4))
    with pytest.raises(ConfigError, match="did you mean 'word'"):
        load_text("pydoc", tokens="words")
    with pytest.raises(ConfigError, match="too small"):
        load_text("pydoc", vocabulary=2)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"source": "digits", "vocabulary": 9}, "vocabulary is a setting of a text"),
        ({"source": "pydoc", "image_size": 8}, "image_size is a setting of images"),
    ],
)
def test_settings_of_the_other_kind_are_refused(section: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Data.model_validate(section)

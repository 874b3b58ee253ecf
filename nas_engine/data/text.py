"""Texts as streams of tokens: reading, vocabulary, and windows that follow one another.

A batch has one row for each of B contiguous streams of the text, and the next batch goes on where this one ended, so
that a network may carry its state. Every token but the text's first is predicted from the one before it.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from search_spaces.errors import ConfigError, DataError, did_you_mean

from ..quality import PERPLEXITY, Quality
from .containers import Batches
from .sources import TEXT_SOURCES, RawText, Request
from .splits import fingerprint

if TYPE_CHECKING:
    import torch

    from .augment import Augment

EOS, UNKNOWN = "<eos>", "<unk>"
TOKENS: dict[str, Callable[[str], Sequence[str]]] = {"word": str.split, "character": tuple}
PARTS = ("train", "valid", "test")
IGNORED = -100  # target of a place that is not judged; torch's cross-entropy leaves it out
_FEWEST_LINES = 10
_LOGITS = 1 << 23  # numbers in the logits of a judged batch, at most: 32 MB
_STREAM = 10  # windows of a judged stream, at least
_STREAMS = 64  # judged at a time, at most: more are no faster


@dataclass(frozen=True, eq=False)
class TextSet:
    """A contiguous text.

    Attributes:
        tokens: (N + 1,) int64: N of them are predicted.
        steps: T, tokens of a window.
    """

    tokens: torch.Tensor
    steps: int

    def __len__(self) -> int:
        """N, the tokens that are predicted."""
        return len(self.tokens) - 1

    def to(self, device: str | torch.device) -> TextSet:
        return replace(self, tokens=self.tokens.to(device))

    def first(self, count: int) -> TextSet:
        """The beginning of the text, in which `count` tokens are predicted."""
        return replace(self, tokens=self.tokens[: count + 1])

    def halves(self, windows: int | None = None) -> tuple[TextSet, TextSet]:
        """First and second half of the text, or of its first `windows` windows; each token is predicted in one."""
        whole = self if windows is None else self.first(windows * self.steps)
        middle = len(whole) // 2
        return whole.first(middle), replace(self, tokens=whole.tokens[middle:])

    def streams(self, count: int) -> torch.Tensor:
        """`(B, L + 1)`: B contiguous streams, each beginning with the last token of the one before.

        Fewer than B tokens at the text's end are left out.
        """
        length = len(self) // count
        return self.tokens[: count * length + 1].unfold(0, length + 1, length)


@dataclass(frozen=True, eq=False)
class TextSplits:
    """A text in three parts, with the attributes and methods of `DataSplits`.

    Attributes:
        classes: the vocabulary, most frequent token first.
        input_shape: (T,), the steps of a window.
    """

    train: TextSet
    validation: TextSet
    test: TextSet
    classes: tuple[str, ...]
    fingerprint: str
    description: str
    source: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    augment: Augment | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.train.steps,)

    @property
    def quality(self) -> Quality:
        return PERPLEXITY

    def to(self, device: str | torch.device) -> TextSplits:
        """The same text with all three parts on `device`."""
        parts = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return replace(self, **parts)

    def epoch(
        self, batch_size: int, *, seed: int, epoch: int, augment: Augment | None = None, device: str | None = None
    ) -> Batches:
        """One pass through the training text in its order: inputs and targets (B, T), the last ones perhaps shorter.

        There is nothing random in it. B is `batch_size`, or less where a stream would have no whole window.
        """
        steps = self.train.steps
        rows = self.train.streams(_between(batch_size, len(self.train) // steps))

        def walk() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for start in range(0, rows.shape[1] - 1, steps):
                window = rows[:, start : start + steps + 1]
                yield _moved(window[:, :-1], device), _moved(window[:, 1:], device)

        return Batches(-(-(rows.shape[1] - 1) // steps), walk)

    def walk(
        self, part: TextSet, batch_size: int, *, seed: int | None = None, device: str | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """A part in its order, for judging: inputs and targets (B, at most T).

        Every token is predicted once. Each stream but the first is led in by one window of the text before it, whose
        targets are `IGNORED`; with `batch_size` 1 all tokens have all the text before them. Batches are kept so small
        that their logits fit into the caches.
        """
        steps, count = part.steps, len(part)
        streams = _between(min(batch_size, _STREAMS), count // (_STREAM * steps))
        lead = steps if streams > 1 else 0
        length = -(-(count - lead) // streams)
        width = _between(steps, _LOGITS // (streams * len(self.classes)))
        for start in range(0, lead + length, width):
            inputs, targets = _judged(
                part.tokens, streams, length, lead, range(start, min(start + width, lead + length))
            )
            yield _moved(inputs, device), _moved(targets, device)

    def beginning(self, batch_size: int, steps: int) -> TextSplits:
        """The same with a training text of at most so many steps of training."""
        return replace(self, train=self.train.first(min(len(self.train), batch_size * steps * self.train.steps)))

    def samples(self, count: int) -> torch.Tensor:
        """(N, T) windows of the validation text, at most `count`."""
        windows = self.validation.streams(max(1, len(self.validation) // self.validation.steps))
        return windows[:count, : self.validation.steps].clone()


def _judged(
    tokens: torch.Tensor, streams: int, length: int, lead: int, columns: range
) -> tuple[torch.Tensor, torch.Tensor]:
    """Some columns of all streams; place p of the text predicts token p + 1."""
    import torch

    row = torch.arange(streams, device=tokens.device)[:, None]
    column = torch.arange(columns.start, columns.stop, device=tokens.device)[None]
    place = row * length + column
    count = len(tokens) - 1
    counts = (place < count) & ((row == 0) | (column >= lead))
    targets = torch.where(counts, tokens[(place + 1).clamp(max=count)], IGNORED)
    return tokens[place.clamp(max=count)], targets


def _between(wanted: int, most: int) -> int:
    return max(1, min(wanted, most))


def _moved(x: torch.Tensor, device: str | None) -> torch.Tensor:
    return x.contiguous() if device is None else x.contiguous().to(device)


# ---- loading ---------------------------------------------------------------------------------------------


def load_text(
    source: str, *, tokens: str = "word", vocabulary: int | None = None, steps: int = 35, limit: int | None = None
) -> TextSplits:
    """Read a text and number its tokens.

    Args:
        source: `text:PATH` or `pydoc`.
        tokens: `word` (what white space separates) or `character`; either way each line ends with `<eos>`.
        vocabulary: at most so many different tokens, the most frequent ones of the training part; others are `<unk>`.
            None takes them all, unless another part has one that training has not: then those seen only once in
            training are `<unk>` too, so that its probability is learned.
        steps: T, tokens of a window.
        limit: train on the first so many tokens; the vocabulary stays that of the whole training part.

    Raises:
        ConfigError: an argument out of its range.
        DataError: a text that is missing, broken or too short.

    >>> load_text("pydoc", vocabulary=1000).input_shape
    (35,)
    """
    if tokens not in TOKENS:
        raise ConfigError(f"unknown kind of tokens {tokens!r}: {did_you_mean(tokens, TOKENS)}")
    if vocabulary is not None and vocabulary < 3:
        raise ConfigError(f"a vocabulary of {vocabulary} is too small: {EOS}, {UNKNOWN} and one token are the least")
    kind, _, argument = source.strip().partition(":")
    try:
        raw = TEXT_SOURCES[kind](Request(argument))
    except (OSError, EOFError) as problem:
        raise DataError(f"{source} cannot be read: {problem}") from problem
    parts = [[[*TOKENS[tokens](line), EOS] for line in lines] for lines in (raw.train, raw.valid, raw.test)]
    classes, notes = _vocabulary(parts, vocabulary)
    numbers = {token: number for number, token in enumerate(classes)}
    coded = [_coded(lines, numbers) for lines in parts]
    for name, part in zip(PARTS, coded, strict=True):
        if len(part) < steps + 1:
            raise DataError(
                f"the {name} part of {source} has {len(part)} tokens, fewer than a window of {steps} and one more"
            )
    if limit is not None and limit < len(coded[0]):
        notes += (f"training is limited to the first {limit:,} of {len(coded[0]):,} tokens",)
        coded[0] = coded[0][: max(limit, steps + 1)]
    return _splits(raw.title, coded, classes, steps, source.strip(), (*raw.notes, *notes))


def _vocabulary(parts: list[list[list[str]]], most: int | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The vocabulary, and what is to be said of it."""
    counts = Counter(chain.from_iterable(parts[0]))
    elsewhere = {token for part in parts[1:] for line in part for token in line}
    if most is None and elsewhere <= counts.keys():
        kept, note = set(counts), ""
    else:
        seen = sorted((t for t in counts if t not in (EOS, UNKNOWN)), key=lambda t: (-counts[t], t))
        named = seen[: most - 2] if most is not None else [t for t in seen if counts[t] > 1]
        kept = {EOS, UNKNOWN, *named}
        unknown = sum(n for t, n in counts.items() if t not in kept) + counts[UNKNOWN]
        if not unknown:
            raise DataError(
                "the validation or test part has tokens that training has not, and no token of training is rare enough "
                f"to stand for {UNKNOWN}: give data.vocabulary, for example {max(3, len(counts) // 2)}"
            )
        counts[UNKNOWN] = unknown
        share = unknown / sum(n for t, n in counts.items() if t in kept)
        note = f"{share:.1%} of the training tokens are {UNKNOWN}, which stands for all but the {len(named):,} kept"
    return tuple(sorted(kept, key=lambda t: (-counts[t], t))), (note,) if note else ()


def _coded(lines: list[list[str]], numbers: dict[str, int]) -> np.ndarray:
    other = numbers.get(UNKNOWN, -1)  # not needed where every token has a number
    return np.fromiter((numbers.get(t, other) for t in chain.from_iterable(lines)), dtype=np.int64)


def _splits(
    title: str, coded: list[np.ndarray], classes: tuple[str, ...], steps: int, source: str, notes: tuple[str, ...]
) -> TextSplits:
    import torch

    train, validation, test = (TextSet(torch.from_numpy(part), steps) for part in coded)
    sizes = ", ".join(f"{len(p):,} for {n}" for n, p in zip(("training", "validation", "test"), coded, strict=True))
    head = f"{title}: {len(classes):,} different tokens, windows of {steps}; {sizes}"
    return TextSplits(
        train=train,
        validation=validation,
        test=test,
        classes=classes,
        fingerprint=fingerprint(classes, coded),
        description="; ".join((head, *notes)) + ".",
        source=source,
    )


# ---- sources ---------------------------------------------------------------------------------------------


@TEXT_SOURCES.register("text")
def read_text(request: Request) -> RawText:
    """A text of your own: a .txt or .txt.gz file, or a folder with such files for train, valid and test."""
    path = Path(request.argument).expanduser()
    if not request.argument or not path.exists():
        raise DataError(f"no text at {request.argument!r}: write text:PATH with a .txt or .txt.gz file, or a folder")
    if path.is_dir():
        train, valid, test = (_lines(_part(path, name)) for name in PARTS)
        return RawText(path.name, train, valid, test)
    return _divided(path.name, _lines(path))


@TEXT_SOURCES.register("pydoc")
def read_pydoc(request: Request) -> RawText:
    """The language reference that Python brings for its help(): English, about 65,000 words, by version."""
    if request.argument:
        raise DataError(f"pydoc takes nothing behind the colon, but got {request.argument!r}: write 'pydoc'")
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise DataError(
            "this Python came without the texts of its help(): write text:PATH for a text of your own"
        ) from None
    lines = [line.lower() for name in sorted(topics) for line in topics[name].splitlines() if line.strip()]
    return _divided("Python's language reference, lower case", lines)


def _divided(title: str, lines: list[str]) -> RawText:
    """The first 80 % of the lines for training, the next tenth for validation, the last for test."""
    if len(lines) < _FEWEST_LINES:
        raise DataError(f"{title} has {len(lines)} lines; at least {_FEWEST_LINES} are needed to divide it")
    first, second = len(lines) * 8 // 10, len(lines) * 9 // 10
    note = "the first 80 % of the lines train, the next 10 % validate, the last 10 % test"
    return RawText(title, lines[:first], lines[first:second], lines[second:], (note,))


def _part(folder: Path, name: str) -> Path:
    found = sorted(p for p in folder.glob(f"*{name}*") if p.name.endswith((".txt", ".txt.gz")))
    if len(found) != 1:
        got = "none" if not found else "several: " + ", ".join(p.name for p in found)
        raise DataError(f"{folder} must have one file *{name}*.txt or *{name}*.txt.gz, but has {got}")
    return found[0]


def _lines(path: Path) -> list[str]:
    """The lines of a file, without their ends."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            return [line.rstrip("\n").removeprefix("\ufeff") for line in file]
    except UnicodeDecodeError as problem:
        raise DataError(f"{path} is not UTF-8 ({problem.reason} at byte {problem.start}): convert it") from None

"""What a model is, known from its headers alone: parts, blocks and weights, and where each lies on disk."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

FAMILY_OF_MODULES: Final = "adapted"
"""The file of `pintpot.nets` that makes work of recorded modules, which PyTorch runs."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of the source.

    `name` is canonical (`embed`, `layers.3.q`, `layers.3.ffn_norm`, `head`), the same for every file format;
    `shape` is (rows = outputs, columns = inputs), or one axis for norms and biases; `dtype` names an encoding of
    `pintpot.formats`; the bytes lie at `offset` of `files[file]`, `num_bytes` long. `plus` is added to every value of a
    vector when it is read. Of a convolution's matrix `taps` are the kernel's places: the file has all places of a
    channel side by side, and what is read has all channels of a place so.

    The rows may be those of `experts` matrices, one below the other, of which the data choose some. `runs` are (file,
    offset, rows) of each stretch of rows where they do not lie in one place: then `file` and `offset` are the first's.

    Where something was `added`, the rows are computed while they are read, and `dtype` and `num_bytes` are theirs.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: int
    offset: int
    num_bytes: int
    plus: float = 0.0
    taps: int = 1
    experts: int = 1
    runs: tuple[tuple[int, int, int], ...] = ()
    added: Added | None = None

    @property
    def num_values(self) -> int:
        count = 1
        for axis in self.shape:
            count *= axis
        return count

    def bytes_in(self, files: Collection[int]) -> int:
        """Its bytes in the files of these numbers."""
        if not self.runs:
            return self.num_bytes if self.file in files else 0
        row_bytes = self.num_bytes // self.shape[0]
        return sum(rows * row_bytes for file, _, rows in self.runs if file in files)


@dataclass(frozen=True, slots=True)
class Added:
    """An adapter merged into a weight: `base` as its file holds it, and scale times b [N, r] a [r, K].

    Where `head_dim` is not 0, the base has the rows of each head in another order (pairs side by side) than b (halves).
    """

    base: Weight
    a: Weight
    b: Weight
    scale: float
    head_dim: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """Weights that are used together and in this order: `embed`, `layers.0` ..., `head`."""

    name: str
    weights: tuple[Weight, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One network of a model, with the family that turns it into work (`pintpot.nets`).

    The names of its weights begin with `prefix`, which is "" in one part at most: that of the language.
    """

    name: str
    family: str
    config: Mapping[str, Any]
    blocks: tuple[Block, ...] = ()
    prefix: str = ""

    def weights(self) -> Iterator[Weight]:
        for block in self.blocks:
            yield from block.weights


@dataclass(frozen=True, slots=True)
class TokenizerInfo:
    """What planning needs to know of the tokenizer: its kind, its size, and where it is."""

    kind: str
    vocab_size: int
    num_merges: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Merged:
    """Adapters that a model was read with: their folder, the SHA-256 of their values, the largest rank, how many times
    the product counts at it, and the weights that they were added to."""

    folder: str
    digest: str
    rank: int
    scale: float
    weights: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"adapters of {self.folder} (SHA-256 {self.digest[:16]}..., rank {self.rank}, scale {self.scale:g}) "
            f"merged into {len(self.weights)} weights"
        )


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model came from: `kind` is "gguf", "hf" or "hub"; `files` hold the weights, in index order.

    `merged` are the adapters that are part of it; `path` is that of the model without them, `named` of both.
    """

    kind: str
    path: str
    files: tuple[str, ...]
    merged: Merged | None = None

    @property
    def named(self) -> str:
        """What describes the same model again."""
        return self.path if self.merged is None else f"{self.path}+{self.merged.folder}"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Source:
        """What `dataclasses.asdict` made."""
        said = data.get("merged")
        found = None if said is None else Merged(**{**said, "weights": tuple(said["weights"])})
        return cls(**{**data, "files": tuple(data["files"]), "merged": found})


@dataclass(frozen=True, slots=True)
class Model:
    """A model, described. `config` of each part uses the key names of Hugging Face's config.json.

    `ties` maps a weight's canonical name to the one whose bytes it shares (`head` -> `embed`).
    `digest` identifies configuration and tensor table; the same source gives the same digest. What reads no text has
    no tokenizer.
    """

    name: str
    kind: str
    parts: tuple[Part, ...]
    ties: tuple[tuple[str, str], ...]
    context: int
    source: Source
    tokenizer: TokenizerInfo | None
    digest: str
    chat_template: str | None = field(default=None, repr=False)

    def part(self, name: str) -> Part:
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(name)

    @property
    def language(self) -> Part | None:
        """The part that reads and writes tokens, one after the other over a cache; None where there is none."""
        return next((part for part in self.parts if part.name == "language"), None)

    @property
    def needs_torch(self) -> bool:
        """Whether a part of it is a recorded module."""
        return any(part.family == FAMILY_OF_MODULES for part in self.parts)

    @property
    def num_bytes(self) -> int:
        return sum(weight.num_bytes for part in self.parts for weight in part.weights())

    @property
    def num_values(self) -> int:
        return sum(weight.num_values for part in self.parts for weight in part.weights())

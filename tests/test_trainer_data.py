"""Examples: what is learned of conversations and texts, lines that are wrong, and the order that a seed gives."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import Tiny, write_hf

from pintpot.errors import BadInput
from pintpot.model.tokens import Tokenizer, from_folder
from pintpot.trainer.data import Examples, read_examples
from pintpot.trainer.packing import NOT_LEARNED, Order, Sequences, hold_out, pack_sequences

CHAT = {
    "messages": [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "First."},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "Second."},
    ]
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(from_folder(write_hf(tmp_path_factory.mktemp("data") / "m", Tiny())))


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def learned(examples: Examples, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(item.tokens[item.learned].tolist(), skip_special=False) for item in examples.items]


def test_of_a_conversation_only_answers_are_learned(tmp_path: Path, tokenizer: Tokenizer) -> None:
    found = read_examples(write(tmp_path / "a.jsonl", CHAT, "", CHAT), tokenizer)
    assert found.kind == "chat"
    assert learned(found, tokenizer) == ["First.<|im_end|>\nSecond.<|im_end|>\n"] * 2
    whole = tokenizer.decode(found.items[0].tokens.tolist(), skip_special=False)
    assert whole.startswith("<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nFirst.")


def test_a_template_that_rewrites_earlier_answers_teaches_the_last_one(tmp_path: Path, tokenizer: Tokenizer) -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content if loop.last or m.role == 'user' else '...' }}"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    other = Tokenizer(tokenizer._backend, chat_template=template)
    found = read_examples(write(tmp_path / "a.jsonl", CHAT), other)
    assert learned(found, other) == ["Second."]
    assert "..." in other.decode(found.items[0].tokens.tolist())


def test_every_word_of_a_text_is_learned_and_its_end(tmp_path: Path, tokenizer: Tokenizer) -> None:
    found = read_examples(write(tmp_path / "a.jsonl", {"text": "Once upon a time."}), tokenizer)
    assert found.items[0].learned.all()
    assert found.items[0].tokens[-1] == tokenizer.token_id(tokenizer.eos)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON"),
        ("[1]", "a JSON object is wanted, this is a list"),
        ({"prompt": "x"}, "has 'prompt'; exactly one of 'messages' and 'text'"),
        ({"text": "x", "messages": []}, "exactly one of"),
        ({"text": 3}, "'text' is not a text"),
        ({"text": "a lone \ud800"}, "surrogate"),
        ({"messages": []}, "'messages' is not a list, or is empty"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no answer to learn"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "the role 'robot'"),
        ({"messages": [{"role": "assistant"}]}, "message 1 has no text"),
        ({"messages": ["x"]}, "message 1 is a str"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, tokenizer: Tokenizer, line: Any, why: str) -> None:
    path = write(tmp_path / "a.jsonl", "", "", line, CHAT)
    with pytest.raises(BadInput, match=r"a\.jsonl, line 3: ") as raised:
        read_examples(path, tokenizer)
    assert why in str(raised.value)


def test_one_file_holds_one_kind(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(BadInput, match="line 2: a text among lines of chat"):
        read_examples(write(tmp_path / "a.jsonl", CHAT, {"text": "among conversations"}), tokenizer)


def test_files_that_are_none(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(BadInput, match="No such file"):
        read_examples(tmp_path / "none.jsonl", tokenizer)
    with pytest.raises(BadInput, match="holds no line"):
        read_examples(write(tmp_path / "empty.jsonl"), tokenizer)
    (tmp_path / "bytes.jsonl").write_bytes(b'{"text": "a"}\n\xff\xfe\n')
    with pytest.raises(BadInput, match="line 2: not UTF-8"):
        read_examples(tmp_path / "bytes.jsonl", tokenizer)


def drawn(lengths: list[int], kind: Any = "text") -> Examples:
    from pintpot.trainer.data import Example

    starts = np.cumsum([0, *lengths])
    items = (
        Example(np.arange(a, b, dtype=np.int32) + 1, np.arange(b - a) >= (2 if kind == "chat" else 0))
        for a, b in pairwise(starts)
    )
    return Examples(kind, tuple(items))


def check(sequences: Sequences) -> None:
    """Every target is the token after it, inside the same example."""
    for tokens, targets, starts in zip(sequences.tokens, sequences.targets, sequences.starts, strict=True):
        for at in np.flatnonzero(targets != NOT_LEARNED):
            assert targets[at] == tokens[at + 1]
            assert starts[at] == starts[at + 1]
            assert starts[at] <= at


def test_texts_go_on_and_conversations_are_cut() -> None:
    texts = pack_sequences(drawn([5, 20, 3]), 8)
    check(texts)
    assert texts.tokens[texts.tokens > 0].tolist() == list(range(1, 29))
    assert texts.num_cut == 1
    # Of each piece all words but the first are learned: 5, 8, 8, 4 and 3 tokens.
    assert texts.num_learned == 4 + 7 + 7 + 3 + 2
    chats = pack_sequences(drawn([5, 20, 3], "chat"), 8)
    check(chats)
    assert chats.num_cut == 1
    assert chats.num_learned == 3 + 6 + 1
    assert chats.starts[0].tolist() == [0] * 5 + [5] * 3


def test_examples_share_sequences_where_they_fit() -> None:
    packed = pack_sequences(drawn([3, 3, 4, 2, 6]), 8)
    assert packed.starts.tolist() == [[0, 0, 0, 3, 3, 3, 6, 6], [0, 0, 0, 0, 4, 4, 6, 6], [0] * 6 + [6, 6]]


def test_nothing_to_learn_is_said() -> None:
    with pytest.raises(BadInput, match="nothing to learn"):
        pack_sequences(drawn([9], "chat"), 2)
    with pytest.raises(BadInput, match="a single sequence"):
        hold_out(pack_sequences(drawn([5]), 8), seed=0)


def test_what_is_held_out_depends_on_the_seed_alone() -> None:
    packed = pack_sequences(drawn([8] * 60), 8)
    learned_1, held_1 = hold_out(packed, seed=1)
    _, again = hold_out(packed, seed=1)
    _, other = hold_out(packed, seed=2)
    assert len(held_1) == 3
    assert np.array_equal(held_1.tokens, again.tokens)
    assert not np.array_equal(held_1.tokens, other.tokens)
    together = np.concatenate([learned_1.tokens, held_1.tokens])
    assert sorted(map(tuple, together)) == sorted(map(tuple, packed.tokens))


def test_every_epoch_has_every_sequence_once_in_an_order_of_its_own() -> None:
    order = Order(10, 4, seed=3)
    taken = np.concatenate([order.rows(step) for step in range(5)])
    assert sorted(taken[:10]) == sorted(taken[10:]) == list(range(10))
    assert taken[:10].tolist() != taken[10:].tolist()
    assert np.array_equal(order.rows(3), Order(10, 4, seed=3).rows(3))

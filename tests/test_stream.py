"""Reading and writing past the page cache: any alignment, refusing filesystems, failing rings, and no hang ever."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pintpot._native")

from pintpot._native import Arena, Ring, SlotError, crc32c
from pintpot.errors import BadFile, BadPack, DiskTooSmall, DoesNotFit
from pintpot.stream.arena import open_arena
from pintpot.stream.loader import Loader
from pintpot.stream.reader import disk_rate, read_into
from pintpot.stream.ring import RingSlot, open_ring, ring_stats
from pintpot.stream.writer import Writer

SLOT = 8192
CONTENT = random.Random(7).randbytes(40 * SLOT + 1234)
PATIENCE_S = 5.0


@pytest.fixture(params=["direct", "refused"])
def access(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Direct reads and writes, and a filesystem that refuses them."""
    if request.param == "refused":
        monkeypatch.setenv("PINTPOT_NO_DIRECT", "1")
    return str(request.param)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def arena() -> Iterator[Arena]:
    held = open_arena(1 << 20)
    yield held
    if held.is_open:
        held.close()


# --- Arenas ----------------------------------------------------------------------------------------------------------


def test_an_arena_is_there_before_it_is_needed_and_goes_at_once() -> None:
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    before = resident_bytes()
    held = open_arena(64_000_000)
    assert held.address % (2 << 20) == 0
    assert held.nbytes >= 64_000_000
    assert 63_000_000 < resident_bytes() - before < 68_000_000
    view = np.frombuffer(held, np.uint8)
    assert not view.any()
    view[-1] = 5
    assert memoryview(held)[-1] == 5
    with pytest.raises(BufferError):
        held.close()
    del view
    held.close()
    assert not held.is_open
    assert resident_bytes() - before < 4_000_000
    with pytest.raises(BufferError):
        memoryview(held)


def test_an_arena_not_touched_takes_nothing_and_too_much_is_refused() -> None:
    before = int(Path("/proc/self/statm").read_text().split()[1])
    held = open_arena(64_000_000, prefault=False)
    assert int(Path("/proc/self/statm").read_text().split()[1]) - before < 1000
    held.close()
    with pytest.raises(DoesNotFit):
        open_arena(1 << 46)
    with pytest.raises(BadFile):
        open_arena(0)


# --- Loading in the background ---------------------------------------------------------------------------------------

BLOCK, RUN = 4 << 20, 1 << 20


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, bytes, list[int]]:
    """A file with a page before what is loaded, which is two blocks and a half; its checksums."""
    content = random.Random(11).randbytes(BLOCK // 2) * 5
    path = tmp_path / "weights"
    path.write_bytes(bytes(4096) + content)
    return path, content, [crc32c(content[at : at + RUN]) for at in range(0, len(content), RUN)]


def test_a_region_is_loaded_as_far_as_it_may_and_touches_no_more(
    access: str, weights: tuple[Path, bytes, list[int]]
) -> None:
    path, content, crcs = weights
    arena = open_arena(len(content), prefault=False)
    loader = Loader(path, 4096, arena, len(content), crcs, RUN)
    assert loader.direct == (access == "direct")
    seen = []

    def touched() -> int:
        return -loader.beside(lambda: 0)

    loader.allow(BLOCK + RUN)  # whole blocks alone
    stop = time.monotonic() + PATIENCE_S
    while touched() < BLOCK and time.monotonic() < stop:
        time.sleep(0.001)
    time.sleep(0.05)
    assert touched() == BLOCK
    assert loader.finish(seen.append) is None
    assert touched() == len(content) == seen[-1]
    assert bytes(memoryview(arena)[: len(content)]) == content
    with pytest.raises(BufferError):
        arena.close()
    loader.close()
    arena.close()


def test_a_changed_byte_is_found_by_its_run(weights: tuple[Path, bytes, list[int]]) -> None:
    path, content, crcs = weights
    crcs[6] ^= 1
    arena = open_arena(len(content), prefault=False)
    loader = Loader(path, 4096, arena, len(content), crcs, RUN)
    assert loader.finish() == 6
    loader.close()
    arena.close()


def test_loading_refuses_what_does_not_fit_together(weights: tuple[Path, bytes, list[int]]) -> None:
    path, content, crcs = weights
    size = len(content)
    arena = open_arena(size, prefault=False)
    for offset, num_bytes, sums, words in (
        (8192, size, crcs, "ends before byte"),
        (4096, size, crcs[1:], "9 checksums"),
        (100, size, crcs, "whole blocks"),
        (0, size + 4096, crcs, "do not fit"),
    ):
        with pytest.raises(BadPack, match=words):
            Loader(path, offset, arena, num_bytes, sums, RUN)
    with pytest.raises(BadPack, match="No such file"):
        Loader(path.with_name("missing"), 0, arena, size, crcs, RUN)
    unused = Loader(path, 4096, arena, size, crcs, RUN)
    unused.close()
    arena.close()


def test_a_file_that_shrinks_while_it_is_loaded_is_told(weights: tuple[Path, bytes, list[int]]) -> None:
    path, content, crcs = weights
    arena = open_arena(len(content), prefault=False)
    loader = Loader(path, 4096, arena, len(content), crcs, RUN)
    os.truncate(path, BLOCK)
    with pytest.raises(BadPack, match="ends before byte"):
        loader.finish()
    loader.close()
    arena.close()


# --- Whole reads and writes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1, 4095, 4096, 70_001])
@pytest.mark.parametrize("shift", [0, 1, 4096 + 17])
def test_any_region_at_any_alignment(access: str, file: Path, arena: Arena, offset: int, shift: int) -> None:
    memory = memoryview(arena)
    for size in (0, 1, 4096, 5000, 100_000):
        memory[:] = bytes(len(memory))
        found = read_into(file, offset, memory[shift : shift + size], in_flight=3, block=16384)
        assert memory[shift : shift + size] == CONTENT[offset : offset + size]
        assert not any(memory[:shift])
        assert not any(memory[shift + size : shift + size + 5000])
        assert (found.num_bytes, found.direct) == (size, access == "direct")


def test_a_region_beyond_the_end_and_a_file_that_is_none(file: Path, tmp_path: Path) -> None:
    whole = bytearray(len(CONTENT))
    assert read_into(file, 0, whole).num_bytes == len(CONTENT)
    assert bytes(whole) == CONTENT
    with pytest.raises(BadFile, match="ends before"):
        read_into(file, 5, whole)
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(BadFile, match=str(path)):
            read_into(path, 0, bytearray(10))
    with pytest.raises(BufferError):
        read_into(file, 0, b"read-only")  # type: ignore[arg-type]
    for options in ({"block": 1000}, {"block": 0}, {"in_flight": 0}, {"in_flight": 9999}):
        with pytest.raises(BadFile):
            read_into(file, 0, bytearray(10), **options)


def test_written_is_read_again(access: str, tmp_path: Path) -> None:
    path = tmp_path / "written"
    with Writer(path, block=16384) as writer:
        assert writer.direct == (access == "direct")
        sizes = random.Random(1)
        written = b""
        while len(written) < 200_000:
            part = CONTENT[len(written) : len(written) + sizes.choice((1, 100, 4096, 16384, 50_000))]
            writer.write(part)
            written += part
            assert writer.position == len(written)
        writer.pad_to(4096)
        assert writer.position % 4096 == 0
        writer.write(b"end")
    found = path.read_bytes()
    assert found[: len(written)] == written
    assert found[len(written) :].strip(b"\0") == b"end"
    with Writer(path):
        pass
    assert path.read_bytes() == b""


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    with pytest.raises(DiskTooSmall, match="make room"), Writer("/dev/full", block=4096) as writer:
        writer.write(bytes(20_000))
    with pytest.raises(BadFile, match="nowhere"):
        Writer(tmp_path / "nowhere" / "file")
    with pytest.raises(TypeError), Writer(tmp_path / "left") as left:
        left.write("neither bytes nor a buffer")  # type: ignore[arg-type]
    assert (tmp_path / "left").stat().st_size == 0


def test_the_rate_of_a_disk(access: str, file: Path) -> None:
    found = disk_rate(file, 4096, 32 * SLOT, in_flight=2, block=SLOT, seconds=0.05)
    assert found.num_bytes % SLOT == 0
    assert found.num_bytes >= SLOT
    assert 0.04 < found.seconds < 2
    assert found.bytes_per_s > 0
    with pytest.raises(BadFile):
        disk_rate(file, 0, len(CONTENT) * 2, in_flight=1, block=SLOT, seconds=0.01)


# --- The ring --------------------------------------------------------------------------------------------------------


def slots_of(content: bytes, count: int = 40) -> list[RingSlot]:
    return [RingSlot(i * SLOT, SLOT, crc32c(content[i * SLOT : (i + 1) * SLOT])) for i in range(count)]


def take_all(ring: Ring, passes: int = 1) -> None:
    for _ in range(passes):
        ring.begin_pass()
        for position in range(40):
            assert ring.wait(position, PATIENCE_S) >= 0
            ring.release(position)
        ring.end_pass(True)


def check_pass(ring: Ring, arena: Arena, order: list[int], needed: list[int] | None = None) -> None:
    memory = memoryview(arena)
    ring.begin_pass(needed or [])
    for position, slot in enumerate(order):
        if needed and not needed[position]:
            continue
        at = ring.wait(position, PATIENCE_S)
        assert at >= 0, f"position {position} never came"
        assert memory[at : at + SLOT] == CONTENT[slot * SLOT : (slot + 1) * SLOT]
        ring.release(position)
    ring.end_pass(True)


@pytest.mark.parametrize(("num_buffers", "in_flight"), [(2, 1), (2, 4), (5, 3), (64, 2)])
def test_pass_after_pass(access: str, file: Path, arena: Arena, num_buffers: int, in_flight: int) -> None:
    ring = open_ring(
        file, slots_of(CONTENT), arena, offset=0, num_buffers=num_buffers, slot_bytes=SLOT, in_flight=in_flight
    )
    assert ring.direct == (access == "direct")
    assert ring.num_buffers == num_buffers
    for _ in range(6):
        check_pass(ring, arena, list(range(40)))
    time.sleep(0.02)
    ahead = ring_stats(ring).slots_read - 6 * 40
    assert 0 < ahead <= num_buffers  # into the next pass, and no further
    ring.close()


def test_slots_in_another_order_some_left_out(file: Path, arena: Arena) -> None:
    order = [5, 3, 39, 0, 17]
    ring = open_ring(file, slots_of(CONTENT), arena, offset=8192, num_buffers=3, slot_bytes=SLOT, order=order)
    rng = random.Random(2)
    for _ in range(60):
        needed = [int(rng.random() < 0.6) for _ in order]
        check_pass(ring, arena, order, needed)
        if rng.random() < 0.3:
            time.sleep(0.001)
    check_pass(ring, arena, order)
    ring.close()


def test_passes_of_several_kinds_read_ahead_what_follows(file: Path, arena: Arena) -> None:
    """One pass of some slots, then often one of others, again and again: what is read in vain is next to nothing."""
    ring = open_ring(file, slots_of(CONTENT), arena, offset=0, num_buffers=4, slot_bytes=SLOT, in_flight=2)
    order = list(range(40))
    once, often = [int(at < 25) for at in order], [int(at >= 20) for at in order]

    def request() -> int:
        before = ring_stats(ring).slots_read
        for needed in (once, *[often] * 9):
            check_pass(ring, arena, order, needed)
            time.sleep(0.005)
        return ring_stats(ring).slots_read - before

    due = sum(once) + 9 * sum(often)
    request()
    found = [request() for _ in range(3)]
    ahead = ring.num_buffers
    ring.close()
    # Nobody can know when a request ends: what was read ahead for another word is in vain.
    assert all(due - ahead <= slots <= due + 2 * ahead for slots in found), (due, found)


def test_passes_that_skip_everything_and_what_was_passed_over(file: Path, arena: Arena) -> None:
    ring = open_ring(file, slots_of(CONTENT), arena, offset=0, num_buffers=3, slot_bytes=SLOT)
    order = list(range(40))
    kinds = [[int(at % step == 0) for at in order] for step in (1, 2, 3, 7)] + [[0] * 39 + [1]]
    rng = random.Random(4)
    for _ in range(80):
        check_pass(ring, arena, order, rng.choice(kinds))
        if rng.random() < 0.3:
            time.sleep(0.002)
    ring.close()


def test_a_pass_left_in_the_middle_starts_again(file: Path, arena: Arena) -> None:
    ring = open_ring(file, slots_of(CONTENT), arena, offset=0, num_buffers=4, slot_bytes=SLOT)
    for stop in (0, 1, 3, 20):
        ring.begin_pass()
        for position in range(stop):
            assert ring.wait(position, PATIENCE_S) >= 0
            if position % 2 == 0 or position < stop - 2:
                ring.release(position)
        if stop % 2:
            ring.end_pass(False)
        check_pass(ring, arena, list(range(40)))
    ring.rewind()
    check_pass(ring, arena, list(range(40)))
    ring.close()


def test_nobody_releases_and_nobody_waits_for_ever(file: Path, arena: Arena) -> None:
    ring = open_ring(file, slots_of(CONTENT), arena, offset=0, num_buffers=2, slot_bytes=SLOT)
    ring.begin_pass()
    assert ring.wait(0, PATIENCE_S) >= 0
    assert ring.wait(1, PATIENCE_S) >= 0
    start = time.perf_counter()
    assert ring.wait(2, 0.05) == -1
    assert 0.05 <= time.perf_counter() - start < 2
    releasing = threading.Timer(0.05, ring.release, (0,))
    releasing.start()
    assert ring.wait(2, PATIENCE_S) >= 0
    releasing.join()
    closing = threading.Timer(0.05, ring.close)
    closing.start()
    with pytest.raises(SlotError, match="closed"):
        ring.wait(3, PATIENCE_S)
    closing.join()


def test_waiting_for_the_disk_takes_no_time(file: Path, arena: Arena) -> None:
    """The reader waits for a free buffer and the consumer for a slot that cannot come: all that a wait is made of."""
    ring = open_ring(file, slots_of(CONTENT), arena, offset=0, num_buffers=2, slot_bytes=SLOT)
    ring.begin_pass()
    assert ring.wait(1, PATIENCE_S) >= 0
    before = time.process_time()
    assert ring.wait(2, 0.4) == -1
    assert time.process_time() - before < 0.05
    ring.close()


def test_a_changed_byte_is_found_at_the_first_read_and_names_its_slot(
    access: str, tmp_path: Path, arena: Arena
) -> None:
    path = tmp_path / "changed"
    for slot in (0, 7, 39):
        content = bytearray(CONTENT)
        content[slot * SLOT + 4321] ^= 1
        path.write_bytes(content)
        ring = open_ring(path, slots_of(CONTENT), arena, offset=0, num_buffers=3, slot_bytes=SLOT)
        with pytest.raises(SlotError, match=f"slot {slot} .*checksum"):
            take_all(ring)
        path.write_bytes(CONTENT)
        check_pass(ring, arena, list(range(40)))
        # Verified once: what changes on the disk afterwards is no longer looked for.
        path.write_bytes(content)
        ring.rewind()
        take_all(ring)
        ring.close()


def test_a_file_that_ends_while_it_is_read(access: str, tmp_path: Path, arena: Arena) -> None:
    path = tmp_path / "short"
    path.write_bytes(CONTENT)
    ring = open_ring(path, slots_of(CONTENT), arena, offset=0, num_buffers=3, slot_bytes=SLOT)
    check_pass(ring, arena, list(range(40)))
    os.truncate(path, 20 * SLOT + 100)
    with pytest.raises(SlotError, match=r"slot 20 .*ended after 100|slot 2[0-9] .*ended after 0"):
        take_all(ring, passes=2)
    ring.close()


def test_many_threads_take_and_release_out_of_order(file: Path, arena: Arena) -> None:
    ring = open_ring(file, slots_of(CONTENT), arena, offset=0, num_buffers=6, slot_bytes=SLOT, in_flight=3)
    memory, wrong = memoryview(arena), []
    for _ in range(5):
        ring.begin_pass()
        positions = iter(range(40))
        lock = threading.Lock()

        def work(positions: Iterator[int] = positions, lock: threading.Lock = lock) -> None:
            while True:
                with lock:
                    position = next(positions, None)
                if position is None:
                    return
                at = ring.wait(position, PATIENCE_S)
                if at < 0 or memory[at : at + SLOT] != CONTENT[position * SLOT : (position + 1) * SLOT]:
                    wrong.append(position)
                time.sleep(0.0005 * (position % 3))
                ring.release(position)

        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)
            assert not worker.is_alive()
        ring.end_pass(True)
    assert not wrong
    ring.close()


def test_times_of_reads_in_flight_add_up(file: Path, arena: Arena) -> None:
    ring = open_ring(file, slots_of(CONTENT), arena, offset=0, num_buffers=4, slot_bytes=SLOT, in_flight=3)
    ring.reset_stats()
    start = time.perf_counter()
    for _ in range(3):
        check_pass(ring, arena, list(range(40)))
    elapsed = time.perf_counter() - start
    stats = ring_stats(ring)
    assert stats.idle_s + stats.one_in_flight_s + stats.more_in_flight_s == pytest.approx(elapsed, rel=0.3)
    assert stats.bytes_read == stats.slots_read * SLOT
    assert stats.waited_s >= 0
    ring.close()


def test_a_ring_holds_its_memory_until_it_is_closed(file: Path, arena: Arena) -> None:
    ring = open_ring(file, slots_of(CONTENT), arena, offset=0, num_buffers=3, slot_bytes=SLOT)
    with pytest.raises(BufferError):
        arena.close()
    ring.close()
    ring.close()
    arena.close()
    with pytest.raises(ValueError, match="closed"):
        ring.wait(0, PATIENCE_S)


def test_a_ring_that_cannot_be(file: Path, arena: Arena) -> None:
    fitting = slots_of(CONTENT)

    def refused(slots: list[RingSlot], **changes: object) -> None:
        options = {"offset": 0, "num_buffers": 3, "slot_bytes": SLOT, "order": None, "in_flight": 2, **changes}
        with pytest.raises(BadPack):
            open_ring(file, slots, arena, **options)  # type: ignore[arg-type]

    refused([RingSlot(100, SLOT)])
    refused([RingSlot(0, 100)])
    refused([RingSlot(0, 0)])
    refused([RingSlot(40 * SLOT, SLOT)])
    refused([RingSlot(1 << 62, SLOT)])
    refused([RingSlot(0, 2 * SLOT)])
    refused(fitting, order=[40])
    refused(fitting, num_buffers=1)
    refused(fitting, num_buffers=1000)
    refused(fitting, offset=(1 << 20) - SLOT)
    refused(fitting, offset=1)
    refused(fitting, in_flight=0)
    refused(fitting, slot_bytes=SLOT - 1)
    arena.close()

"""What a follower makes of the answers of the archive."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from engine import feeding
from engine.errors import ArchiveDamaged, ArchiveUnavailable
from engine.feeding import DAMAGED_PAUSE_S, PAUSE_S, Feeding


class Channel:
    def __init__(self) -> None:
        self.said: list[int] = []

    def say(self, kind: str, shard: int, sequence: int) -> None:
        assert (kind, shard) == ("archived", 0)
        self.said.append(sequence)


class State:
    sequence = 100

    def closed(self, through: int, most: int) -> list[Any]:
        return []

    def counts(self) -> dict[str, int]:
        return {"evicted_through": 0}


class Threads:
    """Answers at once."""

    def __init__(self) -> None:
        self.answers: list[int | Exception] = []

    def submit(self, *_: Any, **__: Any) -> Future[int]:
        answered: Future[int] = Future()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            answered.set_exception(answer)
        else:
            answered.set_result(answer)
        return answered


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    made = Threads()
    monkeypatch.setattr(feeding, "ThreadPoolExecutor", lambda *_, **__: made)
    return made


class Story:
    def __init__(self) -> None:
        self.channel = Channel()
        self.end: int | None = 100
        self._feeding = Feeding(self.channel, 0, "")  # type: ignore[arg-type]

    def go_on(self, now_s: float) -> bool:
        return self._feeding.go_on(State(), now_s, lambda: self.end)  # type: ignore[arg-type]


def test_damaged_archive_is_asked_again_after_a_while(threads: Threads) -> None:
    story = Story()
    threads.answers = [ArchiveDamaged("f", "bad"), ArchiveDamaged("f", "bad"), 50]
    story.go_on(0.0)
    for now_s in (1.0, DAMAGED_PAUSE_S):
        assert story.go_on(now_s), "nobody waits for it"
    assert len(threads.answers) == 2
    for turn in (1, 2):
        assert story.go_on(turn * DAMAGED_PAUSE_S + 1)
        assert story.go_on(turn * DAMAGED_PAUSE_S + 1)
    assert story.go_on(3 * DAMAGED_PAUSE_S)
    assert story.channel.said == [50]


def test_archive_ahead_of_the_log_is_never_believed(threads: Threads, capsys: pytest.CaptureFixture[str]) -> None:
    story = Story()
    threads.answers = [101, 101]
    story.go_on(0.0)
    assert story.go_on(1.0)
    story.end = 200
    assert story.go_on(10 * DAMAGED_PAUSE_S)
    assert (story.channel.said, threads.answers) == ([], [101])
    assert "closed up to sequence 101, but the log ends at 100" in capsys.readouterr().out


def test_archive_ahead_of_a_follower_waits_until_the_end_of_the_log_is_known(threads: Threads) -> None:
    story = Story()
    threads.answers = [ArchiveUnavailable("f", "gone"), 101, 101]
    story.end = None
    story.go_on(0.0)
    assert not story.go_on(0.1)
    assert not story.go_on(PAUSE_S + 0.2)
    assert not story.go_on(PAUSE_S + 0.3)
    assert story.channel.said == []
    story.end = 150
    assert not story.go_on(2 * PAUSE_S + 0.4)
    assert story.go_on(2 * PAUSE_S + 0.5)
    assert story.channel.said == [101]

"""What follows when the process of a post says nothing, or two of them come back."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

from engine.channel import Message
from engine.child import Child
from engine.limits import FOLLOWER_SILENT_S_MAX
from engine.post import Post

LOOK_S = 0.1


class FakeChild(Child):
    def __init__(self, name: str) -> None:
        super().__init__(name, lambda *_: None, lambda *_: None)
        self.told: list[str] = []
        self.signals: list[int] = []

    def send(self, kind: str, fds: Sequence[int] = (), /, **fields: object) -> None:
        self.told.append(kind)

    def signal(self, number: int) -> None:
        self.signals.append(number)


class FakeOwner:
    starting = ending = False
    now_s = 100.0

    def inherited(self) -> Sequence[int]:
        return []

    def later(self, seconds: float, then: Callable[[], None]) -> None: ...
    def give_up(self, code: int, message: str) -> None: ...
    def members_changed(self) -> None: ...
    def go_on(self) -> None: ...


class FakePost(Post):
    def __init__(self) -> None:
        self.said: list[str] = []
        super().__init__(
            FakeOwner(), "archive", "", ["a", "b"], lambda _: None, lambda _, said: self.said.append(said.kind)
        )

    def _new(self) -> Child:
        return FakeChild(self.name)

    def come(self, path: str) -> FakeChild:
        child = self.adopt(path)
        assert isinstance(child, FakeChild)
        return child

    def says(self, child: Child, kind: str) -> None:
        self._heard(child, Message(kind, {}, []))

    def look(self, seconds: float) -> None:
        for _ in range(round(seconds / LOOK_S)):
            self.watch(LOOK_S, LOOK_S)


def test_one_that_falls_silent_is_killed_once() -> None:
    post = FakePost()
    child = post.come("a")
    post.says(child, "beat")
    for _ in range(3):
        post.look(FOLLOWER_SILENT_S_MAX - 1)
        assert child.signals == []
        post.says(child, "beat")
    post.look(2 * FOLLOWER_SILENT_S_MAX + 1)
    assert child.signals == [signal.SIGKILL]
    assert post.said == [], "nobody else need know of beats"


def test_one_whose_program_knows_no_beats_is_left_alone() -> None:
    post = FakePost()
    child = post.come("a")
    post.says(child, "seen")
    post.look(2 * FOLLOWER_SILENT_S_MAX)
    assert child.signals == []


def test_later_one_of_two_has_the_post_and_the_earlier_one_goes() -> None:
    post = FakePost()
    first, second, third = (post.come(path) for path in ("a", "b", "a"))
    assert (post.child, post.former, post.path) == (third, second, "a")
    assert first.signals == [signal.SIGKILL]
    post.dismiss()
    assert second.told == ["drain", "close"]
    assert third.told == []

"""A post that one process fills, and another one when it dies: that of the control server, that of the archive."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog

from engine.channel import Message
from engine.child import Backoff, Child, ended_by
from engine.exits import Exit
from engine.limits import FOLLOWER_SILENT_S_MAX

log = structlog.get_logger()


class Owner(Protocol):
    """What a post needs of the supervisor."""

    @property
    def fresh(self) -> bool: ...
    @property
    def ending(self) -> bool: ...
    @property
    def now_s(self) -> float: ...
    def inherited(self) -> Sequence[int]: ...
    def later(self, seconds: float, then: Callable[[], None]) -> None: ...
    def give_up(self, code: int, message: str) -> None: ...
    def members_changed(self) -> None: ...
    def go_on(self) -> None: ...


class Post:
    def __init__(
        self,
        owner: Owner,
        name: str,
        module: str,
        paths: Sequence[str],
        begin: Callable[[Child], None],
        heard: Callable[[Child, Message], None],
    ) -> None:
        """paths: where it listens; with two, one that comes before the other goes takes the other path.

        begin: tells a process that has just been started what it needs. heard: what a process of this post says.
        """
        self.name = name
        self.path = paths[0]
        self._paths = paths
        self.child: Child | None = None
        # The one that is on its way out while another one has the post.
        self.former: Child | None = None
        self.listening = False
        # How long it says nothing; None before it has said for the first time that it lives.
        self._silent_s: float | None = None
        self._owner = owner
        self._module = module
        self._begin = begin
        self._told = heard
        self._backoff = Backoff()

    def start(self) -> None:
        if self._owner.ending or self.child is not None:
            return
        self._silent_s = None
        self.child = self._new()
        self.child.start(self._module, self._owner.inherited())
        self._backoff.began(self._owner.now_s)
        self._owner.members_changed()
        self._begin(self.child)

    def adopt(self, path: str) -> Child:
        """The child object for a process that is there already, and listens.

        Of two, as a supervisor leaves them that dies in the middle of an upgrade, the later one has the post.
        """
        if self.former is not None:
            self.former.signal(signal.SIGKILL)
        self.former, self.child = self.child, self._new()
        self._silent_s = None
        self.path = path
        self.listening = True
        return self.child

    def send(self, kind: str, /, **fields: Any) -> None:
        if self.child is not None:
            self.child.send(kind, **fields)

    # One after the other, without a gap.

    def begin_anew(self) -> bool:
        """Starts another one, while the one that has the post goes on. False: nobody has it, and somebody will."""
        if self.child is None:
            return False
        self.former, self.child = self.child, None
        self.listening = False
        self.path = self._paths[(self._paths.index(self.path) + 1) % len(self._paths)]
        self.start()
        return True

    def stay(self, path: str) -> None:
        """The new one has failed: the former one has the post as before."""
        if self.child is not None:
            self.child.signal(signal.SIGKILL)
        self.child, self.former = self.former, None
        self.path = path
        self.listening = self.child is not None
        self.start()

    def dismiss(self) -> None:
        if self.former is not None:
            self.former.name = f"{self.name} (leaving)"
            self.former.send("drain")
            self.former.send("close")

    def _new(self) -> Child:
        return Child(self.name, self._heard, self._ended)

    def _heard(self, child: Child, message: Message) -> None:
        if child is self.child and (message.kind == "beat" or self._silent_s is not None):
            self._silent_s = 0.0
        if message.kind != "beat":
            self._told(child, message)
            self._owner.go_on()

    def watch(self, since_last_look_s: float, look_s_max: float) -> None:
        """One that is frozen answers nobody, so it is killed, and replaced."""
        if self.child is None or self._silent_s is None:
            return
        self._silent_s += min(since_last_look_s, look_s_max)
        if self._silent_s > FOLLOWER_SILENT_S_MAX:
            log.error(f"{self.name} says nothing and is killed", pid=self.child.pid)
            self.child.signal(signal.SIGKILL)
            self._silent_s = None

    def _ended(self, child: Child, code: int | None) -> None:
        if child is self.former:
            self.former = None
        elif child is self.child:
            self.child = None
            self.listening = False
            self._replace(code)
        self._owner.members_changed()
        self._owner.go_on()

    def _replace(self, code: int | None) -> None:
        """Starts it again, unless all are to end or there is no hope."""
        if self._owner.ending:
            if code not in (Exit.OK, None):
                log.error(f"{self.name} died", how=ended_by(code))
        elif self._owner.fresh and code == Exit.WRONG:
            self._owner.give_up(Exit.UNUSABLE, f"{self.name} cannot start; its log lines say why")
        else:
            wait_s = self._backoff.ended(self._owner.now_s)
            log.error(f"{self.name} died", how=ended_by(code), started_again_in_s=wait_s)
            self._owner.later(wait_s, self.start)

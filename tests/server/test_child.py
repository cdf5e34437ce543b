"""Back-off with a clock of the test's own, and the channel between supervisor and child."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import threading

import pytest

from engine.channel import Channel, ChannelError, Message
from engine.child import Backoff, Child, ended_by
from engine.limits import RESTART_RESET_S, RESTART_S_MAX


def test_backoff_doubles_up_to_its_bound() -> None:
    backoff = Backoff()
    now = 0.0
    waits = []
    for _ in range(9):
        backoff.began(now)
        now += 0.001
        waits.append(backoff.ended(now))
        now += waits[-1]
    assert waits == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, RESTART_S_MAX, RESTART_S_MAX]


def test_backoff_begins_again_after_a_life_that_was_long_enough() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.began(0.0)
        backoff.ended(1.0)
    backoff.began(100.0)
    assert backoff.ended(100.0 + RESTART_RESET_S - 0.001) == 1.6
    backoff.began(200.0)
    assert backoff.ended(200.0 + RESTART_RESET_S) == 0.05
    backoff.began(300.0)
    assert backoff.ended(300.0) == 0.1


def test_end_of_a_child_is_said_in_words() -> None:
    assert [ended_by(code) for code in (0, 70, -9, -64, None)] == [
        "exit code 0",
        "exit code 70",
        "SIGKILL",
        "SIGRTMAX",
        "exit code not known",
    ]


def pair() -> tuple[Channel, Channel]:
    own, other = Channel.pair()
    return own, Channel.inherited(other.detach())


def received(channel: Channel) -> Message:
    message = channel.receive()
    assert message is not None
    return message


def test_messages_keep_their_order_and_their_descriptors() -> None:
    own, other = pair()
    read_end, write_end = os.pipe()
    own.send("first", [read_end, write_end], worker=3, name="x")
    own.send("second")
    first = received(other)
    assert (first.kind, first.fields, len(first.fds)) == ("first", {"worker": 3, "name": "x"}, 2)
    assert not any(os.get_inheritable(fd) for fd in first.fds), "a grandchild must not keep a link alive"
    os.write(write_end, b"same pipe")
    assert os.read(first.fds[0], 100) == b"same pipe"
    assert received(other) == Message("second", {}, [])
    with pytest.raises(BlockingIOError):
        other.receive()
    own.close()
    assert other.receive() is None
    for fd in (read_end, write_end, *first.fds):
        os.close(fd)
    other.close()


def send_for_ever(channel: Channel) -> None:
    while True:
        channel.send("again", text="x" * 1_000)


def test_message_to_who_is_gone_or_does_not_read_is_refused() -> None:
    own, other = pair()
    with pytest.raises(ChannelError, match="could not be sent"):
        send_for_ever(own)
    other.close()
    with pytest.raises(ChannelError):
        own.send("too late")
    own.close()


def test_several_threads_may_send() -> None:
    own, other = pair()
    threads = [
        threading.Thread(target=lambda name=name: [own.send("n", name=name, n=n) for n in range(20)])
        for name in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    messages = [received(other) for _ in range(80)]
    for name in range(4):
        assert [message["n"] for message in messages if message["name"] == name] == list(range(20))
    own.close()
    other.close()


def test_own_end_is_not_inherited_and_the_other_is_told_of_its_close() -> None:
    own, other = Channel.pair()
    assert not os.get_inheritable(own.fileno())
    assert isinstance(other, socket.socket)
    own.close()
    assert other.recv(1) == b""
    other.close()


def test_child_that_cannot_be_started_is_like_one_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(subprocess, "Popen", fail)
    ended: list[int | None] = []

    async def start() -> None:
        child = Child("worker 0", lambda *_: None, lambda _, code: ended.append(code))
        child.start("engine.worker")
        assert ended == [], "its owner knows it first"
        child.send("start")
        child.signal(signal.SIGKILL)
        await asyncio.sleep(0)

    asyncio.run(start())
    assert ended == [None]

"""What --listen may say, and the sockets that come of it."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from engine.listen import Address, ListenError, Listeners, UnixAddress, parse_address
from tests.strangers import NOBODY, needs_root


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:0", Address("127.0.0.1", 0), True),
        ("127.8.9.1:65535", Address("127.8.9.1", 65535), True),
        ("localhost:7400", Address("localhost", 7400), True),
        ("[::1]:7400", Address("::1", 7400), True),
        ("0.0.0.0:7400", Address("0.0.0.0", 7400), False),
        ("[::]:7400", Address("::", 7400), False),
        ("orders.example:7400", Address("orders.example", 7400), False),
    ],
)
def test_address_is_read_and_written_back(text: str, address: Address, loopback: bool) -> None:
    assert parse_address(text) == address
    assert str(address) == text
    assert address.is_loopback is loopback


@pytest.mark.parametrize(
    "text", ["", "7400", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "::1:7400", "[x]:1", "a b:1"]
)
def test_address_that_is_none_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|is more than"):
        parse_address(text)


@pytest.mark.parametrize("path", ["x", "/tmp/a b.sock", "//host/x", "ä"])
def test_unix_path_is_read_and_written_back(path: str) -> None:
    address = parse_address(f"unix:{path}")
    assert address == UnixAddress(path)
    assert str(address) == f"unix:{path}"
    assert address.is_loopback


@pytest.mark.parametrize("text", ["unix:", "unix:" + "x" * 108, "unix:a\0b"])
def test_unix_path_that_is_none_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not"):
        parse_address(text)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for the name of a socket; pytest's own may not."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


def test_each_worker_gets_an_address_of_its_own_beside_each_shared_one(short: Path) -> None:
    listeners = Listeners()
    with closing(listeners):
        listeners.open([Address("127.0.0.1", 0), UnixAddress(f"{short}/s")], 3)
        assert listeners.addresses[1] == f"unix:{short}/s"
        assert [addresses[1] for addresses in listeners.direct_addresses] == [
            f"unix:{short}/s.worker-{n}" for n in range(3)
        ]
        ports = [listeners.addresses[0], *(addresses[0] for addresses in listeners.direct_addresses)]
        assert len(set(ports)) == 4
        for listener, address in zip(
            (listeners.shared[0], *(direct[0] for direct in listeners.direct)), ports, strict=True
        ):
            assert not listener.getblocking()
            assert not os.get_inheritable(listener.fileno()), "handed over by messages, not by inheritance"
            assert str(Address(*listener.getsockname())) == address
        assert {stat.S_IMODE(path.stat().st_mode) for path in short.iterdir()} == {0o600}
    assert not list(short.iterdir())


def test_socket_file_that_nobody_listens_on_is_replaced(short: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(short / "s"))
    left.listen()
    left.close()
    listeners = Listeners()
    with closing(listeners):
        listeners.open([UnixAddress(f"{short}/s")], 1)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(f"{short}/s")


def test_socket_that_somebody_listens_on_is_left_alone(short: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(short / "s"))
        other.listen(0)
        listeners = Listeners()
        # Each attempt leaves a connect in the backlog, so the last ones meet a full one, which is somebody too.
        for _ in range(3):
            with closing(listeners), pytest.raises(ListenError, match="in use"):
                listeners.open([UnixAddress(f"{short}/s")], 1)
    assert (short / "s").exists()


@needs_root
def test_dead_socket_of_another_user_is_left_alone(short: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(short / "s"))
    os.chown(short / "s", NOBODY, NOBODY)
    listeners = Listeners()
    with closing(listeners), pytest.raises(ListenError, match="another user"):
        listeners.open_metrics(UnixAddress(f"{short}/s"), None)
    assert (short / "s").exists()


def test_socket_of_the_metrics_is_private_and_closed_with_the_others(short: Path) -> None:
    listeners = Listeners()
    assert listeners.for_control == []
    with closing(listeners):
        listeners.open_metrics(UnixAddress(f"{short}/m"), None)
        assert stat.S_IMODE((short / "m").stat().st_mode) == 0o600
        assert listeners.for_control == [listeners.metrics.fileno() if listeners.metrics else 0]
    assert not (short / "m").exists()


def test_file_that_is_no_socket_is_left_alone(short: Path) -> None:
    (short / "s").write_text("letters")
    listeners = Listeners()
    with closing(listeners), pytest.raises(ListenError, match="no socket"):
        listeners.open([UnixAddress(f"{short}/s")], 1)
    assert (short / "s").read_text() == "letters"


def test_socket_file_of_somebody_else_outlives_ours(short: Path) -> None:
    listeners = Listeners()
    listeners.open([UnixAddress(f"{short}/s")], 1)
    (short / "s").unlink()
    (short / "s").write_text("letters")
    listeners.close()
    assert [path.name for path in short.iterdir()] == ["s"]


def test_port_in_use_is_refused_and_what_was_opened_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listeners = Listeners()
        address = Address(*other.getsockname())
        with closing(listeners), pytest.raises(ListenError, match=str(address)):
            listeners.open([Address("127.0.0.1", 0), address], 1)
        assert listeners.shared[0].fileno() == -1

"""The command line on a data directory: audit, snapshot, backup, restore, verify and dump."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from engine import rebuild
from engine._core import JournalWriter, Shard
from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import order_service_pb2 as orders
from tests.serving import SEGMENT_BYTES, Client, Server, adjustment, batch, everopen, order

HOLDS = re.compile(r"audit: holds, (\d+) records, state digest ([0-9a-f]{32}), business digest ([0-9a-f]{32})")
MADE = re.compile(
    r"(backup|restore): (.+), sequence (\d+), log ([0-9a-f]{32}), "
    r"state digest ([0-9a-f]{32}), business digest ([0-9a-f]{32})"
)


def trade(client: Client, name: str, count: int = 60) -> None:
    """Some of everything: orders that are paid, shipped, cancelled and refused, and stock that moves."""
    client.inventory.AdjustStock(adjustment(f"{name}-in", 50))
    placed = list(client.orders.PlaceOrders(iter([batch(f"{name}-{n}" for n in range(count))])))
    assert len(placed[0].results) == count
    for n in range(0, count, 3):
        of = {"shop_id": "shop", "order_id": f"{name}-{n}"}
        client.orders.PayOrder(orders.PayOrderRequest(**of, payment_id="p", amount_minor=250))
        client.orders.ShipOrder(orders.ShipOrderRequest(**of, command_id="s"))
    for n in range(1, count, 3):
        client.orders.CancelOrder(orders.CancelOrderRequest(shop_id="shop", order_id=f"{name}-{n}", command_id="c"))
    client.orders.PlaceOrder(order(f"{name}-refused", 10_000_000))


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with two runs of an engine; nobody may change it."""
    data_dir = tmp_path_factory.mktemp("traded") / "data"
    for name in ("first", "second"):
        with Server(data_dir) as server, Client(server.address) as client:
            if name == "first":
                client.seed(stock=100)
            trade(client, name)
            assert server.stop() == 0
    return data_dir


@pytest.fixture
def data_dir(traded: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(traded, tmp_path / "data"))


@pytest.fixture
def running(data_dir: Path) -> Iterator[tuple[Server, Client]]:
    with Server(data_dir) as server, Client(server.address) as client:
        yield server, client


def audited(data_dir: Path) -> tuple[int, str, str]:
    """(records, state digest, business digest) of an audit that holds."""
    done = everopen("audit", "--data-dir", data_dir)
    assert done.returncode == 0, done.stderr
    match = HOLDS.fullmatch(done.stdout.splitlines()[-1])
    assert match, done.stdout
    return int(match[1]), match[2], match[3]


def replayed(data_dir: Path, until: int) -> Shard:
    log = rebuild.extent(data_dir / "shard-0000")
    shard = rebuild.first_state(log)
    rebuild.replay(shard, log, until)
    return shard


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_version_is_printed() -> None:
    assert re.fullmatch(r"everopen \d+\.\d+\.\d+\n", everopen("version").stdout)


def test_missing_argument_is_named() -> None:
    refused = everopen("audit")
    assert refused.returncode == 2
    assert "--data-dir" in refused.stderr


@pytest.mark.parametrize("command", [["audit"], ["snapshot"], ["journal", "verify"], ["journal", "dump"]])
def test_directory_that_is_none_is_refused_and_not_made(tmp_path: Path, command: list[str]) -> None:
    refused = everopen(*command, "--data-dir", tmp_path / "nothing")
    assert refused.returncode == 5
    assert "no data directory" in refused.stderr
    assert not (tmp_path / "nothing").exists()


def test_audit_holds_and_repeats_itself(traded: Path) -> None:
    first = audited(traded)
    assert first == audited(traded)
    shard = replayed(traded, first[0])
    assert (shard.state_digest(), shard.business_digest()) == first[1:]


def test_audit_of_a_running_engine_covers_what_it_answered(running: tuple[Server, Client]) -> None:
    server, client = running
    answered = client.orders.PlaceOrder(order("answered")).sequence
    assert audited(server.data_dir)[0] >= answered


def test_audit_of_a_damaged_log_fails_and_names_the_place(data_dir: Path) -> None:
    segment = min((data_dir / "shard-0000").glob("*.log"))
    flip(segment, 4096 + 300)
    failed = everopen("audit", "--data-dir", data_dir)
    assert failed.returncode == 4
    assert segment.name in failed.stderr
    assert "holds" not in failed.stdout


def test_record_that_says_what_did_not_happen_is_neither_served_nor_held(data_dir: Path) -> None:
    """Blocks, checksums and lengths are right; only replay can see that an effect is not what the command does."""
    shard = data_dir / "shard-0000"
    log = rebuild.extent(shard)
    records = list(rebuild.records(log, 1, log.last_sequence))
    shutil.rmtree(shard)
    with JournalWriter(str(shard), log_id=log.log_id, segment_bytes=SEGMENT_BYTES) as writer:
        for sequence, record in records:
            writer.append(record[:-1] + bytes([record[-1] ^ 1]) if sequence == 6 else record)
        writer.kick()
    for command in (["audit"], ["serve", "--listen", "127.0.0.1:0"]):
        refused = everopen(*command, "--data-dir", data_dir)
        assert refused.returncode == 4, refused.stderr
        assert "sequence 6: " in refused.stderr


def test_audit_with_a_snapshot_of_another_history_fails(data_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with Server(other) as server, Client(server.address) as client:
        client.seed(stock=1)
        server.stop()
    taken = everopen("snapshot", "--data-dir", other).stdout
    path = next((other / "shard-0000").glob("*.snap"))
    shutil.copy(path, data_dir / "shard-0000" / path.name)
    failed = everopen("audit", "--data-dir", data_dir)
    assert failed.returncode != 0, taken
    assert path.name in failed.stderr


def test_snapshot_is_the_state_and_the_audit_compares_it(data_dir: Path) -> None:
    records, state_digest, business_digest = audited(data_dir)
    taken = everopen("snapshot", "--data-dir", data_dir)
    assert taken.returncode == 0, taken.stderr
    assert f"sequence {records}, state digest {state_digest}, business digest {business_digest}" in taken.stdout
    path = data_dir / "shard-0000" / f"snapshot-{records:020d}.snap"
    assert Shard.load(str(path)).state_digest() == state_digest
    assert audited(data_dir) == (records, state_digest, business_digest)


def test_snapshot_replaces_the_segments_behind_it(data_dir: Path) -> None:
    records, *digests = audited(data_dir)
    before = len(list((data_dir / "shard-0000").glob("*.log")))
    taken = everopen("snapshot", "--data-dir", data_dir, "--drop-segments")
    assert taken.returncode == 0, taken.stderr
    # A new epoch begins a segment of its own; only now does the one before lie wholly behind the snapshot.
    with Server(data_dir) as server, Client(server.address) as client:
        assert server.sequence == records
        sequence = client.orders.PlaceOrder(order("after")).sequence
        server.stop()
    taken = everopen("snapshot", "--data-dir", data_dir, "--drop-segments")
    assert taken.returncode == 0, taken.stderr
    assert len(list((data_dir / "shard-0000").glob("*.log"))) < before + 1
    assert len(list((data_dir / "shard-0000").glob("*.snap"))) == 2
    assert audited(data_dir)[1:] != tuple(digests)
    with Server(data_dir) as server, Client(server.address) as client:
        assert client.orders.PlaceOrder(order("after")).sequence == sequence
        assert client.orders.PlaceOrder(order("first-0")).duplicate, "from before the segments that are gone"


def test_snapshot_beside_a_running_engine_leaves_it_serving(running: tuple[Server, Client]) -> None:
    server, client = running
    answered = client.orders.PlaceOrder(order("before")).sequence
    taken = everopen("snapshot", "--data-dir", server.data_dir, "--drop-segments")
    assert taken.returncode == 0, taken.stderr
    assert next(server.shard.glob("*.snap")).name >= f"snapshot-{answered:020d}.snap"
    trade(client, "third")
    server.kill()
    with Server(server.data_dir) as again, Client(again.address) as after:
        assert after.orders.PlaceOrder(order("before")).sequence == answered
        assert after.orders.PlaceOrder(order("third-59")).duplicate
        again.stop()
    audited(server.data_dir)


def test_damaged_snapshot_is_refused_by_everything_that_reads_it(data_dir: Path) -> None:
    everopen("snapshot", "--data-dir", data_dir)
    path = next((data_dir / "shard-0000").glob("*.snap"))
    flip(path, path.stat().st_size // 2)
    for command in (["audit"], ["journal", "verify"], ["serve", "--listen", "127.0.0.1:0"]):
        refused = everopen(*command, "--data-dir", data_dir)
        assert refused.returncode == 4, command
        assert path.name in refused.stdout + refused.stderr


def test_backup_of_a_running_engine_restores_to_the_same_digests(
    running: tuple[Server, Client], tmp_path: Path
) -> None:
    server, client = running
    trade(client, "third")
    made = everopen("backup", tmp_path / "backup", "--data-dir", server.data_dir)
    assert made.returncode == 0, made.stderr
    backup = MADE.fullmatch(made.stdout.strip())
    assert backup
    trade(client, "fourth")
    restored = everopen("restore", tmp_path / "backup", "--data-dir", tmp_path / "restored")
    assert restored.returncode == 0, restored.stderr
    restore = MADE.fullmatch(restored.stdout.splitlines()[-1])
    assert restore
    assert restore.groups()[2:3] + restore.groups()[4:] == backup.groups()[2:3] + backup.groups()[4:]
    assert restore[4] != backup[4] == server.log_id.hex()
    assert audited(tmp_path / "restored") == (int(backup[3]), backup[5], backup[6])


def test_restore_until_gives_the_state_of_that_sequence(running: tuple[Server, Client], tmp_path: Path) -> None:
    server, client = running
    answered = client.orders.PlaceOrder(order("point", 3))
    trade(client, "later")
    assert everopen("backup", tmp_path / "backup", "--data-dir", server.data_dir).returncode == 0
    arguments = ["restore", tmp_path / "backup", "--data-dir", tmp_path / "restored", "--until", str(answered.sequence)]
    restored = everopen(*arguments)
    assert restored.returncode == 0, restored.stderr
    original = replayed(server.data_dir, answered.sequence)
    digests = (original.state_digest(), original.business_digest())
    assert audited(tmp_path / "restored") == (answered.sequence, *digests)
    with Server(tmp_path / "restored") as again, Client(again.address) as after:
        repeated = after.orders.PlaceOrder(order("point", 3))
        assert repeated.duplicate
        assert (repeated.sequence, repeated.order) == (answered.sequence, answered.order)
        assert repeated.log_id == again.log_id != server.log_id
        stock = after.inventory.GetStock(inventory.GetStockRequest(shop_id="shop", sku_id="sku"))
        assert stock.sequence >= answered.sequence
        assert not after.orders.PlaceOrder(order("later-0")).duplicate


def test_backup_behind_a_snapshot_restores_as_well(data_dir: Path, tmp_path: Path) -> None:
    everopen("snapshot", "--data-dir", data_dir, "--drop-segments")
    with Server(data_dir) as server, Client(server.address) as client:
        sequence = client.orders.PlaceOrder(order("after")).sequence
        server.stop()
    assert everopen("snapshot", "--data-dir", data_dir, "--drop-segments").returncode == 0
    assert everopen("backup", tmp_path / "backup", "--data-dir", data_dir).returncode == 0
    restored = everopen("restore", tmp_path / "backup", "--data-dir", tmp_path / "restored")
    assert restored.returncode == 0, restored.stderr
    assert audited(tmp_path / "restored")[1:] == audited(data_dir)[1:]
    with Server(tmp_path / "restored") as again, Client(again.address) as after:
        assert after.orders.PlaceOrder(order("after")).sequence == sequence
        assert after.orders.PlaceOrder(order("second-0")).log_id == again.log_id
    early = everopen("restore", tmp_path / "backup", "--data-dir", tmp_path / "early", "--until", "2")
    assert early.returncode == 5
    assert "begins at sequence" in early.stderr


def test_backup_and_restore_refuse_what_would_overwrite_or_mislead(traded: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "letters").write_text("not ours")
    refused = everopen("backup", full, "--data-dir", traded)
    assert (refused.returncode, "not empty" in refused.stderr) == (5, True)
    assert everopen("backup", tmp_path / "backup", "--data-dir", traded).returncode == 0
    refused = everopen("restore", tmp_path / "backup", "--data-dir", full)
    assert (refused.returncode, "not empty" in refused.stderr) == (5, True)
    refused = everopen("restore", traded, "--data-dir", tmp_path / "new")
    assert (refused.returncode, "no backup" in refused.stderr) == (5, True)
    refused = everopen("restore", tmp_path / "backup", "--data-dir", tmp_path / "new", "--until", "1000000")
    assert (refused.returncode, "ends at sequence" in refused.stderr) == (5, True)
    refused = everopen("serve", "--data-dir", tmp_path / "backup", "--listen", "127.0.0.1:0")
    assert refused.returncode == 5, "a backup is not to be served from"
    assert [path.name for path in full.iterdir()] == ["letters"]


def test_verify_says_what_holds_segment_by_segment(traded: Path) -> None:
    done = everopen("journal", "verify", "--data-dir", traded)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"log [0-9a-f]{32}", lines[0])
    assert [line.split(":")[0] for line in lines[1:-1]] == ["segment 1", "segment 2"]
    assert lines[-1] == f"journal: holds, sequences 1 to {audited(traded)[0]}, ends with a seal"


def test_verify_of_damage_names_file_offset_and_sequence(data_dir: Path) -> None:
    segment = max((data_dir / "shard-0000").glob("*.log"))
    flip(segment, 4096 + 300)
    failed = everopen("journal", "verify", "--data-dir", data_dir)
    assert failed.returncode == 4
    assert re.search(rf"journal: damaged: \S+{segment.name}, offset 4096, sequence \d+: ", failed.stdout)


def test_dump_prints_a_line_for_each_record(traded: Path) -> None:
    done = everopen("journal", "dump", "--data-dir", traded)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(1, audited(traded)[0] + 1))
    assert "Activate" in lines[0]
    refused = next(line for line in lines if "first-refused" in line)
    assert "INSUFFICIENT_STOCK" in refused


def test_dump_as_json_keeps_to_the_range(traded: Path) -> None:
    done = everopen("journal", "dump", "--data-dir", traded, "--json", "--from", "3", "--until", "7")
    records = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert [record["sequence"] for record in records] == [3, 4, 5, 6, 7]
    assert [record["kind"] for record in records[:2]] == ["PutLocation", "PutLocation"]
    stock = records[3]["effects"]["stocks"][0]
    assert (records[3]["kind"], stock["on_hand"]) == ("AdjustStock", "100")

"""Data directories of several shards: how they are made and refused, and what each tool says about all of them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Protocol

import orjson
import pytest
from typer.testing import CliRunner, Result

from engine import _core, cli, datadir, local, rebuild
from engine._core import LIMITS, Engine, JournalWriter, partition_of
from engine.errors import DataDirectoryError, JournalLocked
from everopen.v1 import inventory_service_pb2 as inventory
from everopen.v1 import order_service_pb2 as orders
from tests.serving import SEGMENT_BYTES, adjustment, order

pytestmark = pytest.mark.native

# Neighbours in the alphabet are neighbours in CRC32C too; these are spread over all shards.
SHOPS = [f"shop-{7 * number}" for number in range(16)]
PATIENCE_S = 30
HELD = re.compile(r"(?:shard (\d+), )?sequence (\d+), log (\w{32}), state digest (\w{32}), business digest (\w{32})")
SHARD_HOLDS = re.compile(r"audit: shard (\d+) holds, (\d+) records, state digest (\w{32}), business digest (\w{32})")
ALL_HOLD = re.compile(r"audit: holds, (\d+) records, business digest (\w{32})")


class Message(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802


class Engines:
    """An engine for each shard; a command goes to the one that its shop belongs to."""

    def __init__(self, data_dir: Path, shards: int | None = None) -> None:
        self.data_dir = data_dir
        self.engines = [
            Engine(str(path), segment_bytes=SEGMENT_BYTES) for path in datadir.create_or_open(data_dir, shards)
        ]

    def say(self, shop_id: str, method: int, request: Message, shard: int | None = None) -> None:
        right = datadir.shard_of(partition_of(shop_id), len(self.engines))
        engine = self.engines[right if shard is None else shard]
        code, answer, sequence = engine.execute(method, request.SerializeToString())
        assert code == 0, answer
        engine.kick()
        assert engine.wait_durable(sequence, PATIENCE_S)

    def close(self) -> None:
        for engine in self.engines:
            engine.close()

    def __enter__(self) -> Engines:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def trade(engines: Engines) -> None:
    """In every shop: orders that stay open, are paid and shipped, cancelled, and refused."""
    for number, shop_id in enumerate(SHOPS):
        put_shop(engines, shop_id)
        for name in ("a", "b", "c"):
            engines.say(shop_id, _core.PLACE_ORDER, order(name, 1 + number, shop_id=shop_id))
        amount_minor = 250 * (1 + number)
        paid = orders.PayOrderRequest(shop_id=shop_id, order_id="a", payment_id="p", amount_minor=amount_minor)
        engines.say(shop_id, _core.PAY_ORDER, paid)
        engines.say(shop_id, _core.SHIP_ORDER, orders.ShipOrderRequest(shop_id=shop_id, order_id="a", command_id="s"))
        cancelled = orders.CancelOrderRequest(shop_id=shop_id, order_id="b", command_id="c")
        engines.say(shop_id, _core.CANCEL_ORDER, cancelled)
        engines.say(shop_id, _core.PLACE_ORDER, order("refused", 1_000_000, shop_id=shop_id))


def put_shop(engines: Engines, shop_id: str, shard: int | None = None) -> None:
    location = inventory.PutLocationRequest(shop_id=shop_id, location_id="near", region="east")
    sku = inventory.PutSkuRequest(shop_id=shop_id, sku_id="sku", price_minor=250)
    engines.say(shop_id, _core.PUT_SHOP, inventory.PutShopRequest(shop_id=shop_id), shard)
    engines.say(shop_id, _core.PUT_LOCATION, location, shard)
    engines.say(shop_id, _core.PUT_SKU, sku, shard)
    engines.say(shop_id, _core.ADJUST_STOCK, adjustment("in", 100, shop_id=shop_id), shard)


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Data directories of 1 to 4 shards that were told the same; nobody may change them."""
    made = {}
    for shards in range(1, 5):
        made[shards] = tmp_path_factory.mktemp("shards") / "data"
        with Engines(made[shards], shards) as engines:
            trade(engines)
            assert all(engine.counts()["shops"] for engine in engines.engines), "every shard has something to lose"
    return made


@pytest.fixture
def data_dir(traded: dict[int, Path], tmp_path: Path) -> Path:
    """A copy of the one with three shards, which a test may change."""
    return Path(shutil.copytree(traded[3], tmp_path / "data"))


def run(*arguments: str | Path) -> Result:
    """The command line, in this process: what it does in one of its own is shown by tests/test_cli.py."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def audited(data_dir: Path) -> tuple[int, str]:
    """(records, business digest) of the last line of an audit that holds."""
    done = run("audit", "--data-dir", data_dir)
    assert done.exit_code == 0, done.stderr
    verdict = local.VERDICT.match(done.stdout.splitlines()[-1])
    assert verdict, done.stdout
    return int(verdict[1]), verdict[3]


def segment_of(shard: Path) -> Path:
    return max(shard.glob("*.log"))


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 7, 64])
def test_partitions_go_to_shards_in_order_and_evenly(shards: int) -> None:
    owners = [datadir.shard_of(partition, shards) for partition in range(LIMITS["PARTITIONS"])]
    assert owners == sorted(owners)
    sizes = [owners.count(shard) for shard in range(shards)]
    assert sum(sizes) == LIMITS["PARTITIONS"]
    assert max(sizes) - min(sizes) <= 1


def test_directory_keeps_the_number_that_it_was_made_with(tmp_path: Path) -> None:
    made = datadir.create_or_open(tmp_path / "data", 3)
    assert [path.name for path in made] == ["shard-0000", "shard-0001", "shard-0002"]
    assert all(path.is_dir() for path in made)
    assert datadir.create_or_open(tmp_path / "data") == datadir.create_or_open(tmp_path / "data", 3) == made
    for other in (1, 2, 4):
        with pytest.raises(DataDirectoryError, match=f"made for 3 shards, not for {other}"):
            datadir.create_or_open(tmp_path / "data", other)
    assert datadir.shard_directories(tmp_path / "data") == made
    assert datadir.shard_count(tmp_path / "data") == 3


def test_directory_has_one_shard_unless_told(tmp_path: Path) -> None:
    assert len(datadir.create_or_open(tmp_path / "data")) == 1
    with pytest.raises(DataDirectoryError, match="made for 1 shard, not for 2"):
        datadir.create_or_open(tmp_path / "data", 2)


@pytest.mark.parametrize("shards", [-1, 0, LIMITS["SHARDS_MAX"] + 1])
def test_number_beyond_the_bound_is_refused_and_nothing_made(tmp_path: Path, shards: int) -> None:
    with pytest.raises(DataDirectoryError, match=f"cannot have {shards} shards"):
        datadir.create_or_open(tmp_path, shards)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shards", [0, 65, True, "2", None])
def test_identity_with_a_number_that_cannot_be_is_refused(tmp_path: Path, shards: object) -> None:
    datadir.create_or_open(tmp_path, 2)
    (tmp_path / "identity.json").write_bytes(orjson.dumps({"format_version": 1, "shards": shards}))
    with pytest.raises(DataDirectoryError, match=r"identity\.json: made for"):
        datadir.shard_count(tmp_path)


def test_start_that_crashed_before_the_identity_begins_anew(tmp_path: Path) -> None:
    datadir.make_shard_directories(tmp_path, 4)
    (tmp_path / ".identity.json.tmp").touch()
    assert len(datadir.create_or_open(tmp_path, 2)) == 2


def test_shard_with_files_but_no_identity_is_somebody_elses(data_dir: Path) -> None:
    (data_dir / "identity.json").unlink()
    with pytest.raises(DataDirectoryError, match="not empty, and not ours"):
        datadir.create_or_open(data_dir, 3)


def test_lost_shard_is_refused_and_not_made_anew(data_dir: Path) -> None:
    shutil.rmtree(data_dir / "shard-0001")
    with pytest.raises(DataDirectoryError, match="shard-0001: is missing"):
        datadir.create_or_open(data_dir, 3)
    refused = run("audit", "--data-dir", data_dir)
    assert (refused.exit_code, "shard-0001: is missing" in refused.stderr) == (5, True)
    assert not (data_dir / "shard-0001").exists()


def test_lock_of_any_shard_is_seen(data_dir: Path) -> None:
    paths = datadir.shard_directories(data_dir)
    datadir.refuse_if_locked(paths)
    engine = Engine(str(paths[2]), segment_bytes=SEGMENT_BYTES)
    try:
        with pytest.raises(JournalLocked, match="shard-0002: in use by process"):
            datadir.refuse_if_locked(paths)
    finally:
        engine.close()


def test_digests_add_up_in_128_bits() -> None:
    assert rebuild.sum_of_digests(["f" * 32, f"{2:032x}"]) == f"{1:032x}"
    assert rebuild.sum_of_digests([f"{2**64 - 1:032x}", f"{1:032x}"]) == f"{2**64:032x}"


@pytest.mark.parametrize("shards", [2, 3, 4])
def test_business_digest_does_not_depend_on_the_number_of_shards(traded: dict[int, Path], shards: int) -> None:
    assert audited(traded[shards])[1] == audited(traded[1])[1]


def test_audit_says_a_line_for_each_shard_and_sums_up(traded: dict[int, Path], data_dir: Path) -> None:
    done = run("audit", "--data-dir", data_dir)
    assert done.exit_code == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    matches = [SHARD_HOLDS.fullmatch(line) for line in lines]
    said = [match.groups() for match in matches if match]
    assert [groups[0] for groups in said] == ["0", "1", "2"], done.stdout
    with Engines(data_dir) as engines:
        for engine, (_, records, *digests) in zip(engines.engines, said, strict=True):
            assert [int(records), *digests] == [engine.sequence, engine.state_digest(), engine.business_digest()]
    total = ALL_HOLD.fullmatch(last)
    assert total
    assert int(total[1]) == sum(int(groups[1]) for groups in said)
    verdict = local.audit(data_dir)
    assert (verdict.holds, verdict.records, verdict.state_digest) == (True, int(total[1]), "")
    assert local.audit(traded[1]).state_digest


@pytest.mark.parametrize("behind_a_snapshot", [False, True])
def test_audit_complains_of_a_shop_in_the_wrong_shard(data_dir: Path, behind_a_snapshot: bool) -> None:
    right = datadir.shard_of(partition_of("stray"), 3)
    wrong = (right + 1) % 3
    with Engines(data_dir) as engines:
        put_shop(engines, "stray", wrong)
    if behind_a_snapshot:
        # The segment that the stray came in goes once a later one has begun behind a snapshot.
        for number in range(2):
            with Engines(data_dir) as engines:
                engines.say("stray", _core.ADJUST_STOCK, adjustment(f"more-{number}", 1, shop_id="stray"), wrong)
            assert run("snapshot", "--drop-segments", "--data-dir", data_dir).exit_code == 0
        assert rebuild.extent(data_dir / f"shard-{wrong:04d}").first_sequence > 1
    failed = run("audit", "--data-dir", data_dir)
    assert failed.exit_code == 1, failed.stdout
    assert f"shop stray belongs to shard {right}" in failed.stderr
    assert f"shard-{wrong:04d}" in failed.stderr
    verdict = local.audit(data_dir)
    assert (verdict.holds, "stray" in verdict.text) == (False, True)


def test_damage_of_one_shard_is_named(data_dir: Path) -> None:
    damaged = segment_of(data_dir / "shard-0001")
    flip(damaged, 4096 + 300)
    failed = run("audit", "--data-dir", data_dir)
    assert failed.exit_code == 4
    assert f"shard-0001/{damaged.name}" in failed.stderr
    assert [line.split(" holds")[0] for line in failed.stdout.splitlines()] == ["audit: shard 0"]
    failed = run("journal", "verify", "--data-dir", data_dir)
    assert failed.exit_code == 4
    assert re.search(rf"shard 1: journal: damaged: \S+shard-0001/{damaged.name}, offset 4096, ", failed.stdout)
    assert "shard 2: journal: holds" in failed.stdout, "the others are looked at all the same"
    assert failed.stdout.endswith("journal: 1 of 3 shards damaged\n")


def test_record_that_says_what_did_not_happen_is_named_with_its_shard(data_dir: Path) -> None:
    shard = data_dir / "shard-0002"
    log = rebuild.extent(shard)
    records = list(rebuild.records(log, 1, log.last_sequence))
    shutil.rmtree(shard)
    with JournalWriter(str(shard), log_id=log.log_id, segment_bytes=SEGMENT_BYTES) as writer:
        for sequence, record in records:
            writer.append(record[:-1] + bytes([record[-1] ^ 1]) if sequence == 5 else record)
        writer.kick()
    failed = run("audit", "--data-dir", data_dir)
    assert failed.exit_code == 4
    assert re.search(r"sequence 5: \S+shard-0002: ", failed.stderr), failed.stderr


def test_verify_says_what_holds_of_each_shard(traded: dict[int, Path]) -> None:
    done = run("journal", "verify", "--data-dir", traded[2])
    assert done.exit_code == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert last == "journal: holds, 2 shards"
    for shard in range(2):
        mine = [line.removeprefix(f"shard {shard}: ") for line in lines if line.startswith(f"shard {shard}: ")]
        kinds = [line.split()[0] for line in mine]
        assert (kinds[0], {*kinds[1:-1]}, kinds[-1]) == ("log", {"segment"}, "journal:")
        assert mine[-1].endswith("ends with a seal")


def test_snapshot_is_taken_of_each_shard(data_dir: Path) -> None:
    before = audited(data_dir)[1]
    done = run("snapshot", "--drop-segments", "--data-dir", data_dir)
    assert done.exit_code == 0, done.stderr
    told = re.findall(r"snapshot: shard (\d+), (\S+\.snap), .*, sequence (\d+), state digest", done.stdout)
    assert [shard for shard, *_ in told] == ["0", "1", "2"]
    for shard, name, _ in told:
        assert (data_dir / f"shard-000{shard}" / name).exists()
    with Engines(data_dir) as engines:
        assert [engine.sequence for engine in engines.engines] == [int(sequence) for *_, sequence in told]
    assert audited(data_dir)[1] == before


@pytest.fixture(scope="module")
def backed_up(traded: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup that was made beside the running engines of three shards; nobody may change it."""
    folder = tmp_path_factory.mktemp("backup")
    with Engines(Path(shutil.copytree(traded[3], folder / "data"))):
        made = run("backup", folder / "backup", "--data-dir", folder / "data")
        assert made.exit_code == 0, made.stderr
    return folder / "backup"


def test_backup_of_running_engines_restores_every_shard(
    traded: dict[int, Path], backed_up: Path, tmp_path: Path
) -> None:
    restored = run("restore", backed_up, "--data-dir", tmp_path / "restored")
    assert restored.exit_code == 0, restored.stderr
    *lines, last = restored.stdout.splitlines()
    matches = [HELD.search(line) for line in lines]
    made = [match.groups() for match in matches if match]
    held = orjson.loads((backed_up / "backup.json").read_bytes())["shards"]
    assert [groups[0] for groups in made] == ["0", "1", "2"]
    for was, (_, sequence, log_id, *digests) in zip(held, made, strict=True):
        assert [int(sequence), *digests] == [was["sequence"], was["state_digest"], was["business_digest"]]
        assert log_id not in [other["log_id"] for other in held]
    assert len({groups[2] for groups in made}) == 3, "each log has an id of its own"
    assert last.endswith(f"3 shards, business digest {audited(traded[3])[1]}")
    assert audited(tmp_path / "restored") == audited(traded[3])
    assert datadir.shard_count(tmp_path / "restored") == 3


def test_restore_until_cuts_the_shards_that_are_named(backed_up: Path, tmp_path: Path) -> None:
    ends = ["--until", "0=3", "--until", "2=4"]
    restored = run("restore", backed_up, "--data-dir", tmp_path / "restored", *ends)
    assert restored.exit_code == 0, restored.stderr
    held = orjson.loads((backed_up / "backup.json").read_bytes())["shards"]
    with Engines(tmp_path / "restored") as engines:
        assert [engine.sequence for engine in engines.engines] == [3, held[1]["sequence"], 4]
        assert engines.engines[1].state_digest() == held[1]["state_digest"]
    assert audited(tmp_path / "restored")[0] == 3 + held[1]["sequence"] + 4


@pytest.mark.parametrize(
    ("until", "code", "words"),
    [
        (["7"], 2, "say SHARD=SEQUENCE"),
        (["3=7"], 2, "3=7: neither"),
        (["-1=7"], 2, "-1=7: neither"),
        (["1=0"], 2, "1=0: neither"),
        (["1="], 2, "1=: neither"),
        (["1=5", "1=6"], 2, "shard 1 is named twice"),
        (["0=2", "1=1000000"], 5, "ends at sequence"),
    ],
)
def test_restore_until_that_makes_no_sense_is_refused(
    backed_up: Path, tmp_path: Path, until: list[str], code: int, words: str
) -> None:
    options = [part for text in until for part in ("--until", text)]
    refused = run("restore", backed_up, "--data-dir", tmp_path / "restored", *options)
    assert refused.exit_code == code
    assert words in " ".join(re.sub(r"[^ -~]", " ", refused.stderr).split()), refused.stderr
    assert not (tmp_path / "restored").exists()


def test_backup_of_the_first_release_restores(traded: dict[int, Path], tmp_path: Path) -> None:
    assert run("backup", tmp_path / "backup", "--data-dir", traded[1]).exit_code == 0
    manifest = tmp_path / "backup" / "backup.json"
    [held] = orjson.loads(manifest.read_bytes())["shards"]
    manifest.write_bytes(orjson.dumps({"format_version": 1, **held}))
    restored = run("restore", tmp_path / "backup", "--data-dir", tmp_path / "restored", "--until", "5")
    assert restored.exit_code == 0, restored.stderr
    assert audited(tmp_path / "restored")[0] == 5


@pytest.mark.parametrize("manifest", [b"[]", b"{", b'{"format_version": 2}', b'{"format_version": 3, "shards": []}'])
def test_manifest_that_cannot_be_read_is_refused(tmp_path: Path, manifest: bytes) -> None:
    (tmp_path / "backup.json").write_bytes(manifest)
    refused = run("restore", tmp_path, "--data-dir", tmp_path / "restored")
    assert refused.exit_code == 5
    assert "backup.json: " in refused.stderr


def test_dump_names_the_shard_of_each_record(traded: dict[int, Path]) -> None:
    done = run("journal", "dump", "--json", "--data-dir", traded[3])
    assert done.exit_code == 0, done.stderr
    records = [orjson.loads(line) for line in done.stdout.splitlines()]
    places = [(record["shard"], record["sequence"]) for record in records]
    assert places == sorted(places)
    assert len(places) == audited(traded[3])[0]
    for record in records:
        shop_id = record["command"].get("shop_id") or record["command"].get("shop", {}).get("shop_id")
        if shop_id:
            assert record["shard"] == datadir.shard_of(partition_of(shop_id), 3)
    text = run("journal", "dump", "--data-dir", traded[3]).stdout.splitlines()
    assert [tuple(map(int, line.split()[:2])) for line in text] == places


def test_dump_of_one_shard_keeps_to_it(traded: dict[int, Path]) -> None:
    done = run("journal", "dump", "--json", "--shard", "1", "--from", "2", "--until", "3", "--data-dir", traded[3])
    records = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert [(record["shard"], record["sequence"]) for record in records] == [(1, 2), (1, 3)]
    one = run("journal", "dump", "--json", "--until", "1", "--data-dir", traded[1])
    assert orjson.loads(one.stdout)["shard"] == 0
    refused = run("journal", "dump", "--shard", "3", "--data-dir", traded[3])
    assert (refused.exit_code, "no shard 3" in refused.stderr) == (5, True)

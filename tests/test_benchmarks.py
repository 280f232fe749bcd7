"""The benchmark suite: what it measures, what it prints, and what it says about peers that it leaves out."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command_line
from benchmarks import compare, host, measure, recoveries, report, tables, targets
from benchmarks import suite as suite_module
from benchmarks.adapters import PEERS, Spec, load
from benchmarks.adapters.base import Message, Peer, Place
from benchmarks.environments import Unmade, old_environment
from benchmarks.workloads import WORKLOADS, busy
from benchmarks.workloads.base import Maker

ROOT = Path(__file__).parent.parent
SHM = "/dev/shm"
#: Peers that need no other packages.
OWN_PEERS = "asgi_ipc,asgi_ipc-async,floor"


def suite(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``python -m benchmarks``, and assert that it leaves no shared memory objects."""
    variables = {**os.environ, **({} if path is None else {"PATH": path})}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    output, errors = process.communicate(timeout=600)
    if os.path.isdir(SHM):
        left = [name for name in os.listdir(SHM) if re.search(rf"(benchmark|compare){process.pid}-", name)]
        assert not left, left
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def results(folder: Path, *arguments: str, path: str | None = None) -> dict[str, Any]:
    done = suite("--quick", "--output", str(folder), *arguments, path=path)
    assert done.returncode == 0, done.stderr + done.stdout
    document: dict[str, Any] = json.loads((folder / "results.json").read_text("utf-8"))
    return document


def test_every_workload_runs_on_this_layer_and_writes_all_its_fields(tmp_path: Path) -> None:
    document = results(tmp_path, *WORKLOADS, "--peers", OWN_PEERS)
    machine = document["environment"]
    assert {name for name in ("cpu", "cores", "kernel", "python", "packages", "date") if not machine[name]} == set()
    assert set(machine["packages"]) >= {"posix_ipc", "msgpack"}
    assert document["command"] == f"python -m benchmarks {' '.join(WORKLOADS)} --peers {OWN_PEERS} --quick"
    assert document["peers"]["asgi_ipc"]["versions"]
    measured = {result["workload"] for result in document["results"] if result["peer"] == "asgi_ipc"}
    assert measured | left_out_without_psutil(document, "asgi_ipc") == set(WORKLOADS)
    for result in document["results"]:
        known = WORKLOADS[result["workload"]].metrics
        assert next(iter(known)) in result["metrics"] or result["workload"] == "hammer", result
        for metric, figures in result["metrics"].items():
            assert figures["unit"] == known[metric]
            assert figures["low"] <= figures["median"] <= figures["high"], figures
            assert figures["values"]


def left_out_without_psutil(document: dict[str, Any], peer: str) -> set[str]:
    """Return the workloads that a peer was left out of because psutil is not installed."""
    return {
        entry["workload"]
        for entry in document["left_out"]
        if entry["peer"] == peer and "psutil is not installed" in entry["reason"]
    }


def test_a_peer_whose_server_is_missing_is_named(tmp_path: Path) -> None:
    peers = [name for name, spec in PEERS.items() if spec.server and spec.environment == "here"]
    document = results(tmp_path, "pair", "--peers", ",".join(("asgi_ipc", *peers)), path=str(tmp_path))
    reasons = {entry["peer"]: entry["reason"] for entry in document["left_out"]}
    assert set(reasons) == set(peers)
    assert all("redis-server" in reason for reason in reasons.values()), reasons
    assert [result["peer"] for result in document["results"]] == ["asgi_ipc"]


def test_a_peer_whose_module_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PEERS, "no-peer", Spec("no-peer", "layer:Sync", "queue", ("no_module_has_this_name",)))
    host.check(["no-peer", "asgi_ipc"])
    found = json.loads(capsys.readouterr().out)
    assert found["no-peer"]["reason"] == "no_module_has_this_name is not installed"
    assert found["asgi_ipc"]["versions"]["msgpack"]


def test_an_environment_that_cannot_be_made_raises_the_reason(tmp_path: Path) -> None:
    with pytest.raises(Unmade, match="there-is-none"):
        old_environment(str(tmp_path), str(tmp_path / "there-is-none"))


def test_a_peer_that_cannot_do_a_workload_is_named_with_the_reason(tmp_path: Path) -> None:
    document = results(tmp_path, "fanout", "--peers", "mp-queue,sqlite")
    assert document["results"] == []
    assert {(entry["peer"], entry["reason"]) for entry in document["left_out"]} == {
        ("mp-queue", "no groups"),
        ("sqlite", "no groups"),
    }


def test_queues_of_the_standard_library_are_measured(tmp_path: Path) -> None:
    peers = ["mp-queue", "mp-pipe", "sqlite", "floor-fifos", "floor-fifos-async"]
    document = results(tmp_path, "roundtrip", "oneway", "--peers", ",".join(peers))
    measured = {(result["workload"], result["peer"]) for result in document["results"]}
    assert measured == {("roundtrip", peer) for peer in peers} | {("oneway", peer) for peer in peers[:3]}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["no-workload"], "no-workload"),
        (["--peers", "asgi_ipc,no-peer"], "no-peer"),
        (["report", "no-file"], "no-file"),
        (["compare", "no-revision", "."], "no-revision"),
        (["compare", ".", ".", "idle"], "idle"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], named: str) -> None:
    done = suite(*arguments)
    assert done.returncode != 0
    assert named in done.stderr


def test_two_revisions_are_compared_alternately(tmp_path: Path) -> None:
    file = tmp_path / "compared.json"
    done = suite("compare", ".", ".", "pair", "--rounds", "6", "--starts", "2", "--output", str(file))
    assert done.returncode == 0, done.stderr
    (sync, *_) = json.loads(file.read_text("utf-8"))["results"]
    assert len(sync["ratios"]) == 6
    (low, high), (least, most) = sync["quartiles"], sync["interval"]
    assert 0 < low <= sync["ratio"] <= high
    assert least <= sync["ratio"] <= most


def test_a_comparison_has_a_ratio_for_each_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {"longest": 4000.0, "p99.9": 10.0, "median": 1.0, "rate": 100.0, "recoveries": 0.0}
    after = {"longest": 1000.0, "p99.9": 20.0, "median": 9.0, "rate": 200.0, "recoveries": 0.0}
    match = compare.Match("fairness", "asgi_ipc", {"processes": 8}, [".", "."], "")
    monkeypatch.setattr(match, "play", lambda rounds: [(before, after)] * rounds)
    found = {each["figure"]: each for each in match.results(6, 2)}
    assert {name: each["ratio"] for name, each in found.items()} == {
        "longest": 0.25,
        "p99.9": 2,
        "rate": 0.5,  # twice as many: better, as a time that is half as long
        "recoveries": 1,  # as many, though there is nothing to divide
    }
    assert found["longest"]["medians"] == [4000.0, 1000.0]
    assert len(found["rate"]["ratios"]) == 6
    assert "rate: 0.500" in compare.line(found["rate"])


def test_long_workloads_are_compared_only_if_named() -> None:
    assert set(compare.SLOW) <= set(compare.WORKLOADS)
    assert compare.lengths("pair", 60, 4) == (60, 4)
    assert compare.lengths("fairness", 60, 4) == (6, 2)
    assert compare.lengths("fairness", 2, 1) == (2, 1)


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """The package's logger, which loses at the end what a test has added."""
    logger = logging.getLogger("asgi_ipc")
    level, handlers = logger.level, list(logger.handlers)
    yield logger
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.mark.usefixtures("log")
def test_a_recovery_is_counted_once_by_all_processes() -> None:
    class Store:
        def recoveries(self) -> dict[str, int]:
            return {"death": 2, "exception": 0, "silence": 1}

    class Layer:
        message_store = group_store = Store()

    with_counts, without = recoveries.Recoveries().known(Layer()), {"all": None, "own": 2}
    assert recoveries.recovered([with_counts, with_counts]) == 6
    assert recoveries.recovered([without, without]) == 4


@pytest.mark.usefixtures("log")
def test_the_recovery_after_a_kill_is_found_in_the_counts_and_in_the_log() -> None:
    maker = Maker(load("asgi_ipc"), Place(f"benchmark{os.getpid()}-recoveries", ""))
    peer = maker.make()
    peer.open()
    try:
        known = peer.recoveries()
        child = os.fork()
        if not child:
            try:
                peer.die_inside()  # type: ignore[attr-defined]
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        peer.pairs(1, {"body": b""})
        assert known()["own"] == 1
        assert recoveries.recovered([known()]) == 1
    finally:
        peer.close()
        maker.remove()


def test_the_time_of_a_pair_counts_from_when_it_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        """Each sleep is half a millisecond too long, which is not the delay of a pair."""

        now = 0

        def perf_counter_ns(self) -> int:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += round(seconds * 1e9) + 500_000

    class Slow(Peer):
        """The first pair takes 20 ms."""

        def timed_pairs(self, times: int, message: Message) -> list[int]:
            took = 1000 if clock.now else 20_000_000
            clock.now += took
            return [took]

    clock = Clock()
    monkeypatch.setattr(busy, "time", clock)
    taken = busy.paced_pairs(Slow(Place("", "")), 0.03, {})
    # Those that were due after 1, 2, 3 ... ms begin as soon as the first one has ended, one after the other.
    late = [20_000_000 - number * 1_000_000 + number * 1000 for number in range(1, 21)]
    assert taken[:21] == [20_000_000, *late]
    assert set(taken[21:]) == {1000}, "a late start must not delay all that follow"


def test_slower_than_allowed_is_a_failure() -> None:
    done = suite("compare", ".", ".", "pair", "--rounds", "4", "--starts", "1", "--fail-above", "0.000001")
    assert done.returncode == 1
    assert "slower than 1e-06 x: asgi_ipc, pair" in done.stdout


def test_a_run_without_any_peer_fails_and_says_why(tmp_path: Path) -> None:
    done = suite("pair", "--quick", "--peers", "redis", "--output", str(tmp_path / "out"), path=str(tmp_path))
    assert done.returncode == 1
    assert "Nothing was measured" in done.stdout
    assert "no redis-server on the PATH" in done.stdout
    assert not (tmp_path / "out").exists()


def test_pyperf_times_pairs_in_a_full_run(tmp_path: Path) -> None:
    pytest.importorskip("pyperf")
    done = suite("pair", "--rounds", "2", "--peers", "asgi_ipc,floor", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "results.json").read_text("utf-8"))
    counts = {result["peer"]: len(result["metrics"]["pair"]["values"]) for result in document["results"]}
    assert counts == {"asgi_ipc": 10, "floor": 10}  # two passes of five values


#: A figure in a table: a number and its unit, or a sign that there is none.
CELL = re.compile(r"[\d,.]+(e-\d+)? (µs|ms|%( of kills)?|messages(/s)?|/s|MiB)|± \d+ %|-|unclear|about equal")
COMPARED = re.compile(r"[\d,.]+ x (faster|slower|less|more|shorter|longer)")


def rows(output: str) -> list[list[str]]:
    """Return the cells of every row of the tables, without the headings."""
    lines, inside = [], False
    for line in output.splitlines():
        if line.startswith("  layer or queue  "):
            inside = True
        elif not line.strip():
            inside = False
        elif inside:
            lines.append(re.split(r" {2,}", line.strip()))
    return lines


def test_a_quick_run_prints_figures_with_units_and_peers_and_no_targets(tmp_path: Path) -> None:
    done = suite(
        "pair", "oneway", "roundtrip", "--quick", "--peers", "asgi_ipc,mp-pipe,sqlite", "--output", str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert [name for name, *_ in found] == ["asgi_ipc", "multiprocessing.Pipe", "SQLite queue"] * 3
    for name, figure, spread, compared, *others in found:
        assert CELL.fullmatch(figure), (name, figure)
        assert figure != "-", name
        assert CELL.fullmatch(spread), (name, spread)
        assert all(CELL.fullmatch(other) for other in others), (name, others)
        assert CELL.fullmatch(compared) or COMPARED.fullmatch(compared), (name, compared)
    assert not re.search("target|MISSED|reached", done.stdout)
    text = " ".join(done.stdout.split())
    assert (text.count("Lower is better."), text.count("Higher is better.")) == (2, 1)
    assert "[3 of 3] A message to another process, and its answer (roundtrip), about" in done.stdout
    assert re.search(rf"asgi_ipc +{re.escape(asgi_ipc_version())}, commit ", done.stdout)
    assert "channels_redis: not chosen. To choose: --peers own,redis" in done.stdout
    assert f"python -m benchmarks report {tmp_path}/results.json" in done.stdout


def asgi_ipc_version() -> str:
    return str(measure.versions(["asgi_ipc"])["asgi_ipc"])


def test_the_report_has_targets_only_on_request(tmp_path: Path) -> None:
    document = document_of(
        ("pair", "asgi_ipc", {}, {"pair": figure(5)}),
        ("pair", "floor", {}, {"pair": figure(1)}),
    )
    path = tmp_path / "results.json"
    path.write_text(json.dumps(document), "utf-8")
    without, with_targets = suite("report", str(path)), suite("report", str(path), "--targets")
    assert rows(without.stdout) == rows(with_targets.stdout) != []
    assert not re.search("target|MISSED|reached", without.stdout)
    assert "Targets" in with_targets.stdout
    assert "MISSED   pair, over the floor: 5 x (at most 4)" in with_targets.stdout


def test_a_run_prints_targets_on_request(tmp_path: Path) -> None:
    arguments = ("pair", "--quick", "--peers", "asgi_ipc,floor", "--targets", "--output", str(tmp_path))
    assert re.search(r"(MISSED |reached)  pair, over the floor: [\d.]+ x", suite(*arguments).stdout)


def test_what_is_left_out_is_grouped_by_reason_and_says_how_to_install_it() -> None:
    document = document_of(("pair", "asgi_ipc", {"payload": 100}, {"pair": figure(5)}))
    document["peers"] = {"asgi_ipc": {"title": "asgi_ipc", "versions": {}}}
    missing = "channels_redis is not installed"
    document["left_out"] = [
        {"peer": peer, "workload": "", "reason": missing, "params": []}
        for peer in ("redis-core-tcp", "redis-core-unix")
    ]
    text = "\n".join(report.report(document))
    assert f"  channels_redis, TCP; channels_redis, unix socket: {missing}\n" in text
    assert report.INSTALL in text
    document["left_out"] = []
    assert report.INSTALL not in "\n".join(report.report(document))


def test_the_report_fits_100_columns_and_describes_every_workload() -> None:
    wide = [
        (workload.name, peer, params, {name: measure.summary([987.6, 9876.5], unit) for name, unit in metrics.items()})
        for workload in WORKLOADS.values()
        for metrics in [workload.metrics]
        for quick in (True, False)
        for params in [params for batch in workload.grid(quick) for params in batch]
        for peer in PEERS
        if suite_module.takes_part(workload, peer)
        and not set(workload.needs(params)) & set(PEERS[peer].lacks)
    ]
    document = document_of(*wide)
    document["peers"] = {peer: {"title": spec.title, "versions": {}} for peer, spec in PEERS.items()}
    document["quick"] = True
    lines = [*report.report(document, targets=True), *command_line.unnamed()]
    assert [line for text in lines for line in text.splitlines() if len(line) > 100] == []
    for workload in WORKLOADS.values():
        assert f"\n{workload.title} ({workload.name})" in lines
        assert set(workload.labels) <= set(workload.metrics)


@pytest.mark.parametrize(
    ("workload", "values", "ours", "expected"),
    [
        ("pair", [12.0], [4.0], "3 x slower"),
        ("pair", [4.0], [12.0], "3 x faster"),
        ("oneway", [12.0], [4.0], "3 x faster"),
        ("oneway", [4.0], [12.0], "3 x slower"),
        ("idle", [4.0], [12.0], "3 x less"),
        ("recovery", [12.0], [4.0], "3 x longer"),
        ("pair", [4.2], [4.0], "about equal"),
        ("pair", [4.0, 8.0], [5.0, 9.0], "unclear"),
        ("pair", [0.0], [4.0], "-"),
    ],
)
def test_comparisons_are_unambiguous(workload: str, values: list[float], ours: list[float], expected: str) -> None:
    figures = [measure.summary(each, "any") for each in (values, ours)]
    assert tables.comparison(WORKLOADS[workload], *figures) == expected


def document_of(*results: Any) -> dict[str, Any]:
    machine = {**measure.environment(), "date": "2000-01-01", "commit": "abc"}
    found = [
        {"workload": workload, "peer": peer, "params": params, "metrics": metrics}
        for workload, peer, params, metrics in results
    ]
    return {"environment": machine, "command": "python -m benchmarks", "left_out": [], "results": found}


def figure(value: float) -> dict[str, Any]:
    return measure.summary([value], "µs")


def test_plots_are_reproducible(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks import plots

    document = document_of(
        *(("backlog", "asgi_ipc", {"unread": n}, {"pair": figure(4)}) for n in (0, 1000, 100_000)),
        *(("fanout", "in-memory", {"members": n, "processes": 2}, {"last": figure(n)}) for n in (10, 1000)),
        ("roundtrip", "lmdb", {}, {"median": figure(40), "p99": figure(90)}),
    )
    first, again = (plots.draw(document, str(tmp_path / name)) for name in ("first", "again"))
    assert [os.path.basename(path) for path in first] == ["backlog.svg", "roundtrip.svg", "fanout.svg"]
    for one, other in zip(first, again):
        assert Path(one).read_bytes() == Path(other).read_bytes()


def test_targets_are_compared_with_the_figures_of_the_run() -> None:
    document = document_of(
        ("pair", "asgi_ipc", {}, {"pair": figure(5)}),
        ("pair", "floor", {}, {"pair": figure(1)}),
        ("pair", "mp-pipe", {}, {"pair": figure(6)}),
    )
    assert list(targets.judged(document)) == [
        "MISSED   pair, over the floor: 5 x (at most 4)",
        "reached  pair, over multiprocessing.Pipe: 0.833 x (at most 1)",
    ]


def test_a_peer_that_was_too_slow_skips_larger_cases() -> None:
    less = {"members": 1000, "processes": 2, "beside": "group"}
    assert suite_module.more({**less, "members": 10_000}, less)
    assert suite_module.more(less, less)
    assert not suite_module.more({**less, "processes": 1}, less)
    assert not suite_module.more({**less, "members": 10_000, "beside": "nothing"}, less)


def test_the_confidence_interval_of_a_median_has_the_right_ranks() -> None:
    ranks = [measure.median_interval(range(count)) for count in (5, 20, 100)]
    assert ranks == [(0, 4), (5, 14), (40, 59)]

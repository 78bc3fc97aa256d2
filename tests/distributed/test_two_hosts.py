"""Two hosts, a process each, joined by a slow link: the same curve as on one host, whether or not the link is cut."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hosts import Hosts, NoHosts, two_hosts
from launched import (
    QUICK,
    ROOT,
    TORCHRUN,
    Launched,
    assert_same_weights,
    last_step,
    launch,
    learned,
    losses,
    saved_steps,
    wait_for,
    write_pictures,
)

pytestmark = pytest.mark.slow(25)

STEPS, CUT_AFTER, CHECKPOINT_EVERY = 30, 15, 10
"""Each takes some tenths of a second across the link."""

BEFORE_ORDER_SHOWS = 5
"""Steps in which one process and two agree in fp32; see test_same_curve for why not in more."""

RANK_TIMEOUT = 15
"""Seconds after which a rank gives up the others."""

AWAY = 3.0
"""Seconds without a link that cost a run nothing but time."""

TO_LEAVE = 15.0
"""Seconds within which, after that, the ranks and what launched them have left: up to 5 to learn which is lost, and 2
to 4 where nothing else runs."""

Launcher = Callable[[Hosts, int], tuple[str, ...]]


def torchrun(hosts: Hosts, number: int) -> tuple[str, ...]:
    """An elastic agent: they find each other through the first one's store, across the link."""
    host = (hosts.first, hosts.second)[number]
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{hosts.first.address}:29500", "--rdzv-id", "two")
    # Both hosts have the same name, by which agents else tell whose the store is and where they can be reached.
    names = ("--rdzv-conf", f"is_host={1 - number}", "--local-addr", host.address)
    return host.inside(*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", *meeting, *names)


def torchrun_by_number(hosts: Hosts, number: int) -> tuple[str, ...]:
    """Agents that are told where the first one is, and which one they are."""
    where = ("--master-addr", hosts.first.address, "--master-port", "29500", "--node-rank", str(number))
    return (hosts.first, hosts.second)[number].inside(*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", *where)


def accelerate(hosts: Hosts, number: int) -> tuple[str, ...]:
    """As launch/README.md shows it, with two processes in place of sixteen."""
    program = (sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch/two_nodes.yaml"))
    options = ("--num_processes", "2", "--main_process_ip", hosts.first.address, "--machine_rank", str(number))
    return (hosts.first, hosts.second)[number].inside(*program, *options)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    try:
        with two_hosts() as made:
            yield made
    except NoHosts as why:
        pytest.skip(f"two hosts can't be made here: {why}")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def on_one_host(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both processes beside each other."""
    out = tmp_path_factory.mktemp("runs") / "one-host"
    code, said = launch(*command(photos, out)).ended()
    assert code == 0, said
    return out


def command(photos: Path, out: Path, steps: int = STEPS) -> list[object]:
    how = ("--batch-norm", "sync", "--threads", 1, "--rank-timeout", RANK_TIMEOUT)
    when = ("--images", steps * 8, "--log-every", 1, "--checkpoint-every", CHECKPOINT_EVERY)
    return ["--data", photos, "--out", out, *QUICK, *how, *when]


def start(launcher: Launcher, hosts: Hosts, options: list[object]) -> list[Launched]:
    """The same command on both hosts."""
    return [launch(*options, launcher=launcher(hosts, number)) for number in (0, 1)]


def test_one_process_has_the_same_curve(on_one_host: Path, photos: Path, tmp_path: Path) -> None:
    alone = (sys.executable,)
    code, said = launch(*command(photos, tmp_path / "run", BEFORE_ORDER_SHOWS), launcher=alone).ended()
    assert code == 0, said
    found, wanted = losses(tmp_path / "run"), losses(on_one_host)[:BEFORE_ORDER_SHOWS]
    assert len(found) == BEFORE_ORDER_SHOWS
    for one, two in zip(found, wanted, strict=True):
        assert one == pytest.approx(two, rel=1e-5)


def test_two_hosts_learn_what_one_does(hosts: Hosts, on_one_host: Path, photos: Path, tmp_path: Path) -> None:
    """Bit for bit: where a process runs is not among what it computes with, nor is a link that was away for seconds.

    Other launchers: in the next test.
    """
    out = tmp_path / "run"
    both = start(torchrun, hosts, command(photos, out))
    wait_for(lambda: last_step(out) >= CHECKPOINT_EVERY, both[0])
    hosts.cut()
    time.sleep(AWAY)
    hosts.mend()
    for running in both:
        code, said = running.ended()
        assert code == 0, said
    assert losses(out) == losses(on_one_host)
    assert_same_weights(learned(out, STEPS), learned(on_one_host, STEPS))


@pytest.mark.parametrize(
    "launcher",
    [torchrun, *(pytest.param(other, marks=pytest.mark.exhaustive) for other in (accelerate, torchrun_by_number))],
    ids=lambda launcher: launcher.__name__,
)
def test_a_cut_link_ends_the_run_which_then_goes_on(
    launcher: Launcher, hosts: Hosts, on_one_host: Path, photos: Path, tmp_path: Path
) -> None:
    """Two hosts learn what one does, bit for bit: where a process runs is not among what it computes with.

    They do so up to the cut, and again from there to the end of the run.
    """
    out = tmp_path / "run"
    if launcher is torchrun:  # its second agent waits for the first one's store until TCP gives up
        hosts.give_up_early()
    first, second = start(launcher, hosts, command(photos, out))
    wait_for(lambda: last_step(out) >= CUT_AFTER, first)
    hosts.cut()
    deadline = time.monotonic() + RANK_TIMEOUT + TO_LEAVE
    log = out / "logs" / "rank-1.log"

    code, of_first = first.ended(within=deadline - time.monotonic())
    reached = last_step(out)
    wait_for(lambda: "did not answer" in log.read_text(), second)
    code_of_second, of_second = second.ended(within=deadline - time.monotonic())
    hosts.mend()

    why = rf"rank {{}} \(process \d+ on .*\) ended or did not answer for {RANK_TIMEOUT} s \(.*\); the same command"
    of_other, of_main = why.format(1), why.format(0)
    assert code != 0 and code_of_second != 0
    assert re.search(rf"^fastdcgan: error: {of_other}", of_first, re.MULTILINE), of_first
    assert re.search(rf"^fastdcgan: error: {of_main}", of_second, re.MULTILINE), of_second
    assert re.search(rf"traceback : {of_other}", of_first), of_first
    assert CUT_AFTER <= reached < STEPS

    first, second = start(launcher, hosts, command(photos, out))
    (code, said), (code_of_second, of_second) = first.ended(), second.ended()
    assert code == 0 and code_of_second == 0, said + of_second
    resumed = re.search(r"resuming  after step (\d+)", said)
    assert resumed and 0 < reached - int(resumed[1]) <= CHECKPOINT_EVERY, said
    assert saved_steps(out)[-1] == STEPS
    assert losses(out) == losses(on_one_host)
    assert_same_weights(learned(out, STEPS), learned(on_one_host, STEPS))

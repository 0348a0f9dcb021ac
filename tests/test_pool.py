"""The pool of grading workers: what it remembers, what hostile answers do to it, and that it leaves nothing behind.

Most tests replace math-verify in the workers by something that does what the answer says (`OBEDIENT`).
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import pytest

from multiattempt_trl.graders import client, pool, worker
from multiattempt_trl.graders.pool import Comparison, WorkerPool, default_workers
from multiattempt_trl.graders.symbolic import Outcome

ROOT = Path(__file__).parents[1]
EQUAL, DIFFERENT, TIMEOUT, CRASH = Outcome.EQUAL, Outcome.DIFFERENT, Outcome.TIMEOUT, Outcome.CRASH
SOON = 60.0
"""Seconds until something that takes few must have happened."""

OBEDIENT = r'''
import os, signal, sys, time
from multiattempt_trl.graders import symbolic

kept = []

def swallow():
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass

def flood():
    for descriptor in (1, 2):
        os.write(descriptor, b"flood " * 2_000_000)
    print("flood " * 1_000, file=sys.stderr)
    print("flood " * 1_000, '{"outcome": "different", "seconds": 0, "spent": false}', flush=True)
    assert sys.stdin.read() == ""

def touch_and_keep():
    kept.append(b"x" * 1_100_000_000)

def recurse():
    return recurse()

orders = {
    "nap": lambda: time.sleep(0.5),
    "spin": swallow,
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda: sys.exit(0),
    "interrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt),
    "raise": lambda: 1 / 0,
    "recurse": recurse,
    "memory": lambda: bytearray(3_000_000_000),
    "keep": touch_and_keep,
    "flood": flood,
}

def compare(gold, answer, tolerance):
    """Equal where the answer has the gold's characters; before that, what its first word asks for."""
    word, _, rest = answer.partition(" ")
    if word in orders:
        orders[word]()
        answer = rest
    return symbolic.Outcome.EQUAL if sorted(gold) == sorted(answer) else symbolic.Outcome.DIFFERENT

symbolic.comparison = lambda: compare
'''


@pytest.fixture(scope="module")
def obedient_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("obedient")
    (folder / "sitecustomize.py").write_text(OBEDIENT, encoding="utf-8")  # Python runs it when a worker starts
    return folder


@pytest.fixture
def obedient(obedient_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(obedient_folder)  # a worker gets our path


def outcome(workers: WorkerPool, gold: str, answer: str) -> Outcome:
    return workers.submit(gold, answer).result(SOON).outcome


def pids(workers: WorkerPool) -> list[int]:
    return [clerk.worker.process.pid for clerk in workers._clerks]


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SOON
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def alive(pid: int) -> bool:
    try:
        # An orphan whose new parent has not reaped it is over all the same.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_gone(processes: list[int]) -> bool:
    return until(lambda: not any(alive(pid) for pid in processes))


def busy(pid: int) -> bool:
    """Whether it has used half a second of CPU time or more, which none of the obedient ones does to start."""
    used = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
    return sum(map(int, used)) >= 0.5 * os.sysconf("SC_CLK_TCK")


# What it says and remembers.


def test_order_and_number_of_workers_change_no_outcome() -> None:
    golds = ["x+1", "2x", r"\frac{1}{2}", "(1,2)", "x^2", "x>1", r"\sqrt{2}", "y=2x+3", "[0,1)", r"\pi"]
    pairs = [(gold, answer) for gold in golds for answer in (*golds, "0.5", "1+x", r"\frac{2}{\sqrt{2}}")]
    found = []
    for workers, seed in ((1, 0), (2, 1)):
        random.Random(seed).shuffle(pairs)
        with WorkerPool(workers) as graders:
            futures = {pair: graders.submit(*pair) for pair in pairs}
            found.append({pair: future.result(SOON).outcome for pair, future in futures.items()})
            assert graders.comparisons == len(pairs) == 130
    assert found[0] == found[1]
    # Ten times itself, x+1, 1/2 and sqrt(2) in another form.
    assert sum(value is EQUAL for value in found[0].values()) == 13


@pytest.mark.usefixtures("obedient")
def test_a_pair_in_flight_or_remembered_is_asked_once() -> None:
    with WorkerPool(2) as graders:
        futures = [graders.submit("ab", "nap ba") for _ in range(5)]
        assert all(future is futures[0] for future in futures)
        comparison = futures[0].result(SOON)
        assert graders.submit("ab", "nap ba").result(0) is comparison
        assert outcome(graders, "ba", "nap ba") is EQUAL  # another pair
        assert (graders.comparisons, graders.cache_hits) == (2, 5)


@pytest.mark.usefixtures("obedient")
def test_the_pair_that_was_used_last_is_forgotten_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "CACHE_SIZE", 2)
    with WorkerPool(1) as graders:
        for gold in ("a", "b", "a", "c"):  # forgets b
            outcome(graders, gold, "x")
        assert (graders.comparisons, graders.cache_hits) == (3, 1)
        outcome(graders, "a", "x")
        outcome(graders, "b", "x")
        assert (graders.comparisons, graders.cache_hits) == (4, 2)


@pytest.mark.usefixtures("obedient")
def test_nobody_cancels_what_others_wait_for() -> None:
    with WorkerPool(1) as graders:
        graders.submit("ab", "nap ba")
        queued = graders.submit("cd", "dc")
        assert not queued.cancel()
        assert queued.result(SOON).outcome is EQUAL


@pytest.mark.usefixtures("obedient")
def test_many_threads_share_a_pool() -> None:
    with WorkerPool(2) as graders, ThreadPoolExecutor(8) as threads:
        golds = [str(k % 100) for k in range(800)]
        outcomes = list(threads.map(lambda gold: outcome(graders, gold, gold[::-1] + "1" * (int(gold) % 2)), golds))
        assert outcomes == [EQUAL, DIFFERENT] * 400  # odd ones have a digit too many
        assert (graders.comparisons, graders.cache_hits) == (100, 700)


def test_the_tolerance_is_relative_and_part_of_the_question() -> None:
    # 1.414214 / 1.41421356 - 1 = 3.1e-7
    with WorkerPool(1) as graders:
        futures = [graders.submit(r"\sqrt{2}", "1.414214", tolerance) for tolerance in (1e-6, 1e-7)]
        assert [future.result(SOON).outcome for future in futures] == [EQUAL, DIFFERENT]
        assert graders.comparisons == 2


def test_seconds_are_those_of_the_comparison() -> None:
    with WorkerPool(1) as graders:
        comparison = graders.submit(r"\frac{1}{(x+1)^2}", r"(x^2+2x+1)^{-1}").result(SOON)
        assert comparison == Comparison(outcome=EQUAL, seconds=comparison.seconds)
        assert 0 < comparison.seconds < worker.CPU_SECONDS


# Hostile answers.


@pytest.mark.usefixtures("obedient")
@pytest.mark.parametrize(
    ("answer", "expected", "crashes", "respawns"),
    [
        ("crash", CRASH, 2, 2),
        ("exit", CRASH, 2, 2),
        ("interrupt", CRASH, 2, 2),
        ("raise", CRASH, 2, 2),
        ("recurse", Outcome.MEMORY, 0, 1),
        ("memory", Outcome.MEMORY, 0, 1),
        ("keep ba", EQUAL, 0, 1),
        ("flood ba", EQUAL, 0, 0),
    ],
)
def test_what_goes_wrong_in_a_worker_stays_there(
    capfd: pytest.CaptureFixture[str], answer: str, expected: Outcome, crashes: int, respawns: int
) -> None:
    with WorkerPool(1) as graders:
        assert outcome(graders, "ab", answer) is expected
        assert outcome(graders, "cd", "dc") is EQUAL
        assert (graders.comparisons, graders.timeouts) == (2, 0)
        assert (graders.crashes, graders.respawns) == (crashes, respawns)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("obedient")
def test_cpu_time_ends_what_swallows_everything_and_is_remembered() -> None:
    # A thread that starts workers may have blocked signals, and they inherit that.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPROF})
    try:
        with WorkerPool(1) as graders:
            first = graders.submit("ab", "spin")
            assert first.result(SOON) == Comparison(outcome=TIMEOUT, seconds=worker.CPU_SECONDS)
            assert graders.submit("ab", "spin") is first
            assert outcome(graders, "cd", "dc") is EQUAL
            assert (graders.timeouts, graders.crashes, graders.respawns) == (1, 0, 1)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@pytest.mark.usefixtures("obedient")
@pytest.mark.parametrize("copies", [1, 500_000])  # the long one does not even fit into the pipe
def test_a_worker_that_hangs_is_replaced_and_its_pair_asked_again(
    obedient_folder: Path, monkeypatch: pytest.MonkeyPatch, copies: int
) -> None:
    gold, answer = "ab" * copies, "ba" * copies
    with WorkerPool(1) as graders:
        assert outcome(graders, "cd", "dc") is EQUAL
        monkeypatch.setattr(client, "DEADLINE_SECONDS", 0.5)
        (hanging,) = pids(graders)
        os.kill(hanging, signal.SIGSTOP)
        assert graders.submit(gold, answer).result(SOON) == Comparison(outcome=TIMEOUT, seconds=10.0)
        monkeypatch.undo()
        assert not alive(hanging)
        monkeypatch.syspath_prepend(obedient_folder)
        assert outcome(graders, gold, answer) is EQUAL
        assert (graders.timeouts, graders.crashes, graders.respawns) == (1, 0, 1)


@pytest.mark.usefixtures("obedient")
def test_a_crash_is_not_remembered() -> None:
    with WorkerPool(1) as graders:
        first = graders.submit("ab", "crash")
        assert first.result(SOON) == Comparison(outcome=CRASH, seconds=0.0)
        assert graders.submit("ab", "crash") is not first


@pytest.mark.usefixtures("obedient")
def test_a_killed_worker_loses_no_outcome() -> None:
    with WorkerPool(2) as graders:
        os.kill(pids(graders)[0], signal.SIGKILL)  # while it starts
        futures = [graders.submit("ab", f"nap ba{k % 2 * 'c'}") for k in range(6)]
        futures += [graders.submit("abc", f"nap {text}") for text in ("abc", "cab", "cba", "aaa")]
        assert until(lambda: all(clerk.worker.ready for clerk in graders._clerks))
        for pid in pids(graders):  # in the middle of a nap
            os.kill(pid, signal.SIGKILL)
        assert [future.result(SOON).outcome for future in futures] == [EQUAL, DIFFERENT] * 3 + [EQUAL] * 3 + [
            DIFFERENT
        ]
        assert graders.crashes == graders.respawns == 3


def test_texts_that_no_codec_takes_and_long_ones() -> None:
    texts = ["\ud83d x \udc00", "\x00", "5\x00\x1b[31m", '"}\n{"gold": "7"', "١٢٣ + ½", "\u202e7", "x" * 2_000]
    with WorkerPool(2) as graders:
        futures = [graders.submit("7", text) for text in texts] + [graders.submit("\udfff", "7")]
        assert {future.result(SOON).outcome for future in futures} <= {DIFFERENT, Outcome.UNPARSED, TIMEOUT}
        assert outcome(graders, "7", "7") is EQUAL
        assert graders.crashes == 0


def test_hostile_mathematics() -> None:
    texts = [
        "9^{9^{9^9}}",
        "2" + "^2" * 400,
        "1" + "-" * 900 + "1",
        r"\sqrt{" * 150 + "x" + "}" * 150,
        "7" * 5_000 + "/3",  # more digits than Python turns into an integer
        "1e99999999",
    ]
    with WorkerPool(2) as graders:
        futures = [graders.submit("5", text) for text in texts]
        assert EQUAL not in {future.result(SOON).outcome for future in futures}
        assert all(0 < future.result().seconds <= worker.CPU_SECONDS for future in futures)
        assert outcome(graders, "x+1", "1+x") is EQUAL
        assert 1 <= graders.timeouts < len(texts)
        assert graders.crashes == 0


@pytest.mark.slow
def test_a_long_hostile_batch_is_gone_through() -> None:
    texts = [rf"\sum_{{k=1}}^{{1000000000}} \frac{{{k}}}{{k^2}}" for k in range(40)]
    texts += [rf"\begin{{pmatrix}}1&{k}\\1&0\end{{pmatrix}}^{{100000}}" for k in range(40)]
    with WorkerPool(2) as graders:
        futures = [graders.submit("5", text) for text in texts]
        assert not wait(futures, timeout=5 * worker.CPU_SECONDS * len(texts)).not_done
        assert EQUAL not in {future.result().outcome for future in futures}
        assert graders.crashes == 0


def test_a_comparison_starts_no_process_and_no_thread_and_writes_no_file(tmp_path: Path) -> None:
    """Part of what math-verify reads it evaluates as Python; what Python does on the way it tells its audit hooks."""
    code = """
import json, sys
from multiattempt_trl.graders.worker import load_comparison
compare = load_comparison()
actions = ("os.", "subprocess.", "socket.", "_thread.", "shutil.", "ctypes.", "pty.", "signal.")
harmless = ("os.listdir", "os.scandir")  # of an import
seen = []
def notice(event, arguments):
    writes = event == "open" and set(str(arguments[1])) & set("wxa+")
    if event.startswith(actions) and event not in harmless or writes:
        seen.append(event)
sys.addaudithook(notice)
for text in json.loads(sys.argv[1]):
    compare("5", text, 1e-6)
print(len(seen))
open("proof that the hook sees something", "w")
print(len(seen))
"""
    call = "__import__('os').system('touch PWNED')"
    texts = [
        call,
        rf"\text{{{call}}}",
        f"5({call})",
        f"1(2)/3+{call}",
        f"$${call}$$",
        f"answer is {call}",
        f"5 }} {call}",
    ]
    texts += [r"\operatorname{exec}(1)", "(1).__class__", "1 (2) (3)/(4)", "lambda: 1", "x=5;import os", "5**(1)*(2)"]
    found = subprocess.run(
        [sys.executable, "-c", code, json.dumps(texts)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["0", "1"]
    assert [path.name for path in tmp_path.iterdir()] == ["proof that the hook sees something"]


# Its workers.


@pytest.mark.parametrize(
    ("cores", "ranks", "expected"), [(1, "1", 1), (2, "1", 2), (64, "1", 2), (16, "8", 2), (8, "8", 1), (2, "8", 1)]
)
def test_few_workers_where_cores_are_few(
    monkeypatch: pytest.MonkeyPatch, cores: int, ranks: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert default_workers() == WorkerPool().workers == expected
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert default_workers() == min(cores, 2)


def test_a_pool_without_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="workers=0"):
        WorkerPool(0)


@pytest.mark.usefixtures("obedient")
def test_workers_are_recycled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "RECYCLE_ANSWERS", 2)
    with WorkerPool(1) as graders:
        used = []
        for k in range(5):
            used.append(pids(graders)[0])
            assert outcome(graders, str(k), str(k)) is EQUAL
        assert [used.index(pid) for pid in used] == [0, 0, 2, 2, 4]
        assert not any(map(alive, used[:4]))
        assert (graders.respawns, graders.crashes) == (0, 0)


@pytest.mark.parametrize("reason", ["no Python", "no math-verify", "another math-verify"])
def test_workers_that_cannot_start_are_our_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str], reason: str
) -> None:
    if reason == "no Python":
        monkeypatch.setattr(sys, "executable", "/bin/false")
    else:
        name = "math_verify" if reason == "no math-verify" else "sitecustomize"
        broken = "raise ImportError('no such thing')" if reason == "no math-verify" else OBEDIENT.replace("==", "!=")
        (tmp_path / f"{name}.py").write_text(broken, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
    launched: list[client.Worker] = []

    def launch() -> client.Worker:
        launched.append(client.Worker())
        return launched[-1]

    monkeypatch.setattr(pool, "Worker", launch)
    with WorkerPool(2) as graders:
        with pool._lock:  # nobody finds out before all are in the queue
            futures = [graders.submit("a", f"{k}") for k in range(100)]
        for future in futures:
            with pytest.raises(RuntimeError, match="does not start"):
                future.result(SOON)
        with pytest.raises(RuntimeError, match="does not start"):
            graders.submit("c", "d")
        assert len(launched) <= 6  # two and their replacements
    assert {"no math-verify": "no such thing", "another math-verify": "1+x equal to x+1"}.get(
        reason, ""
    ) in capfd.readouterr().err


# Its end.


@pytest.mark.usefixtures("obedient")
def test_a_pool_that_is_not_open_says_so() -> None:
    graders = WorkerPool(1)
    with pytest.raises(RuntimeError, match="use it inside `with"):
        graders.submit("a", "a")
    with graders:
        used = pids(graders)
        assert outcome(graders, "a", "a") is EQUAL
    assert not any(map(alive, used))
    graders.close()
    with pytest.raises(RuntimeError, match="use it inside `with"):
        graders.submit("a", "a")
    with graders:  # again
        assert outcome(graders, "a", "a") is EQUAL


@pytest.mark.usefixtures("obedient")
def test_closing_lets_nobody_wait() -> None:
    before = threading.active_count()
    errors: list[BaseException | None] = []
    with WorkerPool(2) as graders:
        used = pids(graders)
        futures = [graders.submit("ab", f"spin {k}") for k in range(50)]
        waiter = threading.Thread(target=lambda: errors.append(futures[49].exception(SOON)))
        waiter.start()
        assert until(lambda: all(map(busy, used)))
        start = time.monotonic()
    assert time.monotonic() - start < pool.JOIN_SECONDS
    waiter.join(SOON)
    assert not any(map(alive, used))
    assert threading.active_count() == before
    for error in (*errors, *(future.exception(0) for future in futures)):
        assert isinstance(error, RuntimeError)
    assert len(errors) == 1
    assert (graders.crashes, graders.comparisons) == (0, 0)


# The process around it. Each test runs one of its own, with obedient workers.

PRELUDE = """
import os, sys, time
from multiattempt_trl.graders.pool import WorkerPool

def pids():
    return [clerk.worker.process.pid for clerk in pool._clerks]

def say(*words):
    print(*words, flush=True)
"""


@pytest.fixture
def run(obedient_folder: Path) -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    started = []

    def start(code: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + code],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(obedient_folder), str(ROOT)])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        watchdog = threading.Timer(SOON, end, [process])
        watchdog.start()
        started.append((process, watchdog))
        return process

    def end(process: "subprocess.Popen[str]") -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with what it forked

    yield start
    for process, watchdog in started:
        watchdog.cancel()
        end(process)
        process.communicate()


def said(process: "subprocess.Popen[str]") -> list[int]:
    """The next line of numbers that it prints."""
    assert process.stdout is not None
    return [int(word) for word in process.stdout.readline().split()]


IN_THE_MIDDLE = """
with WorkerPool(2) as pool:
    futures = [pool.submit("ab", f"spin {k}") for k in range(10)]
    say(*pids())
    futures[0].result()
"""


@pytest.mark.parametrize(
    ("ending", "code"),
    [("", 0), ("raise KeyError", 1), ("sys.exit(3)", 3), ("os._exit(4)", 4)],
    ids=["end", "exception", "exit", "_exit"],
)
def test_nothing_is_left_without_with(run: Callable[[str], "subprocess.Popen[str]"], ending: str, code: int) -> None:
    process = run(
        f"""
pool = WorkerPool(2)
pool.start()
pool.submit("ab", "ba").result()
futures = [pool.submit("ab", f"nap {{k}}") for k in range(10)]
say(*pids())
{ending}
"""
    )
    workers = said(process)
    assert len(workers) == 2
    assert process.wait(SOON) == code
    assert all_gone(workers)
    assert process.stderr is not None
    assert ("KeyError" in process.stderr.read()) == (code == 1)


@pytest.mark.parametrize("starting", [True, False])
def test_ctrl_c_in_the_middle_of_a_comparison(run: Callable[[str], "subprocess.Popen[str]"], starting: bool) -> None:
    process = run(IN_THE_MIDDLE)
    workers = said(process)
    assert starting or until(lambda: all(map(busy, workers)))
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=SOON)
    assert time.monotonic() - start < 5
    assert process.returncode == -signal.SIGINT
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == 1
    assert not any(map(alive, workers))


@pytest.mark.parametrize(("sent", "idle"), [(signal.SIGTERM, True), (signal.SIGKILL, True), (signal.SIGKILL, False)])
def test_no_orphans_of_a_killed_parent(
    run: Callable[[str], "subprocess.Popen[str]"], sent: signal.Signals, idle: bool
) -> None:
    answer = 'pool.submit("ab", "ba").result(); say(*pids()); time.sleep(60)'
    process = run(f"with WorkerPool(2) as pool: {answer}" if idle else IN_THE_MIDDLE)
    workers = said(process)
    assert idle or until(lambda: all(map(busy, workers)))
    assert all(map(alive, workers))
    process.send_signal(sent)
    assert process.wait(SOON) == -sent
    assert all_gone(workers)


FORK = """
with WorkerPool(2) as pool:
    assert pool.submit("ab", "ba").result().outcome == "equal"
    pending = pool.submit("ab", "nap abc")
    parents, worker = pids(), pool._clerks[0].worker
    say(*parents)
    child = os.fork()
    if not child:
        assert pids() == []
        assert worker._requests.closed
        assert pool.submit("ab", "nap abc") is not pending
        assert pool.submit("ab", "nap abc").result().outcome == "different"
        assert not set(pids()) & set(parents)
        say(*pids())
        {ending}
    _, status = os.waitpid(child, 0)
    assert pids() == parents
    assert pending.result().outcome == "different"
    assert pool.submit("cd", "dc").result().outcome == "equal"
    assert pool.crashes == 0
    say(os.waitstatus_to_exitcode(status))
    sys.stdin.read() if {outlive} else None
"""


@pytest.mark.parametrize(
    ("ending", "code"),
    [("os._exit(5)", 5), ("sys.exit(6)", 6), ("raise KeyError", 1), ("os.kill(os.getpid(), 9)", -9)],
)
def test_a_forked_child_has_its_own_workers(
    run: Callable[[str], "subprocess.Popen[str]"], ending: str, code: int
) -> None:
    process = run(FORK.format(ending=ending, outlive=False))
    parents, children = said(process), said(process)
    assert len(parents) == len(children) == 2
    status = said(process)
    assert process.wait(SOON) == 0, process.stderr and process.stderr.read()
    assert status == [code]
    assert all_gone([*parents, *children])


def test_a_forked_child_does_not_keep_the_workers_of_a_dead_parent(
    run: Callable[[str], "subprocess.Popen[str]"],
) -> None:
    process = run(FORK.format(ending="time.sleep(60)", outlive=True))
    parents, children = said(process), said(process)
    process.kill()
    process.wait(SOON)
    assert all_gone(parents)
    assert all(map(alive, children))
    os.killpg(process.pid, signal.SIGKILL)  # the child, which is idle
    assert all_gone(children)


def test_a_fork_waits_while_a_worker_is_launched(run: Callable[[str], "subprocess.Popen[str]"]) -> None:
    """Else the child would inherit pipes that it does not know of, among them one that the launch waits for."""
    process = run(
        """
from threading import Event, Thread
from multiattempt_trl.graders import pool

launching, launched = Event(), Event()

def launch():
    with pool._lock:
        launching.set()
        time.sleep(0.3)
        launched.set()

Thread(target=launch).start()
launching.wait()
child = os.fork()
if not child:
    os._exit(7 if launched.is_set() else 8)
say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    )
    assert said(process) == [7]


def test_forks_at_any_moment(run: Callable[[str], "subprocess.Popen[str]"]) -> None:
    """While threads submit, and workers crash and are replaced."""
    process = run(
        """
from threading import Thread

def ask(thread):
    for k in range(30):
        pool.submit(f"{thread} {k}", "crash" if k % 10 == 5 else f"{k} {thread}").result()

with WorkerPool(2) as pool:
    threads = [Thread(target=ask, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    children = []
    while any(thread.is_alive() for thread in threads):
        child = os.fork()
        if not child:
            code = 7 if len(children) % 5 or pool.submit("ab", "ba").result().outcome == "equal" else 8
            os._exit(code)
        children.append(child)
        time.sleep(0.02)
    assert {os.waitpid(child, 0)[1] for child in children} == {7 << 8}
    assert pool.comparisons == 90
    say(len(children), pool.crashes)
"""
    )
    children, crashes = said(process)
    assert process.wait(SOON) == 0, process.stderr and process.stderr.read()
    assert children >= 5
    assert crashes == 18  # 3 threads, 3 answers, 2 workers each


RANK = """
import os, sys, time
from accelerate import PartialState
from multiattempt_trl.graders.pool import WorkerPool

state = PartialState(cpu=True)
with WorkerPool() as pool:
    assert pool.submit("ab", "ba").result().outcome == "equal"
    future = pool.submit("ab", "spin")
    state.wait_for_everyone()
    workers = [clerk.worker.process.pid for clerk in pool._clerks]
    line = [state.process_index, state.num_processes, os.getpid(), *workers]
    os.write(1, (" ".join(map(str, line)) + chr(10)).encode())
    future.result()
    time.sleep(60)
"""


@pytest.mark.slow
def test_two_ranks_and_one_of_them_killed(obedient_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK, encoding="utf-8")
    launcher = subprocess.Popen(
        [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", str(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(obedient_folder), str(ROOT)])},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        ranks = sorted(said(launcher) for _ in range(2))
        assert [rank[:2] for rank in ranks] == [[0, 2], [1, 2]]
        workers = [pid for rank in ranks for pid in rank[3:]]
        assert len(set(workers)) == len(workers) >= 2
        assert all(map(alive, workers))
        os.kill(ranks[1][2], signal.SIGKILL)
        assert launcher.wait(SOON) != 0
        assert all_gone([*workers, ranks[0][2], ranks[1][2]])
    finally:
        os.killpg(launcher.pid, signal.SIGKILL) if launcher.poll() is None else None
        launcher.communicate()

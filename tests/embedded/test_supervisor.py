import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from app.embedded.child import launcher_argv
from app.embedded.errors import EmbeddedError
from app.embedded.process import Child, trim_log, wait_until
from app.embedded.services import EmbeddedServices
from app.embedded.supervisor import Process, Supervisor, check_port
from tests.embedded.conftest import processes_on

PROJECT = Path(__file__).parents[2]
# A parent as `kto up` is one: both services, a supervised process that starts one of its own, both ignoring SIGTERM.
PARENT = """
import sys
from pathlib import Path
from app.embedded.services import EmbeddedServices
from app.embedded.supervisor import Process, Supervisor

worker = "import signal, subprocess, time; signal.signal(15, signal.SIG_IGN); subprocess.run(['sleep', '300'])"
with EmbeddedServices(Path(sys.argv[1]), fsync=False) as services:
    processes = [Process("web", ["sleep", "301"]), Process("worker", [sys.executable, "-c", worker], stop_grace_seconds=1)]
    Supervisor(services, processes[: int(sys.argv[2])]).run()
"""


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def start_parent(data_dir: Path, num_processes: int) -> subprocess.Popen[bytes]:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(data_dir), str(num_processes)], cwd=PROJECT)
    wanted = ("sleep 301", "sleep 300")[num_processes - 1]
    assert wait_until(lambda: any(wanted in command for command in processes_on(data_dir)), 30, 0.1)
    return parent


def test_killed_parent_leaves_nothing(data_dir: Path) -> None:
    parent = start_parent(data_dir, 1)
    parent.kill()
    parent.wait()
    assert wait_until(lambda: processes_on(data_dir) == [], 10, 0.05), processes_on(data_dir)
    with EmbeddedServices(data_dir):
        pass


def test_restart_at_once_after_a_kill_stops_leftovers(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that will not end, and a database that is still shutting down, do not stop the next start."""
    monkeypatch.setattr("app.embedded.leftovers._GRACE_SECONDS", 1.0)
    parent = start_parent(data_dir, 2)
    parent.kill()
    parent.wait()
    with EmbeddedServices(data_dir) as services:
        left = [command for command in processes_on(data_dir) if "sleep" in command]
        assert left == []
        assert services.database_url


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_stop_signal_ends_everything(data_dir: Path, sig: signal.Signals) -> None:
    parent = start_parent(data_dir, 2)
    parent.send_signal(sig)
    assert parent.wait(timeout=20) == 0
    assert processes_on(data_dir) == []


@pytest.fixture
def bare_services(data_dir: Path) -> EmbeddedServices:
    return EmbeddedServices(data_dir, database_url="postgresql+psycopg://db/kto", redis_url="redis://r:1/0")


def test_crashed_process_is_started_again(bare_services: EmbeddedServices) -> None:
    seen: list[int] = []
    with bare_services as services:
        supervisor = Supervisor(services, [Process("web", ["sleep", "60"], {"KTO_TEST": "1"})])

        def finished() -> bool:
            pid = supervisor.pids().get("web")
            if pid is not None and pid not in seen:
                seen.append(pid)
                if len(seen) == 1:
                    os.kill(pid, signal.SIGKILL)
            return len(seen) == 2

        supervisor.run(finished)
    assert len(seen) == 2
    assert not any(is_alive(pid) for pid in seen)


def test_stop_can_be_asked_from_a_thread(bare_services: EmbeddedServices) -> None:
    with bare_services as services:
        supervisor = Supervisor(services, [Process("web", ["sleep", "60"])])
        threading.Timer(0.5, supervisor.request_stop).start()
        supervisor.run()
        assert supervisor.pids() == {}


def test_five_crashes_stop_everything(bare_services: EmbeddedServices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.embedded.supervisor._FIRST_DELAY_SECONDS", 0.01)
    worker = [sys.executable, "-c", "print('cannot load the model'); raise SystemExit(3)"]
    with bare_services as services:
        supervisor = Supervisor(services, [Process("web", ["sleep", "60"]), Process("worker", worker)])
        with pytest.raises(EmbeddedError, match=r"(?s)worker ended with code 3, 5 times.*cannot load the model"):
            supervisor.run()
        assert supervisor.pids() == {}
        assert (services.data.logs / "worker.log").read_text().count("cannot load") == 5


def test_rest_of_a_crashed_group_is_killed(tmp_path: Path) -> None:
    code = "import os, subprocess; print(subprocess.Popen(['sleep', '60']).pid, flush=True); os._exit(1)"
    child = Child([sys.executable, "-c", code], log=tmp_path / "log")
    assert wait_until(lambda: not child.running, 10)
    assert child.exit_words == "ended with code 1"
    grandchild = int((tmp_path / "log").read_text())
    assert wait_until(lambda: not is_alive(grandchild), 5)


def test_missing_program_says_so(tmp_path: Path) -> None:
    child = Child(["/no/such/program"], log=tmp_path / "log")
    assert wait_until(lambda: not child.running, 10)
    assert (tmp_path / "log").read_text() == "cannot run /no/such/program: No such file or directory\n"


def test_watching_launcher_ends_with_its_parent() -> None:
    """The way of systems without a death signal: a launcher that stays and looks."""
    code = """
        import subprocess, sys, time
        from app.embedded.child import launcher_argv
        argv = launcher_argv(["sh", "-c", "echo $$; exec sleep 60"])
        subprocess.Popen([*argv[:4], "--watch", *argv[4:]])
        time.sleep(60)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, cwd=PROJECT)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_alive(pid)
    parent.kill()
    parent.wait()
    assert wait_until(lambda: not is_alive(pid), 5)
    parent.stdout.close()


def test_watching_launcher_passes_signals_and_codes() -> None:
    argv = launcher_argv(["sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done"])
    launcher = subprocess.Popen([*argv[:4], "--watch", *argv[4:]], stdout=subprocess.PIPE)
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == b"up\n"
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(timeout=5) == 7
    launcher.stdout.close()


def test_launcher_whose_parent_is_gone_does_not_start() -> None:
    argv = launcher_argv(["echo", "started"])
    argv[argv.index("--parent") + 1] = "1" if os.getpid() != 1 else "2"
    finished = subprocess.run(argv, capture_output=True, check=False)
    assert (finished.returncode, finished.stdout) == (128 + signal.SIGTERM, b"")


def test_log_is_cut_while_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.embedded.process._LOG_LIMIT_BYTES", 1000)
    log = tmp_path / "log"
    child = Child(["sh", "-c", "while :; do echo 0123456789; sleep 0.001; done"], log=log)
    assert wait_until(lambda: log.exists() and log.stat().st_size > 1500, 10)
    trim_log(log)
    assert log.stat().st_size < 1000
    assert (tmp_path / "log.1").stat().st_size == 1000
    time.sleep(0.2)
    assert log.read_bytes().startswith(b"0123456789")
    child.stop()


def test_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedError, match=f"Port {port} on 127.0.0.1 is in use"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)
    with pytest.raises(EmbeddedError, match="not an address"):
        check_port("no-such-host.invalid", 80)

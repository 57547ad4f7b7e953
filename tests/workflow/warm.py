"""Snakemake, DVC and the stages' verbs, started in milliseconds: forked from servers with their libraries.

Most of what tests of the workflow take is the start of Python, Snakemake and torch, some thousand times. `started()`
starts a server for each kind and makes a folder with commands `python` and `snakemake`. Put before all others on PATH,
they hand `-m snakemake`, `-m dvc` and `-m vlmlaw` over to a server, with arguments, environment, working folder and
open files, and run all else as ever. A server has imported libraries alone: the package comes from the project's own
copy, as `python -m` finds it. Tests that kill processes, or count them, start real ones (see conftest.py).
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

PRELOADED = {
    "snakemake": [
        *("snakemake.cli", "snakemake.report", "pydantic_core", "scipy.special"),
        *("requests", "smart_open", "jinja2", "platformdirs"),
    ],
    "dvc": [
        *("dvc.cli", "dvc.cli.parser", "dvc.repo", "dvc.commands.repro", "dvc.commands.status", "dvc_data.index"),
        *("dvc.stage.run", "dvc.compare", "dvc.data_cloud", "dvc.rwlock", "dvc.scm", "dvc.analytics", "dvc.cachemgr"),
        *("dvc_render", "scmrepo.git", "networkx", "ruamel.yaml", "pygit2", "rich.table"),
    ],
    "vlmlaw": [
        *("pandas", "scipy.optimize", "scipy.special", "scipy.stats", "torch", "transformers.modeling_utils"),
        *("transformers.models.qwen2.modeling_qwen2", "transformers.loss.loss_utils", "PIL.Image"),
    ],
}
CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
words = ["-m", "snakemake", *sys.argv[1:]] if sys.argv[0].endswith("snakemake") else sys.argv[1:]
if words[:1] != ["-m"] or words[1] not in {modules}:
    os.execv({python!r}, [{python!r}, *words])
server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
server.connect({folder!r} + "/" + words[1] + ".socket")
request = json.dumps({{"words": words[1:], "cwd": os.getcwd(), "env": dict(os.environ)}}).encode()
socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
server.sendall(request)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: server.sendall(bytes([number])))
status = server.recv(4)
code = os.waitstatus_to_exitcode(int.from_bytes(status, "big")) if status else 70
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@contextlib.contextmanager
def started() -> Iterator[Path]:
    """The folder of the commands, while the servers run."""
    with tempfile.TemporaryDirectory(prefix="warm-") as name, contextlib.ExitStack() as servers:
        folder = Path(name)
        for command in ("python", "snakemake"):
            path = folder / command
            path.write_text(CLIENT.format(python=sys.executable, folder=name, modules=set(PRELOADED)))
            path.chmod(0o755)
        for module in PRELOADED:
            servers.enter_context(_server(folder, module))
        yield folder


@contextlib.contextmanager
def _server(folder: Path, module: str) -> Iterator[None]:
    """A server of a module's starts. It ends with its standard input, and so with whoever started it."""
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder), module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | one_thread,
        start_new_session=True,
    )
    assert process.stdin and process.stdout
    try:
        assert process.stdout.readline() == b"ready\n", f"the server of {module} did not start"
        yield
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()


def serve(folder: Path, module: str) -> None:
    """Import what the module needs, and fork a process for each start until standard input ends."""
    import importlib
    import select

    for name in PRELOADED[module]:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(folder / f"{module}.socket"))
    listening.listen(64)
    print("ready", flush=True)
    while listening in select.select([listening, sys.stdin], [], [])[0]:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            supervise(connection, folder)
        connection.close()


def supervise(connection: socket.socket, folder: Path) -> NoReturn:
    """Start one process, pass signals on to it, end it with whoever asked for it, and report how it ended."""
    import select

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, files, _, _ = socket.recv_fds(connection, 4, 3)
    request = json.loads(b"".join(_received(connection, int.from_bytes(size, "big"))))
    pid = os.fork()
    if pid == 0:
        connection.close()
        run(request, files, folder)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(pid)
    while ended not in (ready := select.select([ended, connection], [], [])[0]):
        numbers = connection.recv(16) if ready else b""
        for number in numbers or [signal.SIGKILL]:
            os.kill(pid, number)
        if not numbers:
            break
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        connection.sendall(status.to_bytes(4, "big"))
    os._exit(0)


def _received(connection: socket.socket, size: int) -> Iterator[bytes]:
    while size:
        part = connection.recv(size)
        if not part:
            os._exit(0)
        size -= len(part)
        yield part


def run(request: dict, files: list[int], folder: Path) -> NoReturn:
    """Be `python -m` with these words, in this process."""
    import atexit
    import runpy
    import threading
    import traceback

    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    module, *sys.argv[1:] = request["words"]
    sys.path[:1] = [request["cwd"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.executable = str(folder / "python")  # for jobs, which run by the interpreter that plans them
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])

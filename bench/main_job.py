"""Time and peak memory of a command with all its children: `python bench/main_job.py make demo`.

Peak memory is the largest sum of proportional set sizes (shared pages counted once) of the process tree and of every
postgres process started meanwhile, sampled twice a second.
"""

from __future__ import annotations

import subprocess
import sys
import time

import psutil


def tree_memory(root: psutil.Process) -> int:
    """Bytes of the tree below ``root`` and of all postgres processes."""
    processes = {root.pid: root} | {child.pid: child for child in root.children(recursive=True)}
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "postgres":
            processes[process.pid] = process
    total = 0
    for process in processes.values():
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, AttributeError):
            continue
    return total


def main(command: list[str]) -> int:
    started, peak = time.monotonic(), 0
    child = subprocess.Popen(command)
    watched = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            peak = max(peak, tree_memory(watched))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.5)
    seconds = time.monotonic() - started
    print(f"{' '.join(command)}: exit {child.returncode}, {seconds:.0f} s, peak {peak / 2**30:.2f} GiB")
    return child.returncode or 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

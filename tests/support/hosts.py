"""Processes that believe to be on different hosts run one command: `python hosts.py NAME,NAME ARGUMENT...`.

They are forked, so that the libraries are imported once. A line on the standard output for each that starts, its name
and process id, and one for each that ends, its name and exit status; what they print goes to `<NAME>.log` here.
"""

import os
import socket
import sys
import traceback


def main() -> None:
    import lowrank_exp.job.run  # noqa: F401  (slow, and the same for all)
    from lowrank_exp import cli

    names = sys.argv.pop(1).split(",")
    sys.argv[0] = "lowrank-exp"
    running = {}
    for name in names:
        pid = os.fork()
        if pid == 0:
            os._exit(_be(name, cli.main))
        running[pid] = name
        print(name, pid, flush=True)
    while running:
        pid, status = os.wait()
        print(running.pop(pid), os.waitstatus_to_exitcode(status), flush=True)


def _be(name: str, command) -> int:
    socket.gethostname = lambda: name
    log = os.open(f"{name}.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        command()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return ended.code or 0
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    main()

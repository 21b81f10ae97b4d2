"""Where the daemon of this machine is. The rule is that of client.Find in Go; see ../README.md."""

import json
import os
import socket
import stat
import sys

MAX_DISCOVERY = 16 << 10  # bytes; a real file has some hundred
ANSWER_TIME = 1.0  # seconds that a socket has to take a connection


def ours(info):
    """A file or socket of another user than this one or root is believed by nobody."""
    return info.st_uid in (os.getuid(), 0)


def read_discovery(path):
    """What a daemon says of itself; None when there is nothing that can be believed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "rb") as f:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or not ours(info) or info.st_mode & 0o022 or info.st_size > MAX_DISCOVERY:
                return None
            found = json.loads(f.read(MAX_DISCOVERY))
        good = found["format"] == 1 and os.path.isabs(found["socket"]) and os.path.isabs(found["stateDir"])
        return found if good else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def in_state_dir(directory):
    directory = os.path.abspath(directory)
    found = read_discovery(os.path.join(directory, "daemon.json"))
    # A copy of a state directory speaks of the daemon of the original.
    if found and os.path.realpath(found["stateDir"]) == os.path.realpath(directory):
        return found["socket"]
    return os.path.join(directory, "hanzod.sock")


def answers(path):
    """Whether anybody listens: True, False, or None when that cannot be told."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(ANSWER_TIME)
        try:
            s.connect(path)
            return True
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return None


def find_socket(env=os.environ):
    """The path of the daemon's socket, whether a daemon runs or not."""
    if env.get("HANZOD_SOCKET"):
        return env["HANZOD_SOCKET"]
    if env.get("HANZOD_STATE_DIR"):
        return in_state_dir(env["HANZOD_STATE_DIR"])
    home = os.path.expanduser("~")
    usual = in_state_dir(os.path.join(home, ".hanzo", "hanzod"))
    runtime = env.get("XDG_RUNTIME_DIR") or (os.path.join(home, "Library", "Caches") if sys.platform == "darwin" else "")
    other = read_discovery(os.path.join(runtime, "hanzod", "daemon.json")) if os.path.isabs(runtime) else None
    if other and other["socket"] != usual and answers(usual) is False and answers(other["socket"]):
        return other["socket"]
    return usual


def check_socket(path):
    """Refuses a socket of somebody else: nothing is sent to a stranger."""
    try:
        info = os.stat(path)
    except OSError:
        raise SystemExit(f'no daemon answers at {path}; start it with "hanzod service start" or "hanzod run"') from None
    if not stat.S_ISSOCK(info.st_mode) or not ours(info):
        raise SystemExit(f"{path} is not the socket of a daemon of yours")

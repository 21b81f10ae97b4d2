"""An instance as tunnel.md describes the agent bridge (sections 1.2 to 1.5), for tests.

It registers, handles one frame after another, and comes back after 1, 2, 4 .. 30 seconds. Like the bridge it ends
where a server refuses it with an HTTP status (exit status 1), sends text that is no JSON (1), or answers the
registration with another frame (0). It speaks exec.run, status.get and chat.send; session.* answers as without S3.

Environment: TUNNEL_URL, INSTANCE_ID, APP_KIND (dev), WORKSPACE_DIR (the current directory), USER, CA_FILE (for wss).
Log lines go to standard output: "Connected! View at: URL", "Disconnected: ...", and with FRAMES=1 every frame.
"""
import asyncio
import json
import os
import platform
import socket
import ssl
import subprocess
import sys
import time

import websockets

COMMANDS = ["chat.send", "exec.run", "status.get", "session.checkpoint", "session.restore", "session.list"]
URL = os.environ.get("TUNNEL_URL", "ws://127.0.0.1:18789/v1/tunnel")
HOST = socket.gethostname().split(".")[0]
INSTANCE = os.environ.get("INSTANCE_ID") or "%s-%d" % (HOST, os.getpid())
CWD = os.environ.get("WORKSPACE_DIR") or os.getcwd()
KIND = os.environ.get("APP_KIND", "dev")
FRAMES = os.environ.get("FRAMES") == "1"
started = int(time.time())
conversation, commands, scrollback = [], [], []


def say(*words):
    print(*words, flush=True)


class Failed(Exception):
    pass


async def run(argv, cwd, limit, late, env=None):
    shell = isinstance(argv, str)
    make = asyncio.create_subprocess_shell if shell else asyncio.create_subprocess_exec
    try:
        p = await make(*([argv] if shell else argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd, env=env)
    except Exception as e:
        raise Failed(str(e))
    try:
        out, err = await asyncio.wait_for(p.communicate(), limit)
    except asyncio.TimeoutError:
        p.kill()
        await p.wait()
        raise Failed(late)
    return p.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")


async def exec_run(params):
    command = params.get("command", "")
    if not command:
        raise Failed("no command provided")
    code, out, err = await run(command, params.get("cwd", CWD), 30, "command timed out (30s)")
    out, err = out[-4096:], err[-4096:]
    commands.append(command)
    scrollback.append("$ " + command)
    scrollback.extend(line for line in out.split("\n")[-20:] if line.strip())
    del scrollback[:-500]
    return {"exitCode": code, "stdout": out, "stderr": err}


async def chat_send(params):
    message = params.get("message", "")
    if not message:
        raise Failed("no message provided")
    env = {k: v for k, v in os.environ.items() if k != "CLAUDECODE"}
    env.update({"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none",
                "OTEL_LOGS_EXPORTER": "none", "DO_NOT_TRACK": "1"})
    try:
        code, out, _ = await run(["claude", "-p", message, "--output-format", "text"], params.get("cwd", CWD), 120,
                                 "claude timed out (120s)", env)
    except Failed as e:
        if "No such file or directory: 'claude'" in str(e):
            raise Failed("claude CLI not found \u2014 install with: npm i -g @anthropic-ai/claude-code")
        raise
    conversation.extend([message, out])
    return {"response": out.strip(), "exitCode": code}


async def status_get(params):
    params.get("")
    return {
        "status": "running", "cwd": CWD, "user": os.environ.get("USER"), "hostname": HOST,
        "platform": "%s-%s" % (platform.system().lower(), platform.machine()), "python": platform.python_version(), "pid": os.getpid(),
        "session": {"started_at": started, "conversation_count": len(conversation), "command_count": len(commands),
                    "scrollback_count": len(scrollback)},
    }


async def no_s3(_):
    raise Failed("S3_ACCESS_KEY and S3_SECRET_KEY env vars required")


HANDLERS = {"exec.run": exec_run, "chat.send": chat_send, "status.get": status_get, "session.checkpoint": no_s3,
            "session.restore": no_s3, "session.list": no_s3}


async def handle(frame):
    method = frame["method"]
    answer = {"type": "response", "id": frame["id"]}
    try:
        if method not in HANDLERS:
            raise Failed("unknown command: " + method)
        answer.update(ok=True, data=await HANDLERS[method](frame.get("params", {})), error=None)
    except Failed as e:
        answer.update(ok=False, data={"error": str(e)}, error=str(e))
    except Exception as e:
        answer.update(ok=False, error=str(e))
    return answer


async def session(ws):
    async def send(frame):
        if FRAMES:
            say("OUT", json.dumps(frame))
        await ws.send(json.dumps(frame))

    async def receive(limit=None):
        text = await asyncio.wait_for(ws.recv(), limit)
        if FRAMES:
            say("IN", text)
        return json.loads(text)

    await send({
        "type": "register", "instance_id": INSTANCE, "app_kind": KIND, "display_name": "%s@%s" % (os.environ.get("USER", "user"), HOST),
        "capabilities": ["chat", "exec", "tools", "terminal"], "commands": COMMANDS, "version": "0.2.0",
        "platform": "%s-%s" % (platform.system().lower(), platform.machine()), "cwd": CWD,
    })
    first = await receive(10)
    if first.get("type") != "registered":
        say("Unexpected:", json.dumps(first))
        sys.exit(0)
    say("Connected! View at: %s" % first.get("session_url"))
    yield
    while True:
        frame = await receive()
        kind = frame.get("type")
        if kind == "command":
            await send(await handle(frame))
        elif kind == "ping":
            await send({"type": "pong"})
        elif kind not in ("pong", "registered"):
            say("Ignored:", json.dumps(frame))


async def main():
    delay = 1
    tls = ssl.create_default_context(cafile=os.environ.get("CA_FILE")) if URL.startswith("wss:") else None
    while True:
        try:
            async with websockets.connect(URL, open_timeout=10, ssl=tls) as ws:
                async for _ in session(ws):
                    delay = 1
        except (OSError, asyncio.TimeoutError, websockets.ConnectionClosed) as e:
            say("Disconnected: %s; retrying in %ds" % (e or type(e).__name__, delay))
        await asyncio.sleep(delay)
        delay = min(2 * delay, 30)


asyncio.run(main())

"""An instance as tunnel.md describes the agent bridge (sections 1.2 to 1.5), for tests.

session.* of it keeps checkpoints in S3 with boto3, when S3_ACCESS_KEY and S3_SECRET_KEY are set.

It registers, handles one frame after another, and comes back after 1, 2, 4 .. 30 seconds. Like the bridge it ends
where a server refuses it with an HTTP status (exit status 1), sends text that is no JSON (1), or answers the
registration with another frame (0). It speaks exec.run, status.get and chat.send.

Environment: TUNNEL_URL, INSTANCE_ID, APP_KIND (dev), WORKSPACE_DIR (the current directory), USER, CA_FILE (for wss).
Log lines go to standard output: "Connected! View at: URL", "Disconnected: ...", and with FRAMES=1 every frame.
"""
import asyncio
import concurrent.futures
import datetime
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
S3_THREADS = concurrent.futures.ThreadPoolExecutor(2)


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
    ran = {"cmd": command, "exit_code": code, "stdout": out[-2048:], "ts": int(time.time())}
    if err:
        ran["stderr"] = err[-1024:]
    commands.append(ran)
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
    conversation.extend({"role": role, "content": text, "ts": int(time.time()), "cmd_id": "chat"} for role, text in (("user", message), ("assistant", out.strip())))
    return {"response": out.strip(), "exitCode": code}


async def status_get(params):
    params.get("")
    return {
        "status": "running", "cwd": CWD, "user": os.environ.get("USER"), "hostname": HOST,
        "platform": "%s-%s" % (platform.system().lower(), platform.machine()), "python": platform.python_version(), "pid": os.getpid(),
        "session": {"started_at": started, "conversation_count": len(conversation), "command_count": len(commands),
                    "scrollback_count": len(scrollback)},
    }


BUCKET = os.environ.get("S3_BUCKET", "hanzo-sessions")


def bucket():
    if not os.environ.get("S3_ACCESS_KEY") or not os.environ.get("S3_SECRET_KEY"):
        raise Failed("S3_ACCESS_KEY and S3_SECRET_KEY env vars required")
    import boto3
    return boto3.client("s3", endpoint_url=os.environ.get("S3_ENDPOINT_URL", "https://s3.hanzo.ai"), region_name="us-east-1",
                        aws_access_key_id=os.environ["S3_ACCESS_KEY"], aws_secret_access_key=os.environ["S3_SECRET_KEY"])


async def aside(doing, fn):
    try:
        return await asyncio.get_running_loop().run_in_executor(S3_THREADS, fn)
    except Failed:
        raise
    except Exception as e:
        raise Failed("%s failed: %s" % (doing, e))


def git(limit, *argv):
    try:
        p = subprocess.run(["git"] + list(argv), cwd=CWD, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=limit)
    except Exception:
        return ""
    return p.stdout.decode("utf-8", "replace").strip() if p.returncode == 0 else ""


def workspace():
    if git(5, "rev-parse", "--is-inside-work-tree") != "true":
        return {}
    return {
        "git_branch": git(10, "rev-parse", "--abbrev-ref", "HEAD"), "git_remote_url": git(10, "remote", "get-url", "origin"),
        "git_log": [x for x in git(10, "log", "--oneline", "-20").split("\n") if x], "git_diff": git(10, "diff", "HEAD")[-8192:],
        "git_untracked": [x for x in git(10, "ls-files", "--others", "--exclude-standard").split("\n") if x],
    }


async def session_checkpoint(params):
    s3 = bucket()
    now = datetime.datetime.now(datetime.timezone.utc)
    name = now.strftime("%Y%m%dT%H%M%SZ-") + os.urandom(4).hex()
    key = "%s/%s.json" % (INSTANCE, name)
    doc = {
        "version": 1, "checkpoint_id": name, "source_instance_id": INSTANCE, "source_display_name": "%s@%s" % (os.environ.get("USER", "user"), HOST),
        "platform": "%s-%s" % (platform.system().lower(), platform.machine()), "timestamp": now.isoformat(timespec="microseconds"),
        "session": {"started_at": started, "cwd": CWD, "conversation": conversation, "commands": commands, "scrollback": scrollback[-500:]},
        "workspace": workspace(), "config": {"commands": COMMANDS, "capabilities": ["chat", "exec", "tools", "terminal"]},
    }

    def store():
        try:
            s3.head_bucket(Bucket=BUCKET)
        except s3.exceptions.ClientError as e:
            if e.response["Error"]["Code"] != "404":
                raise
            s3.create_bucket(Bucket=BUCKET)
        s3.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(doc, indent=2).encode(), ContentType="application/json")

    await aside("checkpoint", store)
    return {"checkpoint_id": name, "checkpoint_url": "s3://%s/%s" % (BUCKET, key), "key": key, "session_stats": {
        "conversation_count": len(conversation), "command_count": len(commands), "scrollback_count": len(scrollback)}}


async def session_restore(params):
    global started
    s3 = bucket()
    url = params.get("checkpoint_url", "")
    if not url:
        raise Failed("no checkpoint_url provided")

    def fetch():
        where, key = BUCKET, url
        if url.startswith("s3://"):
            where, _, key = url[5:].partition("/")
            if not key:
                raise ValueError("invalid s3 URI (no key): " + url)
        return json.loads(s3.get_object(Bucket=where, Key=key)["Body"].read())

    doc = await aside("restore", fetch)
    if doc.get("version") != 1:
        raise Failed("unsupported checkpoint version: %s (expected 1)" % doc.get("version"))
    saved, work = doc.get("session", {}), doc.get("workspace", {})
    started = saved.get("started_at", started)
    conversation[:], commands[:], scrollback[:] = saved.get("conversation", []), saved.get("commands", []), saved.get("scrollback", [])[-500:]
    out = {
        "restored_from": doc.get("source_instance_id", "?"), "source_platform": doc.get("platform", "?"), "checkpoint_id": doc.get("checkpoint_id", "?"),
        "timestamp": doc.get("timestamp", "?"), "conversation_count": len(conversation), "command_count": len(commands),
        "scrollback_count": len(scrollback),
    }
    if work.get("git_remote_url") and work.get("git_branch"):
        result = out["git_restore"] = {"attempted": True}
        if os.path.isdir(os.path.join(CWD, ".git")):
            result["clone"] = "skipped (existing .git)"
        else:
            p = subprocess.run(["git", "clone", "--depth=1", "-b", work["git_branch"], work["git_remote_url"], "."], cwd=CWD, stderr=subprocess.PIPE, timeout=60)
            result["clone"] = "ok" if p.returncode == 0 else p.stderr.decode("utf-8", "replace")[-200:]
        if work.get("git_diff", "").strip():
            p = subprocess.run(["git", "apply", "--allow-empty", "-"], cwd=CWD, input=work["git_diff"].encode(), stderr=subprocess.PIPE, timeout=30)
            result["apply_diff"] = "ok" if p.returncode == 0 else p.stderr.decode("utf-8", "replace")[-200:]
    return out


async def session_list(params):
    s3 = bucket()

    def read():
        found = []
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=params.get("instance_id", "")):
            for o in page.get("Contents", []):
                if o["Key"].endswith(".json"):
                    found.append({"key": o["Key"], "size": o["Size"], "last_modified": o["LastModified"].isoformat()})
        return found

    found = await aside("list", read)
    return {"checkpoints": found, "count": len(found), "bucket": BUCKET}


HANDLERS = {"exec.run": exec_run, "chat.send": chat_send, "status.get": status_get, "session.checkpoint": session_checkpoint,
            "session.restore": session_restore, "session.list": session_list}


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

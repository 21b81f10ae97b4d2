"""Moves sessions between nodes as the script that tunnel.md sections 1.11 and 1.17 describe does, for tests.

Environment: OPERATOR_URL, BOT_GATEWAY_TOKEN. Flags: --list; --checkpoints [NODE]; --from A --to B; and --swarm A B C,
the logic of test-migration.py on nodes that run already.
"""
import argparse
import asyncio
import json
import os
import sys
import uuid

import websockets

URL = os.environ.get("OPERATOR_URL", "wss://app.hanzo.bot/")
TOKEN = os.environ.get("BOT_GATEWAY_TOKEN", "")


class Operator:
    async def __aenter__(self):
        headers = {"Origin": "https://app.hanzo.bot", "Authorization": "Bearer " + TOKEN}
        self.ws = await websockets.connect(URL, extra_headers=headers, max_size=16 << 20)
        await self.ws.recv()
        await self.request("connect", {
            "minProtocol": 3, "maxProtocol": 3,
            "client": {"id": "migrate-cli", "displayName": "Session Migration", "version": "1.0.0", "mode": "ui"},
            "auth": {"token": TOKEN}, "role": "operator",
            "scopes": ["operator.read", "operator.write", "node.read", "node.write"],
        }, 30)
        return self

    async def __aexit__(self, *_):
        await self.ws.close()

    async def request(self, method, params, limit=30):
        name = str(uuid.uuid4())
        await self.ws.send(json.dumps({"type": "req", "id": name, "method": method, "params": params}))

        async def answer():
            while True:
                frame = json.loads(await self.ws.recv())
                if frame.get("type") == "res" and frame.get("id") == name:
                    return frame

        frame = await asyncio.wait_for(answer(), limit)
        if not frame.get("ok"):
            raise RuntimeError("%s: %s" % (method, json.dumps(frame.get("error"))))
        return frame.get("payload") or {}

    async def nodes(self):
        return (await self.request("node.list", {})).get("nodes", [])

    async def invoke(self, node, command, params, limit=30):
        payload = await self.request("node.invoke", {
            "nodeId": node, "command": command, "params": params, "idempotencyKey": str(uuid.uuid4())}, limit)
        text = payload.get("payloadJSON")
        if isinstance(text, str):
            return json.loads(text)
        inner = payload.get("payload")
        if isinstance(inner, str):
            return json.loads(inner)
        return inner if isinstance(inner, dict) else payload


async def show(op):
    nodes = await op.nodes()
    print("%-40s %-20s %s" % ("NODE", "PLATFORM", "COMMANDS"))
    for n in nodes:
        print("%-40s %-20s %s" % (n["nodeId"], n.get("platform", "?"), ", ".join((n.get("commands") or [])[:3])))
    print("%d node(s)" % len(nodes))


async def checkpoints(op, node):
    nodes = await op.nodes()
    if not nodes:
        sys.exit("no nodes")
    found = await op.invoke(nodes[0]["nodeId"], "session.list", {"instance_id": node} if node else {})
    for c in found["checkpoints"]:
        print("%s  %d  %s" % (c["key"], c["size"], c["last_modified"]))
    print("%d checkpoint(s) in %s" % (found["count"], found["bucket"]))


async def migrate(op, source, target):
    print("[1/3] Checkpointing %s..." % source)
    saved = await op.invoke(source, "session.checkpoint", {}, 30)
    url = saved.get("checkpoint_url") or saved.get("key")
    print("      %s" % url)
    print("[2/3] Restoring on %s..." % target)
    got = await op.invoke(target, "session.restore", {"checkpoint_url": url}, 60)
    print("      from %s: %d messages, %d commands" % (got["restored_from"], got["conversation_count"], got["command_count"]))
    print("[3/3] Verifying %s..." % target)
    status = await op.invoke(target, "status.get", {})
    print("      %s, %d commands" % (status["status"], status["session"]["command_count"]))
    print("Migration complete")
    return got


async def swarm(op, first, _, third):
    for line in ("echo one", "echo two"):
        await op.invoke(first, "exec.run", {"command": line})
    counts = [(await op.invoke(first, "status.get", {}))["session"]["command_count"]]
    got = await migrate(op, first, third)
    assert got["restored_from"] == first, got
    counts.append(got["command_count"])
    await op.invoke(third, "exec.run", {"command": "echo three"})
    counts.append((await migrate(op, third, first))["command_count"])
    listed = await op.invoke(first, "session.list", {})
    assert listed["count"] >= 2, listed
    print("counts: %s" % ", ".join(map(str, counts)))


async def main():
    p = argparse.ArgumentParser()
    p.add_argument("--list", action="store_true")
    p.add_argument("--checkpoints", nargs="?", const="", default=None)
    p.add_argument("--from", dest="source")
    p.add_argument("--to", dest="target")
    p.add_argument("--swarm", nargs=3)
    a = p.parse_args()
    if not TOKEN:
        print("ERROR: Set BOT_GATEWAY_TOKEN env var")
        sys.exit(1)
    if not (a.list or a.checkpoints is not None or a.source and a.target or a.swarm):
        p.print_help()
        sys.exit(1)
    async with Operator() as op:
        if a.list:
            await show(op)
        elif a.checkpoints is not None:
            await checkpoints(op, a.checkpoints)
        elif a.swarm:
            await swarm(op, *a.swarm)
        else:
            await migrate(op, a.source, a.target)


asyncio.run(main())

#!/usr/bin/env python3
"""An example of a client of hanzod in Python. It reads the protos when it starts; nothing is generated.

  pip install -r requirements.txt
  python hanzod.py nodes
  python hanzod.py events 3
  python hanzod.py run NODE uname -a
  python hanzod.py answer APPROVAL once|always|deny
  python hanzod.py notifier NAME
"""

import json
import os
import queue
import sys

import grpc
from google.rpc import error_details_pb2, status_pb2

from find import check_socket, find_socket

here = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.environ.get("HANZOD_PROTO") or os.path.join(here, "..", "..", "proto"))
system, system_rpc = grpc.protos_and_services("hanzo/system/v1/system.proto")
nodes, nodes_rpc = grpc.protos_and_services("hanzo/nodes/v1/nodes.proto")
approvals, approvals_rpc = grpc.protos_and_services("hanzo/approvals/v1/approvals.proto")
runs, runs_rpc = grpc.protos_and_services("hanzo/runs/v1/runs.proto")

CALL_TIME = 15  # seconds; a daemon on this machine answers in a few milliseconds


def reason(err):
    """The stable name of a failure, such as "nodes.unknown"; "" when there is none."""
    raw = dict(err.trailing_metadata() or ()).get("grpc-status-details-bin")
    info = error_details_pb2.ErrorInfo()
    for detail in status_pb2.Status.FromString(raw).details if raw else ():
        if detail.Unpack(info):
            return info.reason
    return ""


def show(*words):
    """Prints text of others so that it cannot steer the terminal."""
    print(*(str(w).encode("unicode_escape").decode() for w in words), flush=True)


class Daemon:
    def __init__(self):
        path = find_socket()
        check_socket(path)
        # Who this is, the daemon knows by the socket: no token, no TLS.
        self.channel = grpc.insecure_channel("unix:" + path, [("grpc.default_authority", "hanzod")])
        self.system = system_rpc.SystemServiceStub(self.channel)
        self.nodes = nodes_rpc.NodeServiceStub(self.channel)
        self.approvals = approvals_rpc.ApprovalServiceStub(self.channel)
        self.runs = runs_rpc.RunServiceStub(self.channel)


def cmd_nodes(d):
    health = d.system.GetHealth(system.GetHealthRequest(), timeout=CALL_TIME)
    status = d.system.GetStatus(system.GetStatusRequest(), timeout=CALL_TIME)
    show("hanzod", status.version, "is well" if health.ok else "is not well")
    for n in d.nodes.ListNodes(nodes.ListNodesRequest(), timeout=CALL_TIME).nodes:
        show("online " if n.connected else "offline", n.node_id, n.display_name, ",".join(n.commands))


def cmd_events(d, count=None):
    """A stream has no deadline, and ends when the daemon goes away: begin again then, after a pause."""
    stream = d.system.WatchEvents(system.WatchEventsRequest())
    for i, event in enumerate(stream, 1):
        show(event.seq, event.name, f"({event.dropped} missed)" if event.dropped else "")
        if count and i >= int(count):
            stream.cancel()
            return


def cmd_run(d, node, *argv):
    """The daemon asks the node what it would run, and waits for an approval where one is needed."""
    run = d.runs.StartRun(runs.StartRunRequest(node_id=node, argv=argv), timeout=CALL_TIME).run
    for message in d.runs.WatchRun(runs.WatchRunRequest(id=run.id)):
        if not message.HasField("run"):
            continue  # what it writes meanwhile
        now = message.run
        if now.state == runs.STATE_WAITING:
            show("waiting for approval", now.approval_id)
        if now.HasField("result"):
            for line in now.result.stdout.splitlines():
                show(line)
        if now.HasField("failure"):
            raise SystemExit(f"{now.failure.code}: {now.failure.message!r}")


def cmd_answer(d, approval_id, decision):
    answers = {
        "once": approvals.DECISION_ALLOW_ONCE,
        "always": approvals.DECISION_ALLOW_ALWAYS,
        "deny": approvals.DECISION_DENY,
    }
    if decision not in answers:
        raise SystemExit("answer with once, always or deny")
    asked = d.approvals.GetApproval(approvals.GetApprovalRequest(id=approval_id), timeout=CALL_TIME).approval
    show("it would run:", json.dumps(list(asked.binding.argv) or asked.command))
    request = approvals.ResolveApprovalRequest(id=approval_id, decision=answers[decision])
    after = d.approvals.ResolveApproval(request, timeout=CALL_TIME).approval
    show(approvals.State.Name(after.state))


def cmd_notifier(d, name="example"):
    """A node offers commands; this one shows notifications."""
    out = queue.Queue(maxsize=64)
    # On the socket one is an operator, unless one asks for less.
    link = d.nodes.Attach(iter(out.get, None), metadata=[("x-hanzo-role", "node")])
    for message in link:
        kind = message.WhichOneof("message")
        if kind == "challenge":  # the daemon's first message; who has no key just registers
            registration = nodes.NodeRegistration(
                instance_id="example-" + name, client_id="python-example", client_mode="node", display_name=name,
                version="1.0.0", platform=sys.platform, caps=["system"], commands=["system.notify"],
            )
            out.put(nodes.AttachRequest(register=registration))
        elif kind == "welcome":
            show("attached as", message.welcome.node_id)
        elif kind == "ping":
            out.put(nodes.AttachRequest(pong=nodes.NodePong()))
        elif kind == "invoke":
            out.put(nodes.AttachRequest(result=serve(message.invoke)))


def serve(invoke):
    def refuse(code, message):
        return nodes.NodeResult(invoke_id=invoke.invoke_id, error=nodes.NodeError(code=code, message=message))

    if invoke.command != "system.notify":
        return refuse("UNAVAILABLE", "command not supported")
    try:
        params = json.loads(invoke.params_json)
        show("NOTIFICATION", params.get("title", ""), params.get("body", ""))
    except (ValueError, AttributeError):
        return refuse("INVALID_REQUEST", "system.notify takes a title and a body")
    return nodes.NodeResult(invoke_id=invoke.invoke_id, ok=True)


def main(args):
    commands = {name[4:]: f for name, f in globals().items() if name.startswith("cmd_")}
    if not args or args[0] not in commands:
        raise SystemExit("say what to do: " + ", ".join(commands))
    daemon = Daemon()
    try:
        commands[args[0]](daemon, *args[1:])
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except grpc.RpcError as err:
        why = reason(err)
        raise SystemExit(f"{why + ': ' if why else ''}{err.details()!r}") from None
    finally:
        daemon.channel.close()


if __name__ == "__main__":
    main(sys.argv[1:])

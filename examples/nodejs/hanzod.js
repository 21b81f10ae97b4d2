#!/usr/bin/env node
// An example of a client of hanzod in JavaScript. It reads the protos when it starts; nothing is generated.
//
//   npm ci
//   node hanzod.js nodes
//   node hanzod.js events 3
//   node hanzod.js run NODE uname -a
//   node hanzod.js answer APPROVAL once|always|deny
//   node hanzod.js notifier NAME
'use strict'
const path = require('node:path')
const grpc = require('@grpc/grpc-js')
const loader = require('@grpc/proto-loader')
const protobuf = require('protobufjs')
const { findSocket, checkSocket } = require('./find.js')

const PROTO = process.env.HANZOD_PROTO || path.join(__dirname, '..', '..', 'proto')
const CALL_TIME = 15_000 // milliseconds; a daemon on this machine answers in a few

const { hanzo } = grpc.loadPackageDefinition(loader.loadSync(
  ['system', 'nodes', 'approvals', 'runs'].map((name) => `hanzo/${name}/v1/${name}.proto`),
  { includeDirs: [PROTO], longs: Number, enums: String, defaults: true, oneofs: true }
))

// The details of an error, as far as they are needed here (google.rpc.Status).
const details = protobuf.parse(`syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }`).root

// reason is the stable name of a failure, such as "nodes.unknown"; "" when there is none.
function reason (err) {
  const [raw] = err.metadata?.get('grpc-status-details-bin') ?? []
  if (!raw) return ''
  const info = details.lookupType('Status').decode(raw).details.find((d) => d.typeUrl.endsWith('/google.rpc.ErrorInfo'))
  return info ? details.lookupType('ErrorInfo').decode(info.value).reason : ''
}

// call makes a unary call with a deadline.
function call (client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, new grpc.Metadata(), { deadline: Date.now() + CALL_TIME },
      (err, answer) => err ? reject(err) : resolve(answer))
  })
}

// safe makes text of others fit for a terminal.
const safe = (text) => String(text).replace(/[^\x20-\x7e]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`)
const print = (...words) => console.log(words.map(safe).join(' '))

async function connect () {
  const socket = await findSocket()
  checkSocket(socket)
  // Who this is, the daemon knows by the socket: no token, no TLS.
  const service = (Service) => new Service(`unix:${socket}`, grpc.credentials.createInsecure())
  return {
    system: service(hanzo.system.v1.SystemService),
    nodes: service(hanzo.nodes.v1.NodeService),
    approvals: service(hanzo.approvals.v1.ApprovalService),
    runs: service(hanzo.runs.v1.RunService)
  }
}

const commands = {
  async nodes (daemon) {
    const health = await call(daemon.system, 'getHealth', {})
    const status = await call(daemon.system, 'getStatus', {})
    print('hanzod', status.version, health.ok ? 'is well' : 'is not well')
    const { nodes } = await call(daemon.nodes, 'listNodes', {})
    for (const n of nodes) print(n.connected ? 'online ' : 'offline', n.nodeId, n.displayName, n.commands.join(','))
  },

  // A stream has no deadline, and ends when the daemon goes away: begin again then, after a pause.
  async events (daemon, count = Infinity) {
    const stream = daemon.system.watchEvents({ names: [] })
    let left = Number(count)
    try {
      for await (const event of stream) {
        print(event.seq, event.name, event.dropped ? `(${event.dropped} missed)` : '')
        if (--left <= 0) break
      }
    } finally {
      stream.cancel() // else it goes on unseen
    }
  },

  // The daemon asks the node what it would run, and waits for an approval where one is needed.
  async run (daemon, nodeId, ...argv) {
    const { run } = await call(daemon.runs, 'startRun', { nodeId, argv })
    for await (const message of daemon.runs.watchRun({ id: run.id })) {
      const now = message.run
      if (!now) continue // what it writes meanwhile
      if (now.state === 'STATE_WAITING') print('waiting for approval', now.approvalId)
      if (now.result) process.stdout.write(lines(now.result.stdout))
      if (now.failure) throw new Error(`${now.failure.code}: ${now.failure.message}`)
    }
  },

  async answer (daemon, id, decision) {
    const answers = { once: 'DECISION_ALLOW_ONCE', always: 'DECISION_ALLOW_ALWAYS', deny: 'DECISION_DENY' }
    if (!answers[decision]) throw new Error('answer with once, always or deny')
    const { approval } = await call(daemon.approvals, 'getApproval', { id })
    print('it would run:', JSON.stringify(approval.binding ? approval.binding.argv : approval.command))
    const after = await call(daemon.approvals, 'resolveApproval', { id, decision: answers[decision] })
    print(after.approval.state)
  },

  // A node offers commands; this one shows notifications.
  async notifier (daemon, name = 'example') {
    const metadata = new grpc.Metadata()
    metadata.set('x-hanzo-role', 'node') // on the socket one is an operator otherwise
    const link = daemon.nodes.attach(metadata)
    for await (const message of link) { // the daemon's first message is a challenge; who has no key registers
      if (message.challenge) {
        link.write({
          register: {
            instanceId: `example-${name}`, clientId: 'nodejs-example', clientMode: 'node', displayName: name,
            version: '1.0.0', platform: process.platform, caps: ['system'], commands: ['system.notify']
          }
        })
      } else if (message.welcome) {
        print('attached as', message.welcome.nodeId)
      } else if (message.ping) {
        link.write({ pong: {} })
      } else if (message.invoke) {
        link.write({ result: serve(message.invoke) })
      }
    }
  }
}

function serve ({ invokeId: id, command, paramsJson: params }) {
  const refuse = (code, message) => ({ invokeId: id, ok: false, error: { code, message } })
  if (command !== 'system.notify') return refuse('UNAVAILABLE', 'command not supported')
  try {
    const { title = '', body = '' } = JSON.parse(params)
    print('NOTIFICATION', title, body)
    return { invokeId: id, ok: true }
  } catch {
    return refuse('INVALID_REQUEST', 'system.notify takes a title and a body')
  }
}

const lines = (text) => text.split('\n').map(safe).join('\n')

async function main ([name, ...args]) {
  if (!Object.hasOwn(commands, name ?? '')) throw new Error(`say what to do: ${Object.keys(commands).join(', ')}`)
  const daemon = await connect()
  try {
    await commands[name](daemon, ...args)
  } finally {
    for (const service of Object.values(daemon)) service.close()
  }
}

main(process.argv.slice(2)).catch((err) => {
  console.error(safe(`${reason(err) ? reason(err) + ': ' : ''}${err.details || err.message}`))
  process.exitCode = 1
})

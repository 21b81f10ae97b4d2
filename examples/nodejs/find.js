// Where the daemon of this machine is. The rule is that of client.Find in Go; see ../README.md.
'use strict'
const fs = require('node:fs')
const net = require('node:net')
const os = require('node:os')
const path = require('node:path')

const MAX_DISCOVERY = 16 << 10 // bytes; a real file has some hundred
const ANSWER_TIME = 1000 // milliseconds that a socket has to take a connection

// A file or socket of another user than this one or root is believed by nobody.
function ours (stat) {
  return stat.uid === process.getuid() || stat.uid === 0
}

// readDiscovery returns what a daemon says of itself, null when there is nothing that can be believed.
function readDiscovery (file) {
  let fd
  try {
    fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW | fs.constants.O_NONBLOCK)
    const stat = fs.fstatSync(fd)
    if (!stat.isFile() || !ours(stat) || (stat.mode & 0o022) !== 0 || stat.size > MAX_DISCOVERY) return null
    const text = Buffer.alloc(MAX_DISCOVERY)
    const found = JSON.parse(text.toString('utf8', 0, fs.readSync(fd, text)))
    return found.format === 1 && path.isAbsolute(found.socket) && path.isAbsolute(found.stateDir) ? found : null
  } catch {
    return null
  } finally {
    if (fd !== undefined) fs.closeSync(fd)
  }
}

function inStateDir (dir) {
  dir = path.resolve(dir)
  const found = readDiscovery(path.join(dir, 'daemon.json'))
  // A copy of a state directory speaks of the daemon of the original.
  return found && sameDir(found.stateDir, dir) ? found.socket : path.join(dir, 'hanzod.sock')
}

function sameDir (a, b) {
  try {
    return fs.realpathSync(a) === fs.realpathSync(b)
  } catch {
    return false
  }
}

// answers says whether anybody listens: true, false, or undefined when that cannot be told.
function answers (socket) {
  return new Promise((resolve) => {
    const done = (answer) => { connection.destroy(); resolve(answer) }
    const connection = net.connect({ path: socket, timeout: ANSWER_TIME })
    connection.once('connect', () => done(true))
    connection.once('timeout', () => done(undefined))
    connection.once('error', (err) => done(['ENOENT', 'ECONNREFUSED'].includes(err.code) ? false : undefined))
  })
}

// findSocket returns the path of the daemon's socket, whether a daemon runs or not.
async function findSocket (env = process.env) {
  if (env.HANZOD_SOCKET) return env.HANZOD_SOCKET
  if (env.HANZOD_STATE_DIR) return inStateDir(env.HANZOD_STATE_DIR)
  const usual = inStateDir(path.join(os.homedir(), '.hanzo', 'hanzod'))
  const runtime = env.XDG_RUNTIME_DIR || (process.platform === 'darwin' ? path.join(os.homedir(), 'Library', 'Caches') : '')
  const other = path.isAbsolute(runtime) ? readDiscovery(path.join(runtime, 'hanzod', 'daemon.json')) : null
  if (other && other.socket !== usual && await answers(usual) === false && await answers(other.socket)) return other.socket
  return usual
}

// checkSocket throws when a socket belongs to somebody else: nothing is sent to a stranger.
function checkSocket (socket) {
  let stat
  try {
    stat = fs.statSync(socket)
  } catch {
    throw new Error(`no daemon answers at ${socket}; start it with "hanzod service start" or "hanzod run"`)
  }
  if (!stat.isSocket() || !ours(stat)) throw new Error(`${socket} is not the socket of a daemon of yours`)
}

module.exports = { findSocket, checkSocket }

// A stand-in for the published driver of hoody-tunnel (tunnel.md §4), for node 20 and newer without packages:
//
//   node --experimental-websocket driver.mjs --url ws://127.0.0.1:18789/api/v1/tunnel/connect --token T
//        [--v2] [--connections N] [--header] [--takeover] [--resume S-…] [--grace SECONDS] [--once]
//        [--delay MS] MODE:LOCAL[:REMOTE]...
//
// MODE is expose (http), pull (tcp) or expose-tcp, LOCAL the port here, REMOTE the one of the server. It behaves as
// the driver of the older line does: HELLO carries the credential (--header puts it on the upgrade instead), a chunk
// is sent when there is credit for all of it, what comes before a local connection is up is lost, a session ends by a
// close without a code, and a JOIN that fails ends the session, and
// so does GOAWAY, at once. --delay adds to what a local connection takes.
//
// What happens is told on stdout, one JSON object a line. SIGTERM closes the session, SIGUSR2 unbinds all first.
import http from "node:http";
import net from "node:net";

const T = {
  HELLO: 1, HELLO_OK: 2, BIND: 3, BIND_OK: 4, BIND_ERR: 5, UNBIND: 6, UNBIND_OK: 7, UNBIND_ERR: 8, JOIN: 9, JOIN_OK: 10, JOIN_ERR: 11,
  OPEN: 0x10, DATA: 0x12, EOF: 0x13, RESET: 0x14, WINDOW: 0x15, HEAD: 0x16, PING: 0x20, PONG: 0x21, GOAWAY: 0x30, REVOKED: 0x40,
};
const maxChunk = 65536;
const hops = new Set(["connection", "upgrade", "keep-alive", "transfer-encoding", "te", "trailer", "proxy-authenticate", "proxy-authorization"]);

const opt = { grace: 60, connections: 0, delay: 0 }, wanted = [];
for (let a = process.argv.slice(2); a.length;) {
  const w = a.shift();
  if (["--v2", "--header", "--takeover", "--once"].includes(w)) opt[w.slice(2)] = true;
  else if (w.startsWith("--")) opt[w.slice(2)] = a.shift();
  else {
    const [mode, local, remote] = w.split(":");
    wanted.push({ kind: mode === "expose" ? "http" : "tcp", mode: mode === "pull" ? "pull" : "expose", local: +local, remote: +(remote ?? 0) });
  }
}
const version = opt.v2 ? "hoody-tunnel.v2" : "hoody-tunnel.v1";
const say = (event, more = {}) => process.stdout.write(JSON.stringify({ event, ...more }) + "\n");

function frame(type, stream, payload = Buffer.alloc(0)) {
  const p = Buffer.isBuffer(payload) ? payload : Buffer.from(JSON.stringify(payload));
  const out = Buffer.allocUnsafe(9 + p.length);
  out.writeUInt8(type, 0);
  out.writeUInt32BE(stream, 1);
  out.writeUInt32BE(p.length, 5);
  p.copy(out, 9);
  return out;
}

function u32(n) {
  const b = Buffer.alloc(4);
  b.writeUInt32BE(n);
  return b;
}

let session = { id: opt.resume, binds: [] }; // what outlives a socket
let live; // the state of the connection that is there
let closing = false, dropped = 0, pause = 500;

class Stream {
  constructor(conn, id, open) {
    Object.assign(this, { conn, id, open, credit: conn.streamWindow, sent: false, received: false, gone: false, socket: null });
  }
  send(type, payload) { if (!this.gone) this.conn.raw(frame(type, this.id, payload)); }
  finish(type, payload) {
    if (this.sent || this.gone) return;
    this.sent = true;
    this.send(type, payload);
    this.settle();
  }
  settle() { if (this.sent && this.received) this.forget(); }
  forget() {
    this.gone = true;
    this.live.streams.delete(this.id);
  }
  get live() { return this.conn.session; }
  reset(code, text) {
    if (this.gone) return;
    const b = Buffer.alloc(2 + Buffer.byteLength(text));
    b.writeUInt16BE(code);
    b.write(text, 2);
    this.send(T.RESET, b);
    this.end();
  }
  end() {
    this.forget();
    this.abort?.();
    this.socket?.destroy();
  }
  // from sends what a local source has, a whole chunk of credit at a time.
  from(source) {
    let busy = Promise.resolve();
    const chunks = async (data) => {
      for (let at = 0; at < data.length && !this.gone; at += maxChunk) {
        const chunk = data.subarray(at, at + maxChunk);
        while (!this.gone && (this.credit < chunk.length || this.live.credit < chunk.length)) await new Promise((go) => this.live.waiting.push(go));
        if (this.gone) return;
        this.credit -= chunk.length;
        this.live.credit -= chunk.length;
        this.send(T.DATA, chunk);
      }
      source.resume();
    };
    source.on("data", (data) => {
      source.pause();
      busy = busy.then(() => chunks(data));
    });
    source.on("end", () => busy.then(() => this.finish(T.EOF)));
  }
  // taken gives credit back: the local side has taken n bytes.
  taken(n) {
    const session = frame(T.WINDOW, 0, u32(n));
    this.conn.raw(this.gone ? session : Buffer.concat([frame(T.WINDOW, this.id, u32(n)), session]));
  }
  data(p) {
    if (this.sink) this.sink.write(p, (err) => err || this.taken(p.length));
    else this.taken(p.length); // lost: there is no local connection yet
  }
  eof() {
    if (this.sink) this.sink.end();
    this.received = true;
    this.settle();
  }
  tcp(port) {
    const dial = () => {
      const s = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true });
      this.socket = s;
      s.on("connect", () => { this.sink = s; this.from(s); });
      s.on("error", (e) => this.reset(this.sink ? 7 : 6, e.code ?? "local"));
    };
    if (+opt.delay) setTimeout(() => this.gone || dial(), +opt.delay);
    else dial();
  }
  http(port) {
    const up = this.open.isUpgrade, headers = {}, body = !["GET", "HEAD"].includes(this.open.method);
    let length = false;
    for (const [k, v] of this.open.headers) {
      const name = k.toLowerCase();
      if (name === "host" || (hops.has(name) && !(up && ["connection", "upgrade"].includes(name)))) continue;
      if (name === "content-length") { length = true; if (body) continue; }
      headers[k] = headers[k] === undefined ? v : [].concat(headers[k], v);
    }
    headers.Host = "127.0.0.1:" + port;
    if (body && length) headers["Transfer-Encoding"] = "chunked";
    const q = http.request({ host: "127.0.0.1", port, method: this.open.method, path: this.open.target, headers, agent: false });
    this.abort = () => q.destroy();
    q.on("error", (e) => this.reset(this.headed ? 2 : 6, e.code ?? "local"));
    const head = (res) => {
      this.headed = true;
      const list = [];
      for (let i = 0; i < res.rawHeaders.length; i += 2) {
        const name = res.rawHeaders[i].toLowerCase();
        if (res.statusCode === 101 || !hops.has(name)) list.push([res.rawHeaders[i], res.rawHeaders[i + 1]]);
      }
      this.send(T.HEAD, { status: res.statusCode, headers: list, final: true });
    };
    q.on("response", (res) => { head(res); this.from(res); res.on("error", () => this.reset(2, "the local answer broke off")); });
    q.on("upgrade", (res, socket, first) => {
      head(res);
      this.socket = socket;
      this.sink = socket;
      socket.on("error", () => this.reset(7, "local"));
      if (first.length) socket.unshift(first);
      this.from(socket);
    });
    if (up) q.end();
    else this.sink = q;
  }
}

class Conn {
  // A connection has a socket; those of index 1 and up belong to the session of the primary.
  constructor(index, primary) {
    this.index = index;
    this.session = primary?.session ?? { streams: new Map(), waiting: [], credit: 0, members: [], refs: new Map() };
    this.primary = primary ?? this;
    this.session.members.push(this);
    const how = { protocols: [version] };
    if (opt.header) how.headers = { authorization: "Bearer " + opt.token };
    this.ws = new WebSocket(opt.url, how);
    this.ws.binaryType = "arraybuffer";
    this.ws.onmessage = (m) => { this.heard = true; this.message(Buffer.from(m.data)); };
    this.ws.onclose = (e) => this.closed(e.code, e.reason);
    this.ws.onerror = () => {};
  }
  raw(b) { if (this.ws.readyState === 1) this.ws.send(b); }
  hello() {
    this.ws.onopen = () => {
      const h = { version };
      if (!opt.header) h.auth = { kind: "bearer", token: opt.token };
      h.capabilities = opt.v2 ? ["multi-ws"] : [];
      if (session.id) h.resume = { sessionId: session.id };
      if (opt.v2 && +opt.connections) h.maxConnections = +opt.connections;
      this.raw(frame(T.HELLO, 0, h));
    };
  }
  join(ticket) {
    this.streamWindow = this.primary.streamWindow;
    this.ws.onopen = () => this.raw(frame(T.JOIN, 0, { sessionId: session.id, index: ticket.index, nonce: ticket.nonce }));
  }
  message(m) {
    let n = 0;
    for (let at = 0; at < m.length; n++) {
      const type = m[at], stream = m.readUInt32BE(at + 1), size = m.readUInt32BE(at + 5);
      if (size > 65536 || at + 9 + size > m.length) return this.broken("a frame is cut off");
      const payload = m.subarray(at + 9, at + 9 + size);
      at += 9 + size;
      this.frame(type, stream, payload);
    }
    if (n === 0 || n > 64 || m.length > 262144) this.broken("a message of " + n + " frames and " + m.length + " bytes");
  }
  broken(text) {
    say("protocol", { text });
    process.exit(3);
  }
  frame(type, id, p) {
    const s = this.session.streams.get(id), json = () => JSON.parse(p.toString());
    switch (type) {
      case T.HELLO_OK: return this.welcome(json());
      case T.JOIN_OK: return say("joined", { index: this.index });
      case T.JOIN_ERR: say("join-error", json()); return shut();
      case T.BIND_OK: {
        const b = json(), w = this.session.refs.get(b.clientBindRef);
        this.session.refs.delete(b.clientBindRef);
        Object.assign(w, { id: b.bindId, port: b.containerPort });
        return say("bound", { kind: w.kind, mode: w.mode, local: w.local, bindId: b.bindId, port: b.containerPort, publicUrl: b.publicUrl });
      }
      case T.BIND_ERR: { say("bind-error", json()); if (opt.once) shut(); return; }
      case T.UNBIND_OK: return say("unbound", json());
      case T.UNBIND_ERR: return say("unbind-error", json());
      case T.OPEN: {
        if (id % 2 || id <= (this.session.last ?? 0) && this.index === 0 && this.session.members.length === 1) this.broken("stream " + id + " after " + this.session.last);
        this.session.last = Math.max(this.session.last ?? 0, id);
        const open = json(), st = new Stream(this, id, open);
        const b = wanted.find((w) => w.id && w.id === open.bindId) ?? wanted.find((w) => w.id && w.kind === open.kind);
        this.session.streams.set(id, st);
        if (!b) return st.reset(6, "no such binding");
        return open.kind === "http" ? st.http(b.local) : st.tcp(b.local);
      }
      case T.DATA:
        if (!s) return this.raw(frame(T.WINDOW, 0, u32(p.length)));
        if (s.conn !== this) return this.broken("a stream on two sockets");
        return s.data(Buffer.from(p));
      case T.EOF: return s?.eof();
      case T.RESET:
        if (s) {
          say("reset", { stream: id, code: p.readUInt16BE(0), reason: p.subarray(2).toString() });
          s.end();
        }
        return;
      case T.WINDOW: {
        const n = p.readUInt32BE(0);
        if (n === 0) return this.broken("a window of nothing");
        if (id === 0) this.session.credit += n;
        else if (s) s.credit += n;
        const go = this.session.waiting;
        this.session.waiting = [];
        for (const f of go) f();
        return;
      }
      case T.PING: return this.raw(frame(T.PONG, 0, Buffer.from(p)));
      case T.PONG: return;
      case T.GOAWAY: {
        const g = json();
        say("goaway", g);
        this.session.away = g;
        for (const s of [...this.session.streams.values()]) s.end(); // all of it, at once
        for (const m of this.session.members) m.ws.close();
        return;
      }
      case T.REVOKED: {
        const r = json(), b = wanted.find((w) => w.id === r.bindId);
        if (b) b.id = 0, (b.revoked = true);
        return say("revoked", r);
      }
    }
    if (type < 0x40 || type > 0x7f) this.broken("a frame of type " + type);
  }
  welcome(h) {
    session.id = h.sessionId;
    for (const w of ["streamWindow", "sessionWindow"]) if (h[w] !== undefined && !(h[w] > 0)) this.broken(w);
    this.streamWindow = h.streamWindow ?? 1048576;
    this.session.credit = h.sessionWindow ?? 16777216;
    dropped = 0;
    pause = 500;
    say("hello", { sessionId: h.sessionId, resumed: h.resumed, resumedBinds: h.resumedBinds, streamWindow: h.streamWindow, sessionWindow: h.sessionWindow, granted: h.connectionsGranted });
    for (const t of h.joinTickets ?? []) new Conn(t.index, this).join(t);
    let ref = 0;
    for (const w of wanted) {
      if (h.resumed && h.resumedBinds.some((b) => b.kind === w.kind && b.mode === w.mode && (b.bindId === w.id || (!w.id && b.containerPort === w.remote) || (!w.id && !w.remote)))) {
        w.id = h.resumedBinds.find((b) => b.kind === w.kind && b.mode === w.mode).bindId;
        continue;
      }
      if (w.revoked) continue;
      const b = { clientBindRef: ++ref, kind: w.kind, mode: w.mode, containerPort: w.port ?? w.remote };
      if (w.mode === "expose") b.takeover = !!opt.takeover;
      this.session.refs.set(ref, w);
      this.raw(frame(T.BIND, 0, b));
    }
  }
  closed(code, reason) {
    const mine = [...this.session.streams.values()].filter((s) => this.index === 0 || s.conn === this);
    for (const s of mine) s.end();
    for (const f of this.session.waiting.splice(0)) f();
    if (this.index) {
      say("shard-closed", { index: this.index, code, streams: mine.length });
      if (!this.heard) shut();
      return;
    }
    for (const m of this.session.members) if (m !== this) m.ws.close();
    say("closed", { code, reason, away: this.session.away });
    if (closing || opt.once || this.session.away) process.exit(closing ? 0 : 4);
    dropped ||= Date.now();
    if (Date.now() - dropped > opt.grace * 1000) process.exit(5);
    say("reconnecting", { ms: pause });
    setTimeout(connect, pause);
    pause = Math.min(pause * 2, 5000);
  }
}

function connect() {
  live = new Conn(0);
  live.hello();
}

function shut() {
  closing = true;
  live.ws.close();
  setTimeout(() => process.exit(0), 2000).unref();
}

process.on("SIGTERM", shut);
process.on("SIGUSR2", () => {
  for (const w of wanted) if (w.id) live.raw(frame(T.UNBIND, 0, { bindId: w.id }));
});
connect();

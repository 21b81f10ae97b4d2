// The page of a screen: it fetches a token for each connection, which the session of this browser is good for, and
// shows it to the gateway in a subprotocol, so that no address holds it.
import RFB from './novnc/core/rfb.js';

const first = 1000, most = 10000, factor = 1.5; // pauses between attempts, in milliseconds
const nodeId = new URLSearchParams(location.search).get('nodeId') || '';
const el = (id) => document.getElementById(id);
let rfb = null, pause = first, refused = false;

if (location.hash) history.replaceState(null, '', location.pathname + location.search);
el('name').textContent = nodeId || 'This gateway';
document.title = (nodeId || 'Gateway') + ' – screen';

function say(state, text) {
  document.body.dataset.state = state;
  el('said').textContent = text;
  el('keys').disabled = state !== 'connected';
}

async function token() {
  const r = await fetch(new URL('vnc-viewer/token', location.href), {
    method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify({nodeId}),
    credentials: 'same-origin', cache: 'no-store', redirect: 'error',
  });
  if (r.status === 401) {
    location.reload(); // which asks for a credential
    return null;
  }
  const body = await r.json();
  if (!r.ok) throw new Error(body.detail || 'refused (' + r.status + ')');
  return body.token;
}

function again(text) {
  say('waiting', text + ' Trying again …');
  setTimeout(connect, pause);
  pause = Math.min(pause * factor, most);
}

async function connect() {
  say('connecting', 'Connecting …');
  let once;
  try {
    once = await token();
  } catch (e) {
    again(e.message + '.');
    return;
  }
  if (once === null) return;
  const url = new URL('vnc', location.href);
  url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
  url.search = nodeId ? '?nodeId=' + encodeURIComponent(nodeId) : '';
  const ws = new WebSocket(url, ['binary', 'hanzo-screen.' + once]);
  let why = '';
  ws.addEventListener('close', (e) => { why = e.reason; });
  rfb = new RFB(el('screen'), ws, {shared: true});
  rfb.scaleViewport = true;
  refused = false;
  rfb.addEventListener('connect', () => {
    pause = first;
    say('connected', 'Connected');
    rfb.focus();
  });
  rfb.addEventListener('disconnect', () => {
    rfb = null;
    el('screen').replaceChildren();
    if (refused) say('refused', 'The VNC server refused the password. Reload the page to try another one.');
    else again(why ? 'The screen is not connected: ' + why + '.' : 'The screen is not connected.');
  });
  rfb.addEventListener('securityfailure', () => { refused = true; });
  rfb.addEventListener('credentialsrequired', (e) => {
    el('user-label').hidden = !e.detail.types.includes('username');
    el('password').value = '';
    el('ask').showModal();
  });
  rfb.addEventListener('desktopname', (e) => { document.title = e.detail.name; });
}

el('ask').addEventListener('close', () => {
  if (rfb) rfb.sendCredentials({username: el('user').value, password: el('password').value});
});
el('keys').addEventListener('click', () => { if (rfb) rfb.sendCtrlAltDel(); });
el('full').addEventListener('click', () => {
  if (document.fullscreenElement) document.exitFullscreen(); else el('screen').requestFullscreen();
});
connect();

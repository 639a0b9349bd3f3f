'use strict';
// Starts the real binary for a test: the sandbox, or a gateway in front of a proxy that counts the
// requests to the platform.

const { spawn } = require('node:child_process');
const crypto = require('node:crypto');
const { once } = require('node:events');
const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');
const { pipeline } = require('node:stream');

const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const ROOT = path.resolve(__dirname, '../../..');
const BINARY = process.env.OTT_GATEWAY || path.join(ROOT, 'target/debug/ott-gateway');

const { OttService } = grpc.loadPackageDefinition(
  loader.loadSync('ott/v1/ott_service.proto', { includeDirs: [path.join(ROOT, 'proto')], keepCase: true }),
).ott.v1;

async function freePort() {
  const probe = net.createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address();
  probe.close();
  await once(probe, 'close');
  return port;
}

/** A running process of the binary that serves gRPC at `address`. */
class Gateway {
  constructor(address, ...args) {
    this.address = address;
    this.output = '';
    this.process = spawn(BINARY, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream.on('data', (chunk) => { this.output += chunk; });
    }
    this.exit = once(this.process, 'exit');
  }

  async ready() {
    const client = new grpc.Client(this.address, grpc.credentials.createInsecure());
    try {
      await new Promise((resolve, reject) => {
        client.waitForReady(Date.now() + 20_000, (error) => (error ? reject(error) : resolve()));
      });
    } catch (error) {
      this.process.kill();
      throw new Error(`${error.message}\n${this.output}`);
    } finally {
      client.close();
    }
    return this;
  }

  /** Returns a client with its own connection; its calls return promises. */
  client(options = {}) {
    const service = new OttService(this.address, grpc.credentials.createInsecure(), options);
    const call = (method) => (request, { timeout = 10_000, metadata = new grpc.Metadata() } = {}) =>
      new Promise((resolve, reject) => {
        const deadline = Date.now() + timeout;
        service[method](request, metadata, { deadline }, (error, answer) =>
          (error ? reject(error) : resolve(answer)));
      });
    return { issue: call('IssueOtt'), login: call('LoginWithOtt'), close: () => service.close() };
  }

  async stop() {
    this.process.kill('SIGTERM');
    const [code] = await this.exit;
    if (code !== 0) throw new Error(`exit code ${code}\n${this.output}`);
  }
}

async function sandbox(...flags) {
  const [gateway, platform] = [`127.0.0.1:${await freePort()}`, `127.0.0.1:${await freePort()}`];
  const running = new Gateway(gateway, 'sandbox', '--listen', gateway, '--platform-listen', platform, ...flags);
  running.platform = platform;
  return running.ready();
}

/** Starts a sandbox that issues sealed tokens. */
async function sealingSandbox() {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ott-gateway-'));
  const key = crypto.randomBytes(32).toString('base64');
  fs.writeFileSync(path.join(folder, 'token-keys'), `test ${key}\n`, { mode: 0o600 });
  fs.writeFileSync(path.join(folder, 'gateway.toml'), `
    [token_binding]
    keys_file = "token-keys"
    [admin]
    listen = "off"
    [api_clients.sandbox]
    data_center_url = "https://eu2-cloud.acronis.com"
    client_id = "11111111-2222-3333-4444-555555555555"
    client_secret_env = "NOT_READ_BY_THE_SANDBOX"
    bind_tokens = "on"
    [audit]
    sink = "off"
    [[access.rules]]
    callers = ["anonymous"]
    logins = ["*@mysite.com"]
  `);
  const running = await sandbox('--config', path.join(folder, 'gateway.toml'));
  running.exit.finally(() => fs.rmSync(folder, { recursive: true, force: true }));
  return running;
}

/** Proxies requests to the platform of a sandbox, and counts them by path. */
async function countingPlatform(platform) {
  const seen = new Map();
  const [host, port] = platform.split(':');
  const server = http.createServer((request, response) => {
    seen.set(request.url, (seen.get(request.url) ?? 0) + 1);
    const { method, url, headers } = request;
    const forwarded = http.request({ host, port, method, path: url, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.rawHeaders);
      // Forward an interrupted response as interrupted.
      pipeline(answer, response, () => {});
    });
    forwarded.on('error', () => response.destroy());
    request.pipe(forwarded);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    count: (url) => seen.get(url) ?? 0,
    stop: () => { server.closeAllConnections(); server.close(); },
  };
}

/** Starts `serve` in front of `platformUrl`. */
async function serving(platformUrl) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ott-gateway-'));
  const address = `127.0.0.1:${await freePort()}`;
  fs.writeFileSync(path.join(folder, 'secret'), 'sandbox-secret', { mode: 0o600 });
  fs.writeFileSync(path.join(folder, 'gateway.toml'), `
    [server]
    listen = "${address}"
    drain_lame_duck = "0s"
    [admin]
    listen = "off"
    [api_clients.sandbox]
    data_center_url = "${platformUrl}"
    client_id = "sandbox"
    client_secret_file = "secret"
    [[access.rules]]
    callers = ["anonymous"]
    users = "all"
  `);
  const running = new Gateway(address, 'serve', '--config', path.join(folder, 'gateway.toml'));
  running.exit.finally(() => fs.rmSync(folder, { recursive: true, force: true }));
  return running.ready();
}

module.exports = { countingPlatform, sandbox, sealingSandbox, serving };

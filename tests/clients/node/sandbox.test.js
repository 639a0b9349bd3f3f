'use strict';
// A typical @grpc/grpc-js client.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { after, before, describe, it } = require('node:test');

const grpc = require('@grpc/grpc-js');
const protobuf = require('protobufjs');

const { countingPlatform, sandbox, sealingSandbox, serving } = require('./gateway');
const { details, mayLogInAgain, reason } = require('./google_rpc');

const JOHN = 'johncustomer@mysite.com';
const LOGIN = '/api/2/idp/ott/login';
const ISSUE = '/api/2/idp/ott';

/** Returns the error of a call that must fail, and its details. */
async function failure(call) {
  const error = await call.then(() => assert.fail('the call succeeded'), (error) => error);
  const found = details(error);
  assert.equal(found.status.code, error.code);
  assert.equal(found.ErrorInfo.domain, 'ott-gateway');
  assert.ok(found.RequestInfo.request_id);
  return { error, ...found };
}

describe('against the sandbox', () => {
  let running, service;
  before(async () => {
    running = await sandbox();
    service = running.client();
  });
  after(async () => {
    service?.close();
    await running?.stop();
  });

  it('logs the documented user in, and the session works until logout', async () => {
    const issued = await service.issue({ login: JOHN, target_uri: '/mc/' });
    assert.match(issued.ott, /^SANDBOX-/);
    const url = new URL(issued.login_url);
    assert.equal(new URLSearchParams(url.hash.slice(1)).get('ott'), issued.ott);

    const { user, session } = await service.login({ ott: issued.ott });
    assert.equal(user.login, JOHN);
    assert.equal(user.id, '2955b448-7df8-43uc-9c63-a21511dbe06d');
    assert.equal(user.activated, false);
    assert.ok(!Object.hasOwn(user, 'personal_tenant_id') || user.personal_tenant_id === null);
    assert.equal(user.contact.city, '');
    assert.equal(String(user.version), '1');
    assert.equal(user.created_at.nanos, 807_354_000);

    const at = (path) =>
      fetch(`http://${running.platform}${path}`, { headers: { cookie: session.cookie_header } });
    assert.equal((await (await at('/api/2/users/me')).json()).login, JOHN);
    assert.equal((await at('/api/2/idp/logout')).status, 204);
    assert.equal((await at('/api/2/users/me')).status, 401);
  });

  it('reports invalid fields in the details and the message', async () => {
    const { error, ErrorInfo, BadRequest } = await failure(service.issue({ login: JOHN, target_uri: '//evil' }));
    assert.equal(error.code, grpc.status.INVALID_ARGUMENT);
    assert.equal(ErrorInfo.reason, 'INVALID_REQUEST');
    assert.deepEqual(BadRequest.field_violations.map(({ field }) => field), ['target_uri']);
    assert.match(error.details, /^target_uri: must not have a path that begins with two slashes\./);
  });

  it('returns a retry delay', async () => {
    const { error, ErrorInfo, RetryInfo } = await failure(service.issue({ login: 'fault+429@sandbox' }));
    assert.equal(error.code, grpc.status.RESOURCE_EXHAUSTED);
    assert.equal(ErrorInfo.reason, 'PLATFORM_RATE_LIMITED');
    assert.ok(Math.abs(Number(RetryInfo.retry_delay.seconds) - 7) <= 1);
  });

  it('returns the same error for used and unknown tokens', async () => {
    const { ott } = await service.issue({ login: JOHN });
    await service.login({ ott });
    const answers = [];
    for (const spent of [ott, 'SANDBOX-never-issued']) {
      const { error, ErrorInfo } = await failure(service.login({ ott: spent }));
      assert.equal(error.code, grpc.status.UNAUTHENTICATED);
      answers.push([error.details, ErrorInfo]);
    }
    assert.deepEqual(answers[0], answers[1]);
    assert.equal(answers[0][1].reason, 'OTT_REJECTED');
  });

  it('returns the metadata of the failure', async () => {
    const { error, ErrorInfo } = await failure(service.issue({ login: 'fault+400-1018@sandbox' }));
    assert.equal(error.code, grpc.status.FAILED_PRECONDITION);
    assert.equal(ErrorInfo.reason, 'USER_DISABLED');
    assert.equal(ErrorInfo.metadata.apiCode, '1018');
    assert.equal(ErrorInfo.metadata.httpStatus, '400');
    assert.equal(ErrorInfo.metadata.outcome, 'refused');
  });

  it('returns the request id of the caller', async () => {
    const metadata = new grpc.Metadata();
    metadata.set('x-request-id', 'node-42');
    const { RequestInfo } = await failure(service.issue({}, { metadata }));
    assert.equal(RequestInfo.request_id, 'node-42');
  });

  it('applies the deadline of the caller', async () => {
    const started = performance.now();
    const error = await service.issue({ login: 'fault+slow@sandbox' }, { timeout: 500 }).catch((error) => error);
    assert.equal(error.code, grpc.status.DEADLINE_EXCEEDED);
    assert.ok(performance.now() - started < 4_000, 'before the platform responds');
  });

  it('supports reflection', async () => {
    for (const version of ['v1', 'v1alpha']) {
      const { root } = protobuf.parse(`
        syntax = "proto3";
        package grpc.reflection.${version};
        message ServerReflectionRequest { oneof message_request { string list_services = 7; } }
        message ServerReflectionResponse {
          message Service { string name = 1; }
          message Services { repeated Service service = 1; }
          oneof message_response { Services list_services_response = 6; }
        }
      `);
      const request = root.lookupType('ServerReflectionRequest');
      const response = root.lookupType('ServerReflectionResponse');
      const client = new grpc.Client(running.address, grpc.credentials.createInsecure());
      const stream = client.makeBidiStreamRequest(
        `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`,
        (message) => Buffer.from(request.encode(message).finish()),
        (bytes) => response.decode(bytes),
        new grpc.Metadata(),
        { deadline: Date.now() + 10_000 },
      );
      stream.write({ listServices: '*' });
      stream.end();
      const names = [];
      for await (const answer of stream) {
        names.push(...answer.listServicesResponse.service.map(({ name }) => name));
      }
      client.close();
      assert.ok(names.includes('ott.v1.OttService'), `${version}: ${names}`);
    }
  });
});

describe('with a retry policy', () => {
  // A careless configuration that also retries logins.
  const retrying = {
    'grpc.enable_retries': 1,
    'grpc.service_config': JSON.stringify({
      methodConfig: [{
        name: [{ service: 'ott.v1.OttService' }],
        retryPolicy: {
          maxAttempts: 4,
          initialBackoff: '0.01s',
          maxBackoff: '0.05s',
          backoffMultiplier: 2,
          retryableStatusCodes: ['UNAVAILABLE', 'ABORTED'],
        },
      }],
    }),
  };

  let behind, platform, running, service;
  before(async () => {
    behind = await sandbox();
    platform = await countingPlatform(behind.platform);
    running = await serving(platform.url);
    service = running.client(retrying);
  });
  after(async () => {
    service?.close();
    await running?.stop();
    platform?.stop();
    await behind?.stop();
  });

  it('a login reaches the platform only once', async () => {
    for (const kind of ['503', 'reset', 'cut']) {
      const { ott } = await service.issue({ login: `login-fault+${kind}@sandbox` });
      const before = platform.count(LOGIN);
      const { error, ErrorInfo } = await failure(service.login({ ott }));
      assert.equal(error.code, grpc.status.ABORTED, kind);
      assert.equal(ErrorInfo.reason, 'LOGIN_OUTCOME_UNKNOWN');
      assert.deepEqual(error.metadata.get('grpc-retry-pushback-ms'), ['-1']);
      assert.equal(platform.count(LOGIN) - before, 1, kind);
    }
  });

  it('UNAVAILABLE from the client library does not guarantee that a token is unspent', async () => {
    const doomed = await serving(platform.url);
    const client = doomed.client(retrying);
    const { ott } = await client.issue({ login: 'login-fault+slow@sandbox' });
    const before = platform.count(LOGIN);
    const login = client.login({ ott }).then(() => assert.fail('the call succeeded'), (error) => error);
    while (platform.count(LOGIN) === before) await new Promise((resolve) => setTimeout(resolve, 10));
    doomed.process.kill('SIGKILL');
    const error = await login;
    client.close();
    assert.equal(error.code, grpc.status.UNAVAILABLE);
    assert.equal(reason(error), undefined);
    assert.equal(mayLogInAgain(error), false);
  });

  it('UNAVAILABLE from the gateway guarantees that a token is unspent', async () => {
    const nowhere = await serving('http://127.0.0.1:1');
    const client = nowhere.client();
    const error = await client.login({ ott: 'SANDBOX-never-issued' }).then(() => assert.fail(), (error) => error);
    client.close();
    await nowhere.stop();
    assert.equal(error.code, grpc.status.UNAVAILABLE);
    assert.equal(mayLogInAgain(error), true);
  });

  it('the documented policy retries IssueOtt', async () => {
    const page = fs.readFileSync(path.join(__dirname, '../../../docs/clients.md'), 'utf8');
    const [, config] = /```json\n([^`]*)```/.exec(page);
    const client = running.client({ 'grpc.enable_retries': 1, 'grpc.service_config': config });
    const before = platform.count(ISSUE);
    const { error } = await failure(client.issue({ login: 'fault+503@sandbox' }));
    client.close();
    assert.equal(error.code, grpc.status.UNAVAILABLE);
    assert.ok(platform.count(ISSUE) - before > 3, `${platform.count(ISSUE) - before} requests`);
  });

  it('the policy retries safe failures', async () => {
    const before = platform.count(ISSUE);
    const { error, ErrorInfo } = await failure(service.issue({ login: 'fault+503@sandbox' }));
    assert.equal(error.code, grpc.status.UNAVAILABLE);
    assert.equal(ErrorInfo.reason, 'PLATFORM_UNAVAILABLE');
    // One call makes at most three requests.
    assert.ok(platform.count(ISSUE) - before > 3, `${platform.count(ISSUE) - before} requests`);
  });
});

describe('against a sandbox with token binding', () => {
  let running, service;
  before(async () => {
    running = await sealingSandbox();
    service = running.client();
  });
  after(async () => {
    service?.close();
    await running?.stop();
  });

  it('needs no change for sealed tokens', async () => {
    const { ott } = await service.issue({ login: JOHN });
    assert.match(ott, /^ottgw1\.test\./);
    const { user, session } = await service.login({ ott });
    assert.equal(user.login, JOHN);
    assert.ok(session.cookie_header);
    const { ErrorInfo } = await failure(service.login({ ott }));
    assert.equal(ErrorInfo.reason, 'OTT_REJECTED');
  });

  it('gets a login URL without a token, and cannot spend the token in the URL', async () => {
    const issued = await service.issue({ login: JOHN, target_uri: '/mc/' });
    assert.ok(!issued.ott);
    const raw = new URLSearchParams(new URL(issued.login_url).hash.slice(1)).get('ott');
    assert.match(raw, /^SANDBOX-/);
    const { ErrorInfo } = await failure(service.login({ ott: raw }));
    assert.equal(ErrorInfo.reason, 'OTT_REJECTED');
  });
});

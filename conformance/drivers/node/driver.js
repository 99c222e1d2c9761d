// Puts the Node port behind JSON lines. See docs/driver.md of the suite.

import { createInterface } from 'node:readline';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationError, Client, context, SabirError, Server } from '../../../node/src/index.js';

/** @type {Map<string, Client>} */
const clients = new Map();
/** @type {Map<string, Server>} */
const servers = new Map();

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** A value as JSON text. What JSON can't hold becomes text, rather than null in silence. */
const text = (value) => JSON.stringify(value, (_, v) => (typeof v === 'number' && !Number.isFinite(v) ? String(v) : v));

// ---------------------------------------------------------------------------------------------------- client

const KINDS = {
  CallTimeout: 'timeout', ServiceUnavailable: 'unavailable', Overloaded: 'overloaded',
  ConnectionLost: 'transport_error', NotQueued: 'transport_error',
};

const success = (value) => ({ outcome: 'result', value: text(value) });

function failure(error) {
  const { name, code, message, data } = error;
  return { outcome: KINDS[name] ?? 'error', name, code, message, ...(data !== undefined && { data: text(data) }) };
}

/** Does something with a client, and says how it ended. */
async function outcomeOf(work, show = success) {
  try {
    return show(await work());
  } catch (error) {
    if (error instanceof SabirError) return failure(error);
    if (error instanceof TypeError || error instanceof RangeError) return { outcome: 'refused_locally', message: error.message };
    throw error;
  }
}

function clientOf({ url, namespace, name = 'client', max_queue: maxQueue }) {
  const key = JSON.stringify([url, namespace, name, String(maxQueue)]);
  if (!clients.has(key)) clients.set(key, new Client({ url, namespace, name, maxQueue }));
  return clients.get(key);
}

/** What JSON does not have, by its name. */
const VALUES = { nan: NaN, infinity: Infinity, set: new Set([1]), surrogate: '\ud800', bytes: Buffer.from('x') };

function paramsOf(ask) {
  if ('value' in ask) return [VALUES[ask.value]];
  return 'params' in ask ? JSON.parse(ask.params) : undefined;
}

const client = {
  call: (ask) => outcomeOf(() => {
    const { service, method, timeout_ms: timeoutMs, idempotent, retry } = ask;
    return clientOf(ask)[retry ? 'retry' : 'call'](service, method, paramsOf(ask), { timeoutMs, idempotent });
  }),

  many: (ask) => outcomeOf(
    () => clientOf(ask).many(ask.service, ask.calls.map(({ method, params }) => [method, JSON.parse(params)]), { timeoutMs: ask.timeout_ms }),
    (ends) => ({ outcomes: ends.map((end) => (end instanceof SabirError ? failure(end) : success(end))) }),
  ),

  notify: (ask) => outcomeOf(() => {
    const { service, method, timeout_ms: timeoutMs, expires_ms: expiresMs, idempotent } = ask;
    return clientOf(ask).notify(service, method, paramsOf(ask), { timeoutMs, expiresMs, idempotent });
  }, () => ({ outcome: 'sent' })),

  wait: (ask) => outcomeOf(() => clientOf(ask).waitForService(ask.service, { timeoutMs: ask.timeout_ms }), () => success(null)),

  async close({ url, namespace }) {
    for (const [key, open] of clients) {
      if (!key.startsWith(JSON.stringify([url, namespace]).slice(0, -1))) continue;
      clients.delete(key);
      await open.close();
    }
    return {};
  },
};

// ---------------------------------------------------------------------------------------------------- server

class Own extends ApplicationError {
  static code = 1001;
}

/** The methods: the names of the parameters, and the handler. */
const methods = (ask) => ({
  echo: [['value'], (value) => value],
  add: [['a', 'b'], (a, b) => {
    if (typeof a !== 'number' || typeof b !== 'number') throw new TypeError('expected two numbers');
    return a + b;
  }],
  fail: [['code?', 'message?', 'data?'], (code = 1001, message = 'failed', data = undefined) => {
    throw new ApplicationError(message, { code, data });
  }],
  fail_plain: [[], () => { throw new Own('plain'); }],
  boom: [['text?'], (text = 'boom') => { throw new Error(text); }],
  sleep_ms: [['ms'], (ms) => sleep(ms, ms)],
  spin_ms: [['ms'], (ms) => { for (const end = performance.now() + ms; performance.now() < end;); return ms; }],
  blob: [['size'], (size) => 'x'.repeat(size)],
  note: [['...args'], () => null],
  crash: [[], () => process.exit(3)],
  unwritable: [['value'], (value) => VALUES[value]],
  nested: [['service', 'method', 'params', 'timeout_ms?'],
    (service, method, params, timeoutMs) => clientOf(ask).call(service, method, params, { timeoutMs })],
  about: [[], () => {
    const { caller = null, traceparent = null, attempt, worker, timeLeftMs = null } = context();
    return { caller, traceparent, attempt, worker, left_ms: timeLeftMs };
  }],
});

const placeOf = ({ namespace, service }) => JSON.stringify([namespace, service]);

const server = {
  async serve(ask) {
    const { url, namespace, service, concurrency = 4, handler_timeout_ms: handlerTimeoutMs } = ask;
    const counts = new Map();
    const made = new Server(service, { url, namespace, name: 'driver', concurrency, handlerTimeoutMs });
    for (const [method, [params, handler]] of Object.entries(methods(ask))) {
      made.register(method, params, (...given) => {
        counts.set(method, (counts.get(method) ?? 0) + 1);
        say({ event: 'invoked', namespace, service, method });
        return handler(...given);
      });
    }
    made.register('job', ['key', 'ms?', 'size?', 'fail?'], async (key, ms = 0, size = 0, fail = false) => {
      const told = { namespace, service, method: 'job', key };
      say({ event: 'invoked', ...told });
      await sleep(ms);
      say({ event: 'finished', ...told });
      if (fail) throw new ApplicationError('failed', { code: 1001 });
      return 'x'.repeat(size);
    });
    made.register('count', ['method'], (method) => counts.get(method) ?? 0);
    await made.start();
    servers.set(placeOf(ask), made);
    return { worker: made.worker };
  },

  async stop(ask) {
    await servers.get(placeOf(ask)).stop();
    servers.delete(placeOf(ask));
    return {};
  },

  close: client.close,
};

// ---------------------------------------------------------------------------------------------------- both

const { version } = JSON.parse(readFileSync(new URL('../../../node/package.json', import.meta.url), 'utf8'));
const features = ['many', 'nested', 'context', 'untyped', 'retry', 'bound', 'wait', 'handler_timeout'];
const HELLO = { name: 'sabir', version, language: `Node ${process.version}`, spec: ['1'], concurrent: true, features };
const commands = new Map(Object.entries({ hello: () => HELLO, ...{ client, server }[process.argv.at(-1)] }));

async function handle({ id, cmd, ...ask }) {
  const command = commands.get(cmd);
  const answer = await Promise.resolve(ask).then(command ?? (() => ({ error: 'unsupported' }))).catch((error) => ({ error: String(error) }));
  say({ id, ...answer });
}

for await (const line of createInterface({ input: process.stdin })) void handle(JSON.parse(line));
process.exit(0);

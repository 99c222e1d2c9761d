// The package itself: its surface, its tables, its types, its README, its folder.

import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import * as sabir from '../src/index.js';
import * as testing from '../src/testing.js';
import { protocol, raw, redisServer } from './helper.js';

const folder = fileURLToPath(new URL('..', import.meta.url));
const url = await redisServer();
const read = (path) => readFileSync(join(folder, path), 'utf8');
const run = promisify(execFile);

function scratch(t) {
  const dir = mkdtempSync(join(tmpdir(), 'sabir-'));
  t.after(() => rmSync(dir, { recursive: true }));
  return dir;
}

test('the public surface', () => {
  const errors = protocol('errors.json').errors.map(({ name }) => name);
  assert.deepEqual(Object.keys(sabir).sort(), ['ApplicationError', 'Client', 'SabirError', 'Server', 'context', 'named', ...errors].sort());
  assert.deepEqual(Object.keys(testing), ['TestClient']);
  const methods = (type) => Object.getOwnPropertyNames(type.prototype).filter((name) => !name.startsWith('_'));
  assert.deepEqual(methods(sabir.Client), ['constructor', 'service', 'call', 'many', 'notify', 'retry', 'waitForService', 'close']);
  assert.deepEqual(methods(sabir.Server), ['constructor', 'register', 'expose', 'start', 'stop', 'run']);
});

test('errors.json and the classes say the same', () => {
  for (const { code, name, retryable, outcome } of protocol('errors.json').errors) {
    const error = new sabir[name]('m');
    assert.ok(error instanceof sabir.SabirError);
    assert.deepEqual({ code, name, retryable, outcome }, { code: error.code, name: error.name, retryable: error.retryable, outcome: error.outcome });
  }
});

test('SABIR-KEY-1 nobody but keys.js spells a key', () => {
  for (const file of readdirSync(join(folder, 'src'))) {
    if (file === 'keys.js' || !file.endsWith('.js')) continue;
    const code = read(`src/${file}`).replace(/\/\*[^]*?\*\//g, '').replace(/\/\/.*/g, '');
    assert.doesNotMatch(code, /[`'"][^`'"\n]*(:\{|:requests|:active|:reply|:alive|:leases|:dead|:attempts)/, file);
  }
});

test('the scripts are those of the protocol, byte for byte', () => {
  for (const file of readdirSync(join(folder, 'src/scripts'))) {
    assert.equal(read(`src/scripts/${file}`), read(`../protocol/scripts/${file}`), `cp protocol/scripts/${file} node/src/scripts/`);
  }
});

test('the shipped types are those of the sources', (t) => {
  const dir = scratch(t);
  execFileSync(join(folder, 'node_modules/.bin/tsc'), ['-p', 'tsconfig.types.json', '--outDir', dir], { cwd: folder });
  assert.deepEqual(readdirSync(join(folder, 'types')).sort(), readdirSync(dir).sort(), 'npm run types:write');
  for (const file of readdirSync(dir)) assert.equal(read(`types/${file}`), readFileSync(join(dir, file), 'utf8'), `${file}: npm run types:write`);
});

test('the types serve a TypeScript program', (t) => {
  const dir = scratch(t);
  symlinkSync(join(folder, 'node_modules'), join(dir, 'node_modules'));
  writeFileSync(join(dir, 'package.json'), '{"type":"module"}');
  writeFileSync(join(dir, 'program.ts'), `
    import { Client, named, Server, context, ApplicationError } from '${folder}types/index.js';
    interface Calc { add(a: number, b: number): Promise<number> }
    class TooPoor extends ApplicationError { static code = 1001 }
    const client = new Client({ timeoutMs: 100, errors: [TooPoor] });
    const three: number = await client.service<Calc>('calc').add(1, 2);
    const any: unknown = await client.service('calc').anything(named({ a: 1 }));
    new Server('calc', { concurrency: 2 }).register('add', ['a', 'b'], (a: number, b: number) => a + b + (context()?.timeLeftMs ?? 0));
    // @ts-expect-error a time-out is a number
    new Client({ timeoutMs: '1' });
  `);
  const options = ['--strict', '--noEmit', '--skipLibCheck', '--target', 'es2023', '--module', 'nodenext', '--types', 'node', 'program.ts'];
  execFileSync(join(folder, 'node_modules/.bin/tsc'), options, { cwd: dir });
});

test('the lock file names no registry', () => {
  assert.doesNotMatch(read('package-lock.json'), /https?:|"resolved"/);
});

test('every requirement that a source names is one of the specification', () => {
  const known = new Set(readFileSync(join(folder, '../protocol/spec.md'), 'utf8').match(/^#### (SABIR-\S+)/gm).map((line) => line.slice(5)));
  for (const place of ['src', 'test']) {
    for (const file of readdirSync(join(folder, place), { recursive: true }).filter((name) => /\.(js|lua)$/.test(name))) {
      for (const [id] of read(`${place}/${file}`).matchAll(/SABIR-[A-Z]+-\d+/g)) assert.ok(known.has(id), `${file}: ${id}`);
    }
  }
});

test('the README runs', async (t) => {
  const blocks = [...read('README.md').matchAll(/```js\n([^]*?)```/g)].map(([, code]) => code);
  assert.ok(blocks.length >= 3);
  const dir = scratch(t);
  symlinkSync(join(folder, 'node_modules'), join(dir, 'node_modules'));
  const programs = blocks.map((code, index) => {
    const file = join(dir, `${index}.mjs`);
    writeFileSync(file, code.replaceAll("'sabir'", `'${folder}src/index.js'`).replaceAll("'sabir/testing'", `'${folder}src/testing.js'`).replaceAll('redis://127.0.0.1:6379/0', url));
    return { file, isWorker: code.includes('.run()') };
  });
  const workers = programs.filter(({ isWorker }) => isWorker).map(({ file }) => run('node', [file]));
  try {
    for (const { file, isWorker } of programs) {
      if (!isWorker) assert.equal((await run('node', [file], { timeout: 10_000 })).stderr, '', file);
    }
  } finally {
    for (const { child } of workers) child.kill('SIGTERM');
    await Promise.all(workers);
  }
});

test('the folder alone is enough, and its example worker stops on SIGTERM (SABIR-STOP-4)', async (t) => {
  const dir = scratch(t);
  for (const part of ['src', 'examples', 'package.json']) cpSync(join(folder, part), join(dir, part), { recursive: true });
  symlinkSync(join(folder, 'node_modules'), join(dir, 'node_modules'));
  const env = { ...process.env, REDIS_URL: url, SABIR_NAMESPACE: `copy-${process.pid}` };
  const worker = run('node', ['examples/worker.js'], { cwd: dir, env });
  await new Promise((resolve) => worker.child.stdout.once('data', resolve));
  const { stdout } = await run('node', ['examples/demo.js', 'calc'], { cwd: dir, env });
  const checks = stdout.trim().split('\n').map((line) => JSON.parse(line));
  assert.deepEqual(checks.map(({ check }) => check), ['positional', 'named', 'unicode', 'nested', 'numbers', 'application_error', 'unknown_method', 'notification', 'latency']);
  assert.deepEqual(checks.filter(({ ok }) => !ok), []);
  assert.match((await run('node', ['examples/client.js'], { cwd: dir, env })).stdout, /add\(1, 2\) = 3/);
  worker.child.kill('SIGTERM');
  assert.match((await worker).stdout, /^ready calc worker\.[0-9a-f]{16}\n$/);
  const redis = await raw(url);
  const left = (await redis.do('KEYS', `copy-${process.pid}:*`)).filter((key) => !/:reply:/.test(key));
  const ttls = await Promise.all((await redis.do('KEYS', `copy-${process.pid}:*`)).map((key) => redis.do('PTTL', key)));
  redis.destroy();
  assert.deepEqual(left, []);
  assert.ok(ttls.every((ttl) => ttl > 0), `all keys expire: ${ttls}`);
});

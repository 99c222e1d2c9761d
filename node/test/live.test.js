// Against a real server: what a call, a notification and a worker do, and what they leave behind.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createClient } from 'redis';
import { ApplicationError, CallTimeout, Client, context, InternalError, InvalidParams, InvalidReply, InvalidResult, LimitExceeded, MethodNotFound, named, NotQueued, Server } from '../src/index.js';
import { element, ID, protocol, raw, redisServer, setUp, until } from './helper.js';

const url = await redisServer();

class TooPoor extends ApplicationError {
  static code = 1001;
}

describe('calling', () => {
  test('positional, named, none; by stand-in and by name', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving();
    const client = my.client();
    const calc = client.service('calc');
    assert.equal(await calc.add(1, 2), 3);
    assert.equal(await calc.add(named({ b: 'b', a: 'a' })), 'ab');
    assert.deepEqual(await calc.echo({ a: 1 }), { a: 1 }, 'an unmarked object is positional');
    assert.equal(await client.call('calc', 'add', [1, 2]), 3);
    assert.equal(await client.call('calc', 'add', { a: 1, b: 2 }), 3);
    server.register('then', [], () => 'reached').register('a/b:c?', [], () => 'odd');
    assert.equal(await client.call('calc', 'then'), 'reached');
    assert.equal(await calc['a/b:c?'](), 'odd');
  });

  test('a stand-in has no traps', async (t) => {
    const my = await setUp(t, url);
    const calc = my.client().service('calc');
    assert.equal(await calc, calc);
    assert.equal(`${calc} ${JSON.stringify({ calc })}`, '[sabir service calc] {"calc":{}}');
    assert.throws(() => { calc.add = 1; }, TypeError);
    assert.deepEqual(await my.requests(), []);
  });

  test('what comes back, came as it was sent', async (t) => {
    const my = await setUp(t, url);
    await my.serving();
    const calc = my.client().service('calc');
    const values = [null, true, 0, -1, 2 ** 53 - 1, -(2 ** 53 - 1), 0.5, -1.25e-3, 1e300, '', 'šabïr 🎏 \0\u2028', [], {}, { a: [1, { b: null }] }, JSON.parse('{"__proto__":{"x":1}}')];
    assert.deepEqual(await Promise.all(values.map((value) => calc.echo(value))), values);
  });

  test('SABIR-CALL-1 many calls leave in one RPUSH, and each has its own outcome', async (t) => {
    const my = await setUp(t, url);
    await my.serving();
    await my.redis.do('CONFIG', 'RESETSTAT');
    const outcomes = await my.client().many('calc', [['add', [1, 2]], ['nothing'], ['add', [1]], ['echo', { value: 'x' }]]);
    const stats = await my.redis.do('INFO', 'commandstats');
    assert.deepEqual(outcomes.map((outcome) => outcome?.name ?? outcome), [3, 'MethodNotFound', 'InvalidParams', 'x']);
    const pushes = Number(/cmdstat_rpush:calls=(\d+),/.exec(stats)[1]);
    assert.ok(pushes >= 2 && pushes <= 5, `one of requests, at most four of replies: ${pushes}`);
    assert.deepEqual(await my.client().many('calc', []), []);
  });

  test('many callers at once', async (t) => {
    const my = await setUp(t, url);
    await my.serving({ concurrency: 7 });
    const client = my.client();
    const sums = await Promise.all(Array.from({ length: 300 }, (_, i) => client.call('calc', 'add', [i, i])));
    assert.deepEqual(sums, sums.map((_, i) => 2 * i));
  });

  test('SABIR-KEY-2 SABIR-CALL-4 SABIR-LIMIT-1 SABIR-JSON-1 what cannot be sent is refused before anything is sent', async (t) => {
    const my = await setUp(t, url);
    const client = my.client({ maxBytes: 1_000 });
    const cyclic = [];
    cyclic.push(cyclic);
    const refused = [
      [() => client.call('a}:requests', 'add'), RangeError], [() => client.call('calc', 'a b'), RangeError], [() => client.call('calc', ''), RangeError],
      [() => client.call('calc', 'add', 'text'), TypeError], [() => client.call('calc', 'add', ['x'.repeat(1_000)]), LimitExceeded],
      [() => client.call('calc', 'add', cyclic), LimitExceeded], [() => client.call('calc', 'add', [], { traceparent: 'é' }), RangeError],
      ...[0, -1, NaN, Infinity, 1e12 + 1].map((timeoutMs) => [() => client.call('calc', 'add', [1, 2], { timeoutMs }), RangeError]),
      ...['1', null].map((timeoutMs) => [() => client.call('calc', 'add', [1, 2], { timeoutMs }), TypeError]),
      [() => client.notify('calc', 'add', [], { expiresMs: 0 }), RangeError],
      ...[NaN, Infinity, undefined, 1n, () => 1, Symbol('s'), new Date(), new Map(), new Set(), /a/, Buffer.from('a'), [, 1], { a: undefined }, '\ud800', { '\ud800': 1 }, new (class A {})()]
        .map((value) => [() => client.call('calc', 'echo', [value]), TypeError]),
    ];
    for (const [call, type] of refused) await assert.rejects(call(), type);
    for (const options of [{ name: 'a.b' }, { namespace: 'a:b' }, { timeoutMs: 0 }, { maxQueue: 0 }, { maxQueue: 1.5 }, { maxQueue: Infinity }]) assert.throws(() => my.client(options), RangeError);
    for (const options of ['ftp://localhost', { errors: [Error] }]) assert.throws(() => new Client(options), TypeError);
    assert.deepEqual(await my.redis.do('KEYS', `${my.namespace}:*`), []);
  });

  test('SABIR-CALL-2 SABIR-CALL-6 a call that nobody answers ends by its time-out', async (t) => {
    const my = await setUp(t, url);
    await my.pretend();
    const begin = performance.now();
    await assert.rejects(my.client().call('calc', 'add', [1, 2], { timeoutMs: 1_000 }), CallTimeout);
    const took = performance.now() - begin;
    assert.ok(took > 990 && took < 2_000, `${took} ms`);
    assert.equal((await my.requests()).length, 1, 'the element stays; its deadline drops it');
  });

  test('a time-out beyond what a timer can hold', async (t) => {
    const my = await setUp(t, url);
    await my.serving();
    assert.equal(await my.client().call('calc', 'add', [1, 2], { timeoutMs: 1e12 }), 3);
  });

  test('SABIR-CALL-3 SABIR-CALL-5 SABIR-ENVELOPE-5 the element that is sent', async (t) => {
    const my = await setUp(t, url);
    await my.pretend();
    const client = new Client({ url, namespace: my.namespace, name: 'web-1' });
    const call = client.call('calc', 'add', [1, 2], { idempotent: true, traceparent: '00-1' });
    const [sent] = await until(async () => (await my.requests()).length && my.requests());
    const [seconds] = await my.redis.do('TIME');
    await client.close();
    await assert.rejects(call, { name: 'ConnectionLost' });
    const { id, reply_to: token, deadline, body, ...rest } = JSON.parse(sent);
    assert.match(sent, /^\{"v":1,"id":"[0-9a-f]{32}","reply_to":"web-1\.[0-9a-f]{16}",/);
    assert.deepEqual([rest, body], [{ v: 1, idempotent: true, traceparent: '00-1' }, { jsonrpc: '2.0', id, method: 'add', params: [1, 2] }]);
    assert.ok(Math.abs(deadline - (Number(seconds) + 30) * 1000) < 4_000 && Number.isInteger(deadline) && token);
  });

  test('SABIR-REPLY-4 SABIR-REPLY-5 late, strange and invalid replies', async (t) => {
    const my = await setUp(t, url);
    await my.pretend();
    const call = my.client().call('calc', 'add', [1, 2]);
    const [sent] = await until(async () => (await my.requests()).length && my.requests());
    const { id, reply_to: token } = JSON.parse(sent);
    const reply = (replyId, body) => JSON.stringify({ v: 1, id: replyId, worker: 'w.1', body: { jsonrpc: '2.0', id: replyId, ...body } });
    await my.redis.do('RPUSH', my.key(`reply:${token}`), 'garbage', reply(ID, { result: 1 }), reply(id, { result: 1, error: { code: 1, message: 'm' } }));
    await assert.rejects(call, InvalidReply);
  });

  test('SABIR-LOST-5 an error reply to the RPUSH', async (t) => {
    const my = await setUp(t, url);
    await my.redis.do('SET', my.key('requests'), 'no list');
    await assert.rejects(my.client().call('calc', 'add', [1, 2]), (error) => error instanceof NotQueued && /WRONGTYPE/.test(error.message) && error.retryable);
    await assert.rejects(my.client().notify('calc', 'add', [1, 2]), NotQueued);
  });

  test('a client that is closed', async (t) => {
    const my = await setUp(t, url);
    const client = my.client();
    await client.close();
    await assert.rejects(client.call('calc', 'add', [1, 2]), NotQueued);
    await assert.rejects(client.notify('calc', 'add', [1, 2]), NotQueued);
  });

  test('an injected client gives its options, and is left alone', async (t) => {
    const my = await setUp(t, url);
    const redis = createClient({ url, name: 'injected' });
    const server = new Server('calc', { redis, namespace: my.namespace }).register('add', ['a', 'b'], (a, b) => a + b);
    await server.start();
    assert.equal(await my.client({ redis }).service('calc').add(1, 2), 3);
    assert.match(await my.redis.do('CLIENT', 'LIST'), /name=injected/);
    assert.equal(redis.isOpen, false);
    await server.stop();
    redis.destroy();
  });
});

describe('errors', () => {
  test('SABIR-ERROR-2 SABIR-ERROR-5 an application error reaches the caller as its class', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving();
    server.register('buy', [], () => { throw new TooPoor('too poor', { data: { missing: 3 } }); });
    server.register('bare', [], async () => { throw new ApplicationError('bare'); });
    const calc = my.client({ errors: [TooPoor] }).service('calc');
    await assert.rejects(calc.buy(), (error) => error instanceof TooPoor && error.message === 'too poor' && error.data.missing === 3 && error.outcome === 'ran');
    await assert.rejects(calc.bare(), { name: 'ApplicationError', code: 1, message: 'bare', data: undefined });
    await assert.rejects(my.client().service('calc').buy(), { name: 'ApplicationError', code: 1001 });
    class Odd extends ApplicationError {
      static code = 1001;
      constructor(account) { super(account.name); }
      get name() { throw new Error('unreachable'); }
    }
    await assert.rejects(my.client({ errors: [Odd] }).service('calc').buy(), { code: 1001 });
    assert.deepEqual(my.logged, []);
  });

  test('SABIR-ERROR-1 SABIR-ERROR-3 SABIR-WORKER-7 all else is an internal error, without a trace', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving();
    const thrown = {
      type: new TypeError('secret'), text: 'text', nothing: undefined, forged: new MethodNotFound('m'), reserved: new ApplicationError('m', { code: -32005 }),
      fraction: new ApplicationError('m', { code: 1.5 }), data: new ApplicationError('m', { data: new Date() }), large: new ApplicationError('m'.repeat(2_000_000)),
      long: new Error('é'.repeat(2_000)), hostile: { get message() { throw new Error('x'); }, toString() { throw new Error('y'); } }, lone: new Error('\ud800'),
    };
    const calc = my.client().service('calc');
    for (const [name, error] of Object.entries(thrown)) {
      server.register(name, [], () => { throw error; });
      await assert.rejects(calc[name](), (raised) => raised instanceof InternalError && raised.data === undefined && raised.message.length <= 1_000, name);
    }
    await assert.rejects(calc.type(), { message: 'TypeError: secret' });
    assert.equal(my.logged.length, 12);
    assert.doesNotMatch(my.logged.join(), /secret/, 'SABIR-SECURITY-1');
  });

  test('traces, where they are switched on', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving({ traces: true });
    server.register('boom', [], () => { throw new Error('boom'); });
    await assert.rejects(my.client().service('calc').boom(), ({ data }) => data.trace[0] === 'Error: boom' && data.trace[1].includes('live.test.js'));
  });

  test('SABIR-LIMIT-4 a result that is not JSON is an error, and the worker goes on', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving({ maxBytes: 10_000, maxDepth: 10 });
    const calc = my.client().service('calc');
    const results = [NaN, undefined, new Date(), new Set(), 1n, '\ud800', { a: [1, Infinity] }, 'x'.repeat(10_000), [[[[[[[[[]]]]]]]]]];
    for (const [index, result] of results.entries()) {
      server.register(`r${index}`, [], () => result);
      await assert.rejects(calc[`r${index}`](), InvalidResult, String(index));
    }
    await assert.rejects(calc.r6(), { message: 'result.a[1]: Infinity' });
    assert.equal(await calc.add(1, 2), 3);
  });

  test('SABIR-BODY-4 parameters are checked before the handler starts', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving();
    let ran = 0;
    server.register('f', ['a', 'b?', '...c'], (...all) => { ran++; return all.map((value) => value ?? null); });
    server.register('g', ['a', 'b?'], (a, b = 'default') => [a, b]);
    const client = my.client();
    assert.deepEqual(await client.call('calc', 'f', [1, 2, 3, 4]), [1, 2, 3, 4]);
    assert.deepEqual(await client.call('calc', 'f', { a: 1 }), [1, null]);
    assert.deepEqual(await client.call('calc', 'g', { b: 2, a: 1 }), [1, 2]);
    assert.deepEqual(await client.call('calc', 'g', [1]), [1, 'default']);
    ran = 0;
    const wrong = [['f', []], ['f', { b: 1 }], ['f', { a: 1, c: 2 }], ['f', { a: 1, x: 2 }], ['g', []], ['g', [1, 2, 3]], ['g', null], ['add', { a: 1, b: 2, toString: 3 }], ['add', JSON.parse('{"a":1,"__proto__":2}')]];
    for (const [method, params] of wrong) await assert.rejects(client.call('calc', method, params), InvalidParams, `${method} ${JSON.stringify(params)}`);
    assert.equal(ran, 0);
    await assert.rejects(client.call('calc', 'g', { x: 1 }), { message: 'expected the names a, b, got "x"' });
  });

  test('SABIR-BODY-3 names that JavaScript knows are not found', async (t) => {
    const my = await setUp(t, url);
    await my.serving();
    for (const method of ['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'rpc.discover', 'register']) {
      await assert.rejects(my.client().call('calc', method), MethodNotFound, method);
    }
  });

  test('what cannot be registered', async (t) => {
    const my = await setUp(t, url);
    const server = my.server();
    const f = () => 1;
    for (const bad of [['add', [], f], ['rpc.x', [], f], ['a b', [], f], ['', [], f]]) assert.throws(() => server.register(...bad), RangeError, bad[0]);
    for (const bad of [['f', [], 'f'], ['f', undefined, f], ['f', ['a?', 'b'], f], ['f', ['...a', 'b'], f], ['f', ['a', 'a'], f], [1, [], f]]) assert.throws(() => server.register(...bad), TypeError);
    assert.throws(() => server.expose({}, { add2: [] }), TypeError);
    assert.throws(() => new Server('a.b'), RangeError);
    for (const options of [{ concurrency: 0 }, { handlerTimeoutMs: 0 }, { handlerTimeoutMs: '1s' }, { handlerTimeoutMs: 2 ** 31 }]) {
      assert.throws(() => new Server('calc', options), RangeError);
    }
  });
});

describe('notifications and dead letters', () => {
  test('SABIR-DEAD-4 SABIR-CALL-7 a notification is run once and leaves nothing behind', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving();
    const seen = [];
    server.register('note', ['text'], async (text) => { seen.push([text, context().caller, await my.hand(server)]); });
    const id = await my.client().notify('calc', 'note', ['hello']);
    await until(async () => seen.length && !(await my.hand(server)).length);
    const [[text, caller, hand]] = seen;
    assert.deepEqual([seen.length, text, caller, hand.length], [1, 'hello', undefined, 1], 'in the hand while it runs');
    assert.deepEqual(JSON.parse(hand[0]), { v: 1, id, body: { jsonrpc: '2.0', method: 'note', params: ['hello'] } });
    assert.deepEqual([await my.dead(), my.logged], [[], []]);
  });

  test('SABIR-DEAD-2 what is not run to its end is kept', async (t) => {
    const my = await setUp(t, url);
    const server = my.server();
    server.register('boom', [], () => { throw new ApplicationError('boom', { code: 7, data: [1] }); });
    const client = my.client();
    const expiring = await client.notify('calc', 'add', [1, 2], { expiresMs: 1 });
    await sleep(10);
    await client.notify('calc', 'nothing');
    await client.notify('calc', 'add', [1]);
    await client.notify('calc', 'boom');
    await server.start();
    const dead = await until(async () => (await my.dead()).length === 4 && my.dead());
    const byCode = Object.fromEntries(dead.map((letter) => [letter.error.code, letter]));
    assert.deepEqual(Object.keys(byCode).sort(), ['-32001', '-32601', '-32602', '7']);
    assert.deepEqual(byCode[7].error, { code: 7, message: 'boom', data: [1] });
    assert.equal(JSON.parse(byCode[-32001].element).id, expiring);
    assert.ok(dead.every(({ v, worker, at }) => v === 1 && worker === server.worker && Math.abs(at - Date.now()) < 5_000));
    assert.equal(my.logged.length, 4);
  });

  test('SABIR-WORKER-5 SABIR-DEAD-1 SABIR-BODY-1 whatever lies in the queue, the worker answers or keeps it, and goes on', async (t) => {
    const my = await setUp(t, url);
    const { cases } = protocol('vectors/requests.json');
    const bytesOf = ({ text, base64, parts }) => (base64 !== undefined ? Buffer.from(base64, 'base64')
      : Buffer.from(text ?? parts.map((part) => (typeof part === 'string' ? part : part.repeat.repeat(part.times))).join('')));
    const bad = cases.filter(({ expect }) => expect.kind === 'dead letter' || expect.kind === 'answered');
    for (const vector of bad) await my.redis.do('RPUSH', my.key('requests'), bytesOf(vector));
    const server = await my.serving();
    assert.equal(await my.client().service('calc').add(1, 2), 3);
    const expected = bad.filter(({ expect }) => expect.kind === 'dead letter');
    await until(async () => (await my.redis.do('LLEN', my.key('dead'))) === expected.length);
    const codes = (list) => list.toSorted((a, b) => a - b);
    assert.deepEqual(codes((await my.dead()).map(({ error }) => error.code)), codes(expected.map(({ expect }) => expect.code)));
    const answered = bad.filter(({ expect }) => expect.kind === 'answered');
    const lists = new Set(answered.map(({ expect }) => expect.reply_to));
    const replies = (await Promise.all([...lists].map((token) => my.redis.do('LRANGE', my.key(`reply:${token}`), 0, -1)))).flat();
    assert.deepEqual(codes(replies.map((reply) => JSON.parse(reply).body.error.code)), codes(answered.map(({ expect }) => expect.code)));
    assert.deepEqual([await my.hand(server), my.logged.length], [[], bad.length]);
    assert.doesNotMatch(my.logged.join(), /hello|params|traceparent/, 'SABIR-SECURITY-1');
    const kept = (await my.dead()).find((letter) => letter.element_base64);
    assert.ok(bad.some((vector) => bytesOf(vector).equals(Buffer.from(kept.element_base64, 'base64'))), 'the bytes as they were');
  });

  test('SABIR-DEAD-3 the newest 1,000 are kept', async (t) => {
    const my = await setUp(t, url);
    await my.redis.do('RPUSH', my.key('requests'), ...Array.from({ length: 1_010 }, (_, i) => `bad ${i}`));
    const server = await my.serving({ concurrency: 1 });
    await until(async () => (await my.dead()).at(-1)?.element === 'bad 1009' && !(await my.hand(server)).length);
    assert.deepEqual([(await my.dead()).length, (await my.dead())[0].element], [1_000, 'bad 10']);
  });
});

describe('a worker', () => {
  test('SABIR-REPLY-3 SABIR-LEASE-1 SABIR-LEASE-2 SABIR-TRANSPORT-3 SABIR-WAIT-1 SABIR-WAIT-2 sends exactly these commands', async (t) => {
    const my = await setUp(t, url);
    const monitor = await raw(url);
    const seen = [];
    await monitor.monitor((line) => {
      const [, connection, rest] = /^\S+ \[\d+ (\S+)\] (.*)$/.exec(String(line)) ?? [];
      if (rest && connection !== 'lua' && !/^"(CLIENT|TIME|HELLO|KEYS|LLEN|INFO)"/i.test(rest)) seen.push([connection, rest.replaceAll('"', '').split(' ')]);
    });
    t.after(() => monitor.destroy());
    await my.redis.do('SCRIPT', 'FLUSH');
    const server = await my.serving();
    await until(() => seen.some(([, [name]]) => name === 'BLMOVE'));
    const client = my.client();
    assert.equal(await client.call('calc', 'add', [1, 2]), 3);
    assert.equal(await client.call('calc', 'add', [1, 2]), 3);
    await until(() => seen.filter(([, [name]]) => name === 'LTRIM').length === 2);
    await server.stop();
    const [hand, leases, requests, alive] = [my.key(`active:${server.worker}`), my.key('leases'), my.key('requests'), my.key('alive')];
    const short = (command) => command.map((word) => (/^\d{13}$/.test(word) ? 'TIME' : word.startsWith('{') ? 'JSON' : word.replace(/web-1\.\w+/, 'TOKEN')))
      .map((word, index) => (/^EVAL/.test(command[0]) && index === 1 ? 'SCRIPT' : word));
    const by = (connection) => seen.filter(([from]) => from === connection).map(([, command]) => short(command));
    const of = (name, key = '') => seen.find(([, command]) => command[0] === name && command[1].includes(key))[0];
    const token = my.key('reply:TOKEN');
    const [beat, take, goodbye, push, look] = [of('EVALSHA'), of('BLMOVE', ':requests'), seen.findLast(([, [name]]) => name === 'EVALSHA')[0], of('RPUSH', ':requests'), of('BLMOVE', ':reply:')];
    assert.equal(new Set([beat, take, goodbye, push, look]).size, 5, 'connections of their own');
    const beating = ['SCRIPT', '4', requests, leases, alive, my.key('dead'), server.worker, '0'];
    assert.deepEqual(by(beat).map(([name]) => name).slice(0, 2), ['EVALSHA', 'EVAL'], 'SABIR-SCRIPT-1');
    assert.deepEqual(by(beat)[0], ['EVALSHA', ...beating], 'SABIR-RECOVER-7 it does not recover yet');
    assert.deepEqual(by(beat)[1].slice(-7), beating.slice(-7));
    const taking = [['ZADD', leases, 'TIME', server.worker], ['BLMOVE', requests, hand, 'LEFT', 'RIGHT', '2']];
    const replying = [['MULTI'], ['RPUSH', token, 'JSON'], ['PEXPIRE', token, '60000'], ['LREM', hand, '1', 'JSON'], ['EXEC']];
    assert.deepEqual(by(take).filter(([name]) => !['LRANGE', 'LMOVE'].includes(name)), [...taking, ...replying, ...taking, ...replying, ...taking]);
    assert.deepEqual(by(goodbye).find(([name]) => name === 'EVALSHA'), ['EVALSHA', 'SCRIPT', '3', leases, alive, hand, server.worker], 'SABIR-STOP-5');
    const pushing = [['RPUSH', requests, 'JSON'], ['EXISTS', alive]];
    assert.deepEqual(by(push), pushing, 'SABIR-ALIVE-1');
    const looking = ['BLMOVE', token, token, 'LEFT', 'LEFT', 'SECONDS'];
    assert.deepEqual(by(look).map((command) => command.map((word) => (/^(3|2\.9\d*)$/.test(word) ? 'SECONDS' : word))), [looking, ...pushing, ['LTRIM', token, '1', '-1'], looking, ['LTRIM', token, '1', '-1']]);
  });

  test('what it leaves behind', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving();
    await my.redis.do('RPUSH', my.key('requests'), element('add', [1, 2]));
    await until(() => my.redis.do('EXISTS', my.key('reply:cli.1')));
    assert.deepEqual(await my.hand(server), []);
    const [[worker, ends]] = [await my.redis.do('ZRANGE', my.key('leases'), 0, -1, 'WITHSCORES')];
    const [seconds] = await my.redis.do('TIME');
    assert.ok(worker === server.worker && ends > Number(seconds) * 1000 + 8_000 && ends < Number(seconds) * 1000 + 12_000);
    for (const [key, most] of [['reply:cli.1', 60_000], ['alive', 10_000]]) {
      const ttl = await my.redis.do('PTTL', my.key(key));
      assert.ok(ttl > most - 5_000 && ttl <= most, `${key} ${ttl}`);
    }
    await server.stop();
    assert.deepEqual((await my.redis.do('KEYS', `${my.namespace}:*`)).sort(), [my.key('reply:cli.1')], 'SABIR-STOP-5');
    assert.deepEqual(my.logged, []);
  });

  test('SABIR-TRANSPORT-4 bytes are acknowledged as they were read', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving();
    const strange = `  {"v":1.0,"x":"\\u00e9","id":"${ID}","id":"${ID}","reply_to":"cli.1","body":{"jsonrpc":"2.0","id":"${ID}","method":"add","params":[1e0,2]}}\n`;
    assert.equal((await my.ask(strange, 'cli.1')).body.result, 3);
    await until(async () => !(await my.hand(server)).length);
  });

  test('SABIR-TIME-3 SABIR-TIME-4 a deadline that has come', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving();
    let ran = false;
    server.register('f', [], () => (ran = true));
    const reply = await my.ask(element('f', [], { deadline: Date.now() - 1 }), 'cli.1');
    assert.deepEqual([reply.body.error.code, ran], [-32001, false]);
    assert.equal((await my.ask(element('nothing', [], { deadline: 1 }), 'cli.1')).body.error.code, -32001, 'before MethodNotFound');
  });

  test('SABIR-WORKER-3 SABIR-WORKER-4 it takes no more than it can start', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving({ concurrency: 2 });
    let [now, most] = [0, 0];
    server.register('slow', [], async () => {
      most = Math.max(most, ++now, (await my.hand(server)).length);
      await sleep(20);
      now--;
      return null;
    });
    await my.client().many('calc', Array.from({ length: 9 }, () => ['slow']));
    assert.equal(most, 2);
  });

  test('SABIR-WORKER-6 it goes on trying when its queue, or a reply list, is of the wrong type', async (t) => {
    const my = await setUp(t, url);
    await my.redis.do('SET', my.key('requests'), 'no list');
    const server = await my.serving();
    await until(() => my.logged.length);
    await my.redis.do('DEL', my.key('requests'));
    await my.redis.do('SET', my.key('reply:cli.2'), 'no list');
    await my.redis.do('RPUSH', my.key('requests'), element('add', [1, 2], { replyTo: 'cli.2' }));
    assert.equal((await my.ask(element('add', [1, 2]), 'cli.1')).body.result, 3);
    await until(async () => my.logged.length === 3 && !(await my.hand(server)).length);
    assert.match(my.logged.join('\n'), /cannot take, trying on: WRONGTYPE.*\n.*can take again\n.*refused a part.*WRONGTYPE/);
  });

  test('SABIR-STOP-1 SABIR-STOP-2 it finishes what it started and takes nothing more', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving();
    let finish;
    server.register('slow', [], () => new Promise((resolve) => (finish = resolve)));
    const call = my.client().call('calc', 'slow');
    await until(() => finish);
    const stopped = server.stop();
    await my.redis.do('RPUSH', my.key('requests'), element('add', [1, 2]));
    await sleep(100);
    assert.equal((await my.requests()).length, 1, 'not taken');
    assert.equal(await my.redis.do('ZCARD', my.key('leases')), 1, 'SABIR-LEASE-1 it still holds something');
    finish('done');
    assert.equal(await call, 'done');
    await stopped;
    assert.equal(await my.redis.do('ZCARD', my.key('leases')), 0, 'SABIR-STOP-4');
  });

  test('SABIR-STOP-3 it gives back what it did not start, in order', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving({ concurrency: 1 });
    let finish;
    server.register('slow', [], () => new Promise((resolve) => (finish = resolve)));
    const call = my.client().call('calc', 'slow');
    await until(() => finish);
    await my.redis.do('RPUSH', my.key('requests'), 'three');
    await my.redis.do('RPUSH', my.key(`active:${server.worker}`), 'one', 'two'); // as if taken when the word to stop came
    const stopped = server.stop();
    await until(async () => (await my.requests()).length === 3);
    assert.deepEqual(await my.requests(), ['one', 'two', 'three'], 'at once, not when the last handler has finished');
    finish(1);
    assert.equal(await call, 1);
    await stopped;
    assert.equal(await my.redis.do('EXISTS', my.key(`active:${server.worker}`), my.key('leases')), 0);
  });

  test('stopping is quick, even while it waits in a take, and without a Redis', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving();
    await sleep(100);
    const begin = performance.now();
    await server.stop();
    assert.ok(performance.now() - begin < 1_500, `${performance.now() - begin} ms`);
    const lonely = new Server('calc', { url: 'redis://127.0.0.1:1/0', logger: { warn() {} } });
    void lonely.start();
    await sleep(50);
    await lonely.stop();
  });

  test('SABIR-LOST-3 a lost take: the old connection is ended, and what lies in the hand is run', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving();
    const taker = () => my.redis.do('CLIENT', 'LIST').then((list) => /id=(\d+) [^\n]* cmd=blmove/.exec(list)?.[1]);
    const old = await until(taker);
    await my.redis.do('RPUSH', my.key(`active:${server.worker}`), element('add', [20, 3]));
    await my.redis.do('CLIENT', 'KILL', 'ID', old);
    const [, reply] = await my.redis.do('BLPOP', my.key('reply:cli.1'), 15);
    assert.equal(JSON.parse(reply).body.result, 23);
    await until(async () => !(await my.hand(server)).length && (await taker()) && (await taker()) !== old);
  });

  test('SABIR-TIME-5 the context, and a call made by a handler', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving();
    const client = my.client();
    const deadlines = [];
    server.register('inner', [], () => ({ left: context().timeLeftMs, trace: context().traceparent, caller: context().caller }));
    server.register('outer', [], async () => {
      const { timeLeftMs, id, service, method, worker, attempt, caller, traceparent } = context();
      assert.equal(worker, server.worker);
      deadlines.push(timeLeftMs);
      return { id: id.length, service, method, attempt, caller, traceparent, inner: await client.call('calc', 'inner') };
    });
    const { inner, ...outer } = await client.call('calc', 'outer', [], { timeoutMs: 3_000, traceparent: '00-t' });
    assert.deepEqual(outer, { id: 32, service: 'calc', method: 'outer', attempt: 1, caller: 'web-1', traceparent: '00-t' });
    assert.ok(inner.left <= deadlines[0] && deadlines[0] <= 3_010 && inner.left > 500, `${inner.left} ${deadlines}`);
    assert.deepEqual([inner.trace, inner.caller], ['00-t', 'web-1']);
    assert.equal(context(), undefined);
    let late;
    server.register('late', [], async () => {
      await sleep(450);
      late = await client.call('calc', 'add', [1, 2]).catch((error) => error.name);
      return late;
    });
    assert.equal(await client.call('calc', 'late', [], { timeoutMs: 400 }).catch((error) => error.name), 'CallTimeout');
    assert.equal(await until(() => late), 'DeadlineExceeded');
  });

  test('expose lists what is served', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving();
    class Account {
      #balance = 3;
      take(amount) { return (this.#balance -= amount); }
      secret() { return this.#balance; }
    }
    server.expose(new Account(), { take: ['amount'] });
    assert.equal(await my.client().service('calc').take(1), 2);
    await assert.rejects(my.client().service('calc').secret(), MethodNotFound);
  });

  test('section 15: the two users of the specification are enough', async (t) => {
    const my = await setUp(t, url);
    const spec = (await import('node:fs')).readFileSync(new URL('../../protocol/spec.md', import.meta.url), 'utf8');
    const rules = spec.match(/^ {4}ACL SETUSER \S+ +on .*$/gm).map((line) => line.trim().replaceAll('sabir:{calc}', `${my.namespace}:{calc}`).split(/ +/));
    const [, major] = /(?:redis|valkey)_version:(\d+)/.exec(await my.redis.do('INFO', 'server'));
    if (Number(major) < 7) for (const rule of rules) rule.forEach((word, index) => (rule[index] = word.replace(/%[RW]~/, '~')));
    const users = rules.map(([, , name]) => `${my.namespace}-${name}`);
    for (const [index, [acl, setuser, , on, , ...rest]] of rules.entries()) await my.redis.do(acl, setuser, users[index], on, '>secret', ...rest);
    t.after(async () => { const redis = await raw(url); await redis.do('ACL', 'DELUSER', ...users); redis.destroy(); });
    const as = (user) => url.replace('redis://', `redis://${user}:secret@`);
    const server = await my.serving({ url: as(users[0]) });
    const client = my.client({ url: as(users[1]), name: 'web-1' });
    assert.equal(await client.call('calc', 'add', [1, 2]), 3);
    await client.notify('calc', 'nothing');
    await until(async () => (await my.dead()).length);
    await assert.rejects(client.call('other', 'add', [1, 2]), NotQueued);
    await server.stop();
    assert.deepEqual([await my.redis.do('ZCARD', my.key('leases')), my.logged.length], [0, 1]);
  });
});

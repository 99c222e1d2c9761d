// The worker of profile `reliable`: it recovers what others left behind, and knows when it was itself taken for lost.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { context, InternalError, ServiceUnavailable } from '../src/index.js';
import { Steadiness } from '../src/server.js';
import { element, freePort, proxy, raw, redisServer, setUp, startServer, until } from './helper.js';

const url = await redisServer();
const own = await startServer(await freePort()); // one whose configuration can be changed
const idOf = (digit) => String(digit).repeat(32);

/** Plants a worker that was lost: its hand, and a lease that has ended. */
async function lose(my, ...elements) {
  await my.redis.do('ZADD', my.key('leases'), 1, 'lost.1');
  await my.redis.do('RPUSH', my.key('active:lost.1'), ...elements);
}

/** Makes a server recover with its first heartbeat: it has a lease, and has been steady. */
async function eager(my, server) {
  await my.redis.do('ZADD', my.key('leases'), Date.now() + 60_000, server.worker);
  server._steadiness = { answered() {}, mayRecover: () => true };
  return server;
}

function later() {
  let resolve;
  return { promise: new Promise((given) => (resolve = given)), resolve: () => resolve() };
}

const replies = async (my, token) => (await my.redis.do('LRANGE', my.key(`reply:${token}`), 0, -1)).map((reply) => JSON.parse(reply).body);

test('SABIR-RECOVER-7 steady: answered for a whole lease, with no more than 4 s between two', () => {
  const steadiness = new Steadiness();
  assert.equal(steadiness.mayRecover(0), false, 'nothing was answered yet');
  for (const at of [0, 3_000, 6_000, 9_000]) {
    steadiness.answered(at, at === 0);
    assert.equal(steadiness.mayRecover(at), false);
  }
  assert.deepEqual([9_999, 10_000, 13_000, 13_001].map((at) => steadiness.mayRecover(at)), [false, true, true, false]);
  steadiness.answered(13_000);
  assert.equal(steadiness.mayRecover(16_000), true);
  steadiness.answered(17_001);
  assert.equal(steadiness.mayRecover(18_000), false, 'a gap: it begins anew');
  for (const at of [20_000, 23_000, 26_000]) steadiness.answered(at);
  assert.deepEqual([27_000, 27_001].map((at) => steadiness.mayRecover(at)), [false, true]);
  steadiness.answered(29_000, true);
  assert.equal(steadiness.mayRecover(30_000), false, 'its own lease had ended: Redis may have lost all of them');
});

describe('recovering', { concurrency: true }, () => {
  test('SABIR-RECOVER-1 to SABIR-RECOVER-5, SABIR-RECOVER-8 each element by what it is', async (t) => {
    const my = await setUp(t, url);
    const server = await eager(my, my.server());
    const seen = [];
    server.register('seen', ['value'], (value) => { seen.push([value, context().attempt]); return value; });
    await my.redis.do('SET', my.key(`attempts:${idOf(4)}`), 2);
    await lose(
      my,
      element('seen', ['idempotent'], { id: idOf(1), replyTo: 'cli.1', idempotent: true }),
      element('seen', ['call'], { id: idOf(2), replyTo: 'cli.2' }),
      element('seen', ['note'], { id: idOf(3), replyTo: '' }),
      element('seen', ['poison'], { id: idOf(4), replyTo: 'cli.4', idempotent: true }),
      element('seen', ['late'], { id: idOf(5), replyTo: 'cli.5', idempotent: true, deadline: 1 }),
      'garbage',
    );
    await server.start();
    await until(async () => (await replies(my, 'cli.1')).length);
    assert.deepEqual(seen, [['idempotent', 2]], 'SABIR-RECOVER-2 SABIR-ATTEMPT-2');
    assert.equal((await replies(my, 'cli.1'))[0].result, 'idempotent');
    for (const token of ['cli.2', 'cli.4', 'cli.5']) assert.deepEqual((await replies(my, token)).map(({ error }) => error.code), [-32005], token);
    const dead = await my.dead();
    assert.deepEqual(dead.map(({ error }) => error.code), [-32005, -32005, -32005]);
    assert.deepEqual(dead.map(({ element: kept }) => /note|poison|garbage/.exec(kept)[0]).sort(), ['garbage', 'note', 'poison']);
    assert.equal(await my.redis.do('GET', my.key(`attempts:${idOf(1)}`)), '1');
    assert.deepEqual(await my.redis.do('ZRANGE', my.key('leases'), 0, -1), [server.worker]);
    assert.equal(await my.redis.do('EXISTS', my.key('active:lost.1')), 0);
    assert.match(my.logged.join('\n'), /recovered from workers that were lost: 6$/m);
  });

  test('SABIR-RECOVER-7 nothing is recovered by a worker that has just started', async (t) => {
    const my = await setUp(t, url);
    await lose(my, element('add', [1, 2]));
    await my.redis.do('ZADD', my.key('leases'), 2, 'lost.2');
    await my.serving();
    assert.equal(await my.client().call('calc', 'add', [1, 2]), 3);
    assert.equal(await my.redis.do('LLEN', my.key('active:lost.1')), 1);
    assert.deepEqual(my.logged, []);
  });

  test('SABIR-RECOVER-9 what is left after one step follows soon', async (t) => {
    const my = await setUp(t, url);
    await lose(my, ...Array.from({ length: 2_500 }, (_, i) => `garbage ${i}`));
    const server = await eager(my, my.server());
    await server.start();
    const begin = performance.now();
    await until(async () => !(await my.redis.do('EXISTS', my.key('active:lost.1'))));
    assert.ok(performance.now() - begin < 1_500, `${performance.now() - begin} ms`);
    await until(() => my.logged.length === 3);
    assert.match(my.logged.join('\n'), /lost: 1000\n[^]*lost: 1000\n[^]*lost: 500$/);
  });

  test('SABIR-SCRIPT-1 a Redis that forgot the scripts gets them again', async (t) => {
    const my = await setUp(t, url);
    await my.redis.do('SCRIPT', 'FLUSH');
    const server = await my.serving();
    assert.equal(await my.client().call('calc', 'add', [1, 2]), 3);
    await my.redis.do('SCRIPT', 'FLUSH');
    await server.stop();
    assert.deepEqual([await my.redis.do('ZCARD', my.key('leases')), my.logged], [0, []]);
  });
});

describe('a request that was delivered before', { concurrency: true }, () => {
  /** Serves, with a first delivery of what is asked counted. */
  async function again(t) {
    const my = await setUp(t, url);
    const server = await my.serving();
    server.register('attempt', [], () => context().attempt);
    await my.redis.do('SET', my.key(`attempts:${idOf(1)}`), '1');
    return { my, server };
  }
  const asked = (method, params, more) => element(method, params, { id: idOf(1), idempotent: true, ...more });

  test('SABIR-ATTEMPT-2 the handler is told', async (t) => {
    const { my } = await again(t);
    assert.equal((await my.ask(asked('attempt'), 'cli.1')).body.result, 2);
    assert.equal((await my.ask(asked('attempt', [], { id: idOf(2) }), 'cli.1')).body.result, 1);
    assert.equal((await my.ask(asked('attempt', [], { idempotent: false }), 'cli.1')).body.result, 1);
  });

  test('SABIR-ATTEMPT-1 nobody is told that it never started', async (t) => {
    const { my, server } = await again(t);
    server.register('boom', [], () => { throw new Error('boom'); });
    for (const [method, params, more] of [['nothing'], ['add', [1]], ['add', [1, 2], { deadline: 1 }]]) {
      const { body } = await my.ask(asked(method, params, more), 'cli.1');
      assert.equal(body.error.code, -32005, method);
      assert.match(body.error.message, /^delivered before/);
      assert.notEqual((await my.ask(asked(method, params, { ...more, id: idOf(2) }), 'cli.1')).body.error.code, -32005);
    }
    assert.equal((await my.ask(asked('boom'), 'cli.1')).body.error.code, InternalError.code, 'this one ran');
    await my.redis.do('RPUSH', my.key('requests'), asked('nothing', [], { replyTo: '' }));
    assert.equal((await until(async () => (await my.dead()).length && my.dead()))[0].error.code, -32005);
  });

  test('SABIR-ATTEMPT-1 it asks until it has an answer; what is no number is none', async (t) => {
    const my = await setUp(t, url);
    await my.redis.do('ACL', 'SETUSER', my.namespace, 'on', '>secret', '~*', '+@all', '-get');
    t.after(async () => { const redis = await raw(url); await redis.do('ACL', 'DELUSER', my.namespace); redis.destroy(); });
    const server = await my.serving({ url: url.replace('//', `//${my.namespace}:secret@`) });
    server.register('attempt', [], () => context().attempt);
    await my.redis.do('RPUSH', my.key(`attempts:${idOf(1)}`), 'a list');
    await my.redis.do('RPUSH', my.key('requests'), asked('attempt'));
    await until(() => /cannot ask for attempts, trying on: NOPERM/.test(my.logged.join()));
    await my.redis.do('ACL', 'SETUSER', my.namespace, '+get');
    assert.equal((await until(async () => (await replies(my, 'cli.1')).length && replies(my, 'cli.1')))[0].result, 1);
  });
});

describe('a worker whose lease had ended', () => {
  /** A server that begins an idempotent request only when `go` has been: until then, it asks for its attempts. */
  async function held(t, go) {
    const my = await setUp(t, url);
    const broken = await proxy(t, url);
    const server = my.server({ url: broken.url });
    const state = { my, ran: 0, hand: my.key(`active:${server.worker}`), take: () => my.redis.do('RPUSH', my.key('requests'), element('count', [], { idempotent: true })) };
    server.register('count', [], () => ++state.ran);
    await server.start();
    broken.rules.push({ when: (text) => text.includes('attempts:'), then: () => go(state) });
    return Object.assign(state, { broken });
  }

  test('SABIR-LEASE-3 by the answer of a heartbeat: what its hand does not hold any more, it does not start', async (t) => {
    const { promise: isHeld, resolve: hold } = later();
    const state = await held(t, ({ my }) => hold() ?? until(() => /the lease had ended/.test(my.logged.join())));
    state.broken.rules.push({ when: (text) => text.includes('EVALSHA'), then: async () => {
      await state.take();
      await isHeld;
      await state.my.redis.do('DEL', state.my.key('leases'), state.hand);
    } });
    await until(() => /another worker recovered it before it was started/.test(state.my.logged.join()));
    assert.deepEqual([state.ran, await state.my.redis.do('EXISTS', state.my.key('reply:cli.1'))], [0, 0]);
    assert.equal((await state.my.ask(element('count'), 'cli.1')).body.result, 1, 'it goes on');
  });

  for (const isHeld of [true, false]) {
    test(`SABIR-LEASE-3 by its own clock: its hand ${isHeld ? 'holds it still: it is started' : 'does not hold it: it is not started'}`, async (t) => {
      const now = performance.now.bind(performance);
      const state = await held(t, async ({ my, hand }) => {
        if (!isHeld) await my.redis.do('DEL', hand);
        performance.now = () => now() + 10_100; // as if it had been paused
        t.after(() => (performance.now = now));
      });
      await state.take();
      if (isHeld) return assert.equal(JSON.parse((await state.my.redis.do('BLPOP', state.my.key('reply:cli.1'), 15))[1]).body.result, 1);
      await until(() => /another worker recovered it/.test(state.my.logged.join()));
      return assert.deepEqual([state.ran, await state.my.redis.do('EXISTS', state.my.key('reply:cli.1'))], [0, 0]);
    });
  }

  test('SABIR-LEASE-1 a heartbeat that comes far too late is warned of', async (t) => {
    const my = await setUp(t, url);
    const now = performance.now.bind(performance);
    await my.serving();
    performance.now = () => now() + 8_000; // as if a handler had held the event loop
    t.after(() => (performance.now = now));
    await until(() => my.logged.length);
    assert.match(my.logged[0], /a heartbeat comes \d+ ms late/);
  });
});

describe('a handler that hangs', { concurrency: true }, () => {
  const forever = () => new Promise(() => {});

  test('SABIR-RUN-1 its caller is told, and what it returns later is dropped', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving({ handlerTimeoutMs: 100, concurrency: 2 });
    const seen = [];
    let finish;
    server.register('slow', [], () => new Promise((resolve) => (finish = resolve)));
    server.register('busy', ['ms'], (ms) => { for (const end = performance.now() + ms; performance.now() < end;); return ms; });
    server.register('heeds', [], () => {
      const { signal } = context();
      return new Promise((_, reject) => signal.addEventListener('abort', () => { seen.push(signal.reason.name); reject(signal.reason); }));
    });
    const client = my.client();
    const isTold = (error) => error instanceof InternalError && /ran longer than 0.1 s/.test(error.message);
    await assert.rejects(client.call('calc', 'slow'), isTold);
    await assert.rejects(client.call('calc', 'busy', [150]), isTold);
    await assert.rejects(client.call('calc', 'heeds'), isTold);
    assert.deepEqual(seen, ['TimeoutError']);
    assert.equal(await client.call('calc', 'busy', [20]), 20);
    await client.notify('calc', 'slow');
    assert.equal((await until(async () => (await my.dead()).length && my.dead()))[0].error.code, InternalError.code);
    finish('late');
    assert.equal(await client.call('calc', 'add', [1, 2]), 3, 'it has its place again');
    assert.deepEqual([await my.hand(server), await my.redis.do('KEYS', my.key('reply:*'))], [[], []]);
  });

  test('SABIR-RUN-2 where all places are taken by such, the worker stops, and its program ends with an error', async (t) => {
    const my = await setUp(t, url);
    const server = my.server({ handlerTimeoutMs: 100, concurrency: 2 }).register('hang', [], forever);
    let ended;
    await new Promise((ready) => (ended = server.run(ready).then(() => undefined, (error) => error)));
    const client = my.client();
    await assert.rejects(client.call('calc', 'hang'), InternalError);
    await sleep(200); // longer than the limit: one place is left
    assert.equal(await client.call('calc', 'add', [1, 2]), 3);
    await assert.rejects(client.call('calc', 'hang'), InternalError);
    assert.match((await ended).message, /all 2 handlers have run longer than 0.1 s/);
    assert.equal(await my.redis.do('EXISTS', my.key(`active:${server.worker}`), my.key('leases'), my.key('alive')), 0);
    await assert.rejects(client.call('calc', 'add', [1, 2]), ServiceUnavailable);
  });
});

describe('saying goodbye', { concurrency: true }, () => {
  test('SABIR-STOP-5 alive goes with the last worker', async (t) => {
    const my = await setUp(t, url);
    const [first, second] = [await my.serving(), await my.serving()];
    await first.stop();
    assert.equal(await my.redis.do('EXISTS', my.key('alive')), 1);
    await second.stop();
    assert.deepEqual(await my.redis.do('KEYS', `${my.namespace}:*`), []);
    await assert.rejects(my.client().call('calc', 'add', [1, 2]), ServiceUnavailable);
  });

  test('SABIR-STOP-5 the lease stays where the hand is not empty', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving();
    let finish;
    server.register('slow', [], () => new Promise((resolve) => (finish = resolve)));
    const call = my.client().call('calc', 'slow');
    await until(() => finish);
    await my.redis.do('RPUSH', my.key(`active:${server.worker}`), 'one');
    const stopped = server.stop();
    await until(async () => (await my.requests()).length); // given back: what comes now, nobody expects
    await my.redis.do('RPUSH', my.key(`active:${server.worker}`), 'two');
    finish(1);
    assert.equal(await call, 1);
    await stopped;
    assert.deepEqual(await my.redis.do('ZRANGE', my.key('leases'), 0, -1), [server.worker]);
    assert.match(my.logged.join(), /stopped with something in the hand/);
  });
});

test('SABIR-TRANSPORT-5 a Redis that may evict the queue is warned of', async (t) => {
  const my = await setUp(t, own.url);
  await my.redis.do('CONFIG', 'SET', 'maxmemory-policy', 'allkeys-lru');
  await my.serving();
  await until(() => my.logged.length);
  assert.match(my.logged[0], /expected the maxmemory_policy noeviction, got allkeys-lru$/);
  await my.redis.do('CONFIG', 'SET', 'maxmemory-policy', 'noeviction');
});

test('SABIR-WORKER-6 a Redis that is full: nothing leaves the hand, and the worker goes on when there is room', async (t) => {
  const my = await setUp(t, own.url);
  const server = await my.serving();
  let finish;
  server.register('slow', [], () => new Promise((resolve) => (finish = resolve)));
  await my.redis.do('RPUSH', my.key('requests'), element('slow'));
  await until(() => finish);
  await my.redis.do('CONFIG', 'SET', 'maxmemory', 1);
  try {
    finish('done');
    await until(() => /cannot reply, trying on: EXECABORT/.test(my.logged.join('\n')) && /cannot beat, trying on: OOM/.test(my.logged.join('\n')));
    assert.equal((await my.hand(server)).length, 1);
  } finally {
    await my.redis.do('CONFIG', 'SET', 'maxmemory', 0);
  }
  assert.equal(JSON.parse((await my.redis.do('BLPOP', my.key('reply:cli.1'), 15))[1]).body.result, 'done');
  await until(() => /can beat again/.test(my.logged.join('\n')));
});

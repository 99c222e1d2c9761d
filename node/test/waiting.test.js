// The client of profile `reliable`: a call that nobody serves, a worker that is lost, a queue that is full, replies that stay.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Client, ConnectionLost, NotQueued, Overloaded, ServiceUnavailable, WorkerLost } from '../src/index.js';
import { turn } from '../src/connection.js';
import { proxy, raw, redisServer, setUp, until } from './helper.js';

const url = await redisServer();
const looks = (text) => text.includes('BLMOVE') && text.includes(':reply:');

/** A client that asks every 50 ms rather than every 3 s, and is calm for half a second after an interruption rather than for ten. */
function impatient(my, options) {
  const client = my.client(options);
  client._paces = { askMs: 50, calmMs: 500 };
  return client;
}

/** Waits until a call is in the queue, and returns its element, id and token. */
async function queued(my) {
  const [sent] = await until(async () => (await my.requests()).length && my.requests());
  const { id, reply_to: token } = JSON.parse(sent);
  return { sent, id, token };
}

/** Takes the next request, as a worker that then dies would. */
const take = (my) => my.redis.do('BLMOVE', my.key('requests'), my.key('active:dead.1'), 'LEFT', 'RIGHT', 15);

const reply = (id, result, worker = 'w.1') => JSON.stringify({ v: 1, id, worker, body: { jsonrpc: '2.0', id, result } });

test('how patient a client is', () => {
  assert.deepEqual(new Client()._paces, { askMs: 3_000, calmMs: 10_000 });
});

describe('nobody serves', { concurrency: true }, () => {
  test('SABIR-ALIVE-1 SABIR-ALIVE-2 a call fails at once, and leaves nothing behind', async (t) => {
    const my = await setUp(t, url);
    const seen = await proxy(t, url);
    const client = my.client({ url: seen.url });
    await assert.rejects(client.call('calc', 'add', [1, 2]), (error) => error instanceof ServiceUnavailable && error.message === 'no worker serves calc');
    const begin = performance.now();
    await assert.rejects(client.call('calc', 'add', [1, 2]), ServiceUnavailable);
    assert.ok(performance.now() - begin < 500, `${performance.now() - begin} ms`);
    assert.deepEqual(await my.redis.do('KEYS', `${my.namespace}:*`), []);
    const [pushed] = seen.seen.filter((text) => text.includes('RPUSH'));
    assert.ok(pushed.indexOf('EXISTS') > pushed.indexOf('RPUSH'), 'in the same write, and behind it');
  });

  test('SABIR-ALIVE-2 what a worker has taken already is waited for', async (t) => {
    const my = await setUp(t, url);
    const worker = await raw(url);
    t.after(() => worker.destroy());
    const id = await worker.do('CLIENT', 'ID');
    const taken = take({ ...my, redis: worker }); // it is blocked in its take before the push
    await until(async () => new RegExp(`^id=${id} .* flags=b`, 'm').test(await my.redis.do('CLIENT', 'LIST')));
    const call = my.client().call('calc', 'add', [1, 2]);
    const sent = JSON.parse(await taken);
    await my.redis.do('RPUSH', my.key(`reply:${sent.reply_to}`), reply(sent.id, 3));
    assert.equal(await call, 3);
  });

  test('SABIR-ALIVE-2 an idempotent call that was delivered before ends with WorkerLost', async (t) => {
    const my = await setUp(t, url);
    const broken = await proxy(t, url);
    broken.rules.push({
      when: (text) => text.includes('LREM'),
      then: async () => my.redis.do('SET', my.key(`attempts:${JSON.parse((await my.requests())[0]).id}`), '1', 'PX', 60_000),
    });
    await assert.rejects(my.client({ url: broken.url }).call('calc', 'add', [1, 2], { idempotent: true }), WorkerLost);
    assert.deepEqual(await my.requests(), []);
  });

  test('SABIR-ALIVE-2 of many calls, each ends; they are taken back from the tail', async (t) => {
    const my = await setUp(t, url);
    const seen = await proxy(t, url);
    const outcomes = await my.client({ url: seen.url }).many('calc', [['echo', ['first']], ['echo', ['last']]]);
    assert.deepEqual([outcomes.map(({ name }) => name), await my.requests()], [['ServiceUnavailable', 'ServiceUnavailable'], []]);
    const back = seen.seen.find((text) => text.includes('LREM'));
    assert.ok(back.indexOf('last') < back.indexOf('first'));
  });

  test('SABIR-ALIVE-6 the connection is lost before the answer to the take-back: ConnectionLost, at once', async (t) => {
    const my = await setUp(t, url);
    const broken = await proxy(t, url);
    broken.rules.push({ when: (text) => text.includes('LREM'), then: 'cut' });
    await assert.rejects(my.client({ url: broken.url }).call('calc', 'add', [1, 2]), ConnectionLost);
    assert.equal(broken.seen.filter((text) => text.includes('LREM')).length, 1);
  });

  test('SABIR-ALIVE-7 a notification stays in the queue', async (t) => {
    const my = await setUp(t, url);
    await my.client().notify('calc', 'note', ['x'], { idempotent: true });
    assert.equal(JSON.parse((await my.requests())[0]).idempotent, true);
  });

  test('a user who may not ask for alive: the call is made all the same', async (t) => {
    const my = await setUp(t, url);
    await my.redis.do('ACL', 'SETUSER', my.namespace, 'on', '>secret', '~*', '+@all', '-exists', '-watch');
    t.after(async () => { const redis = await raw(url); await redis.do('ACL', 'DELUSER', my.namespace); redis.destroy(); });
    const client = impatient(my, { url: url.replace('//', `//${my.namespace}:secret@`) });
    await client.waitForService('calc');
    await assert.rejects(client.call('calc', 'add', [1, 2], { timeoutMs: 300 }), { name: 'CallTimeout' });
    await my.serving();
    assert.equal(await client.call('calc', 'add', [1, 2]), 3);
  });
});

describe('the worker is lost while a call waits', { concurrency: true }, () => {
  test('SABIR-ALIVE-3 SABIR-ALIVE-4 it never took the call: ServiceUnavailable, and the call leaves the queue', async (t) => {
    const my = await setUp(t, url);
    await my.pretend();
    const call = my.client().call('calc', 'add', [1, 2]);
    await queued(my);
    await my.redis.do('DEL', my.key('alive'));
    const begin = performance.now();
    await assert.rejects(call, ServiceUnavailable);
    assert.ok(performance.now() - begin < 3_500, `${performance.now() - begin} ms`);
    assert.deepEqual(await my.redis.do('KEYS', `${my.namespace}:*`), []);
  });

  test('SABIR-ALIVE-4 it had the call: WorkerLost', async (t) => {
    const my = await setUp(t, url);
    await my.pretend();
    const client = impatient(my);
    const calls = [client.call('calc', 'add', [1, 2]), client.call('calc', 'add', [3, 4])].map((call) => call.catch((error) => error.name));
    await until(async () => (await my.requests()).length === 2);
    await take(my);
    await my.redis.do('DEL', my.key('alive'));
    assert.deepEqual((await Promise.all(calls)).sort(), ['ServiceUnavailable', 'WorkerLost'], 'each by itself');
    assert.deepEqual(await my.requests(), []);
  });

  test('SABIR-ALIVE-4 the call is back in the queue after a delivery: WorkerLost', async (t) => {
    const my = await setUp(t, url);
    await my.pretend();
    const call = impatient(my).call('calc', 'add', [1, 2], { idempotent: true });
    const { id } = await queued(my);
    await my.redis.do('SET', my.key(`attempts:${id}`), '1', 'PX', 60_000);
    await my.redis.do('DEL', my.key('alive'));
    await assert.rejects(call, WorkerLost);
    assert.deepEqual(await my.requests(), []);
  });

  test('SABIR-ALIVE-4 its reply came in between', async (t) => {
    const my = await setUp(t, url);
    const broken = await proxy(t, url);
    await my.pretend();
    const call = impatient(my, { url: broken.url }).call('calc', 'add', [1, 2]);
    const { id, token } = await queued(my);
    broken.rules.push({ when: (text) => text.includes('MULTI'), then: () => my.redis.do('RPUSH', my.key(`reply:${token}`), reply(id, 3)) });
    await my.redis.do('DEL', my.key('alive'));
    assert.equal(await call, 3);
    await until(async () => !(await my.redis.do('EXISTS', my.key(`reply:${token}`)))); // SABIR-WAIT-2
  });

  test('SABIR-ALIVE-4 somebody serves again before the end: it waits on', async (t) => {
    const my = await setUp(t, url);
    const broken = await proxy(t, url);
    await my.pretend();
    const call = impatient(my, { url: broken.url }).call('calc', 'add', [1, 2]);
    await queued(my);
    broken.rules.push({ when: (text) => text.includes('WATCH'), then: my.pretend }, { when: (text) => text.includes('MULTI'), then: my.pretend });
    await my.redis.do('DEL', my.key('alive'));
    await until(() => broken.seen.some((text) => text.includes('UNWATCH')));
    await my.redis.do('DEL', my.key('alive'));
    await until(() => broken.rules.length === 0);
    assert.equal((await my.requests()).length, 1);
    await my.serving();
    assert.equal(await call, 3);
  });

  test('SABIR-ALIVE-4 a long queue is not searched', async (t) => {
    const my = await setUp(t, url);
    await my.pretend();
    const call = impatient(my).call('calc', 'add', [1, 2]);
    await queued(my);
    await my.redis.do('RPUSH', my.key('requests'), ...Array.from({ length: 10_000 }, () => 'x'));
    await my.redis.do('DEL', my.key('alive'));
    await assert.rejects(call, WorkerLost);
    assert.equal(await my.redis.do('LLEN', my.key('requests')), 10_001);
  });

  test('SABIR-ALIVE-5 after an interruption, it takes its time', async (t) => {
    const my = await setUp(t, url);
    const broken = await proxy(t, url);
    await my.pretend();
    const call = impatient(my, { url: broken.url }).call('calc', 'add', [1, 2]);
    await queued(my);
    await until(() => broken.seen.some(looks));
    await my.redis.do('DEL', my.key('alive'));
    broken.cutAll();
    const begin = performance.now();
    await assert.rejects(call, ServiceUnavailable);
    assert.ok(performance.now() - begin >= 500, `${performance.now() - begin} ms`);
  });

  test('SABIR-ALIVE-5 the same where the push had no answer', async (t) => {
    const my = await setUp(t, url);
    const broken = await proxy(t, url);
    broken.rules.push({ when: (text) => text.includes('RPUSH'), then: 'cut' });
    const begin = performance.now();
    await assert.rejects(impatient(my, { url: broken.url }).call('calc', 'add', [1, 2]), ServiceUnavailable);
    assert.ok(performance.now() - begin >= 500, `${performance.now() - begin} ms`);
  });

  test('SABIR-ALIVE-6 the connection is lost before the answer to the EXEC: ConnectionLost', async (t) => {
    const my = await setUp(t, url);
    const broken = await proxy(t, url);
    await my.pretend();
    const call = impatient(my, { url: broken.url }).call('calc', 'add', [1, 2]);
    await queued(my);
    broken.rules.push({ when: (text) => text.includes('MULTI'), then: 'cut' });
    await my.redis.do('DEL', my.key('alive'));
    await assert.rejects(call, ConnectionLost);
    assert.deepEqual(await my.requests(), []);
  });
});

describe('the queue is full', { concurrency: true }, () => {
  test('SABIR-QUEUE-1 Overloaded, of calls and notifications; nobody having served counts less', async (t) => {
    const my = await setUp(t, url);
    await my.redis.do('RPUSH', my.key('requests'), 'one');
    const client = my.client({ maxQueue: 2 });
    await client.notify('calc', 'note', []);
    const isOverloaded = (error) => error instanceof Overloaded && error.message === 'the queue of calc is longer than 2' && error.retryable;
    await assert.rejects(client.notify('calc', 'note', []), isOverloaded);
    await assert.rejects(client.call('calc', 'add', [1, 2]), isOverloaded);
    await my.pretend();
    await assert.rejects(client.call('calc', 'add', [1, 2]), isOverloaded);
    assert.equal((await my.requests()).length, 2);
  });

  test('SABIR-QUEUE-1 of many calls all are taken back; what a worker has is waited for', async (t) => {
    const my = await setUp(t, url);
    await my.pretend();
    const broken = await proxy(t, url);
    broken.rules.push({ when: (text) => text.includes('LREM'), then: () => take(my) });
    const many = my.client({ maxQueue: 1, url: broken.url }).many('calc', [['echo', ['a']], ['echo', ['b']], ['echo', ['c']]]);
    const { id, reply_to: token } = JSON.parse(await until(() => my.redis.do('LINDEX', my.key('active:dead.1'), 0)));
    await my.redis.do('RPUSH', my.key(`reply:${token}`), reply(id, 'a'));
    assert.deepEqual((await many).map((outcome) => outcome.name ?? outcome), ['a', 'Overloaded', 'Overloaded']);
    assert.deepEqual(await my.requests(), []);
  });

  test('SABIR-QUEUE-1 without a bound', async (t) => {
    const my = await setUp(t, url);
    await my.redis.do('RPUSH', my.key('requests'), ...Array.from({ length: 100_000 }, () => 'x'));
    await assert.rejects(my.client().notify('calc', 'note', []), Overloaded);
    await my.client({ maxQueue: null }).notify('calc', 'note', []);
    assert.equal(await my.redis.do('LLEN', my.key('requests')), 100_001);
  });
});

describe('replies', { concurrency: true }, () => {
  test('SABIR-WAIT-1 the connection breaks in front of the reply: it is read after the reconnect', async (t) => {
    const my = await setUp(t, url);
    await my.serving();
    const broken = await proxy(t, url);
    broken.rules.push({ when: looks, then: 'cut' });
    assert.equal(await my.client({ url: broken.url }).call('calc', 'add', [1, 2], { timeoutMs: 5_000 }), 3);
  });

  test('SABIR-WAIT-1 an old connection that is still blocked robs nobody', async (t) => {
    const my = await setUp(t, url);
    await my.redis.do('ACL', 'SETUSER', my.namespace, 'on', '>secret', '~*', '+@all', '-@admin'); // so that it can't be ended
    t.after(async () => { const redis = await raw(url); await redis.do('ACL', 'DELUSER', my.namespace); redis.destroy(); });
    await my.pretend();
    const broken = await proxy(t, url);
    const call = my.client({ url: broken.url.replace('//', `//${my.namespace}:secret@`) }).call('calc', 'add', [1, 2]);
    const { id, token } = await queued(my);
    await until(() => broken.seen.some(looks));
    for (const { near, far } of broken.pairs) { // the server does not hear of it
      far.removeAllListeners('close').removeAllListeners('data');
      near.removeAllListeners('close').destroy();
    }
    await until(() => broken.seen.filter(looks).length > 1);
    await my.redis.do('RPUSH', my.key(`reply:${token}`), reply(id, 3));
    assert.equal(await call, 3);
    for (const { far } of broken.pairs) far.destroy();
  });

  test('SABIR-WAIT-2 what was read is removed, also where the connection was lost and ended', async (t) => {
    const my = await setUp(t, url);
    const broken = await proxy(t, url);
    await my.serving();
    const client = my.client({ url: broken.url });
    for (let i = 0; i < 3; i++) {
      assert.deepEqual(await Promise.all([1, 2, 3].map((n) => client.call('calc', 'add', [n, i]))), [1 + i, 2 + i, 3 + i]);
      if (i === 1) broken.rules.push({ when: looks, then: 'cut' });
    }
    await until(async () => !(await my.redis.do('KEYS', my.key('reply:*'))).length);
    assert.ok(broken.seen.some((text) => text.includes('LTRIM')));
  });

  test('SABIR-WAIT-2 where it can not be ended, nothing is removed from that list before all calls have ended', async (t) => {
    const my = await setUp(t, url);
    await my.redis.do('ACL', 'SETUSER', my.namespace, 'on', '>secret', '~*', '+@all', '-@admin');
    t.after(async () => { const redis = await raw(url); await redis.do('ACL', 'DELUSER', my.namespace); redis.destroy(); });
    const broken = await proxy(t, url);
    await my.pretend();
    const client = my.client({ url: broken.url.replace('//', `//${my.namespace}:secret@`) });
    const calls = [1, 2, 3].map((n) => client.call('calc', 'add', [n, n]));
    await until(async () => (await my.requests()).length === 3 && broken.seen.some(looks));
    broken.cutAll();
    await until(() => broken.seen.filter(looks).length > 1);
    const [first, second, third] = (await my.requests()).map((sent) => JSON.parse(sent));
    const key = my.key(`reply:${first.reply_to}`);
    const answer = ({ id, body }) => my.redis.do('RPUSH', key, reply(id, body.params[0] * 2));
    await answer(first);
    assert.equal(await calls[0], 2);
    await answer(second);
    assert.equal(await calls[1], 4);
    assert.equal(await my.redis.do('LLEN', key), 2);
    await answer(third);
    assert.equal(await calls[2], 6);
    await until(async () => !(await my.redis.do('EXISTS', key)));
    assert.ok(broken.seen.every((text) => !text.includes('LTRIM')));
  });

  test('SABIR-WAIT-2 a client that is closed at once has removed what it read', async (t) => {
    const my = await setUp(t, url);
    await my.serving();
    const client = my.client();
    await client.call('calc', 'add', [1, 2]);
    await client.close();
    assert.deepEqual(await my.redis.do('KEYS', my.key('reply:*')), []);
  });

  test('a reply that comes after the time-out is dropped, and does not hold up the next', async (t) => {
    const my = await setUp(t, url);
    await my.pretend();
    const client = my.client();
    await assert.rejects(client.call('calc', 'add', [1, 2], { timeoutMs: 100 }), { name: 'CallTimeout' });
    const { id, token } = await queued(my);
    await my.redis.do('RPUSH', my.key(`reply:${token}`), reply(id, 3));
    await my.redis.do('DEL', my.key('requests'));
    await my.serving();
    assert.equal(await client.call('calc', 'add', [1, 3]), 4);
  });
});

describe('sending again', { concurrency: true }, () => {
  test('SABIR-RETRY-1 until somebody serves, each time as a new request', async (t) => {
    const my = await setUp(t, url);
    const seen = await proxy(t, url);
    const call = my.client({ url: seen.url }).retry('calc', 'add', [1, 2]);
    await until(() => seen.seen.filter((text) => text.includes('LREM')).length > 2);
    await my.serving();
    assert.equal(await call, 3);
    const ids = seen.seen.filter((text) => text.includes('RPUSH')).map((text) => /"id":"([0-9a-f]{32})"/.exec(text)[1]);
    assert.equal(new Set(ids).size, ids.length);
  });

  test('SABIR-RETRY-1 the last error, within the time-out', async (t) => {
    const my = await setUp(t, url);
    const begin = performance.now();
    await assert.rejects(my.client().retry('calc', 'add', [1, 2], { timeoutMs: 400 }), ServiceUnavailable);
    assert.ok(performance.now() - begin < 900, `${performance.now() - begin} ms`);
    await assert.rejects(my.client().retry('calc', 'add', [1, 2], { timeoutMs: 0 }), RangeError);
  });

  test('SABIR-RETRY-1 what may have run, only if it is idempotent; what ran, never', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving();
    let ran = 0;
    server.register('boom', [], () => { ran++; throw new Error('boom'); });
    const seen = await proxy(t, url);
    const client = my.client({ url: seen.url });
    await assert.rejects(client.retry('calc', 'boom', [], { idempotent: true }), { name: 'InternalError' });
    assert.equal(ran, 1);
    await server.stop();
    for (const idempotent of [false, true]) {
      await my.pretend();
      const call = client.retry('calc', 'add', [1, 2], { idempotent });
      const { id, token } = await queued(my);
      await my.redis.do('DEL', my.key('requests'));
      const lost = { v: 1, id, worker: 'w.1', body: { jsonrpc: '2.0', id, error: { code: -32005, message: 'lost' } } };
      await my.redis.do('RPUSH', my.key(`reply:${token}`), JSON.stringify(lost));
      if (!idempotent) await assert.rejects(call, WorkerLost);
      else {
        await my.serving();
        assert.equal(await call, 3);
      }
    }
  });

  test('waiting until somebody serves', async (t) => {
    const my = await setUp(t, url);
    const client = my.client();
    const begin = performance.now();
    await assert.rejects(client.waitForService('calc', { timeoutMs: 200 }), ServiceUnavailable);
    assert.ok(performance.now() - begin < 700);
    const waited = client.waitForService('calc', { timeoutMs: 1e12 });
    await my.serving();
    await waited;
    await assert.rejects(my.client({ url: 'redis://127.0.0.1:1/0' }).waitForService('calc', { timeoutMs: 100 }), NotQueued);
    await assert.rejects(client.waitForService('a.b'), RangeError);
    const silent = await proxy(t, url);
    silent.rules.push({ when: () => true, then: 'silence' });
    await assert.rejects(my.client({ url: silent.url }).waitForService('calc', { timeoutMs: 100 }), NotQueued);
    await client.close();
    await assert.rejects(client.waitForService('calc'), NotQueued);
  });
});


test('SABIR-WAIT-2 half of its expiry later, a list may be another one: what was read is not removed, but read again', async (t) => {
  const my = await setUp(t, url);
  await my.serving();
  const client = my.client({ timeoutMs: 120_000 });
  const now = performance.now.bind(performance);
  t.after(() => (performance.now = now));
  await client.call('calc', 'add', [1, 2]).then(() => (performance.now = () => now() + 31_000)); // as if the event loop had been held
  await turn();
  await turn();
  assert.equal((await my.redis.do('KEYS', my.key('reply:*'))).length, 1);
  assert.equal(await client.call('calc', 'add', [1, 3]), 4);
  await until(async () => !(await my.redis.do('KEYS', my.key('reply:*'))).length);
});

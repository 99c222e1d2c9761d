// Connections that break, and peers that fall silent, at the worst moment. A proxy fires on what it sees, never after a time.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { CallTimeout, ConnectionLost, NotQueued } from '../src/index.js';
import { element, freePort, proxy, raw, redisServer, setUp, startServer, until } from './helper.js';

const url = await redisServer();
const pushes = (text) => text.includes('RPUSH') && text.includes(':requests');
const looks = (text) => text.includes('BLMOVE') && text.includes(':reply:');
const answers = (text) => text.includes('EXEC') && text.includes(':reply:');

describe('at the worst moment', { concurrency: true }, () => {
  for (const then of ['cut', 'silence']) {
    test(`SABIR-LOST-1 ${then} after the RPUSH of a call was executed: one element, and the reply arrives`, async (t) => {
      const my = await setUp(t, url);
      await my.pretend();
      const broken = await proxy(t, url);
      broken.rules.push({ when: pushes, then });
      const call = my.client({ url: broken.url }).call('calc', 'add', [1, 2]);
      await until(async () => (await my.requests()).length);
      if (then === 'silence') await until(() => broken.pairs.size === 1); // the silent connection was given up (SABIR-TRANSPORT-2)
      assert.equal((await my.requests()).length, 1);
      const server = await my.serving();
      assert.equal(await call, 3);
      assert.equal(broken.seen.filter(pushes).length, 1);
      assert.deepEqual([await my.requests(), await my.hand(server)], [[], []]);
    });

    test(`SABIR-LOST-1 ${then} after the RPUSH of a notification was executed: one element, and ConnectionLost`, async (t) => {
      const my = await setUp(t, url);
      const broken = await proxy(t, url);
      broken.rules.push({ when: pushes, then });
      await assert.rejects(my.client({ url: broken.url }).notify('calc', 'note', ['x']), ConnectionLost);
      assert.equal((await my.requests()).length, 1);
    });

    test(`SABIR-LOST-4 ${then} after the transaction with the reply was executed: one reply`, async (t) => {
      const my = await setUp(t, url);
      const broken = await proxy(t, url);
      const server = await my.serving({ url: broken.url });
      broken.rules.push({ when: answers, then });
      await my.redis.do('RPUSH', my.key('requests'), element('add', [1, 2]));
      await until(() => broken.seen.filter((text) => text.includes('LRANGE') && text.includes('active')).length > 1); // it looks into its hand
      assert.equal((await my.ask(element('add', [1, 3], { replyTo: 'cli.2' }), 'cli.2')).body.result, 4);
      assert.deepEqual([await my.redis.do('LLEN', my.key('reply:cli.1')), await my.hand(server)], [1, []]);
      assert.match(my.logged.join('\n'), /^[^\n]*cannot reply, trying on: the connection to Redis was lost\n[^\n]*can reply again$/);
    });
  }

  test('SABIR-LOST-3 where Redis does not let the worker end its old connection, it waits for one block time', async (t) => {
    const my = await setUp(t, url);
    await my.redis.do('ACL', 'SETUSER', my.namespace, 'on', '>secret', '~*', '+@all', '-@admin');
    const server = await my.serving({ url: url.replace('//', `//${my.namespace}:secret@`) });
    await until(async () => (await my.redis.do('CLIENT', 'LIST')).split('\n').some((line) => /cmd=blmove/.test(line) && line.includes(my.namespace)));
    await my.redis.do('RPUSH', my.key(`active:${server.worker}`), element('add', [1, 2]));
    const begin = performance.now();
    await my.redis.do('CLIENT', 'KILL', 'USER', my.namespace);
    const [, reply] = await my.redis.do('BLPOP', my.key('reply:cli.1'), 15);
    assert.equal(JSON.parse(reply).body.result, 3);
    assert.ok(performance.now() - begin > 1_900, `${performance.now() - begin} ms`);
    await server.stop(); // it needs its user for that
    await my.redis.do('ACL', 'DELUSER', my.namespace);
  });
});

test('SABIR-LOST-4 cut before the transaction reached Redis: the reply is sent again, once', async (t) => {
  const my = await setUp(t, url);
  const broken = await proxy(t, url);
  const server = await my.serving({ url: broken.url });
  broken.rules.push({ when: answers, then: 'cut before' });
  assert.equal((await my.ask(element('add', [1, 2]), 'cli.1')).body.result, 3);
  await until(async () => !(await my.hand(server)).length);
  assert.equal(await my.redis.do('EXISTS', my.key('reply:cli.1')), 0);
});

test('SABIR-LOST-1 an idempotent call is not sent again either', async (t) => {
  const my = await setUp(t, url);
  await my.serving();
  const broken = await proxy(t, url);
  broken.rules.push({ when: pushes, then: 'cut before' });
  await assert.rejects(my.client({ url: broken.url }).call('calc', 'add', [1, 2], { idempotent: true, timeoutMs: 500 }), CallTimeout);
  assert.equal(broken.seen.filter(pushes).length, 1);
});

test('SABIR-LOST-2 SABIR-TOKEN-1 cut while it waits: it goes on with the same token, and the next call has another', async (t) => {
  const my = await setUp(t, url);
  await my.pretend();
  const broken = await proxy(t, url);
  const client = my.client({ url: broken.url });
  const call = client.call('calc', 'add', [1, 2]);
  await until(async () => (await my.requests()).length && broken.seen.some(looks));
  broken.cutAll();
  await until(() => broken.seen.filter(looks).length > 1);
  await my.serving();
  assert.equal(await call, 3);
  assert.equal(await client.call('calc', 'add', [1, 3]), 4);
  const tokens = broken.seen.flatMap((text) => text.match(/BLMOVE\r\n\$\d+\r\n\S+:reply:(\S+)/)?.[1] ?? []);
  assert.ok(tokens.length >= 3 && tokens[0] === tokens[1] && tokens[0] !== tokens.at(-1), tokens.join());
});

test('SABIR-TOKEN-1 a connection that is lost between two calls: the second has another token', async (t) => {
  const my = await setUp(t, url);
  const broken = await proxy(t, url);
  await my.serving();
  const client = my.client({ url: broken.url });
  for (let i = 0; i < 2; i++) {
    assert.equal(await client.call('calc', 'add', [1, i]), 1 + i);
    broken.cutAll();
    await until(() => !broken.pairs.size);
  }
  const tokens = broken.seen.flatMap((text) => text.match(/BLMOVE\r\n\$\d+\r\n\S+:reply:(\S+)/)?.[1] ?? []);
  assert.deepEqual([tokens.length, new Set(tokens).size], [2, 2]);
});

test('SABIR-LOST-2 the connection stays away: ConnectionLost, in time', async (t) => {
  const my = await setUp(t, url);
  await my.pretend();
  const broken = await proxy(t, url);
  const call = my.client({ url: broken.url }).call('calc', 'add', [1, 2], { timeoutMs: 1_500 });
  await until(async () => (await my.requests()).length && broken.seen.some(looks));
  broken.isDown = true;
  broken.cutAll();
  const begin = performance.now();
  await assert.rejects(call, ConnectionLost);
  assert.ok(performance.now() - begin < 2_500, `${performance.now() - begin} ms`);
});

test('SABIR-LOST-5 nothing can be sent: NotQueued, in time; and sent after all, when the connection comes in time', async (t) => {
  const my = await setUp(t, url);
  await my.pretend();
  const broken = await proxy(t, url);
  const client = my.client({ url: broken.url });
  broken.isDown = true;
  const begin = performance.now();
  await assert.rejects(client.call('calc', 'add', [1, 2], { timeoutMs: 300 }), NotQueued);
  assert.ok(performance.now() - begin < 1_300, `${performance.now() - begin} ms`);
  const call = client.call('calc', 'add', [1, 2]);
  await my.serving();
  broken.isDown = false;
  assert.equal(await call, 3);
  assert.equal(broken.seen.filter(pushes).length, 1);
});

test('SABIR-CALL-2 Redis is silent from the first byte on: the call ends in time', async (t) => {
  const my = await setUp(t, url);
  const broken = await proxy(t, url);
  broken.rules.push({ when: () => true, then: 'silence' }, { when: () => true, then: 'silence' });
  const begin = performance.now();
  await assert.rejects(my.client({ url: broken.url }).call('calc', 'add', [1, 2], { timeoutMs: 300 }), NotQueued);
  assert.ok(performance.now() - begin < 1_300, `${performance.now() - begin} ms`);
});

test('SABIR-CALL-6 silence behind a call that is never answered: CallTimeout, in time', async (t) => {
  const my = await setUp(t, url);
  await my.pretend();
  const broken = await proxy(t, url);
  broken.rules.push({ when: pushes, then: 'silence' });
  const begin = performance.now();
  await assert.rejects(my.client({ url: broken.url }).call('calc', 'add', [1, 2], { timeoutMs: 1_000 }), CallTimeout);
  assert.ok(performance.now() - begin < 2_000, `${performance.now() - begin} ms`);
});

test('SABIR-WORKER-6 a worker whose connections all break serves on, and stops as it should', async (t) => {
  const my = await setUp(t, url);
  const broken = await proxy(t, url);
  const server = await my.serving({ url: broken.url });
  const client = my.client();
  assert.equal(await client.call('calc', 'add', [1, 2]), 3);
  broken.isDown = true;
  broken.cutAll();
  const call = client.call('calc', 'add', [1, 3]);
  await until(() => my.logged.length);
  broken.isDown = false;
  assert.equal(await call, 4);
  await server.stop();
  assert.equal(await my.redis.do('EXISTS', my.key('leases'), my.key(`active:${server.worker}`)), 0);
});

test('SABIR-WORKER-6 Redis starts anew, without its data: all go on, and a stranger with an old id is left alone', async (t) => {
  const port = await freePort();
  let server = await startServer(port);
  const my = await setUp(t, server.url);
  const broken = await proxy(t, server.url);
  let finish;
  (await my.serving({ url: broken.url })).register('slow', [], () => new Promise((resolve) => (finish = resolve)));
  const client = my.client({ url: broken.url });
  const slow = client.call('calc', 'slow');
  assert.equal(await client.call('calc', 'add', [1, 2]), 3);
  await until(() => finish);
  broken.isDown = true;
  await server.end();
  await until(() => my.logged.length);
  server = await startServer(port);
  const strangers = await Promise.all(Array.from({ length: 30 }, () => raw(server.url))); // ids begin anew: theirs are those of before
  broken.isDown = false;
  await client.waitForService('calc');
  assert.equal(await client.call('calc', 'add', [1, 3]), 4);
  finish('late');
  assert.equal(await slow, 'late', 'on the same token as before');
  assert.equal(strangers.filter((stranger) => stranger.isReady).length, strangers.length);
  for (const stranger of strangers) stranger.destroy();
  await my.redis.connect();
});

test('SABIR-LOST-3 the take is cut after Redis moved the element: it is found in the hand and run once', async (t) => {
  const my = await setUp(t, url);
  const broken = await proxy(t, url);
  const server = my.server({ url: broken.url });
  let ran = 0;
  server.register('count', [], () => ++ran);
  broken.rules.push({ when: (text) => text.includes('BLMOVE'), then: 'cut' });
  await my.redis.do('RPUSH', my.key('requests'), element('count'));
  await server.start();
  const [, reply] = await my.redis.do('BLPOP', my.key('reply:cli.1'), 15);
  assert.deepEqual([JSON.parse(reply).body.result, ran, await my.requests()], [1, 1, []]);
});

test('SABIR-LEASE-1 handlers that hold the event loop for some seconds cost no connection', async (t) => {
  const my = await setUp(t, url);
  const server = await my.serving();
  server.register('hold', [], async () => {
    await sleep(50); // the next take is on its way: its answer arrives while nobody reads
    for (const end = performance.now() + 4_500; performance.now() < end;);
    return 'held';
  });
  assert.equal((await my.ask(element('hold'), 'cli.1')).body.result, 'held');
  assert.deepEqual(my.logged, []);
});

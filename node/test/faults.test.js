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
      await until(() => /can reply again/.test(my.logged.join()));
      const said = my.logged.map((line) => line.replace(/.*: (can(not)? (reply|take))/, '$1')).sort(); // the reply went out in front of a take
      assert.deepEqual(said, ['can reply again', 'can take again', 'cannot reply, trying on: the connection to Redis was lost', 'cannot take, trying on: the connection to Redis was lost']);
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

const takesAlong = (text) => answers(text) && text.includes('BLMOVE');

test('SABIR-REPLY-3 SABIR-LEASE-2 calls one after another: two writes each, of eleven commands', async (t) => {
  const my = await setUp(t, url);
  const [near, far] = [await proxy(t, url), await proxy(t, url)];
  await my.serving({ url: far.url });
  const client = my.client({ url: near.url });
  assert.equal(await client.call('calc', 'add', [0, 0]), 0);
  await until(() => far.seen.some(takesAlong));
  const [before, begun] = [near.seen.length, far.seen.length];
  for (let i = 0; i < 20; i++) assert.equal(await client.call('calc', 'add', [i, i]), 2 * i);
  const names = (text) => [...text.matchAll(/(?<=^|\r\n)\*\d+\r\n\$\d+\r\n(\w+)/g)].map(([, name]) => name);
  const ofClient = near.seen.slice(before).map(names);
  assert.deepEqual(ofClient.slice(0, 20), Array.from({ length: 20 }, () => ['RPUSH', 'EXISTS', 'LTRIM', 'BLMOVE']));
  assert.ok(ofClient.length <= 21, 'and what the last one read is removed');
  await until(() => far.seen.length >= begun + 20);
  const ofWorker = far.seen.slice(begun).map(names).filter(([name]) => name !== 'EVALSHA');
  const isMore = (name) => name === 'LMOVE'; // where this process was so busy that an element seemed to have waited
  assert.ok(ofWorker.flat().filter(isMore).length < 10);
  assert.deepEqual(ofWorker.map((commands) => commands.filter((name) => !isMore(name))), Array.from({ length: 20 }, () => ['MULTI', 'RPUSH', 'PEXPIRE', 'LREM', 'EXEC', 'ZADD', 'BLMOVE']));
});

describe('a reply that leaves in front of the next take', { concurrency: true }, () => {
  test('SABIR-REPLY-3 calls of one turn leave in one RPUSH, and so do their replies', async (t) => {
    const my = await setUp(t, url);
    const [near, far] = [await proxy(t, url), await proxy(t, url)];
    await my.serving({ url: far.url });
    const client = my.client({ url: near.url });
    await client.call('calc', 'add', [0, 0]);
    const [before, begun] = [near.seen.length, far.seen.length];
    assert.deepEqual(await Promise.all([1, 2, 3, 4, 5, 6].map((n) => client.call('calc', 'add', [n, n]))), [2, 4, 6, 8, 10, 12]);
    assert.equal(near.seen.slice(before).join('').match(/RPUSH/g).length, 1);
    assert.ok(far.seen.slice(begun).join('').match(/RPUSH/g).length < 6);
  });

  test('SABIR-LEASE-2 many replies leave in one write with the next take too', async (t) => {
    const my = await setUp(t, url);
    const far = await proxy(t, url);
    await my.redis.do('RPUSH', my.key('requests'), ...Array.from({ length: 60 }, (_, n) => element('echo', ['x'.repeat(400)], { id: n.toString(16).padStart(32, '0') })));
    await my.serving({ url: far.url });
    await until(async () => (await my.redis.do('LLEN', my.key('reply:cli.1'))) === 60);
    assert.ok(far.seen.some((text) => text.length > 20_000 && /EXEC\r\n\*\d+\r\n\$4\r\nZADD/.test(text)), String(far.seen.map((text) => text.length)));
  });

  test('a handler that takes its time holds up nobody behind it', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving();
    let finish;
    server.register('slow', [], () => new Promise((resolve) => (finish = resolve)));
    const client = my.client();
    for (let i = 0; i < 3; i++) {
      const slow = client.call('calc', 'slow');
      await until(() => finish);
      const begin = performance.now();
      for (let n = 0; n < 20; n++) assert.equal(await client.call('calc', 'add', [n, 1]), n + 1);
      assert.ok(performance.now() - begin < 1_000, `${performance.now() - begin} ms`);
      finish(i);
      assert.equal(await slow, i, 'while the next take blocks');
      finish = undefined;
    }
    assert.deepEqual([await my.hand(server), my.logged], [[], []]);
  });

  test('SABIR-WORKER-3 one handler at a time: what ends is answered at once, and the next is taken', async (t) => {
    const my = await setUp(t, url);
    const server = await my.serving({ concurrency: 1 });
    let running = 0;
    server.register('busy', [], async () => {
      running++;
      await sleep(2);
      return running--;
    });
    const client = my.client();
    assert.deepEqual(await Promise.all(Array.from({ length: 20 }, () => client.call('calc', 'busy'))), Array.from({ length: 20 }, () => 1));
    assert.deepEqual([await my.hand(server), my.logged], [[], []]);
  });

  for (const then of ['cut', 'cut before']) {
    test(`SABIR-LOST-3 SABIR-LOST-4 ${then} behind such a write: one reply each, and nothing is run twice`, async (t) => {
      const my = await setUp(t, url);
      const broken = await proxy(t, url);
      const server = my.server({ url: broken.url });
      const ran = [];
      server.register('count', ['n'], (n) => ran.push(n));
      await server.start();
      const ids = Array.from({ length: 12 }, (_, i) => i.toString(16).repeat(32));
      for (const [n, id] of ids.entries()) {
        if (n % 3 === 1) broken.rules.push({ when: takesAlong, then });
        // the next one waits already when the reply to the one before is sent: the take in that write moves it
        await my.redis.do('RPUSH', my.key('requests'), element('count', [n], { id, replyTo: `cli.${n}` }));
        if (n % 3 === 2) await until(() => !broken.rules.length);
      }
      await until(async () => (await my.redis.do('KEYS', my.key('reply:*'))).length === ids.length && !(await my.hand(server)).length);
      for (const n of ids.keys()) assert.equal(await my.redis.do('LLEN', my.key(`reply:cli.${n}`)), 1, `cli.${n}`);
      assert.deepEqual([ran.toSorted((a, b) => a - b), await my.requests()], [[...ids.keys()], []]);
    });
  }

  test('SABIR-WORKER-6 a transaction that is refused in front of a take: it is sent again, and what was taken is run', async (t) => {
    const my = await setUp(t, url);
    await my.redis.do('ACL', 'SETUSER', my.namespace, 'on', '>secret', '~*', '+@all', '-pexpire');
    t.after(async () => { const redis = await raw(url); await redis.do('ACL', 'DELUSER', my.namespace); redis.destroy(); });
    const server = await my.serving({ url: url.replace('//', `//${my.namespace}:secret@`) });
    for (const n of [1, 2]) await my.redis.do('RPUSH', my.key('requests'), element('add', [n, n], { id: String(n).repeat(32), replyTo: `cli.${n}` }));
    await until(async () => /cannot reply, trying on: EXECABORT/.test(my.logged.join('\n')) && (await my.hand(server)).length === 2);
    await my.redis.do('ACL', 'SETUSER', my.namespace, '+pexpire');
    for (const n of [1, 2]) assert.equal(JSON.parse((await my.redis.do('BLPOP', my.key(`reply:cli.${n}`), 15))[1]).body.result, 2 * n);
    await until(async () => !(await my.hand(server)).length);
    assert.equal(await my.client().call('calc', 'add', [1, 2]), 3);
  });

  test('SABIR-WORKER-6 an EXEC that is refused by itself leaves no take in a transaction', async (t) => {
    const my = await setUp(t, url);
    await my.redis.do('ACL', 'SETUSER', my.namespace, 'on', '>secret', '~*', '+@all', '-exec');
    t.after(async () => { const redis = await raw(url); await redis.do('ACL', 'DELUSER', my.namespace); redis.destroy(); });
    await my.serving({ url: url.replace('//', `//${my.namespace}:secret@`) });
    await my.redis.do('RPUSH', my.key('requests'), element('add', [1, 2]));
    await until(() => /cannot reply, trying on: EXECABORT/.test(my.logged.join('\n')));
    await my.redis.do('ACL', 'SETUSER', my.namespace, '+exec');
    assert.equal(JSON.parse((await my.redis.do('BLPOP', my.key('reply:cli.1'), 15))[1]).body.result, 3);
    assert.equal(await my.client().call('calc', 'add', [1, 2]), 3);
  });
});

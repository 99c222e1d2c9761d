// The in-process double: the same checks and errors, without a Redis.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ApplicationError, context, InvalidParams, InvalidResult, MethodNotFound, named, Server, ServiceUnavailable } from '../src/index.js';
import { TestClient } from '../src/testing.js';

class TooPoor extends ApplicationError {
  static code = 1001;
}

const logger = { warn() {} };
const server = new Server('calc', { logger });
const client = new TestClient({ calc: server }, { name: 'web-1', errors: [TooPoor] });
const calc = client.service('calc');
const seen = [];
server.register('add', ['a', 'b'], (a, b) => a + b);
server.register('date', [], () => new Date());
server.register('buy', [], () => { throw new TooPoor('too poor', { data: 3 }); });
server.register('note', ['text'], (text) => { seen.push(text); });
server.register('outer', [], () => calc.add(context().timeLeftMs > 0 ? 1 : 0, 2));

test('results and errors', async () => {
  assert.deepEqual([await calc.add(1, 2), await calc.add(named({ a: 1, b: 2 })), await calc.outer()], [3, 3, 3]);
  await assert.rejects(calc.buy(), (error) => error instanceof TooPoor && error.data === 3);
  await assert.rejects(calc.nothing(), MethodNotFound);
  await assert.rejects(calc.add(1), InvalidParams);
  await assert.rejects(calc.date(), InvalidResult);
  await assert.rejects(calc.add(1, NaN), TypeError);
  await assert.rejects(client.call('other', 'add', [1, 2]), ServiceUnavailable);
  await assert.rejects(client.waitForService('other', { timeoutMs: 20 }), ServiceUnavailable);
  await client.waitForService('calc');
  assert.deepEqual((await client.many('calc', [['add', [1, 2]], ['buy']])).map((outcome) => outcome.name ?? outcome), [3, 'TooPoor']);
});

test('notifications have run when notify returns; what failed is among the dead letters', async () => {
  const id = await client.notify('calc', 'note', ['x']);
  await client.notify('calc', 'buy');
  assert.deepEqual([id.length, seen], [32, ['x']]);
  assert.deepEqual(client.dead.map(({ error }) => error), [{ code: 1001, message: 'too poor', data: 3 }]);
});

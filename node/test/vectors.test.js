import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as commands from '../src/commands.js';
import { classFor } from '../src/errors.js';
import * as keys from '../src/keys.js';
import { decodeReply, decodeRequest, encodeDeadLetter, encodeError, encodeRequest, encodeResult } from '../src/messages.js';
import { protocol } from './helper.js';

const bytesOf = ({ text, base64, parts }) => {
  if (base64 !== undefined) return Buffer.from(base64, 'base64');
  return Buffer.from(text ?? parts.map((part) => (typeof part === 'string' ? part : part.repeat.repeat(part.times))).join(''));
};

/** The members of a that stand in b too. */
const pick = (a, b) => Object.fromEntries(Object.keys(b).map((name) => [name, a[name] ?? null]));

const camel = (name) => name.replace(/_./g, ([, letter]) => letter.toUpperCase());

function each(file, run) {
  const { cases } = protocol(`vectors/${file}.json`);
  describe(file, () => {
    assert.ok(cases.length > 10);
    for (const vector of cases) test(`${vector.rule} ${vector.name}`, () => run(vector));
  });
}

each('keys', ({ key, args: { namespace, service, ...rest }, expect }) => {
  const made = () => keys[key]({ namespace, service }, ...Object.values(rest));
  if (expect === null) assert.throws(made, RangeError);
  else assert.equal(made(), expect);
});

each('commands', ({ step, input: { namespace, service, ...rest }, expect }) => {
  const place = step === 'clock' ? [] : [{ namespace, service }];
  const made = () => commands[camel(step)](...place, ...Object.values(rest));
  if (expect === null) assert.throws(made, RangeError);
  else assert.deepEqual(made(), expect);
});

each('requests', (vector) => {
  const { expect } = vector;
  const read = decodeRequest(bytesOf(vector));
  if (expect.kind === 'open') return assert.ok(['call', 'rejected'].includes(read.kind));
  if (expect.kind === 'dead letter') return assert.deepEqual(pick(read, { kind: 0, code: 0, replyTo: 0 }), { kind: 'rejected', code: expect.code, replyTo: null });
  const renamed = Object.fromEntries(Object.entries(expect).map(([name, value]) => [camel(name), value]));
  if (expect.kind === 'answered') renamed.kind = 'rejected';
  return assert.deepEqual(pick(read, renamed), renamed);
});

each('replies', (vector) => {
  const { kind, name, result, ...expect } = vector.expect;
  const read = decodeReply(bytesOf(vector));
  if (kind === 'unreadable') return assert.equal(read, undefined);
  assert.equal(read.kind, kind);
  assert.equal(read.id, expect.id);
  if (kind === 'error') {
    assert.equal(classFor(read.code).name, name);
    assert.deepEqual({ data: undefined, ...expect }, { id: read.id, code: read.code, message: read.message, data: read.data });
  }
  if (result !== undefined) assert.deepEqual(read.result, result);
});

each('encode', ({ what, input, expect }) => {
  const write = {
    request: ({ reply_to: replyTo, ...rest }) => encodeRequest({ replyTo, ...rest }),
    result: encodeResult,
    error: encodeError,
    'dead letter': ({ text, base64, ...rest }) => encodeDeadLetter({ ...rest, element: bytesOf({ text, base64 }) }),
  }[what];
  if (expect === null) return assert.throws(() => write(input), (error) => error instanceof RangeError || error instanceof TypeError);
  return assert.deepEqual(JSON.parse(String(write(input))), expect);
});

test('what a port writes is read the quick way, and as it is read in full', () => {
  const id = '0'.repeat(32);
  const call = encodeRequest({ id, replyTo: 'web.1', deadline: 1, method: 'a', params: ['}}'] });
  const reply = encodeResult({ id, worker: 'w.1', result: { '"': '}}' } });
  const ends = [(text) => text, (text) => text.slice(0, -1), (text) => `${text}}`];
  const faults = [...ends, ...['null', ',"id":"x"', ',"error":{}', '"params":1', ',"jsonrpc":"1"'].map((more) => (text) => `${text.slice(0, -2)}${more}}}`)];
  for (const [text, read] of [[call, decodeRequest], [reply, decodeReply]]) {
    for (const fault of faults) {
      const usual = fault(text);
      assert.deepEqual(read(Buffer.from(usual)), read(Buffer.from(` ${usual}`)), usual); // with a space in front, it is not usual
    }
  }
});

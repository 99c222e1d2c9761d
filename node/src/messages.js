/**
 * Envelopes and bodies: what is written, what is read, what is refused (sections 4 to 8 and 11 of the specification).
 *
 * Pure: ids, times and names are arguments. Reading never throws; writing throws what the caller did wrong.
 */

import { isUtf8 } from 'node:buffer';
import { InternalError, InvalidRequest, InvalidResult, LimitExceeded, ParseError, UnsupportedVersion } from './errors.js';
import { check, is } from './keys.js';

/**
 * @typedef {object} Limits
 * @property {number} maxBytes the largest element, in bytes
 * @property {number} maxDepth the deepest nesting of arrays and objects; the envelope is level 1
 */

/** @typedef {unknown[] | Record<string, unknown>} Params Positional or named parameters. */

/**
 * @typedef {object} Request
 * @property {string} id 32 hexadecimal digits
 * @property {string} [replyTo] the token for the reply; undefined: a notification
 * @property {number} [deadline] ms of Redis's clock; undefined: never expires
 * @property {boolean} [idempotent]
 * @property {string} [traceparent]
 * @property {string} method
 * @property {Params} [params] undefined: none
 */

/** @typedef {Request & { kind: 'call', replyTo: string, idempotent: boolean }} ReceivedCall */
/** @typedef {Request & { kind: 'notification', replyTo: undefined, idempotent: boolean }} ReceivedNotification */

/**
 * A request that is not run. With `replyTo` it is answered with this error, without it becomes a dead letter.
 * @typedef {object} Rejection
 * @property {'rejected'} kind
 * @property {number} code
 * @property {string} message
 * @property {string} [id] undefined: none that could be read
 * @property {string} [replyTo]
 */

/**
 * @typedef {object} Failure What an error says on the wire.
 * @property {number} code
 * @property {string} message
 * @property {unknown} [data] undefined: none
 */

/**
 * What a client reads from its list of replies; `invalid` has an id, but is no valid reply.
 * @typedef {{ kind: 'result', id: string, worker: string, result: unknown }
 *   | { kind: 'error', id: string, worker: string, code: number, message: string, data: unknown }
 *   | { kind: 'invalid', id: string, message: string }} Reply
 */

/** @type {Limits} */
export const LIMITS = { maxBytes: 1_048_576, maxDepth: 64 };

// ---- writing

const fault = (/** @type {string} */ what, deep = false) => ({ path: '', what, deep });

/**
 * Finds what JSON can't hold, or what lies too deep (SABIR-JSON-1). `JSON.stringify` would write `NaN` as null, leave out what
 * is undefined, and write dates and maps as something else: so only plain objects, arrays, well-formed strings, finite numbers,
 * booleans and null pass.
 *
 * @param {unknown} value
 * @param {number} levels how many levels the value may have
 * @returns {{ path: string, what: string, deep: boolean } | undefined} where and what, or undefined: all is well
 */
export function unwritable(value, levels) {
  if (value === null || typeof value === 'boolean') return undefined;
  if (typeof value === 'string') return value.isWellFormed() ? undefined : fault('a string with a lone surrogate');
  if (typeof value === 'number') return Number.isFinite(value) ? undefined : fault(String(value));
  if (typeof value !== 'object') return fault(typeof value === 'undefined' ? 'undefined' : `a ${typeof value}`);
  if (levels < 1) return fault('too many levels', true);
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      const found = unwritable(value[i], levels - 1);
      if (found) return { ...found, path: `[${i}]${found.path}` };
    }
    return undefined;
  }
  const prototype = Object.getPrototypeOf(value);
  if (prototype !== null && Object.getPrototypeOf(prototype) !== null) {
    return fault(`a ${prototype.constructor?.name || 'class instance'}`);
  }
  for (const name of Object.keys(value)) {
    const member = /** @type {Record<string, unknown>} */ (value)[name];
    const found = name.isWellFormed() ? unwritable(member, levels - 1) : fault('a name with a lone surrogate');
    if (found) return { ...found, path: `.${name.toWellFormed()}${found.path}` };
  }
  return undefined;
}

/** The beginning of every body, which stays open. */
const BODY = JSON.stringify({ body: { jsonrpc: '2.0' } }).slice(1, -2);
/** Up to this length a text stays one: the `redis` package joins texts, and writes each Buffer by itself. */
const SHORT = 4_096;

/**
 * An element as it is sent: a text, or where that is long its bytes, so that they are counted and made at once.
 *
 * @param {string} text @param {Limits} limits @param {new (message: string) => Error} Refusal @returns {string | Buffer}
 */
function elementOf(text, { maxBytes }, Refusal) {
  if (text.length <= SHORT && text.length * 3 <= maxBytes) return text; // no character of UTF-16 takes more than 3 bytes
  const bytes = Buffer.from(text);
  if (bytes.length > maxBytes) throw new Refusal(`element: expected at most ${maxBytes} bytes, got ${bytes.length}`);
  return bytes;
}

/**
 * Checks and writes all of a request but its deadline, which is known only when it is sent (SABIR-ENVELOPE-1, SABIR-LIMIT-1).
 *
 * @param {Omit<Request, 'deadline'>} request its id and token are not checked: they were made here
 * @param {Limits} [limits]
 * @returns {(deadline?: number) => string | Buffer} writes the element; undefined: one that never expires
 * @throws {TypeError} a name, or what JSON can't hold
 * @throws {RangeError} a name outside its grammar
 * @throws {LimitExceeded}
 */
export function requestWriter({ id, replyTo, idempotent, traceparent, method, params }, limits = LIMITS) {
  check('method', method);
  if (params !== undefined) {
    if (typeof params !== 'object' || params === null) {
      throw new TypeError(`params: expected an array or an object, got ${show(params)}`);
    }
    const fault = unwritable(params, limits.maxDepth - 2);
    if (fault) throw new (fault.deep ? LimitExceeded : TypeError)(`params${fault.path}: ${fault.what}`);
  }
  if (traceparent !== undefined && !isTraceparent(traceparent)) {
    throw new RangeError('traceparent: expected 1 to 512 printable ASCII characters');
  }
  const isCall = replyTo !== undefined;
  // SABIR-ENVELOPE-5: v, id and reply_to come first. An id and a token need no escapes.
  const head = `{"v":1,"id":"${id}",${isCall ? `"reply_to":"${replyTo}",` : ''}`;
  const rest = `${idempotent ? '"idempotent":true,' : ''}${traceparent === undefined ? '' : `"traceparent":${JSON.stringify(traceparent)},`}`;
  const body = `${BODY},${isCall ? `"id":"${id}",` : ''}"method":${JSON.stringify(method)}`;
  const tail = `${rest}${body}${params === undefined ? '' : `,"params":${JSON.stringify(params)}`}}}`;
  return (deadline) => elementOf(deadline === undefined ? head + tail : `${head}"deadline":${deadline},${tail}`, limits, LimitExceeded);
}

/**
 * Checks and writes a request. @see requestWriter
 *
 * @param {Request} request
 * @param {Limits} [limits]
 */
export function encodeRequest(request, limits) {
  check('id', request.id);
  if (request.replyTo !== undefined) check('token', request.replyTo);
  return requestWriter(request, limits)(request.deadline);
}

/** @param {string} id @param {string} worker @param {string} outcome a member, as JSON; the names need no escapes */
const replyText = (id, worker, outcome) => `{"v":1,"id":"${id}","worker":"${worker}",${BODY},"id":"${id}",${outcome}}}`;

/**
 * Writes a reply with a result.
 *
 * @param {{ id: string, worker: string, result: unknown }} reply
 * @param {Limits} [limits]
 * @throws {InvalidResult} the result is nothing that JSON can hold, or makes the reply exceed a limit (SABIR-LIMIT-4)
 */
export function encodeResult({ id, worker, result }, limits = LIMITS) {
  const fault = unwritable(result, limits.maxDepth - 2);
  if (fault) throw new InvalidResult(`result${fault.path}: ${fault.what}`);
  return elementOf(replyText(id, worker, `"result":${JSON.stringify(result)}`), limits, InvalidResult);
}

/**
 * Writes a reply with an error.
 *
 * @param {{ id: string, worker: string } & Failure} reply
 * @param {Limits} [limits]
 * @throws {InternalError} the data is nothing that JSON can hold, or makes the reply exceed a limit (SABIR-ERROR-3)
 */
export function encodeError({ id, worker, code, message, data }, limits = LIMITS) {
  const fault = data === undefined ? undefined : unwritable(data, limits.maxDepth - 3);
  if (fault) throw new InternalError(`an error's data${fault.path}: ${fault.what}`);
  const error = JSON.stringify({ code, message: message.toWellFormed(), data });
  return elementOf(replyText(id, worker, `"error":${error}`), limits, InternalError);
}

/** How many bytes of an element a dead letter keeps. */
const KEPT_BYTES = 16_777_216;

/**
 * Writes a dead letter (section 11).
 *
 * @param {{ at: number, worker: string, element: Buffer } & Failure} letter `at`: ms of Redis's clock
 */
export function encodeDeadLetter({ at, worker, code, message, data, element }) {
  const isCut = element.length > KEPT_BYTES; // SABIR-DEAD-5
  const kept =
    !isCut && isUtf8(element)
      ? { element: element.toString() }
      : { element_base64: element.toString('base64', 0, KEPT_BYTES), size: isCut ? element.length : undefined };
  return Buffer.from(JSON.stringify({ v: 1, at, worker, error: { code, message: message.toWellFormed(), data }, ...kept }));
}

// ---- reading

/** @param {unknown} value @returns {value is Record<string, unknown>} */
const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

/** @param {unknown} value @returns {value is string} */
const isTraceparent = (value) => typeof value === 'string' && /^[ -~]{1,512}$/.test(value);

/** Shows a value that was not expected, in few characters. @param {unknown} value */
function show(value) {
  if (value === undefined) return 'nothing';
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'an array' : 'an object';
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value);
  return text.length > 60 ? `${text.slice(0, 60).toWellFormed()}…` : text;
}

/** Tells whether brackets stand more than `max` deep, be it JSON or not (section 8). @param {Buffer} bytes @param {number} max */
function isTooDeep(bytes, max) {
  if (hasFewBrackets(bytes, max)) return false;
  let level = 0;
  let quoted = false;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i];
    if (quoted) {
      if (byte === 0x5c) i++; // \
      else if (byte === 0x22) quoted = false; // "
    } else if (byte === 0x22) quoted = true;
    else if (byte === 0x5b || byte === 0x7b) { // [ {
      if (++level > max) return true;
    } else if (byte === 0x5d || byte === 0x7d) level = Math.max(0, level - 1); // ] }
  }
  return false;
}

/** Tells whether no more than `max` brackets open at all; much quicker than to count levels. @param {Buffer} bytes @param {number} max */
function hasFewBrackets(bytes, max) {
  let left = max;
  for (const bracket of [0x5b, 0x7b]) { // [ {
    for (let at = bytes.indexOf(bracket); at >= 0; at = bytes.indexOf(bracket, at + 1)) {
      if (--left < 0) return false;
    }
  }
  return true;
}

/** Reads UTF-8; undefined: it is none. The text stands for the same bytes (SABIR-TRANSPORT-4). @param {Buffer} bytes */
const textOf = (bytes) => (isUtf8(bytes) ? bytes.toString() : undefined);

/** The text of a short element, which is quicker to send back than its bytes; or its bytes. @param {Buffer} element */
export const shortest = (element) => (element.length <= SHORT ? (textOf(element) ?? element) : element);

/**
 * Reads JSON; undefined: it is none (SABIR-JSON-2; a byte order mark stays, and is refused).
 *
 * @param {string | undefined} text
 * @returns {unknown}
 */
function parse(text) {
  try {
    return text === undefined ? undefined : JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** How a port begins a call, all but its parameters. */
const CALL = /^\{"v":1,"id":"([0-9a-f]{32})","reply_to":"([A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_-]{1,63})","deadline":([1-9][0-9]{0,14}),"body":\{"jsonrpc":"2\.0","id":"\1","method":"([!#-[\]-~]{1,128})","params":/;
/** How a port begins a reply with a result. */
const RESULT = /^\{"v":1,"id":"([0-9a-f]{32})","worker":"([A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_-]{1,63})","body":\{"jsonrpc":"2\.0","id":"\1","result":/;

/**
 * Reads an element as the ports write it, three times as quickly: its names by an expression, and as JSON only the one value behind
 * them. Anything else is undefined, and read in full: it may be as valid.
 *
 * @param {string | undefined} text @param {RegExp} beginning
 */
function readUsual(text, beginning) {
  const names = text?.endsWith('}}') ? beginning.exec(text) : null;
  if (!text || !names) return undefined;
  const value = parse(text.slice(names[0].length, -2)); // one JSON text in this place: there is no other member behind it
  return value === undefined ? undefined : { names, value };
}

const HEAD = /^[ \t\r\n]*\{([ \t\r\n]*"(v|id|reply_to)"[ \t\r\n]*:[ \t\r\n]*("[A-Za-z0-9_.-]{0,128}"|[0-9]{1,15})[ \t\r\n]*,){2,3}/;

/** Reads the head of an element that is over a limit (SABIR-LIMIT-3). @param {Buffer} element @param {Limits} limits */
function readHead(element, { maxBytes }) {
  const head = HEAD.exec(element.subarray(0, maxBytes).toString('latin1'))?.[0];
  const { id, reply_to: replyTo } = /** @type {any} */ (head && parse(`${head.slice(0, -1)}}`)) ?? {};
  return is('id', id) && is('token', replyTo) ? { id, replyTo } : {};
}

/** @param {number} code @param {string} message @param {{ id?: string, replyTo?: string }} [to] @returns {Rejection} */
const reject = (code, message, to) => ({ kind: 'rejected', code, message, ...to });

/**
 * Reads an element of the queue: a call, a notification, or a rejection. Where several errors could be given the first counts.
 *
 * @param {Buffer} element
 * @param {Limits} [limits]
 * @param {string | Buffer} [text] its text, if it is known
 * @returns {ReceivedCall | ReceivedNotification | Rejection}
 */
export function decodeRequest(element, limits = LIMITS, text = element) {
  if (element.length > limits.maxBytes || isTooDeep(element, limits.maxDepth)) {
    const message = `expected at most ${limits.maxBytes} bytes and ${limits.maxDepth} levels, got ${element.length} bytes`;
    return reject(LimitExceeded.code, message, readHead(element, limits)); // SABIR-LIMIT-2
  }
  const json = typeof text === 'string' ? text : textOf(element);
  const usual = readUsual(json, CALL);
  if (usual && typeof usual.value === 'object' && usual.value !== null) {
    const { names: [, id, replyTo, deadline, method], value } = usual;
    const params = /** @type {Params} */ (value);
    return { kind: 'call', id, replyTo, deadline: Number(deadline), idempotent: false, traceparent: undefined, method, params };
  }
  const envelope = parse(json);
  if (envelope === undefined) return reject(ParseError.code, 'expected JSON in UTF-8'); // SABIR-DEAD-1
  if (!isObject(envelope)) return reject(InvalidRequest.code, `expected an object, got ${show(envelope)}`);
  const { v, id, reply_to: replyTo, deadline, idempotent = false, traceparent, body } = envelope;
  if (!is('id', id)) return reject(InvalidRequest.code, `id: expected 32 lower-case hexadecimal digits, got ${show(id)}`);
  if (replyTo !== undefined && !is('token', replyTo)) {
    return reject(InvalidRequest.code, `reply_to: expected a token, got ${show(replyTo)}`, { id }); // SABIR-TOKEN-2
  }
  const to = { id, replyTo };
  if (Number.isSafeInteger(v) && Number(v) > 1) {
    return reject(UnsupportedVersion.code, `v: expected 1, got ${v}`, to); // SABIR-ENVELOPE-4
  }
  const fault = envelopeFault(envelope) ?? (isObject(body) ? bodyFault(body, replyTo && id) : `body: expected an object, got ${show(body)}`);
  if (fault) return reject(InvalidRequest.code, fault, to); // SABIR-BODY-1
  const { method, params } = /** @type {{ method: string, params?: Params }} */ (body);
  const kind = replyTo === undefined ? 'notification' : 'call';
  return /** @type {ReceivedCall | ReceivedNotification} */ ({ kind, id, replyTo, deadline, idempotent, traceparent, method, params });
}

/** @param {Record<string, unknown>} envelope @returns {string | undefined} */
function envelopeFault({ v, deadline, idempotent, traceparent }) {
  if (v !== 1) return `v: expected 1, got ${show(v)}`;
  if (deadline !== undefined && !(Number.isSafeInteger(deadline) && Number(deadline) >= 1)) {
    return `deadline: expected an integer > 0, got ${show(deadline)}`;
  }
  if (idempotent !== undefined && typeof idempotent !== 'boolean') {
    return `idempotent: expected true or false, got ${show(idempotent)}`;
  }
  if (traceparent !== undefined && !isTraceparent(traceparent)) {
    return `traceparent: expected 1 to 512 printable ASCII characters, got ${show(traceparent)}`;
  }
  return undefined;
}

/** @param {Record<string, unknown>} body @param {string | undefined} expectedId @returns {string | undefined} */
function bodyFault({ jsonrpc, id, method, params }, expectedId) {
  if (jsonrpc !== '2.0') return `jsonrpc: expected "2.0", got ${show(jsonrpc)}`;
  if (id !== expectedId) {
    return `body id: expected ${expectedId === undefined ? 'none, as there is no reply_to' : "the envelope's"}, got ${show(id)}`;
  }
  if (!is('method', method)) return `method: expected 1 to 128 printable ASCII characters without a space, got ${show(method)}`;
  if (params !== undefined && (typeof params !== 'object' || params === null)) {
    return `params: expected an array or an object, got ${show(params)}`;
  }
  return undefined;
}

/**
 * Reads an element of a reply list. Unknown members are ignored (SABIR-REPLY-6).
 *
 * @param {Buffer} element
 * @returns {Reply | undefined} undefined: no id could be read, so it is dropped
 */
export function decodeReply(element) {
  const text = textOf(element);
  const usual = readUsual(text, RESULT);
  if (usual) return { kind: 'result', id: usual.names[1], worker: usual.names[2], result: usual.value };
  const envelope = parse(text);
  if (!isObject(envelope) || !is('id', envelope.id)) return undefined;
  const { v, id, worker, body } = envelope;
  /** @param {string} message @returns {Reply} */
  const invalid = (message) => ({ kind: 'invalid', id, message });
  if (v !== 1) return invalid(`v: expected 1, got ${show(v)}`);
  if (!is('worker', worker)) return invalid(`worker: expected a worker id, got ${show(worker)}`);
  if (!isObject(body)) return invalid(`body: expected an object, got ${show(body)}`);
  const { jsonrpc, result, error } = body;
  if (jsonrpc !== '2.0' || body.id !== id) {
    return invalid(`body: expected jsonrpc "2.0" and the envelope's id, got ${show(jsonrpc)} and ${show(body.id)}`);
  }
  if ((result === undefined) === (error === undefined)) return invalid('body: expected either result or error'); // SABIR-REPLY-5
  if (error === undefined) return { kind: 'result', id, worker, result };
  if (!isObject(error) || !Number.isSafeInteger(error.code) || typeof error.message !== 'string') {
    return invalid(`error: expected an object with an integer code and a message, got ${show(error)}`);
  }
  return { kind: 'error', id, worker, code: Number(error.code), message: error.message, data: error.data };
}

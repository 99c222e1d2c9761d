/**
 * The client's shell: call, wait, time out (sections 9, 10 and 13 of the specification).
 *
 * All calls of one service that are in flight share one token and one connection that waits for replies; all requests leave over
 * one other connection.
 */

import { randomBytes } from 'node:crypto';
import { push, wait, drain } from './commands.js';
import { backoff, Clock, context, Link, noop, pause, uniqueName, withSource } from './connection.js';
import {
  ApplicationError, CallTimeout, classFor, ConnectionLost, DeadlineExceeded, InvalidReply, NotQueued, SabirError,
} from './errors.js';
import { check } from './keys.js';
import { decodeReply, LIMITS, requestWriter } from './messages.js';

/** @typedef {import('./keys.js').Place} Place */
/** @typedef {import('./messages.js').Params} Params */

/**
 * @typedef {object} ClientOptions
 * @property {string} [url] where Redis is. Default: `redis://127.0.0.1:6379/0`
 * @property {import('./connection.js').Source['redis']} [redis] a client of the `redis` package, to take its options instead
 * @property {string} [namespace] the first part of every key. Default: `sabir`
 * @property {string} [name] the client's name, which confines it to its own replies in Redis's ACLs. Default: `client`
 * @property {number} [timeoutMs] how long a call may take, in ms. Default: 30,000
 * @property {(typeof ApplicationError)[]} [errors] classes with a `static code`, which stand for their codes: they are made as
 *   `new Class(message, { code, data })`
 * @property {number} [maxBytes] the largest request, in bytes. Default: 1,048,576
 * @property {number} [maxDepth] the deepest nesting of a request. Default: 64
 */

/**
 * @typedef {object} CallOptions
 * @property {number} [timeoutMs] how long it may take, in ms. Default: the service's, the client's
 * @property {boolean} [idempotent] whether running it more than once does no harm. Default: false
 * @property {string} [traceparent] the trace (W3C). Default: that of the handler that is running
 */

/** @typedef {(...params: any[]) => Promise<any>} RemoteMethod */

const LONGEST_BLOCK_MS = 5_000;
const LONGEST_DRAIN = 64;
const LONGEST_TIMEOUT_MS = 1e12;
/** The most that a timer can wait for: 24.8 days. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;
/** Error replies after which the same command may soon succeed. */
const TRANSIENT = /^(LOADING|BUSY|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|NOREPLICAS)\b/;
/** Names that JavaScript itself asks any object for. */
const NEVER_REMOTE = new Set(['then', 'toJSON']);

class Named {
  /** @param {Record<string, unknown>} params */
  constructor(params) {
    this.params = params;
  }
}

/**
 * Marks an object as named parameters: `calc.add(named({ a: 1, b: 2 }))`. Unmarked, it is one positional parameter.
 *
 * @param {Record<string, unknown>} params
 */
export const named = (params) => new Named(params);

/** Refuses what is no time (SABIR-CALL-4). @param {unknown} ms @param {string} what @returns {number} */
function checkTime(ms, what) {
  if (typeof ms !== 'number') throw new TypeError(`${what}: expected a number of ms, got ${typeof ms}`);
  if (!(ms > 0 && ms <= LONGEST_TIMEOUT_MS)) {
    throw new RangeError(`${what}: expected more than 0 and at most ${LONGEST_TIMEOUT_MS} ms, got ${ms}`);
  }
  return ms;
}

/**
 * Where the replies to one token arrive.
 * @typedef {object} Inbox
 * @property {string} token
 * @property {Map<string, (outcome: unknown) => void>} waiting what ends each call, by its id
 * @property {number} until when the last of them times out, by `performance.now()`
 * @property {boolean} isRead whether somebody reads it
 * @property {boolean} isLost whether its connection is away
 * @property {Link} link
 */

/** Requests that leave in one RPUSH, until each has an outcome: a result, or an error. */
export class Batch {
  /** Whether Redis may have got them. */
  sent = false;
  /** @type {unknown} what went wrong last */
  trouble;
  #ids;
  /** @type {NodeJS.Timeout | undefined} */
  #timer;
  #timeoutMs;

  /**
   * @param {Inbox} inbox
   * @param {string[]} ids
   * @param {number} timeoutMs
   * @param {() => Buffer[]} write writes the elements, with the deadline that is right now
   * @param {boolean} idempotent
   */
  constructor(inbox, ids, timeoutMs, write, idempotent) {
    this.inbox = inbox;
    this.#ids = ids;
    this.#timeoutMs = timeoutMs;
    this.write = write;
    this.idempotent = idempotent;
    this.until = performance.now() + timeoutMs;
    inbox.until = Math.max(inbox.until, this.until);
    /** @type {Promise<unknown>[]} */
    this.outcomes = ids.map((id) => new Promise((resolve) => inbox.waiting.set(id, resolve)));
    this.#wait();
    Promise.all(this.outcomes).then(() => clearTimeout(this.#timer));
  }

  /** Ends what has no outcome in time (SABIR-CALL-2). */
  #wait() {
    const leftMs = this.until - performance.now();
    if (leftMs <= 0) return this.end(() => this.#expired());
    this.#timer = setTimeout(() => this.#wait(), Math.min(Math.ceil(leftMs), LONGEST_TIMER_MS));
  }

  get isOver() {
    return performance.now() >= this.until || !this.#ids.some((id) => this.inbox.waiting.has(id));
  }

  /** Gives an outcome to all that have none. @param {() => unknown} outcome */
  end(outcome) {
    for (const id of this.#ids) settle(this.inbox, id, outcome);
  }

  #expired() {
    const cause = this.trouble;
    if (!this.sent) {
      return new NotQueued(`could not be sent within ${this.#timeoutMs} ms: ${text(cause)}`, { cause }); // SABIR-LOST-5
    }
    if (this.inbox.isLost) {
      return new ConnectionLost(`the connection was lost, and did not come back within ${this.#timeoutMs} ms`, { cause }); // SABIR-LOST-2
    }
    return new CallTimeout(`no reply within ${this.#timeoutMs} ms`, { cause }); // SABIR-CALL-6
  }
}

/** @param {unknown} error */
const text = (error) => (error instanceof Error ? error.message : 'no connection');

/** Ends a call, if it waits. @param {Inbox} inbox @param {string} id @param {() => unknown} outcome */
function settle(inbox, id, outcome) {
  const resolve = inbox.waiting.get(id);
  if (resolve && inbox.waiting.delete(id)) resolve(outcome());
}

/** Calls methods of services. Any number of calls can be in flight at once. */
export class Client {
  #source;
  #namespace;
  #name;
  #timeoutMs;
  #limits;
  /** @type {Map<number, typeof ApplicationError>} */
  #errors = new Map();
  #clock = new Clock();
  #link;
  #isClosed = false;
  #mayDrain = true;
  /** @type {Map<string, Inbox>} by service */
  #inboxes = new Map();
  /** @type {Set<Inbox>} all of them, those too whose connection was lost */
  #allInboxes = new Set();

  /**
   * @param {ClientOptions | string} [options] options, or a url alone. Nothing is connected before the first call
   * @throws {TypeError} an option of the wrong type
   * @throws {RangeError} a name outside its grammar, or a time-out that is not positive
   */
  constructor(options = {}) {
    const given = withSource(options);
    this.#source = given;
    this.#namespace = check('namespace', given.namespace ?? 'sabir');
    this.#name = check('name', given.name ?? 'client');
    this.#timeoutMs = checkTime(given.timeoutMs ?? 30_000, 'timeoutMs'); // SABIR-CALL-3
    this.#limits = { maxBytes: given.maxBytes ?? LIMITS.maxBytes, maxDepth: given.maxDepth ?? LIMITS.maxDepth };
    this.#link = new Link(given, this.#clock);
    for (const type of given.errors ?? []) {
      if (!(type.prototype instanceof ApplicationError)) {
        throw new TypeError(`errors: expected subclasses of ApplicationError, got ${type.name}`);
      }
      this.#errors.set(type.code, type);
    }
  }

  /**
   * Makes a stand-in for a service, whose methods are the remote ones: `await calc.add(1, 2)`.
   *
   * @template {object} [T=Record<string, RemoteMethod>]
   * @param {string} service
   * @param {CallOptions} [options] for every call of it
   * @returns {T}
   */
  service(service, options) {
    check('service', service);
    if (options?.timeoutMs !== undefined) checkTime(options.timeoutMs, 'timeoutMs');
    return /** @type {T} */ (new Proxy(Object.freeze(Object.create(null)), {
      get: (_, method) => {
        if (method === Symbol.toPrimitive) return () => `[sabir service ${service}]`;
        if (typeof method !== 'string' || NEVER_REMOTE.has(method)) return undefined;
        return (/** @type {unknown[]} */ ...params) => {
          const [first] = params;
          if (params.length === 1 && first instanceof Named) return this.call(service, method, first.params, options);
          return this.call(service, method, params.length ? params : undefined, options);
        };
      },
    }));
  }

  /**
   * Calls a method by any legal name and waits for its result.
   *
   * @param {string} service
   * @param {string} method
   * @param {Params | null} [params] an array (positional) or an object (named); undefined or null: none
   * @param {CallOptions} [options]
   * @returns {Promise<any>}
   * @throws {SabirError} what the call ended with: see `errors.js`
   * @throws {TypeError} what JSON can't hold, or an argument of the wrong type
   * @throws {RangeError} a name outside its grammar, or a time-out that is not positive
   */
  async call(service, method, params, options) {
    const [outcome] = await this.many(service, [[method, params]], options);
    if (outcome instanceof SabirError) throw outcome;
    return outcome;
  }

  /**
   * Makes many calls at once; the workers share them.
   *
   * @param {string} service
   * @param {[method: string, params?: Params | null][]} calls
   * @param {CallOptions} [options] for all of them
   * @returns {Promise<any[]>} the results in order; a call that failed has its SabirError there
   * @throws {TypeError} @throws {RangeError} @throws {SabirError} one of the requests can't be sent at all, and none was
   */
  async many(service, calls, { timeoutMs = this.#timeoutMs, idempotent = false, traceparent } = {}) {
    const place = { namespace: this.#namespace, service: check('service', service) };
    const handled = context();
    const limitMs = Math.min(checkTime(timeoutMs, 'timeoutMs'), handled?.timeLeftMs ?? Infinity); // SABIR-TIME-5
    const until = performance.now() + limitMs;
    const inbox = this._inbox(place);
    const common = { replyTo: inbox.token, idempotent, traceparent: traceparent ?? handled?.traceparent };
    const requests = calls.map(([method, params]) => ({ ...common, id: newId(), method, params: params ?? undefined }));
    const writers = requests.map((request) => requestWriter(request, this.#limits));
    const write = () => {
      const deadline = Math.floor(this.#clock.now() + until - performance.now()); // SABIR-CALL-5
      return writers.map((writer) => writer(deadline));
    };
    write(); // SABIR-LIMIT-1: what is too large is refused before anything is sent
    if (limitMs <= 0) return calls.map(() => new DeadlineExceeded('the deadline of the request that is being handled has come'));
    if (!calls.length) return [];
    const batch = new Batch(inbox, requests.map(({ id }) => id), limitMs, write, idempotent);
    void this._push(place, batch);
    void this._read(place, inbox);
    return Promise.all(batch.outcomes);
  }

  /**
   * Sends a notification: a request that nobody answers (SABIR-CALL-7).
   *
   * @param {string} service
   * @param {string} method
   * @param {Params | null} [params]
   * @param {object} [options]
   * @param {number} [options.expiresMs] how long it may wait in the queue, in ms; undefined: for ever
   * @param {number} [options.timeoutMs] how long to wait for Redis to have it, in ms. Default: the client's
   * @param {string} [options.traceparent] the trace (W3C). Default: that of the handler that is running
   * @returns {Promise<string>} its id, when Redis has it
   * @throws {NotQueued} Redis does not have it
   * @throws {ConnectionLost} nobody knows whether Redis has it
   * @throws {TypeError} @throws {RangeError} @throws {SabirError} it can't be sent at all
   */
  async notify(service, method, params, { expiresMs, timeoutMs = this.#timeoutMs, traceparent = context()?.traceparent } = {}) {
    const place = { namespace: this.#namespace, service: check('service', service) };
    checkTime(timeoutMs, 'timeoutMs');
    if (expiresMs !== undefined) checkTime(expiresMs, 'expiresMs');
    const id = newId();
    const writer = requestWriter({ id, method, params: params ?? undefined, traceparent }, this.#limits);
    const write = () => [writer(expiresMs && Math.floor(this.#clock.now() + expiresMs))];
    write();
    const inbox = { token: '', waiting: new Map(), until: 0, isRead: false, isLost: true, link: this.#link }; // for its own outcome only
    const batch = new Batch(inbox, [id], timeoutMs, write, false);
    const lost = () => new ConnectionLost('the connection was lost before Redis answered', { cause: batch.trouble });
    void this._push(place, batch).then((isQueued) => batch.end(() => (isQueued ? undefined : lost())));
    const [outcome] = await Promise.all(batch.outcomes);
    if (outcome instanceof SabirError) throw outcome;
    return id;
  }

  /** Ends all connections; calls in flight end with ConnectionLost or NotQueued. */
  async close() {
    this.#isClosed = true;
    this.#link.close();
    for (const { link, waiting } of this.#allInboxes) {
      link.close();
      for (const end of [...waiting.values()]) end(new ConnectionLost('the client was closed'));
      waiting.clear();
    }
  }

  /** Returns where the replies of a service arrive. @protected @param {Place} place @returns {Inbox} */
  _inbox({ service }) {
    let inbox = this.#inboxes.get(service);
    if (!inbox || (!inbox.isRead && !inbox.link.isOpen)) { // none, or one whose connection was lost while nobody waited
      if (inbox) this.#allInboxes.delete(inbox);
      const token = uniqueName(this.#name); // SABIR-TOKEN-1
      inbox = { token, waiting: new Map(), until: 0, isRead: false, isLost: false, link: new Link(this.#source, this.#clock) };
      this.#inboxes.set(service, inbox);
      this.#allInboxes.add(inbox);
    }
    return inbox;
  }

  /**
   * Puts a batch into the queue, once (SABIR-LOST-1).
   *
   * @protected
   * @param {Place} place
   * @param {Batch} batch
   * @returns {Promise<boolean>} whether Redis has it for sure
   */
  async _push(place, batch) {
    for (const delay = backoff(); !batch.isOver; await pause(delay())) {
      try {
        await this.#link.open();
        if (this.#clock.isStale) await this.#link.askTime(); // SABIR-TIME-2
      } catch (error) {
        batch.trouble = error; // nothing was sent
        if (this.#isClosed) batch.end(() => new NotQueued('the client is closed'));
        continue;
      }
      if (batch.isOver) break;
      const wasSent = batch.sent;
      batch.sent = true;
      try {
        const [answer] = await this.#link.send(push(place, batch.write()));
        if (!(answer instanceof Error)) return true;
        batch.trouble = answer;
        batch.sent = wasSent; // an error reply: not executed
        if (TRANSIENT.test(answer.message)) continue;
        if (!wasSent) batch.end(() => new NotQueued(answer.message, { cause: answer })); // SABIR-LOST-5
        return false;
      } catch (error) {
        batch.trouble = error;
        if (!batch.idempotent) return false;
      }
    }
    return false;
  }

  /**
   * Reads an inbox for as long as a call waits on it. When its connection is lost it goes on with a new one, and the next call
   * gets a token of its own (SABIR-LOST-2, SABIR-TOKEN-1).
   *
   * @protected
   * @param {Place} place
   * @param {Inbox} inbox
   */
  async _read(place, inbox) {
    if (inbox.isRead) return;
    inbox.isRead = true;
    let delay = backoff();
    while (inbox.waiting.size) {
      try {
        await inbox.link.open();
        inbox.isLost = false;
        const blockMs = Math.ceil(Math.min(LONGEST_BLOCK_MS, Math.max(1, inbox.until - performance.now())));
        const more = inbox.waiting.size > 1 && this.#mayDrain ? drain(place, inbox.token, LONGEST_DRAIN) : [];
        const [popped, others] = await inbox.link.send([...wait(place, inbox.token, blockMs), ...more], blockMs);
        if (popped instanceof Error) throw popped;
        if (popped) this._deliver(inbox, popped[1]);
        if (others instanceof Error) this.#mayDrain = false; // Redis's ACL may not let us: then each reply takes a round trip
        else for (const element of others ?? []) this._deliver(inbox, element);
        delay = backoff();
      } catch {
        inbox.isLost = !inbox.link.isOpen;
        if (this.#inboxes.get(place.service) === inbox) this.#inboxes.delete(place.service);
        await pause(delay());
      }
    }
    inbox.isRead = false;
    if (this.#inboxes.get(place.service) === inbox) return;
    inbox.link.close();
    this.#allInboxes.delete(inbox);
  }

  /** Ends the call that a reply belongs to; all others are late (SABIR-REPLY-4). @protected @param {Inbox} inbox @param {Buffer} element */
  _deliver(inbox, element) {
    const reply = decodeReply(element);
    if (!reply) return;
    settle(inbox, reply.id, () => {
      if (reply.kind === 'result') return reply.result;
      if (reply.kind === 'invalid') return new InvalidReply(reply.message); // SABIR-REPLY-5
      const { code, message, data } = reply;
      try {
        return new (classFor(code, this.#errors))(message, { code, data }); // SABIR-ERROR-4, SABIR-ERROR-5
      } catch (cause) { // the application's own constructor
        return new ApplicationError(message, { code, data, cause });
      }
    });
  }
}

const newId = () => randomBytes(16).toString('hex'); // SABIR-ENVELOPE-2

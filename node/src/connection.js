/**
 * What the two shells, client and server, share: a connection that never sends anything twice, Redis's clock, growing pauses,
 * and the context of the handler that is running.
 */

import { AsyncLocalStorage } from 'node:async_hooks';
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { clock as askTime } from './commands.js';

/** @typedef {import('./commands.js').Command} Command */

/**
 * @typedef {object} Source Where Redis is.
 * @property {string} [url] `redis://`, `rediss://` or `unix://`
 * @property {import('redis').RedisClientType<any, any, any, any, any>} [redis] a client of the `redis` package, used instead of a
 *   url: its options are copied, it is never connected, written to or closed itself
 */

/** How long a peer may be silent, beyond a command's own block time, before the connection is given up, in ms. */
const PATIENCE_MS = 2_000;
/** How long it may take to connect, in ms. */
const CONNECT_MS = 5_000;
/** After this time Redis's clock is asked again, in ms (SABIR-TIME-2). */
const CLOCK_MS = 60_000;

/** The same for every connection: bytes in and out, and nothing that node-redis would do by itself when a connection breaks. */
const OPTIONS = /** @type {const} */ ({
  RESP: 2,
  disableOfflineQueue: true, // what cannot be sent now fails now
  disableClientInfo: true,
  maintNotifications: 'disabled',
  clientSideCache: undefined,
  emitInvalidate: false,
  pingInterval: 0,
});

/** The most that a timer can wait for: 24.8 days. */
export const LONGEST_TIMER_MS = 2 ** 31 - 1;

export const noop = () => {};

/** Waits until all that could go on at once has; what is sent then is still written in this turn. @returns {Promise<void>} */
export const settled = () => new Promise((resolve) => process.nextTick(resolve));

/** Waits for one turn of the event loop; what was sent before is written then. @returns {Promise<void>} */
export const turn = () => new Promise((resolve) => setImmediate(resolve));

let random = Buffer.alloc(0);
let used = 0;

/** Makes hexadecimal digits of random bytes, which are got from the system many at a time. @param {number} bytes */
export function randomHex(bytes) {
  if (used + bytes > random.length) [random, used] = [randomBytes(4_096), 0];
  return random.toString('hex', used, (used += bytes));
}

/** Names a live connection or a worker: a name and 64 random bits. @param {string} name */
export const uniqueName = (name) => `${name}.${randomHex(8)}`;

/** Waits, or returns at once when the signal is aborted. @param {number} ms @param {AbortSignal} [signal] */
export const pause = (ms, signal) => sleep(ms, undefined, { signal }).catch(noop);

/** Makes a row of growing pauses: 0.05 s, doubling, up to 5 s (SABIR-WORKER-6). @param {number} [longestMs] */
export function backoff(longestMs = 5_000) {
  let ms = 25;
  return () => (ms = Math.min(ms * 2, longestMs));
}

/**
 * @template {object} T
 * @param {Source & T | string} options options, or a url alone
 * @returns {Source & Partial<T>}
 */
export function withSource(options) {
  const given = typeof options === 'string' ? /** @type {Source & Partial<T>} */ ({ url: options }) : options;
  const url = given.url ?? 'redis://127.0.0.1:6379/0';
  const { protocol } = new URL(url);
  if (!/^(rediss?|unix):$/.test(protocol)) throw new TypeError(`url: expected redis://, rediss:// or unix://, got ${protocol}//`);
  return { ...given, url };
}

/**
 * Redis's clock, carried on by the monotonic one (SABIR-TIME-1). When Redis read it, between question and answer, nobody knows:
 * this is the latest that it can be, so that nothing is started too late and nothing expires too early.
 */
export class Clock {
  #ahead = Date.now() - performance.now();
  #asked = -Infinity;

  /** Whether Redis has to be asked (again). */
  get isStale() {
    return performance.now() - this.#asked > CLOCK_MS;
  }

  /** @param {[Buffer, Buffer]} time the answer of `TIME` @param {number} sent when it was asked, by `performance.now()` */
  set([seconds, microseconds], sent) {
    if (performance.now() - sent > 250 && !this.isStale) return; // the event loop was busy: what is known is better
    this.#ahead = Number(seconds) * 1e3 + Number(microseconds) / 1e3 - sent;
    this.#asked = sent;
  }

  /** The time, in ms since 1970. */
  now() {
    return this.at(performance.now());
  }

  /** A moment by `performance.now()`, in ms since 1970. @param {number} moment */
  at(moment) {
    return this.#ahead + moment;
  }
}

/** Loads the package, when somebody is about to connect: it takes five times as long as all else that is imported here. */
async function load() {
  const { createClient, RESP_TYPES } = await import('redis');
  // Without a time-out of its own, which node-redis gives each command at the price of a timer (80 µs of a call's 330).
  const commandOptions = { timeout: undefined, typeMapping: { [RESP_TYPES.BLOB_STRING]: Buffer } }; // SABIR-TRANSPORT-4
  const options = { ...OPTIONS, commandOptions };
  return { options, pattern: createClient(options) };
}

/** @type {ReturnType<typeof load> | undefined} */
let loading;
const loaded = () => (loading ??= load());

/** How much leaves in one write; with the stream's own limit, 16 KiB in Node 20, answers and the next take would not. */
const HIGH_WATER_BYTES = 1 << 18;

/** Makes a copy of a client: the package builds its classes anew for each createClient(), which takes 29 ms. @param {Source} source */
async function createRedis({ url, redis }) {
  const { options, pattern } = await loaded();
  const socket = { reconnectStrategy: /** @type {const} */ (false), highWaterMark: HIGH_WATER_BYTES };
  const created = redis
    ? redis.duplicate({ ...options, socket: { ...redis.options?.socket, ...socket } })
    : pattern.duplicate({ url, ...options, socket });
  return created.on('error', noop); // without a listener it would end the process; what was in flight learns of it by its promise
}

/** @typedef {Awaited<ReturnType<typeof createRedis>>} Redis */

/**
 * What was sent in one write and is not answered yet.
 * @typedef {object} Exchange
 * @property {Redis} redis
 * @property {number} half the half of the time that it may take, in ms
 * @property {number} due when this half is over, by `performance.now()`
 * @property {boolean} isLate whether it is the second one
 */

/** A connection that is opened when it is needed, and again when it was lost. It sends nothing again by itself. */
export class Link {
  #source;
  #clock;
  #graceMs;
  #isClosed = false;
  #wasOpen = false;
  /** Whether the connection may be used: the one before has ended. */
  #isMade = false;
  #wasTried = false;
  /** @type {Redis | undefined} */
  #redis;
  /** @type {Promise<true> | undefined} */
  #opening;
  /** In the order in which they were sent. @type {Exchange[]} */
  #unanswered = [];
  /** One for all exchanges: the next that is due. @type {NodeJS.Timeout | undefined} */
  #timer;
  #firesAt = Infinity;
  /** How many connections there were. */
  made = 0;
  /** The connection's id, as `CLIENT UNBLOCK` wants it; undefined: not known. @type {string | undefined} */
  id;
  /** Its address, as Redis sees it; undefined: not known. @type {string | undefined} */
  address;
  /** Whether the server may still be executing what was sent over an earlier connection, which could not be ended. */
  hasGhost = false;
  /** When it came back after it was lost, or could not be made, by `performance.now()`; -Infinity: that never was. */
  cameBack = -Infinity;

  /**
   * @param {Source} source
   * @param {Clock} clock set whenever a connection is opened
   * @param {number} [graceMs] how long to wait where Redis does not let us end a lost connection
   */
  constructor(source, clock, graceMs = 0) {
    this.#source = source;
    this.#clock = clock;
    this.#graceMs = graceMs;
    loaded().catch(noop); // begins before the first call, whose time is limited; its failure is told there
  }

  get isOpen() {
    return this.#isMade && this.#redis?.isReady === true;
  }

  /**
   * Makes sure that there is a connection. Where one was lost, the server has given it up before this returns (SABIR-LOST-3).
   *
   * @returns {Promise<boolean>} whether it is a new one
   */
  async open() {
    if (this.#isClosed) throw new Error('closed');
    if (this.isOpen) return false;
    this.#opening ??= this.#connect().finally(() => (this.#opening = undefined));
    return this.#opening;
  }

  /** @returns {Promise<true>} */
  async #connect() {
    this.#redis?.destroy();
    this.#isMade = false;
    const redis = (this.#redis = await createRedis(this.#source));
    if (this.#isClosed) throw new Error('closed');
    const isAgain = this.#wasTried;
    this.#wasTried = true;
    let isSlow = false;
    const timer = setTimeout(() => {
      isSlow = true;
      redis.destroy();
    }, CONNECT_MS);
    try {
      await redis.connect();
      if (this.#isClosed) throw new Error('closed');
      const sent = performance.now();
      const [info, time] = await this.#exchange(redis, [['CLIENT', 'INFO'], ...askTime()]);
      if (time instanceof Error) throw time;
      this.#clock.set(time, sent);
      clearTimeout(timer);
      const { id: old, address } = this;
      [, this.id, this.address] = /\bid=(\d+) addr=(\S+)/.exec(String(info)) ?? [];
      if (this.#wasOpen && !(await this.#end(redis, old, address))) {
        this.hasGhost = true;
        await pause(this.#graceMs);
      }
      this.#wasOpen = this.#isMade = true;
      this.made++;
      if (isAgain) this.cameBack = performance.now();
      return true;
    } catch (error) {
      redis.destroy();
      throw isSlow ? new Error(`no connection to Redis within ${CONNECT_MS} ms`, { cause: error }) : error;
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Makes the server give up the connection before this one (SABIR-LOST-3). Not by the id alone: ids begin anew when Redis does, and
   * then it may be a stranger's.
   *
   * @param {Redis} redis @param {string | undefined} id @param {string | undefined} address as Redis has it
   * @returns {Promise<boolean>} whether it is gone
   */
  async #end(redis, id, address) {
    if (id === undefined || address === undefined) return false;
    const [ended] = await this.#exchange(redis, [['CLIENT', 'KILL', 'ID', id, 'ADDR', address]]);
    return typeof ended === 'number';
  }

  /**
   * Sends commands over the connection that is open, in one write with what else is sent in this turn, and waits for all answers. An
   * error reply is an Error in its place.
   *
   * @param {Command[]} commands
   * @param {number} [blockMs] how long they may block
   * @param {() => void} [begun] called when the first of them is answered
   * @returns {Promise<any[]>}
   * @throws {Error} the connection was lost, or silent for too long: nobody knows what was executed
   */
  send(commands, blockMs, begun) {
    if (!this.isOpen || !this.#redis) return Promise.reject(new Error('not connected to Redis'));
    return this.#exchange(this.#redis, commands, blockMs, begun);
  }

  /** @param {Redis} redis @param {Command[]} commands @param {number} [blockMs] @param {() => void} [begun] @returns {Promise<any[]>} */
  async #exchange(redis, commands, blockMs = 0, begun = noop) {
    // Waited for in two halves: after a time in which a handler held the event loop, the first one is over before the answer could
    // be read (SABIR-TRANSPORT-2).
    const half = (blockMs + PATIENCE_MS) / 2;
    const exchange = { redis, half, due: performance.now() + half, isLate: false };
    this.#unanswered.push(exchange);
    this.#watch(exchange.due);
    /** @type {any[]} */
    const answers = commands.map((command) => redis.sendCommand(command));
    let cause;
    for (let i = 0; i < answers.length; i++) { // answers come in order: nothing is rejected while one before it is waited for
      try {
        answers[i] = await answers[i];
      } catch (error) {
        answers[i] = cause = error;
      }
      if (i === 0) begun();
    }
    this.#unanswered.splice(this.#unanswered.indexOf(exchange), 1);
    if (cause && !redis.isReady) throw new Error('the connection to Redis was lost', { cause });
    return answers;
  }

  /** Sees to it that a silent peer is noticed. @param {number} due when, by `performance.now()` */
  #watch(due) {
    if (due >= this.#firesAt) return;
    clearTimeout(this.#timer);
    this.#firesAt = due;
    this.#timer = setTimeout(() => this.#check(), due - performance.now()).unref();
  }

  /** Gives the connection up when an answer has not come within both halves of its time. */
  #check() {
    this.#firesAt = Infinity;
    const now = performance.now();
    let next = Infinity;
    for (const exchange of this.#unanswered) {
      if (exchange.due <= now) {
        if (exchange.isLate) exchange.redis.destroy();
        exchange.isLate = true;
        exchange.due = now + exchange.half;
      }
      next = Math.min(next, exchange.due);
    }
    if (next < Infinity) this.#watch(next);
  }

  /** Asks for the time. */
  async askTime() {
    const sent = performance.now();
    const [time] = await this.send(askTime());
    if (time instanceof Error) throw time;
    this.#clock.set(time, sent);
  }

  /** Ends the connection at once, whatever it waits for. */
  close() {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#redis?.destroy();
  }
}

/** What a handler can ask about the request that it handles. Get it by `context()`. */
export class Context {
  #deadline;
  #clock;
  /** @type {AbortController | undefined} */
  #ending;

  /**
   * @param {import('./messages.js').ReceivedCall | import('./messages.js').ReceivedNotification} request
   * @param {string} service
   * @param {string} worker
   * @param {Clock} clock
   * @param {number} attempt
   */
  constructor(request, service, worker, clock, attempt) {
    this.#deadline = request.deadline;
    this.#clock = clock;
    this.id = request.id;
    this.service = service;
    this.method = request.method;
    this.worker = worker;
    /** The name of the client that calls; undefined: a notification. @type {string | undefined} */
    this.caller = request.replyTo?.slice(0, request.replyTo.indexOf('.'));
    /** Which delivery of the request this is: 1, or more where workers that had it were lost (SABIR-ATTEMPT-2). */
    this.attempt = attempt;
    /** The caller's trace; undefined: none. @type {string | undefined} */
    this.traceparent = request.traceparent;
  }

  /** How long until the request's deadline, in ms; negative: it has passed; undefined: it has none. @returns {number | undefined} */
  get timeLeftMs() {
    return this.#deadline === undefined ? undefined : this.#deadline - this.#clock.now();
  }

  /** Aborted when the handler has run longer than the worker's limit: a handler that heeds it frees its place (SABIR-RUN-1). @returns {AbortSignal} */
  get signal() {
    return this.#controller.signal;
  }

  /** @internal @param {Error} reason */
  _abort(reason) {
    this.#controller.abort(reason);
  }

  /** @returns {AbortController} */
  get #controller() {
    return (this.#ending ??= new AbortController());
  }
}

/** @type {AsyncLocalStorage<Context>} */
export const running = new AsyncLocalStorage();

/** Returns the context of the handler that is running, or undefined outside of one. */
export const context = () => running.getStore();

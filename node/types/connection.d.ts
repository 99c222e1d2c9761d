/**
 * What the two shells, client and server, share: a connection that never sends anything twice, Redis's clock, growing pauses,
 * and the context of the handler that is running.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
export type Command = import('./commands.js').Command;
export type Source = {
    /**
     * `redis://`, `rediss://` or `unix://`
     */
    url?: string;
    /**
     * a client of the `redis` package, used instead of a
     * url: its options are copied, it is never connected, written to or closed itself
     */
    redis?: import('redis').RedisClientType<any, any, any, any, any>;
};
/** The most that a timer can wait for: 24.8 days. */
export declare const LONGEST_TIMER_MS: number;
export declare const noop: () => void;
/** Waits until all that could go on at once has; what is sent then is still written in this turn. @returns {Promise<void>} */
export declare const settled: () => Promise<void>;
/** Waits for one turn of the event loop; what was sent before is written then. @returns {Promise<void>} */
export declare const turn: () => Promise<void>;
/** Makes hexadecimal digits of random bytes, which are got from the system many at a time. @param {number} bytes */
export declare function randomHex(bytes: number): string;
/** Names a live connection or a worker: a name and 64 random bits. @param {string} name */
export declare const uniqueName: (name: string) => string;
/** Waits, or returns at once when the signal is aborted. @param {number} ms @param {AbortSignal} [signal] */
export declare const pause: (ms: number, signal?: AbortSignal) => Promise<void | undefined>;
/** Makes a row of growing pauses: 0.05 s, doubling, up to 5 s (SABIR-WORKER-6). @param {number} [longestMs] */
export declare function backoff(longestMs?: number): () => number;
/**
 * @template {object} T
 * @param {Source & T | string} options options, or a url alone
 * @returns {Source & Partial<T>}
 */
export declare function withSource<T extends object>(options: (Source & T) | string): Source & Partial<T>;
/**
 * Redis's clock, carried on by the monotonic one (SABIR-TIME-1). When Redis read it, between question and answer, nobody knows:
 * this is the latest that it can be, so that nothing is started too late and nothing expires too early.
 */
export declare class Clock {
    #private;
    /** Whether Redis has to be asked (again). */
    get isStale(): boolean;
    /** @param {[Buffer, Buffer]} time the answer of `TIME` @param {number} sent when it was asked, by `performance.now()` */
    set([seconds, microseconds]: [Buffer, Buffer], sent: number): void;
    /** The time, in ms since 1970. */
    now(): number;
    /** A moment by `performance.now()`, in ms since 1970. @param {number} moment */
    at(moment: number): number;
}
/** Makes a copy of a client: the package builds its classes anew for each createClient(), which takes 29 ms. @param {Source} source */
declare function createRedis({ url, redis }: Source): Promise<import("@redis/client").RedisClientType<any, any, any, 2, {
    36: BufferConstructor;
}>>;
export type Redis = Awaited<ReturnType<typeof createRedis>>;
export type Exchange = {
    redis: Redis;
    /**
     * the half of the time that it may take, in ms
     */
    half: number;
    /**
     * when this half is over, by `performance.now()`
     */
    due: number;
    /**
     * whether it is the second one
     */
    isLate: boolean;
};
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
export declare class Link {
    #private;
    /** How many connections there were. */
    made: number;
    /** The connection's id, as `CLIENT UNBLOCK` wants it; undefined: not known. @type {string | undefined} */
    id: string | undefined;
    /** Its address, as Redis sees it; undefined: not known. @type {string | undefined} */
    address: string | undefined;
    /** Whether the server may still be executing what was sent over an earlier connection, which could not be ended. */
    hasGhost: boolean;
    /** When it came back after it was lost, or could not be made, by `performance.now()`; -Infinity: that never was. */
    cameBack: number;
    /**
     * @param {Source} source
     * @param {Clock} clock set whenever a connection is opened
     * @param {number} [graceMs] how long to wait where Redis does not let us end a lost connection
     */
    constructor(source: Source, clock: Clock, graceMs?: number);
    get isOpen(): boolean;
    /**
     * Makes sure that there is a connection. Where one was lost, the server has given it up before this returns (SABIR-LOST-3).
     *
     * @returns {Promise<boolean>} whether it is a new one
     */
    open(): Promise<boolean>;
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
    send(commands: Command[], blockMs?: number, begun?: () => void): Promise<any[]>;
    /** Asks for the time. */
    askTime(): Promise<void>;
    /** Ends the connection at once, whatever it waits for. */
    close(): void;
}
/** What a handler can ask about the request that it handles. Get it by `context()`. */
export declare class Context {
    #private;
    id: string;
    service: string;
    method: string;
    worker: string;
    /** The name of the client that calls; undefined: a notification. @type {string | undefined} */
    caller: string | undefined;
    /** Which delivery of the request this is: 1, or more where workers that had it were lost (SABIR-ATTEMPT-2). */
    attempt: number;
    /** The caller's trace; undefined: none. @type {string | undefined} */
    traceparent: string | undefined;
    /**
     * @param {import('./messages.js').ReceivedCall | import('./messages.js').ReceivedNotification} request
     * @param {string} service
     * @param {string} worker
     * @param {Clock} clock
     * @param {number} attempt
     */
    constructor(request: import('./messages.js').ReceivedCall | import('./messages.js').ReceivedNotification, service: string, worker: string, clock: Clock, attempt: number);
    /** How long until the request's deadline, in ms; negative: it has passed; undefined: it has none. @returns {number | undefined} */
    get timeLeftMs(): number | undefined;
    /** Aborted when the handler has run longer than the worker's limit: a handler that heeds it frees its place (SABIR-RUN-1). @returns {AbortSignal} */
    get signal(): AbortSignal;
    /** @internal @param {Error} reason */
    _abort(reason: Error): void;
}
/** @type {AsyncLocalStorage<Context>} */
export declare const running: AsyncLocalStorage<Context>;
/** Returns the context of the handler that is running, or undefined outside of one. */
export declare const context: () => Context | undefined;
export {};

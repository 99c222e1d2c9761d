/**
 * The worker's shell: take, dispatch, reply, beat, recover, stop (sections 9 to 14 and 16 of the specification).
 *
 * Three connections: one that waits for elements, one for replies, one for heartbeats (SABIR-TRANSPORT-3). Handlers run side by
 * side on the event loop; one that holds it for more than 7 s loses the worker's lease, because nothing else can run (SABIR-LEASE-1).
 */
import { Clock } from './connection.js';
import { decodeRequest } from './messages.js';
export type Params = import('./messages.js').Params;
export type Failure = import('./messages.js').Failure;
export type ServerOptions = {
    /**
     * where Redis is. Default: `redis://127.0.0.1:6379/0`
     */
    url?: string;
    /**
     * a client of the `redis` package, to take its options instead
     */
    redis?: import('./connection.js').Source['redis'];
    /**
     * the first part of every key. Default: `sabir`
     */
    namespace?: string;
    /**
     * the first part of the worker's id. Default: `worker`
     */
    name?: string;
    /**
     * how many handlers may run at once. Default: 100
     */
    concurrency?: number;
    /**
     * how long a handler may run, in ms. Default: no limit
     */
    handlerTimeoutMs?: number;
    /**
     * whether internal errors carry a stack trace, and are logged with it. Default: false
     */
    traces?: boolean;
    /**
     * default: `console`
     */
    logger?: {
        warn(message: string): void;
    };
    /**
     * the largest element, in bytes. Default: 1,048,576
     */
    maxBytes?: number;
    /**
     * the deepest nesting of an element. Default: 64
     */
    maxDepth?: number;
};
export type Answer = {
    token?: string;
    reply?: string | Buffer;
    letter?: Buffer;
};
export type Work = {
    /**
     * as it is quickest to send; a Buffer would keep all that was read with it
     */
    element: string | Buffer;
    /**
     * when it has been run
     */
    answer: Answer;
    /**
     * where it stands among what was started
     */
    at: number;
};
export type Handler = (...params: any[]) => unknown;
export type Taken = {
    /**
     * when the take was sent, by `performance.now()`
     */
    at: number;
    /**
     * how often the lease had been lost before
     */
    epoch: number;
};
/** Whether a worker may recover what others left behind (SABIR-RECOVER-7). Pure: moments, in ms of one monotonic clock, are arguments. */
export declare class Steadiness {
    #private;
    /** Notes that a heartbeat was answered. @param {number} sent when it was sent @param {boolean} isLost whether the worker's own lease had ended */
    answered(sent: number, isLost: boolean): void;
    /** Tells whether a heartbeat may recover. @param {number} now when it is sent */
    mayRecover(now: number): boolean;
}
/** Serves one service: takes requests, runs handlers, sends replies. */
export declare class Server {
    #private;
    /** This worker's id, new for each Server (SABIR-WORKER-1). */
    worker: string;
    /** @internal tests replace it */
    _steadiness: Steadiness;
    /**
     * @param {string} service
     * @param {ServerOptions | string} [options] options, or a url alone. Nothing is connected before `start` or `run`
     * @throws {TypeError} an option of the wrong type
     * @throws {RangeError} a name outside its grammar
     */
    constructor(service: string, options?: ServerOptions | string);
    /**
     * Registers a method. The names of its parameters are declared, never guessed: `b?` may be left out, a last `...c` takes the rest.
     *
     * @param {string} method
     * @param {string[]} params
     * @param {Handler} handler
     * @returns {this}
     * @throws {TypeError} an argument of the wrong type
     * @throws {RangeError} a name outside its grammar, reserved (`rpc.`), or registered already
     */
    register(method: string, params: string[], handler: Handler): this;
    /**
     * Registers methods of an object; only those that are listed.
     *
     * @param {object} object
     * @param {Record<string, string[]>} methods the names of the parameters by the name of the method
     * @returns {this}
     */
    expose(object: object, methods: Record<string, string[]>): this;
    /**
     * Starts to serve. A Redis that cannot be reached is waited for.
     *
     * @returns {Promise<void>} when the first heartbeat was answered
     */
    start(): Promise<void>;
    /**
     * Takes nothing more, finishes what was started, gives back the rest, and says goodbye (section 14).
     *
     * @returns {Promise<void>} when that is done and all connections are closed
     */
    stop(): Promise<void>;
    /**
     * Starts, and serves until SIGTERM or SIGINT; a second signal ends the process at once.
     *
     * @param {() => void} [ready] called when the first heartbeat was answered
     * @returns {Promise<void>} when it has stopped
     * @throws {Error} it stopped by itself, because all handlers that may run at once have run longer than the limit (SABIR-RUN-2)
     */
    run(ready?: () => void): Promise<void>;
    /**
     * Decides what becomes of a request, and runs it if it is to be run.
     *
     * @internal the in-process double calls it too
     * @param {string | Buffer} element
     * @param {Clock} [clock]
     * @param {ReturnType<typeof decodeRequest>} [request] what the element says
     * @param {number} [attempts] how often it was delivered before
     * @returns {Answer | Promise<Answer>} a promise only where the handler returned one
     */
    _handle(element: string | Buffer, clock?: Clock, request?: ReturnType<typeof decodeRequest>, attempts?: number): Answer | Promise<Answer>;
}

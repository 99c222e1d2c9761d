/**
 * The client's shell: call, wait, time out (sections 9, 10 and 13 of the specification).
 *
 * All calls of one service that are in flight share one token and one connection that waits for replies; all requests leave over
 * one other connection.
 */
import { Link } from './connection.js';
import { ApplicationError } from './errors.js';
export type Place = import('./keys.js').Place;
export type Params = import('./messages.js').Params;
export type ClientOptions = {
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
     * the client's name, which confines it to its own replies in Redis's ACLs. Default: `client`
     */
    name?: string;
    /**
     * how long a call may take, in ms. Default: 30,000
     */
    timeoutMs?: number;
    /**
     * classes with a `static code`, which stand for their codes: they are made as
     * `new Class(message, { code, data })`
     */
    errors?: (typeof ApplicationError)[];
    /**
     * the largest request, in bytes. Default: 1,048,576
     */
    maxBytes?: number;
    /**
     * the deepest nesting of a request. Default: 64
     */
    maxDepth?: number;
};
export type CallOptions = {
    /**
     * how long it may take, in ms. Default: the service's, the client's
     */
    timeoutMs?: number;
    /**
     * whether running it more than once does no harm. Default: false
     */
    idempotent?: boolean;
    /**
     * the trace (W3C). Default: that of the handler that is running
     */
    traceparent?: string;
};
export type RemoteMethod = (...params: any[]) => Promise<any>;
declare class Named {
    params: Record<string, unknown>;
    /** @param {Record<string, unknown>} params */
    constructor(params: Record<string, unknown>);
}
/**
 * Marks an object as named parameters: `calc.add(named({ a: 1, b: 2 }))`. Unmarked, it is one positional parameter.
 *
 * @param {Record<string, unknown>} params
 */
export declare const named: (params: Record<string, unknown>) => Named;
export type Inbox = {
    token: string;
    /**
     * what ends each call, by its id
     */
    waiting: Map<string, (outcome: unknown) => void>;
    /**
     * when the last of them times out, by `performance.now()`
     */
    until: number;
    /**
     * whether somebody reads it
     */
    isRead: boolean;
    /**
     * whether its connection is away
     */
    isLost: boolean;
    link: Link;
};
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
export declare class Batch {
    #private;
    inbox: Inbox;
    write: () => Buffer[];
    idempotent: boolean;
    until: number;
    /** @type {Promise<unknown>[]} */
    outcomes: Promise<unknown>[];
    /** Whether Redis may have got them. */
    sent: boolean;
    /** @type {unknown} what went wrong last */
    trouble: unknown;
    /**
     * @param {Inbox} inbox
     * @param {string[]} ids
     * @param {number} timeoutMs
     * @param {() => Buffer[]} write writes the elements, with the deadline that is right now
     * @param {boolean} idempotent
     */
    constructor(inbox: Inbox, ids: string[], timeoutMs: number, write: () => Buffer[], idempotent: boolean);
    get isOver(): boolean;
    /** Gives an outcome to all that have none. @param {() => unknown} outcome */
    end(outcome: () => unknown): void;
}
/** Calls methods of services. Any number of calls can be in flight at once. */
export declare class Client {
    #private;
    /**
     * @param {ClientOptions | string} [options] options, or a url alone. Nothing is connected before the first call
     * @throws {TypeError} an option of the wrong type
     * @throws {RangeError} a name outside its grammar, or a time-out that is not positive
     */
    constructor(options?: ClientOptions | string);
    /**
     * Makes a stand-in for a service, whose methods are the remote ones: `await calc.add(1, 2)`.
     *
     * @template {object} [T=Record<string, RemoteMethod>]
     * @param {string} service
     * @param {CallOptions} [options] for every call of it
     * @returns {T}
     */
    service<T extends object = Record<string, RemoteMethod>>(service: string, options?: CallOptions): T;
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
    call(service: string, method: string, params?: Params | null, options?: CallOptions): Promise<any>;
    /**
     * Makes many calls at once; the workers share them.
     *
     * @param {string} service
     * @param {[method: string, params?: Params | null][]} calls
     * @param {CallOptions} [options] for all of them
     * @returns {Promise<any[]>} the results in order; a call that failed has its SabirError there
     * @throws {TypeError} @throws {RangeError} @throws {SabirError} one of the requests can't be sent at all, and none was
     */
    many(service: string, calls: [method: string, params?: Params | null][], { timeoutMs, idempotent, traceparent }?: CallOptions): Promise<any[]>;
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
    notify(service: string, method: string, params?: Params | null, { expiresMs, timeoutMs, traceparent }?: {
        expiresMs?: number;
        timeoutMs?: number;
        traceparent?: string;
    }): Promise<string>;
    /** Ends all connections; calls in flight end with ConnectionLost or NotQueued. */
    close(): Promise<void>;
    /** Returns where the replies of a service arrive. @protected @param {Place} place @returns {Inbox} */
    protected _inbox({ service }: Place): Inbox;
    /**
     * Puts a batch into the queue, once (SABIR-LOST-1).
     *
     * @protected
     * @param {Place} place
     * @param {Batch} batch
     * @returns {Promise<boolean>} whether Redis has it for sure
     */
    protected _push(place: Place, batch: Batch): Promise<boolean>;
    /**
     * Reads an inbox for as long as a call waits on it. When its connection is lost it goes on with a new one, and the next call
     * gets a token of its own (SABIR-LOST-2, SABIR-TOKEN-1).
     *
     * @protected
     * @param {Place} place
     * @param {Inbox} inbox
     */
    protected _read(place: Place, inbox: Inbox): Promise<void>;
    /** Ends the call that a reply belongs to; all others are late (SABIR-REPLY-4). @protected @param {Inbox} inbox @param {Buffer} element */
    protected _deliver(inbox: Inbox, element: Buffer): void;
}
export {};

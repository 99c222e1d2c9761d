/**
 * The client's shell: call, wait, time out (sections 9, 10, 13 and 16 of the specification).
 *
 * All calls of one service that are in flight share one token and one connection, its inbox, that waits for replies and looks
 * whether somebody serves. Requests leave over it too when no wait blocks it: one after another, a call is one write. All others leave
 * over one other connection, which never blocks.
 */
import { Link } from './connection.js';
import { ApplicationError, CallTimeout, ConnectionLost, NotQueued } from './errors.js';
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
     * how many elements the queue may hold when a request is added; null: no bound. Default: 100,000
     */
    maxQueue?: number | null;
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
     * whether running it more than once does no harm: it is delivered again when its worker is lost. Default: false
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
    place: Place;
    /**
     * the requests without an outcome
     */
    waiting: Waiting;
    /**
     * those that leave when all that could go on at once has
     */
    unsent: Pending[];
    /**
     * when the last of them times out, by `performance.now()`
     */
    until: number;
    /**
     * one for all: when the next of them may time out
     */
    timer?: NodeJS.Timeout;
    /**
     * when it fires, by `performance.now()`
     */
    firesAt: number;
    /**
     * when it was asked last whether somebody serves, and somebody did
     */
    asked: number;
    /**
     * whether somebody reads it
     */
    isRead: boolean;
    /**
     * whether its connection is blocked by a look
     */
    isLooking: boolean;
    /**
     * whether what was read is about to be removed, unless the next call takes it along
     */
    isTidied: boolean;
    /**
     * who removes what was read
     */
    tidying?: Promise<void>;
    /**
     * whether its connection is away
     */
    isLost: boolean;
    /**
     * whether its connection was lost before: no new call gets this token
     */
    isRetired: boolean;
    /**
     * how many replies at the head of the list were read and are to be removed
     */
    read: number;
    /**
     * when they were read, by `performance.now()`
     */
    readAt: number;
    link: Link;
};
/**
 * Requests without an outcome, by their ids. V8 lets each table that a Map has outgrown point to the next one, so that one of them which
 * has grown old keeps all that ever came behind it, for the collector to copy: that was a fifth of a client's time. So no Map lives long.
 */
declare class Waiting {
    #private;
    get size(): number;
    /** @param {string} id */
    get(id: string): Pending | undefined;
    /** @param {Pending} request */
    add(request: Pending): void;
    /** @param {string} id */
    delete(id: string): void;
    /** All of them, as they are now. */
    list(): Pending[];
}
/** A request, until it has an outcome: a result, or an error. */
export declare class Pending {
    #private;
    id: string;
    idempotent: boolean;
    timeoutMs: number;
    until: number;
    /** As it was written last. @type {string | Buffer} */
    element: string | Buffer;
    /** @type {Promise<any>} rejected with a SabirError */
    outcome: Promise<any>;
    /** Whether Redis may have got it. */
    sent: boolean;
    /** From when on it can be given up for lost, by `performance.now()`. */
    judgedFrom: number;
    /** @type {unknown} what went wrong last */
    trouble: unknown;
    /**
     * @param {string} id
     * @param {(deadline?: number) => string | Buffer} writer writes the element
     * @param {boolean} idempotent
     * @param {number} timeoutMs
     * @param {number} until when that passes, by `performance.now()`
     */
    constructor(id: string, writer: (deadline?: number) => string | Buffer, idempotent: boolean, timeoutMs: number, until: number);
    /** @param {unknown} outcome a result, or an error */
    end(outcome: unknown): void;
    /** Writes the element, as it is to be sent now. @param {number} [deadline] undefined: it never expires */
    write(deadline?: number): string | Buffer<ArrayBufferLike>;
    /** What it ends with when its time-out passes. @param {Inbox} inbox */
    expired({ isLost }: Inbox): CallTimeout | ConnectionLost | NotQueued;
}
/** Ends a request, if it waits. @param {Inbox} inbox @param {string} id @param {() => unknown} outcome */
export declare function settle(inbox: Inbox, id: string, outcome: () => unknown): void;
/** Calls methods of services. Any number of calls can be in flight at once. */
export declare class Client {
    #private;
    /** @internal tests shorten them */
    _paces: {
        askMs: number;
        calmMs: number;
    };
    /**
     * @param {ClientOptions | string} [options] options, or a url alone. Nothing is connected before the first call
     * @throws {TypeError} an option of the wrong type
     * @throws {RangeError} a name outside its grammar, a time-out that is not positive, or a bound below 1
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
    many(service: string, calls: [method: string, params?: Params | null][], options?: CallOptions): Promise<any[]>;
    /**
     * Sends a notification: a request that nobody answers (SABIR-CALL-7).
     *
     * @param {string} service
     * @param {string} method
     * @param {Params | null} [params]
     * @param {object} [options]
     * @param {number} [options.expiresMs] how long it may wait in the queue, in ms; undefined: for ever
     * @param {number} [options.timeoutMs] how long to wait for Redis to have it, in ms. Default: the client's
     * @param {boolean} [options.idempotent] whether running it more than once does no harm: then it is delivered again when its worker
     *   is lost. Default: false
     * @param {string} [options.traceparent] the trace (W3C). Default: that of the handler that is running
     * @returns {Promise<string>} its id, when Redis has it
     * @throws {NotQueued} Redis does not have it
     * @throws {Overloaded} the queue is longer than its bound: it was taken back
     * @throws {ConnectionLost} nobody knows whether Redis has it
     * @throws {TypeError} @throws {RangeError} @throws {SabirError} it can't be sent at all
     */
    notify(service: string, method: string, params?: Params | null, options?: {
        expiresMs?: number;
        timeoutMs?: number;
        idempotent?: boolean;
        traceparent?: string;
    }): Promise<string>;
    /**
     * Makes a call, and makes it again, with growing pauses and within the time-out of the whole, when it ended with an error that lets
     * it (SABIR-RETRY-1): one after which it may be sent again, or, if it is idempotent, may have run.
     *
     * @param {string} service
     * @param {string} method
     * @param {Params | null} [params]
     * @param {CallOptions} [options]
     * @returns {Promise<any>}
     * @throws {SabirError} what the last call ended with
     * @throws {TypeError} @throws {RangeError} as `call`
     */
    retry(service: string, method: string, params?: Params | null, { timeoutMs, ...options }?: CallOptions): Promise<any>;
    /**
     * Waits until somebody serves, for programs that start in any order.
     *
     * @param {string} service
     * @param {object} [options]
     * @param {number} [options.timeoutMs] how long, in ms. Default: the client's
     * @returns {Promise<void>}
     * @throws {ServiceUnavailable} nobody does within the time
     * @throws {NotQueued} Redis could not be asked
     * @throws {TypeError} @throws {RangeError} an argument is wrong
     */
    waitForService(service: string, { timeoutMs }?: {
        timeoutMs?: number;
    }): Promise<void>;
    /** Asks whether somebody serves. @protected @param {Place} place @returns {Promise<boolean>} */
    protected _isServed(place: Place): Promise<boolean>;
    /** Ends all connections; calls in flight end with ConnectionLost or NotQueued. */
    close(): Promise<void>;
    /**
     * Puts requests into the queue, once (SABIR-LOST-1), and asks behind it whether somebody serves (SABIR-ALIVE-1). A notification
     * is left there in any case (SABIR-ALIVE-7). Where nothing blocks the connection on which the replies are waited for, all leaves
     * over that, in one write with the look that follows.
     *
     * @protected
     * @param {Inbox} inbox
     * @param {Pending[]} requests
     * @param {(request: Pending) => number | undefined} deadline tells it at the moment of sending
     * @returns {Promise<boolean>} whether Redis has it for sure
     */
    protected _push(inbox: Inbox, requests: Pending[], deadline: (request: Pending) => number | undefined): Promise<boolean>;
    /**
     * Reads an inbox for as long as a call waits on it. When its connection is lost it goes on with a new one, and the next call
     * gets a token of its own (SABIR-LOST-2, SABIR-TOKEN-1).
     *
     * @protected
     * @param {Inbox} inbox
     */
    protected _read(inbox: Inbox): Promise<void>;
    /** Ends the call that a reply belongs to; all others are late (SABIR-REPLY-4). @protected @param {Inbox} inbox @param {Buffer} element */
    protected _deliver(inbox: Inbox, element: Buffer): void;
}
export {};

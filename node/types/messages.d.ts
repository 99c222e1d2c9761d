/**
 * Envelopes and bodies: what is written, what is read, what is refused (sections 4 to 8 and 11 of the specification).
 *
 * Pure: ids, times and names are arguments. Reading never throws; writing throws what the caller did wrong.
 */
export type Limits = {
    /**
     * the largest element, in bytes
     */
    maxBytes: number;
    /**
     * the deepest nesting of arrays and objects; the envelope is level 1
     */
    maxDepth: number;
};
export type Params = unknown[] | Record<string, unknown>;
export type Request = {
    /**
     * 32 hexadecimal digits
     */
    id: string;
    /**
     * the token for the reply; undefined: a notification
     */
    replyTo?: string;
    /**
     * ms of Redis's clock; undefined: never expires
     */
    deadline?: number;
    idempotent?: boolean;
    traceparent?: string;
    method: string;
    /**
     * undefined: none
     */
    params?: Params;
};
export type ReceivedCall = Request & {
    kind: 'call';
    replyTo: string;
    idempotent: boolean;
};
export type ReceivedNotification = Request & {
    kind: 'notification';
    replyTo: undefined;
    idempotent: boolean;
};
export type Rejection = {
    kind: 'rejected';
    code: number;
    message: string;
    /**
     * undefined: none that could be read
     */
    id?: string;
    replyTo?: string;
};
export type Failure = {
    code: number;
    message: string;
    /**
     * undefined: none
     */
    data?: unknown;
};
export type Reply = {
    kind: 'result';
    id: string;
    worker: string;
    result: unknown;
} | {
    kind: 'error';
    id: string;
    worker: string;
    code: number;
    message: string;
    data: unknown;
} | {
    kind: 'invalid';
    id: string;
    message: string;
};
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
export declare const LIMITS: Limits;
/**
 * Finds what JSON can't hold, or what lies too deep (SABIR-JSON-1). `JSON.stringify` would write `NaN` as null, leave out what
 * is undefined, and write dates and maps as something else: so only plain objects, arrays, well-formed strings, finite numbers,
 * booleans and null pass.
 *
 * @param {unknown} value
 * @param {number} levels how many levels the value may have
 * @returns {{ path: string, what: string, deep: boolean } | undefined} where and what, or undefined: all is well
 */
export declare function unwritable(value: unknown, levels: number): {
    path: string;
    what: string;
    deep: boolean;
} | undefined;
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
export declare function requestWriter({ id, replyTo, idempotent, traceparent, method, params }: Omit<Request, 'deadline'>, limits?: Limits): (deadline?: number) => string | Buffer;
/**
 * Checks and writes a request. @see requestWriter
 *
 * @param {Request} request
 * @param {Limits} [limits]
 */
export declare function encodeRequest(request: Request, limits?: Limits): string | Buffer<ArrayBufferLike>;
/**
 * Writes a reply with a result.
 *
 * @param {{ id: string, worker: string, result: unknown }} reply
 * @param {Limits} [limits]
 * @throws {InvalidResult} the result is nothing that JSON can hold, or makes the reply exceed a limit (SABIR-LIMIT-4)
 */
export declare function encodeResult({ id, worker, result }: {
    id: string;
    worker: string;
    result: unknown;
}, limits?: Limits): string | Buffer<ArrayBufferLike>;
/**
 * Writes a reply with an error.
 *
 * @param {{ id: string, worker: string } & Failure} reply
 * @param {Limits} [limits]
 * @throws {InternalError} the data is nothing that JSON can hold, or makes the reply exceed a limit (SABIR-ERROR-3)
 */
export declare function encodeError({ id, worker, code, message, data }: {
    id: string;
    worker: string;
} & Failure, limits?: Limits): string | Buffer<ArrayBufferLike>;
/**
 * Writes a dead letter (section 11).
 *
 * @param {{ at: number, worker: string, element: Buffer } & Failure} letter `at`: ms of Redis's clock
 */
export declare function encodeDeadLetter({ at, worker, code, message, data, element }: {
    at: number;
    worker: string;
    element: Buffer;
} & Failure): Buffer<ArrayBuffer>;
/** The text of a short element, which is quicker to send back than its bytes; or its bytes. @param {Buffer} element */
export declare const shortest: (element: Buffer) => string | Buffer<ArrayBufferLike>;
/**
 * Reads an element of the queue: a call, a notification, or a rejection. Where several errors could be given the first counts.
 *
 * @param {Buffer} element
 * @param {Limits} [limits]
 * @param {string | Buffer} [text] its text, if it is known
 * @returns {ReceivedCall | ReceivedNotification | Rejection}
 */
export declare function decodeRequest(element: Buffer, limits?: Limits, text?: string | Buffer): ReceivedCall | ReceivedNotification | Rejection;
/**
 * Reads an element of a reply list. Unknown members are ignored (SABIR-REPLY-6).
 *
 * @param {Buffer} element
 * @returns {Reply | undefined} undefined: no id could be read, so it is dropped
 */
export declare function decodeReply(element: Buffer): Reply | undefined;

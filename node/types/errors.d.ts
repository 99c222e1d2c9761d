/**
 * The class tree of `protocol/errors.json`, and which class stands for which code. Pure.
 *
 *     SabirError                 any other code of the reserved range
 *     ├─ one class for each row of the table
 *     └─ ApplicationError        codes outside the reserved range: the application's own
 */
export type Outcome = 'never started' | 'may have run' | 'ran';
/**
 * What is known of the handler when an error is raised.
 * @typedef {'never started' | 'may have run' | 'ran'} Outcome
 */
/** The base of all errors that a call can end with. */
export declare class SabirError extends Error {
    /** @type {number} */
    code: number;
    /** @type {any} */
    data: any;
    /** @type {number | undefined} */
    static code: number | undefined;
    static retryable: boolean;
    /** @type {Outcome} */
    static outcome: Outcome;
    /**
     * @param {string} [message]
     * @param {object} [options]
     * @param {number} [options.code] the class's own unless given
     * @param {unknown} [options.data] anything more, of a kind that JSON can hold; undefined: none
     * @param {unknown} [options.cause] what led to it; never sent
     */
    constructor(message?: string, { code, data, cause }?: {
        code?: number;
        data?: unknown;
        cause?: unknown;
    });
    /** Whether the same request may be sent again. */
    get retryable(): boolean;
    /** What is known of the handler. */
    get outcome(): Outcome;
}
/** Base of what makes a request never start. */
declare class NeverStarted extends SabirError {
    /** @type {Outcome} */
    static outcome: Outcome;
}
/** Base of what is raised after the handler ran. */
declare class Ran extends SabirError {
    /** @type {Outcome} */
    static outcome: Outcome;
}
/** An application's own failure: raise it, or a subclass with a `static code`, in a handler. */
export declare class ApplicationError extends Ran {
    static code: number;
}
export declare class ParseError extends NeverStarted {
    static code: number;
}
export declare class InvalidRequest extends NeverStarted {
    static code: number;
}
export declare class MethodNotFound extends NeverStarted {
    static code: number;
}
export declare class InvalidParams extends NeverStarted {
    static code: number;
}
export declare class InternalError extends Ran {
    static code: number;
}
export declare class DeadlineExceeded extends NeverStarted {
    static code: number;
    static retryable: boolean;
}
export declare class CallTimeout extends SabirError {
    static code: number;
}
export declare class ServiceUnavailable extends NeverStarted {
    static code: number;
    static retryable: boolean;
}
export declare class Overloaded extends NeverStarted {
    static code: number;
    static retryable: boolean;
}
export declare class WorkerLost extends SabirError {
    static code: number;
}
export declare class UnsupportedVersion extends NeverStarted {
    static code: number;
}
export declare class LimitExceeded extends NeverStarted {
    static code: number;
}
export declare class InvalidResult extends Ran {
    static code: number;
}
export declare class ConnectionLost extends SabirError {
    static code: number;
}
export declare class NotQueued extends NeverStarted {
    static code: number;
    static retryable: boolean;
}
export declare class InvalidReply extends SabirError {
    static code: number;
}
/** Tells whether a code is kept for the protocol. @param {number} code */
export declare const isReserved: (code: number) => boolean;
/**
 * Finds the class for a code (SABIR-ERROR-4).
 *
 * @param {number} code
 * @param {ReadonlyMap<number, typeof ApplicationError>} [applications] the application's own classes by code
 * @returns {typeof SabirError}
 */
export declare const classFor: (code: number, applications?: ReadonlyMap<number, typeof ApplicationError>) => typeof SabirError;
export {};

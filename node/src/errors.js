/**
 * The class tree of `protocol/errors.json`, and which class stands for which code. Pure.
 *
 *     SabirError                 any other code of the reserved range
 *     ├─ one class for each row of the table
 *     └─ ApplicationError        codes outside the reserved range: the application's own
 */

/**
 * What is known of the handler when an error is raised.
 * @typedef {'never started' | 'may have run' | 'ran'} Outcome
 */

/** The base of all errors that a call can end with. */
export class SabirError extends Error {
  /** @type {number | undefined} */
  static code = undefined;
  static retryable = false;
  /** @type {Outcome} */
  static outcome = 'may have run';

  /**
   * @param {string} [message]
   * @param {object} [options]
   * @param {number} [options.code] the class's own unless given
   * @param {unknown} [options.data] anything more, of a kind that JSON can hold; undefined: none
   * @param {unknown} [options.cause] what led to it; never sent
   */
  constructor(message, { code, data, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    Object.defineProperty(this, 'name', { value: new.target.name, configurable: true, writable: true });
    /** @type {number} */
    this.code = code ?? new.target.code ?? 0;
    /** @type {any} */
    this.data = data;
  }

  /** Whether the same request may be sent again. */
  get retryable() {
    return /** @type {typeof SabirError} */ (this.constructor).retryable;
  }

  /** What is known of the handler. */
  get outcome() {
    return /** @type {typeof SabirError} */ (this.constructor).outcome;
  }
}

/** Base of what makes a request never start. */
class NeverStarted extends SabirError {
  /** @type {Outcome} */
  static outcome = 'never started';
}

/** Base of what is raised after the handler ran. */
class Ran extends SabirError {
  /** @type {Outcome} */
  static outcome = 'ran';
}

/** An application's own failure: raise it, or a subclass with a `static code`, in a handler. */
export class ApplicationError extends Ran {
  static code = 1;
}

export class ParseError extends NeverStarted { static code = -32700; }
export class InvalidRequest extends NeverStarted { static code = -32600; }
export class MethodNotFound extends NeverStarted { static code = -32601; }
export class InvalidParams extends NeverStarted { static code = -32602; }
export class InternalError extends Ran { static code = -32603; }
export class DeadlineExceeded extends NeverStarted { static code = -32001; static retryable = true; }
export class CallTimeout extends SabirError { static code = -32002; }
export class ServiceUnavailable extends NeverStarted { static code = -32003; static retryable = true; }
export class Overloaded extends NeverStarted { static code = -32004; static retryable = true; }
export class WorkerLost extends SabirError { static code = -32005; }
export class UnsupportedVersion extends NeverStarted { static code = -32006; }
export class LimitExceeded extends NeverStarted { static code = -32007; }
export class InvalidResult extends Ran { static code = -32008; }
export class ConnectionLost extends SabirError { static code = -32009; }
export class NotQueued extends NeverStarted { static code = -32010; static retryable = true; }
export class InvalidReply extends SabirError { static code = -32011; }

/** @type {ReadonlyMap<number, typeof SabirError>} */
const BY_CODE = new Map([
  ParseError, InvalidRequest, MethodNotFound, InvalidParams, InternalError, DeadlineExceeded, CallTimeout, ServiceUnavailable,
  Overloaded, WorkerLost, UnsupportedVersion, LimitExceeded, InvalidResult, ConnectionLost, NotQueued, InvalidReply,
].map((type) => [type.code, type]));

/** Tells whether a code is kept for the protocol. @param {number} code */
export const isReserved = (code) => code >= -32768 && code <= -32000;

/**
 * Finds the class for a code (SABIR-ERROR-4).
 *
 * @param {number} code
 * @param {ReadonlyMap<number, typeof ApplicationError>} [applications] the application's own classes by code
 * @returns {typeof SabirError}
 */
export const classFor = (code, applications) =>
  BY_CODE.get(code) ?? (isReserved(code) ? SabirError : (applications?.get(code) ?? ApplicationError));

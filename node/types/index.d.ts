/** Sabir: RPC between languages over the Redis that you already have. */
export { Client, named } from './client.js';
export { context } from './connection.js';
export { ApplicationError, CallTimeout, ConnectionLost, DeadlineExceeded, InternalError, InvalidParams, InvalidReply, InvalidRequest, InvalidResult, LimitExceeded, MethodNotFound, NotQueued, Overloaded, ParseError, SabirError, ServiceUnavailable, UnsupportedVersion, WorkerLost, } from './errors.js';
export { Server } from './server.js';

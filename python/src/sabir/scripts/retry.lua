-- Sends a dead letter's request again (SABIR-DEAD-6): it leaves the dead letters and enters the queue in one step.
--
-- KEYS: dead, requests, the request's attempts.   ARGV: the dead letter's bytes; the element to push.
-- Returns 1, or 0 if the dead letter was not there any more and nothing was done.

local dead, requests, attempts = KEYS[1], KEYS[2], KEYS[3]
if not redis.call('LPOS', dead, ARGV[1]) then return 0 end
redis.call('RPUSH', requests, ARGV[2]) -- first, as it may be refused
redis.call('LREM', dead, 1, ARGV[1])
redis.call('DEL', attempts)
return 1

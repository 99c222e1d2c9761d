-- A worker's goodbye (SABIR-STOP-5): gives up the lease, unless the hand holds something; the last one takes `alive` along.
--
-- KEYS: leases, alive, the worker's hand.   ARGV: the worker's id.
-- Returns 1, or 0 if the hand was not empty and nothing was done.

local leases, alive, hand = KEYS[1], KEYS[2], KEYS[3]
if redis.call('LLEN', hand) > 0 then return 0 end
redis.call('ZREM', leases, ARGV[1])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if redis.call('ZCOUNT', leases, '(' .. string.format('%.0f', now), '+inf') == 0 then redis.call('DEL', alive) end
return 1

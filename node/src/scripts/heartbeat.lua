-- A worker's heartbeat (SABIR-RECOVER-1): renews the lease and `alive`, and recovers what ended leases left behind.
--
-- KEYS: requests, leases, alive, dead.   ARGV: the worker's id; "1" if it may judge others (SABIR-RECOVER-7), or "0".
-- Returns five integers: Redis's clock (seconds, microseconds); 1 if the worker's own lease had ended or was gone;
-- how many elements were recovered; 1 if there is more to recover than fits into one step.

local LEASE_MS = 10000
local REPLY_TTL_MS = 60000
local ATTEMPTS = 3
local ATTEMPTS_TTL_MS = 86400000
local DEAD_LETTERS = 1000
local KEPT_BYTES = 16777216 -- of text in a dead letter
local KEPT_BINARY = 65536 -- of anything else: base64 is slow here, and everybody waits
local READ_BYTES = 4194304 -- a larger element is read by its head alone
local STEP_BYTES = 1048576 -- in one step, about: reading them takes some 20 ms
local STEP_ELEMENTS = 1000

local requests, leases, alive, dead = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local worker, judges = ARGV[1], ARGV[2] == '1'
local prefix = string.sub(requests, 1, -1 - #'requests')

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function decimal(number) return string.format('%.0f', number) end

local function is_id(text) return type(text) == 'string' and #text == 32 and not string.find(text, '[^0-9a-f]') end

local function is_token(text)
  if type(text) ~= 'string' then return false end
  local name, random = string.match(text, '^([A-Za-z0-9_-]+)%.([A-Za-z0-9_-]+)$')
  return name ~= nil and #name <= 64 and #random <= 63
end

-- The members id and reply_to at the start of an element that is too large, or that cjson does not read (SABIR-LIMIT-3).
local function head(element)
  local found, at = {}, string.match(element, '^[ \t\r\n]*{()')
  for _ = 1, 3 do
    if not at then break end
    local name, value, rest = string.match(element, '^[ \t\r\n]*"([a-z_]+)"[ \t\r\n]*:[ \t\r\n]*"?([A-Za-z0-9_.-]*)"?[ \t\r\n]*,()', at)
    if name ~= 'v' and name ~= 'id' and name ~= 'reply_to' then break end
    found[name], at = value, rest
  end
  return found
end

-- What an element is: its id; the token to answer to; whether it may be delivered again; its deadline.
local function read(element)
  local ok, envelope = false, nil
  if #element <= READ_BYTES then ok, envelope = pcall(cjson.decode, element) end
  if not ok then
    local found = head(element)
    if is_id(found.id) and is_token(found.reply_to) then return found.id, found.reply_to, false, nil end
    return nil
  end
  if type(envelope) ~= 'table' or not is_id(envelope.id) then return nil end
  local token = nil
  if is_token(envelope.reply_to) then
    token = envelope.reply_to
  elseif envelope.reply_to ~= nil or type(envelope.body) ~= 'table' or envelope.body.id ~= nil then
    return nil
  end
  local deadline = type(envelope.deadline) == 'number' and envelope.deadline or nil
  return envelope.id, token, envelope.v == 1 and envelope.idempotent == true, deadline
end

local function is_utf8(text)
  if not string.find(text, '[\128-\255]') then return true end
  local tail = '[\128-\191]'
  for _, sequence in ipairs({
    '[\194-\223]' .. tail,
    '\224[\160-\191]' .. tail, '[\225-\236\238\239]' .. tail .. tail, '\237[\128-\159]' .. tail,
    '\240[\144-\191]' .. tail .. tail, '[\241-\243]' .. tail .. tail .. tail, '\244[\128-\143]' .. tail .. tail,
  }) do
    text = string.gsub(text, sequence, ' ')
  end
  return not string.find(text, '[\128-\255]')
end

local DIGITS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
local function base64(bytes)
  local function digit(value) return string.sub(DIGITS, value + 1, value + 1) end
  return (string.gsub(bytes, '..?.?', function(group)
    local a, b, c = string.byte(group, 1, 3)
    local all = a * 65536 + (b or 0) * 256 + (c or 0)
    return digit(math.floor(all / 262144)) .. digit(math.floor(all / 4096) % 64)
      .. (b and digit(math.floor(all / 64) % 64) or '=') .. (c and digit(all % 64) or '=')
  end))
end

-- Keeps a dead letter. Returns whether Redis took it.
local function bury(element, why)
  local kept
  if #element <= KEPT_BYTES and is_utf8(element) then
    kept = '"element":' .. cjson.encode(element)
  else
    kept = '"element_base64":"' .. base64(string.sub(element, 1, KEPT_BINARY)) .. '"'
    if #element > KEPT_BINARY then kept = kept .. ',"size":' .. decimal(#element) end
  end
  local letter = '{"v":1,"at":' .. decimal(now) .. ',"worker":"' .. worker
    .. '","error":{"code":-32005,"message":"' .. why .. '"},' .. kept .. '}'
  local pushed = redis.pcall('RPUSH', dead, letter)
  if type(pushed) == 'table' then return false end
  redis.call('LTRIM', dead, -DEAD_LETTERS, -1)
  return true
end

-- Tells the caller WorkerLost. Returns whether Redis took it.
local function tell(id, token, why)
  local key = prefix .. 'reply:' .. token
  local pushed = redis.pcall('RPUSH', key, '{"v":1,"id":"' .. id .. '","worker":"' .. worker .. '","body":{"jsonrpc":"2.0","id":"'
    .. id .. '","error":{"code":-32005,"message":"' .. why .. '"}}}')
  if type(pushed) == 'table' then return false end
  redis.call('PEXPIRE', key, REPLY_TTL_MS)
  return true
end

-- Recovers the oldest element of a hand: who gives back an element by its place (SABIR-STOP-3) names the newest, and must
-- not find another there. Returns whether it has left the hand, and whether it is in the queue again.
local function recover(element, hand)
  local id, token, idempotent, deadline = read(element)
  local why, is_poison = 'the worker that had it was lost', false
  if idempotent then
    local key = prefix .. 'attempts:' .. id
    local count = redis.pcall('GET', key)
    count = (tonumber(type(count) == 'string' and count or nil) or 0) + 1
    is_poison = count >= ATTEMPTS
    if is_poison then
      why = 'delivered ' .. decimal(count) .. ' times, and each time the worker was lost'
    elseif not deadline or deadline > now then
      local moved = redis.pcall('LMOVE', hand, requests, 'LEFT', 'LEFT')
      if type(moved) == 'table' then return false, false end
      redis.pcall('SET', key, decimal(count), 'PX', ATTEMPTS_TTL_MS)
      return true, true
    end
  end
  local told = token ~= nil and tell(id, token, why)
  if (not told or is_poison) and not bury(element, why) then return false, false end
  redis.call('LPOP', hand)
  return true, false
end

-- What was moved to the head of the queue one by one lies there in reverse: the oldest first again.
local function put_in_order(count)
  if count > 1 then redis.call('LPUSH', requests, unpack(redis.call('LPOP', requests, count))) end
end

local own = redis.call('ZSCORE', leases, worker)
local lost = (not own or tonumber(own) <= now) and 1 or 0
redis.call('ZADD', leases, decimal(now + LEASE_MS), worker)
redis.call('SET', alive, '1', 'PX', LEASE_MS)

local recovered, requeued, bytes = 0, 0, 0
if judges and lost == 0 then
  for _, ended in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', decimal(now), 'LIMIT', 0, STEP_ELEMENTS)) do
    local hand = prefix .. 'active:' .. ended
    while true do
      local element = redis.pcall('LINDEX', hand, 0)
      if not element then redis.call('ZREM', leases, ended) end
      if type(element) ~= 'string' then break end
      if bytes >= STEP_BYTES or recovered >= STEP_ELEMENTS then
        put_in_order(requeued)
        return { tonumber(time[1]), tonumber(time[2]), lost, recovered, 1 }
      end
      local has_left, is_queued = recover(element, hand)
      if not has_left then break end
      bytes, recovered = bytes + #element, recovered + 1
      if is_queued then requeued = requeued + 1 end
    end
  end
end
put_in_order(requeued)
return { tonumber(time[1]), tonumber(time[2]), lost, recovered, 0 }

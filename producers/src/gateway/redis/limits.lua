-- How many of some events a principal may still publish: two buckets, of events and of bytes, that fill by the second.
-- The same as throttle.rs does for one gateway; the clock is Redis' own.
--
-- KEYS[1]  the principal's
-- ARGV     events per second and at once, bytes per second and at once (0 per second: no limit), how many milliseconds
--          the buckets are kept at least, then each event's size
-- Answers  how many pass, and after how many microseconds the next one would.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local kept = redis.call('HMGET', KEYS[1], 'at', 'events', 'bytes')
local passed = math.max(0, now - (tonumber(kept[1]) or now)) / 1000000

local function filled(level, per_second, burst)
    if per_second == 0 then return math.huge end
    return math.min(burst, (tonumber(level) or burst) + passed * per_second)
end

local function wait(level, per_second)
    if level >= 1 then return 0 end
    return (1 - level) / per_second
end

local event_rate, event_burst, byte_rate, byte_burst = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local events, bytes = filled(kept[2], event_rate, event_burst), filled(kept[3], byte_rate, byte_burst)
local pass, until_next = 0, 0
for i = 6, #ARGV do
    until_next = math.max(wait(events, event_rate), wait(bytes, byte_rate))
    if until_next > 0 then break end
    -- Even below nothing, or an event larger than the bucket would never pass.
    events, bytes, pass = events - 1, bytes - tonumber(ARGV[i]), pass + 1
end

-- A full bucket is as good as none, but one that is not must outlive the ids when memory is short.
local until_full = 0
if event_rate > 0 then
    redis.call('HSET', KEYS[1], 'events', string.format('%.6f', events))
    until_full = math.max(until_full, (event_burst - events) / event_rate)
end
if byte_rate > 0 then
    redis.call('HSET', KEYS[1], 'bytes', string.format('%.6f', bytes))
    until_full = math.max(until_full, (byte_burst - bytes) / byte_rate)
end
redis.call('HSET', KEYS[1], 'at', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.max(tonumber(ARGV[5]), math.ceil(until_full * 1000) + 1000)))
return { pass, math.ceil(until_next * 1000000) }

-- The operations are done one after the other, and the reply is made.

-- Microseconds until something falls due in a queue; -1: nothing will, as things are.
local function time_left(index)
  local at = 2 + (index - 1) * 12
  local lease = redis.pcall("ZRANGE", KEYS[at + 4], 0, 0, "WITHSCORES")[2]
  local timer = redis.pcall("ZRANGE", KEYS[at + 5], 0, 0, "WITHSCORES")[2]
  local first = min(tonumber(lease) or NEVER, tonumber(timer) or NEVER)
  return first == NEVER and -1 or max(0, first - now)
end

local function store_queues()
  for _, q in pairs(queues) do
    if q and q.changed then
      if q.fair then
        schedule.flush(q)
      end
      store_queue(q)
    end
  end
end

-- Wake the processes for which an operation has done something.
local function end_operation()
  for _, q in pairs(queues) do
    if q and (q.changed or q.wakes_next) then
      local waiting = q.n_ready + q.n_delayed
      if n_parked(q) > 0 then
        waiters.wake_all(q, waiting)
      end
      q.came, q.freed, q.has_put, q.wakes_next = false, false, false, false
      q.had_waiting, q.had_items = waiting, waiting + q.n_leased
    end
  end
end

local function message_of(problem)
  return type(problem) == "table" and problem.err or tostring(problem)
end

local REFUSALS = { OOM = true, MISCONF = true, NOREPLICAS = true }

-- The result of an operation that the server refused; what it did in vain is dropped.
--
-- A server that is full, or may not be written to, refuses the first write of a script: then nothing
-- has been done, and the queues are as they are there. Anything else, a key that is not what it
-- should be, may come in the middle: what was done stays, and is stored.
local function refused(text, n_events)
  if REFUSALS[text:match("^%-?(%u+) ") or ""] then
    queues = {}
    for n = #events, n_events + 1, -1 do
      events[n] = nil
    end
  end
  return { "raised", text }
end

local function run()
  local reply = { digits(now), {}, events }
  local count = take_number()
  for n = 1, count do
    operation = n
    local name = take()
    if not ops[name] then -- the next one may begin anywhere
      for each = n, count do
        reply[each + 3] = { "raised", "no such operation: " .. tostring(name) }
      end
      break
    end
    local n_events = #events
    local done, result = pcall(ops[name][name])
    if not done and message_of(result):find("^%-?READONLY") then
      return redis.error_reply(message_of(result)) -- another server does it, all of it
    end
    reply[n + 3] = done and result or refused(message_of(result), n_events)
    pcall(end_operation)
  end
  pcall(store_queues)
  if number and not pcall(remember_call, reply) then
    reply[1] = "0" -- the server takes no writes at all: nothing was written
  end
  return reply
end

local function answer()
  local again, late = results_again()
  if late then
    return { "old" } -- it was given up long ago, and arrives now
  end
  local reply
  if again then
    reply = { digits(now), {}, events, unpack(again) }
  else
    reply = run()
    if reply.err then
      return reply
    end
  end
  for index = 1, tonumber(ARGV[5]) do
    reply[2][index] = time_left(index)
  end
  return reply
end

-- Do a call.
return function(keys, arguments)
  if not begin(keys, arguments) then
    return redis.error_reply("NOPERM no permissions to run the 'time' command")
  end
  number = is_kept and tonumber(ARGV[4])
  kept, operation = {}, 0
  local reply = answer()
  KEYS, ARGV, events, queues, kept = nil, nil, nil, nil, nil -- a large call's are not to stay
  return reply
end

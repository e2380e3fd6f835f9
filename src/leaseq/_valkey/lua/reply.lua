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

-- Operations that can be done several at a time, and how many words each has: the first is its name,
-- and the second its queue.
local WORDS = { ack = 4, extend = 5 }

-- The number of operations that come one after the other, with one name and of one queue, when the
-- name of the first has been taken.
local function count_alike(name, most)
  local count, queue = 1, ARGV[cursor + 1]
  while count < most do
    local at = cursor + WORDS[name] * count
    if ARGV[at] ~= name or ARGV[at + 1] ~= queue then
      break
    end
    count = count + 1
  end
  return count
end

-- Do the operations that come next, if they can be done together; the number of those that were done.
local function do_together(reply, n, name, most)
  local count = count_alike(name, most)
  if count == 1 then
    return 0
  end
  local begun = cursor
  local done, results = pcall(ops[name].several[name], count)
  if not done or not results then -- nothing was done: each is to find out for itself
    cursor = begun
    return 0
  end
  cursor = begun + WORDS[name] * count - 1
  for each, result in ipairs(results) do
    reply[n + each + 2] = result
  end
  pcall(end_operation)
  return count
end

-- Do the operation that comes next; an error of the server: another one does it, and all others.
local function do_next(reply, n, name)
  local n_events = #events
  local done, result = pcall(ops[name][name])
  if not done and message_of(result):find("^%-?READONLY") then
    return redis.error_reply(message_of(result))
  end
  reply[n + 3] = done and result or refused(message_of(result), n_events)
  pcall(end_operation)
end

local function run()
  local reply = { digits(now), {}, events }
  local count = take_number()
  local n = 1
  while n <= count do
    operation = n
    local name = take()
    if not ops[name] then -- the next one may begin anywhere
      for each = n, count do
        reply[each + 3] = { "raised", "no such operation: " .. tostring(name) }
      end
      break
    end
    local together = WORDS[name] and do_together(reply, n, name, min(count - n + 1, LOT)) or 0
    if together == 0 then
      local elsewhere = do_next(reply, n, name)
      if elsewhere then
        return elsewhere
      end
    end
    n = n + max(together, 1)
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

-- The operations are done one after the other, and the reply is made.

-- Microseconds until something falls due in a queue; -1: nothing will, as things are.
local function time_left(index)
  local at = 2 + (index - 1) * 13
  local lease = redis.pcall("ZRANGE", KEYS[at + 4], 0, 0, "WITHSCORES")[2]
  local timer = redis.pcall("ZRANGE", KEYS[at + 5], 0, 0, "WITHSCORES")[2]
  local first = min(tonumber(lease) or NEVER, tonumber(timer) or NEVER)
  return first == NEVER and -1 or max(0, first - now)
end

local function store_queues()
  for _, q in pairs(queues) do
    if q and q.changed then
      if q.fair then
        pcall(schedule.flush, q)
      end
      pcall(store_queue, q)
    end
  end
end

-- Wake the processes for which an operation has done something to a queue.
local function wake_for_changes(q)
  local waiting = q.n_ready + q.n_delayed
  if n_parked(q) > 0 then
    waiters.wake_all(q, waiting)
  end
end

-- What cannot be read of one queue is in no other one's way.
local function end_operation()
  for _, q in ipairs(touched) do
    q.touched = false
    if q.changed or q.wakes_next then
      pcall(wake_for_changes, q)
      local waiting = q.n_ready + q.n_delayed
      q.came, q.freed, q.has_put, q.wakes_next = false, false, false, false
      q.had_waiting, q.had_items = waiting, waiting + q.n_leased
    end
  end
  touched, unread = {}, nil
end

-- Commands that read nothing but the type of a key, and the parts of a queue that they are for.
local PROBES = {
  HGET = { "items", "accounts" }, LLEN = { "history" },
  ZCARD = { "ready", "leased", "timers", "parked", "eligible", "early", "idle", "done", "kept" },
}

local function is_of_another_type(command, key)
  local answer = command == "HGET" and redis.pcall(command, key, "") or redis.pcall(command, key)
  return type(answer) == "table" and answer.err and answer.err:find("WRONGTYPE", 1, true)
end

-- What is of another type than it should be, of the queues of the operation or of the broker; nil: it
-- cannot be found.
local function find_other_type()
  for _, q in ipairs(touched) do
    for command, parts in pairs(PROBES) do
      for _, part in ipairs(parts) do
        if is_of_another_type(command, q[part]) then
          return "queue '" .. q.name .. "': " .. q[part]
        end
      end
    end
  end
  return is_of_another_type("HGET", KEYS[2]) and KEYS[2] or nil
end

-- The words of an error: the server's own; or what a script could not read, with the queue.
local function message_of(problem)
  local said = type(problem) == "table" and problem.err or problem
  local other = said:find("^%-?WRONGTYPE ") and find_other_type()
  if other then
    return "CORRUPT " .. other .. " is of another type: " .. said
  elseif type(problem) == "table" or said:find("^%-?%u+ ") then
    return said
  end
  local where = touched[1] and "queue '" .. touched[1].name .. "'" or KEYS[2]
  return "CORRUPT something of " .. where .. " cannot be read: " .. tostring(problem)
end

local REFUSALS = { OOM = true, MISCONF = true, NOREPLICAS = true }

-- The result of an operation that the server refused; what it did in vain is dropped.
--
-- A server that is full, or may not be written to, refuses the first write of a script: then nothing
-- has been done, and the queues are as they are there. Anything else, a key that is not what it
-- should be, may come in the middle: what was done stays, and is stored.
local function refused(text, n_events)
  if REFUSALS[text:match("^%-?(%u+) ") or ""] then
    queues, touched = {}, {}
    for n = #events, n_events + 1, -1 do
      events[n] = nil
    end
  end
  return { "raised", text }
end

-- Operations that can be done several at a time, and how many words each has: the first is its name,
-- and the second its queue. The last one of an ack is the number of its values, which follow it.
local WORDS = { ack = 5, extend = 5 }
local VALUE_WORDS = 4

-- Where the operations begin that come one after the other, with one name and of one queue, when the
-- name of the first has been taken; and where the next one begins.
local function find_alike(name, most)
  local places, at, queue = {}, cursor, ARGV[cursor + 1]
  while #places < most and ARGV[at] == name and ARGV[at + 1] == queue do
    places[#places + 1] = at
    at = at + WORDS[name] + (name == "ack" and VALUE_WORDS * ARGV[at + 4] or 0)
  end
  return places, at
end

-- Do the operations that come next, if they can be done together; the number of those that were done,
-- and of those that were tried.
local function do_together(reply, n, name, most)
  local q = find_queue(tonumber(ARGV[cursor + 1]))
  unread = nil -- it is told by each operation
  local places, next_one = {}, 0
  if q then
    places, next_one = find_alike(name, min(most, lot_size(q)))
  end
  if not places[2] then
    return 0, 1
  end
  local begun = cursor
  local done, results = pcall(ops[name].several[name], places)
  if not done or not results then -- nothing was done: each is to find out for itself
    cursor = begun
    return 0, #places
  end
  cursor = next_one - 1
  for each, result in ipairs(results) do
    reply[n + each + 2] = result
  end
  end_operation()
  return #places, #places
end

-- Do the operation that comes next; an error of the server: another one does it, and all others.
local function do_next(reply, n, name)
  local n_events = #events
  local done, result = pcall(ops[name][name])
  local problem = unread or (not done and result)
  local words = problem and message_of(problem)
  if words and words:find("^%-?READONLY") then
    return redis.error_reply(words)
  end
  reply[n + 3] = words and refused(words, n_events) or result
  end_operation()
end

local function run()
  local reply = { digits(now), {}, events }
  local count = take_number()
  local n, singly = 1, 0 -- up to that one, each is done by itself
  while n <= count do
    operation = n
    if late() then
      for each = n, count do
        reply[each + 3] = LATER
      end
      break
    end
    work = work + 2
    local name = take()
    if not ops[name] then -- the next one may begin anywhere
      for each = n, count do
        reply[each + 3] = { "raised", "no such operation: " .. tostring(name) }
      end
      break
    end
    local together, tried = 0, 0
    if WORDS[name] and n > singly then
      together, tried = do_together(reply, n, name, min(count - n + 1, LOT))
    end
    if together == 0 then
      singly = max(singly, n + tried - 1)
      local elsewhere = do_next(reply, n, name)
      if elsewhere then
        return elsewhere
      end
    end
    n = n + max(together, 1)
  end
  store_queues()
  if number and not pcall(remember_call, reply) then
    reply[1] = "0" -- the server takes no writes at all: nothing was written
  end
  return reply
end

local function answer()
  local again, is_old = results_again()
  if is_old then
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
return function(keys, arguments, is_script)
  local refusal, unread = begin(keys, arguments, is_script)
  refusal = refusal or (is_kept and unread)
  if refusal then
    return redis.error_reply(refusal)
  end
  number = is_kept and tonumber(ARGV[4])
  kept, operation = {}, 0
  local reply = answer()
  -- A large call's are not to stay.
  KEYS, ARGV, events, queues, touched, kept, record, broker = nil, nil, nil, nil, nil, nil, nil, nil
  return reply
end

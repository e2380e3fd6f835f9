-- How much a call does, and what its parts have in common.

local function late()
  return work > MOST_WORK
end

-- Of the operation
local unread -- the error of a queue that cannot be read; nil: there is none

-- The queue of a number; false: it is gone, or it cannot be read. Then the operation takes its other
-- arguments all the same, and ends as if the queue were gone; the error becomes its result.
local function find_queue(index)
  local sound, q = pcall(queue_at, index)
  if sound then
    return q
  end
  unread = unread or q
  return false
end

local function take_queue()
  return find_queue(take_number())
end

local function total(q)
  return q.n_ready + q.n_delayed + q.n_leased + q.n_buffered
end

-- The number of parks at a queue.
local function n_parked(q)
  if not q.n_parked then
    q.n_parked = call("ZCARD", q.parked)
  end
  return q.n_parked
end

-- Raise for what is beyond the limits: a process that keeps to them asks for no such thing.
local function too_long(what)
  error({ err = "TOOLONG " .. what .. " is longer than may be" })
end

-- Note the size of a body that a queue gets.
local function note_size(q, body)
  if #body > q.largest then
    q.largest = #body
  end
end

-- The number of items that may be read together: so many of the largest size are not too much work.
local function lot_size(q)
  return max(1, min(LOT, floor((MOST_WORK - work) / (1 + q.largest / BYTES))))
end

-- When a process was last heard of; 0: nothing is kept of it that can be read.
local function heard_of(whom)
  local last = call("HGET", KEYS[1], whom)
  local sound, _, _, heard = pcall(cmsgpack.unpack_limit, last or "", 2)
  return sound and tonumber(heard) or 0
end

local GONE, OK, LATER = { "gone" }, { "ok" }, { "later" }

-- A part of the rules is made when one of its functions is first called: to define a function takes
-- as long as a simple command, and most calls do without most parts.
local LAZY = {
  __index = function(part, name)
    for each, defined in pairs(part[1]()) do
      part[each] = defined
    end
    return rawget(part, name)
  end,
}

local function lazily(define)
  return setmetatable({ define }, LAZY)
end
